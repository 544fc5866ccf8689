package aerowire

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// truncateWindow is how many deletes of a truncate are under way at once.
const truncateWindow = 1024

// truncate deletes every record of a set or namespace that was last written
// before a time, or before the call if there is none, one by one; it returns when
// all deletes are durable. Cut short, it may be repeated. An error means that the
// outcome of a delete is unknown.
func (s *Server) truncate(ctx context.Context, what string, args map[string]string) (string, error) {
	namespace, set := args["namespace"], args["set"]
	if !slices.Contains(s.o.Namespaces, namespace) {
		return infoFail(codec.NamespaceNotFound, "namespace not found"), nil
	}
	if what == "truncate" && set == "" {
		return infoFail(codec.Parameter, "missing set"), nil
	}
	if len(set) > setNameMax {
		return infoFail(codec.Parameter, "set name too long"), nil
	}
	if s.o.Store != nil {
		return s.frontTruncate(ctx, namespace, set, args["lut"])
	}
	t := &truncation{s: s, upTo: s.o.Core.Status().Log.Appended}
	if text := args["lut"]; text != "" {
		nanos, err := strconv.ParseInt(text, 10, 64)
		if err != nil || nanos < 0 {
			return infoFail(codec.Parameter, "bad lut"), nil
		}
		if nanos > 0 && nanos < epoch.UnixNano() {
			return infoFail(codec.Parameter, "lut is before 2010"), nil
		}
		if nanos > 0 {
			// Records know their last write by the millisecond.
			t.before = time.Unix(0, nanos).Truncate(time.Millisecond)
		}
		if t.before.After(s.now()) {
			return infoFail(codec.Parameter, "lut is in the future"), nil
		}
	}
	err := s.eachCollection(ctx, namespace, set, func(collection string) error {
		if at, err := s.tableOf(ctx, collection); err != nil || !at.keeps && !t.before.IsZero() {
			return coreError{cmp.Or(err, error(codec.Unsupported))} // when they were written is not kept
		}
		return s.eachRecord(ctx, collection, func(e sinks.Entry) error { return t.remove(ctx, collection, e) })
	})
	if lost := t.settle(ctx); lost != nil {
		return "", lost
	}
	if err != nil {
		return infoFail(s.told(err), "not all records are truncated"), nil
	}
	return "ok", nil
}

type truncation struct {
	s       *Server
	upTo    walproxy.LSN // nothing that was written later is deleted
	before  time.Time    // nor what was not written before; zero: no matter when
	pending []api.Pending
}

// remove deletes a record that is still as old.
func (t *truncation) remove(ctx context.Context, collection string, e sinks.Entry) error {
	pending, err := t.s.o.Core.Modify(ctx, collection, e.Key, func(doc *mutation.Document, _ time.Time) (*walproxyv1.Mutation, error) {
		r, err := fromDocument(doc)
		if err != nil || r == nil || doc.Version > t.upTo || !t.before.IsZero() && !r.updated.Before(t.before) {
			return nil, err
		}
		return mutation.New("", nil, []*walproxyv1.Op{mutation.DeleteOp()}), nil
	})
	if err != nil {
		return coreError{err}
	}
	if pending != nil {
		t.pending = append(t.pending, pending)
	}
	if len(t.pending) < truncateWindow {
		return nil
	}
	return t.settle(ctx)
}

func (t *truncation) settle(ctx context.Context) error {
	for _, p := range t.pending {
		if _, err := p.Wait(ctx); err != nil {
			return err
		}
	}
	t.pending = t.pending[:0]
	return nil
}
