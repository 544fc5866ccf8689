package mutation

import (
	"fmt"
	"maps"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Effect is what a mutation does to a record.
type Effect struct {
	// Document after the write; nil: it does not exist.
	Document *Document
	// Events appended, in order; the first has number FirstEvent.
	Events     []*walproxyv1.Event
	FirstEvent uint64
	// DropEvents: the events there were are removed first.
	DropEvents bool
	// Unchanged: the write did nothing (touch or delete of an absent record).
	Unchanged bool
}

// Apply says what m, accepted at the given time as lsn, does to doc (nil:
// absent). It checks the precondition first. doc is not changed and may share
// values with the effect. A record that expired before accepted is absent, and
// so are its events; a write whose own expiry is not after accepted leaves no
// record. Errors are *RejectedError: the write can never apply to this record.
//
// Increment adds exactly: int64 to int64 (overflow is rejected), double or int64
// to double (a sum that is not finite is rejected), decimal or int64 to decimal.
// Every other pairing is rejected. Append and prepend pair string, bytes and
// list each with its own kind. An absent or null field takes the value given.
func Apply(doc *Document, m *walproxyv1.Mutation, lsn LSN, accepted time.Time) (*Effect, error) {
	w := work{}
	if doc.ExpiredAt(accepted) {
		w.dropEvents, w.changed = true, true
		doc = nil
	}
	if doc != nil {
		w.exists, w.fields, w.events, w.expiresAt = true, doc.Fields, doc.EventCount, doc.ExpiresAt
	}
	if err := checkPrecondition(doc, m.GetPrecondition()); err != nil {
		return nil, err
	}
	if at := m.GetExpiresAt(); at != nil {
		w.newExpiry = at.AsTime()
	}
	for i, op := range m.GetOps() {
		if err := w.apply(op); err != nil {
			return nil, &RejectedError{fmt.Sprintf("ops[%d].%s", i, err.Field), err.Reason}
		}
	}
	return w.effect(lsn, accepted), nil
}

func checkPrecondition(doc *Document, p *walproxyv1.Precondition) error {
	var version LSN
	var events uint64
	if doc != nil {
		version, events = doc.Version, doc.EventCount
	}
	switch k := p.GetKind().(type) {
	case *walproxyv1.Precondition_IfVersion:
		if LSN(k.IfVersion) != version {
			return &RejectedError{"precondition", fmt.Sprintf("the record's version is %d, not %d", version, k.IfVersion)}
		}
	case *walproxyv1.Precondition_IfAbsent:
		if doc != nil {
			return &RejectedError{"precondition", fmt.Sprintf("the record exists with version %d", version)}
		}
	case *walproxyv1.Precondition_IfEventCount:
		if k.IfEventCount != events {
			return &RejectedError{"precondition", fmt.Sprintf("the record has %d events, not %d", events, k.IfEventCount)}
		}
	default:
		if p != nil {
			return &RejectedError{"precondition", "is of an unknown kind"}
		}
	}
	return nil
}

// work is a record in the middle of a mutation.
type work struct {
	exists     bool
	fields     map[string]*walproxyv1.Value // the document's own while !owned
	owned      bool
	events     uint64
	expiresAt  time.Time
	newExpiry  time.Time // the mutation's; zero: none
	appended   []*walproxyv1.Event
	dropEvents bool
	changed    bool
}

func (w *work) apply(op *walproxyv1.Op) *RejectedError {
	switch k := op.GetKind().(type) {
	case *walproxyv1.Op_Set_:
		w.create()
		w.fields, w.owned, w.expiresAt = maps.Clone(k.Set.GetFields()), true, time.Time{}
		if w.fields == nil {
			w.fields = map[string]*walproxyv1.Value{}
		}
	case *walproxyv1.Op_Merge_:
		w.own()
		maps.Copy(w.fields, k.Merge.GetFields())
	case *walproxyv1.Op_Unset_:
		if w.exists {
			w.own()
			for _, name := range k.Unset.GetFields() {
				delete(w.fields, name)
			}
		}
	case *walproxyv1.Op_Increment_:
		return w.combine("increment", k.Increment.GetFields(), add)
	case *walproxyv1.Op_Append_:
		return w.combine("append", k.Append.GetFields(), concat)
	case *walproxyv1.Op_Prepend_:
		return w.combine("prepend", k.Prepend.GetFields(), func(old, v *walproxyv1.Value) (*walproxyv1.Value, string) {
			return concat(v, old)
		})
	case *walproxyv1.Op_Touch_:
		w.changed = w.changed || w.exists
	case *walproxyv1.Op_Delete_:
		if w.exists {
			*w = work{newExpiry: w.newExpiry, dropEvents: true, changed: true}
		}
	case *walproxyv1.Op_AppendEvent_:
		w.create()
		w.appended = append(w.appended, k.AppendEvent.GetEvents()...)
	default:
		return &RejectedError{"op", "is of an unknown kind"}
	}
	return nil
}

// create makes the record exist.
func (w *work) create() {
	w.exists, w.changed = true, true
	if w.fields == nil {
		w.fields, w.owned = map[string]*walproxyv1.Value{}, true
	}
}

// own makes the record exist and its fields ours to change.
func (w *work) own() {
	w.create()
	if !w.owned {
		w.fields, w.owned = maps.Clone(w.fields), true
	}
}

// combine replaces every named field by f of it and the value given.
func (w *work) combine(op string, fields map[string]*walproxyv1.Value, f func(old, v *walproxyv1.Value) (*walproxyv1.Value, string)) *RejectedError {
	w.own()
	for name, v := range fields {
		old := w.fields[name]
		if _, null := old.GetKind().(*walproxyv1.Value_Null); old == nil || null {
			w.fields[name] = v
			continue
		}
		sum, reason := f(old, v)
		if reason != "" {
			return &RejectedError{op + "." + name, reason}
		}
		w.fields[name] = sum
	}
	return nil
}

func (w *work) effect(lsn LSN, accepted time.Time) *Effect {
	e := &Effect{DropEvents: w.dropEvents}
	if !w.exists {
		e.Unchanged = !w.changed
		return e
	}
	d := &Document{Version: lsn, Fields: w.fields, ExpiresAt: w.expiresAt, EventCount: w.events + uint64(len(w.appended))}
	if !w.newExpiry.IsZero() {
		d.ExpiresAt = w.newExpiry
	}
	if d.ExpiredAt(accepted) {
		return &Effect{DropEvents: true}
	}
	e.Document = d
	if len(w.appended) > 0 {
		e.Events, e.FirstEvent = w.appended, w.events+1
	}
	return e
}
