package postgres

import (
	"maps"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
)

// change is what writes do to a record that was not looked at.
type change int

const (
	unchanged change = iota // nothing
	put                     // it exists and has these fields, whatever it was
	patch                   // it exists; these fields are set and those removed
	alter                   // if it exists, those fields are removed
	remove                  // it does not exist
	create                  // it did not exist and has these fields
)

// blind folds the writes to one record that need not know it: each step does
// what mutation.Apply does, for every record it could meet. That holds while
// the records of the collection have no events and, for patch and alter, none
// that the batch did not make itself has an end: who folds makes sure of it.
type blind struct {
	change  change
	fields  fieldMap // put, patch; the mutation's own while !owned
	owned   bool
	removed map[string]bool // patch, alter
	version sinks.LSN
	expires time.Time // put: zero for never
}

// blindly reports whether m is a write that blind can fold, onto a record whose
// end is known or cannot have one. ends: records of the collection may have one.
func blindly(m *walproxyv1.Mutation, ends bool) bool {
	if m.GetPrecondition() != nil {
		return false
	}
	known := false
	for _, op := range m.GetOps() {
		switch op.GetKind().(type) {
		case *walproxyv1.Op_Set_, *walproxyv1.Op_Delete_:
			known = true
		case *walproxyv1.Op_Merge_, *walproxyv1.Op_Unset_, *walproxyv1.Op_Touch_:
			if !known && (ends || m.GetExpiresAt() != nil) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// apply folds m, which blindly accepts, into b.
func (b *blind) apply(m *walproxyv1.Mutation, lsn sinks.LSN, accepted time.Time) {
	if b.change == put && endedAt(b.expires, accepted) {
		*b = blind{change: remove}
	}
	before := b.change
	for _, op := range m.GetOps() {
		switch k := op.GetKind().(type) {
		case *walproxyv1.Op_Set_:
			*b = blind{change: put, fields: k.Set.GetFields()}
		case *walproxyv1.Op_Delete_:
			*b = blind{change: remove}
		case *walproxyv1.Op_Merge_:
			b.merge(k.Merge.GetFields())
		case *walproxyv1.Op_Unset_:
			b.unset(k.Unset.GetFields())
		case *walproxyv1.Op_Touch_:
			if b.change == unchanged {
				b.change = alter
			}
		}
	}
	if b.change == remove && before == remove {
		return
	}
	b.version = lsn
	if at := m.GetExpiresAt(); at != nil && b.change == put {
		b.expires = ending(at.AsTime())
	}
	if b.change == put && endedAt(b.expires, accepted) {
		*b = blind{change: remove}
	}
}

func (b *blind) merge(fields fieldMap) {
	switch b.change {
	case remove:
		*b = blind{change: put, fields: fields}
		return
	case unchanged, alter:
		b.change, b.fields, b.owned = patch, fields, false
	default:
		b.own()
		maps.Copy(b.fields, fields)
	}
	for name := range fields {
		delete(b.removed, name)
	}
}

// own makes the fields ours to change.
func (b *blind) own() {
	if b.owned {
		return
	}
	if b.fields = maps.Clone(b.fields); b.fields == nil {
		b.fields = fieldMap{}
	}
	b.owned = true
}

func (b *blind) unset(names []string) {
	switch b.change {
	case remove:
		return
	case unchanged:
		b.change = alter
	}
	b.own()
	for _, name := range names {
		delete(b.fields, name)
		if b.change == put {
			continue
		}
		if b.removed == nil {
			b.removed = map[string]bool{}
		}
		b.removed[name] = true
	}
}

// ending is when a record ends here: PostgreSQL counts microseconds, and a
// record must not end early.
func ending(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	if whole := t.Truncate(time.Microsecond); whole.Before(t) {
		return whole.Add(time.Microsecond)
	}
	return t
}

func endedAt(end, t time.Time) bool { return !end.IsZero() && !end.After(t) }
