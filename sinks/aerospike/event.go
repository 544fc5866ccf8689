package aerospike

import (
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// A record's events are a list in one bin, each a list of the LSN that wrote it and
// a map of its fields; its number is its place. They count to the record's size,
// which the namespace bounds (max-record-size, 1 MiB as a rule).

func eventItem(e *walproxyv1.Event, lsn sinks.LSN) (item any, reason string) {
	fields, reason := toMap(e.GetFields())
	if reason != "" {
		return nil, reason
	}
	return []any{int64(lsn), fields}, ""
}

func fromEvent(item any, number uint64) (mutation.StoredEvent, error) {
	bad := func(why string) (mutation.StoredEvent, error) {
		return mutation.StoredEvent{}, fmt.Errorf("event %d %s: %w", number, why, errNoValue)
	}
	parts, ok := item.([]any)
	if !ok || len(parts) != 2 {
		return bad("is no list of two")
	}
	lsn, ok := parts[0].(int)
	if !ok {
		return bad("has no LSN")
	}
	v, err := fromItem(parts[1], 0)
	if err != nil {
		return mutation.StoredEvent{}, err
	}
	m, ok := v.GetKind().(*walproxyv1.Value_Map_)
	if !ok {
		return bad("has no fields")
	}
	return mutation.StoredEvent{Number: number, LSN: sinks.LSN(lsn), Event: &walproxyv1.Event{Fields: m.Map.GetFields()}}, nil
}
