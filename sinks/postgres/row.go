package postgres

import (
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// row is a record that the batch writes.
type row struct {
	m   *mapping
	key [][]byte // the values of the key's columns
	id  []byte   // the key in walproxy's encoding, for its own tables
	// stream has the values of the key's columns in the user's table of events.
	stream [][]byte
	last   int // number of the last group that writes it, -1: none

	// reads: a write of the batch needs to see it. known: document is what the
	// store will hold after the writes so far; nil: it does not exist.
	reads, known bool
	document     *mutation.Document
	blind        blind // what the writes do to it, if it is not read and folds

	touched bool // there are writes to make at the end
	record  int  // the last record that wrote it

	// For table record: what it shall say.
	beside  bool
	moved   bool // of a row that it has already: a statement gave it a new version
	exists  bool
	version sinks.LSN
	expires time.Time
	events  uint64

	drops    bool // its events in the store go
	appended []storedEvent
}

type storedEvent struct {
	number uint64
	lsn    sinks.LSN
	at     time.Time
	fields fieldMap
}

// write does one mutation to r.
func (w *work) write(r *row, m *walproxyv1.Mutation, at int) error {
	rec := &w.batch.Records[at]
	r.record = at
	if !r.reads {
		r.touched = true
		if r.m.folds() {
			r.blind.apply(m, rec.LSN, rec.Accepted)
			return nil
		}
		w.single = blind{}
		w.single.apply(m, rec.LSN, rec.Accepted)
		return w.writeBlind(r, &w.single, at)
	}
	if err := refuseForeign(r.document, m); err != nil {
		return err
	}
	effect, err := mutation.Apply(r.document, m, rec.LSN, rec.Accepted)
	if err != nil {
		return err
	}
	if effect.Unchanged {
		return nil
	}
	if effect.DropEvents {
		r.drops, r.appended = true, nil
	}
	for i, e := range effect.Events {
		r.appended = append(r.appended, storedEvent{effect.FirstEvent + uint64(i), rec.LSN, rec.Accepted, e.GetFields()})
	}
	after := effect.Document
	if after != nil {
		if size := proto.Size(&walproxyv1.Document{Fields: after.Fields}); size > mutation.MaxDocumentBytes {
			return rejected("document", "would be %d bytes; at most %d", size, mutation.MaxDocumentBytes)
		}
		after.ExpiresAt = ending(after.ExpiresAt)
	}
	r.touched = true
	if r.m.document {
		return w.becomeDocument(r, after, at)
	}
	return w.becomeRow(r, after, at)
}

// refuseForeign: version 0 is "it must not exist", also for a row that somebody
// else wrote, which has no version.
func refuseForeign(d *mutation.Document, m *walproxyv1.Mutation) error {
	if p, ok := m.GetPrecondition().GetKind().(*walproxyv1.Precondition_IfVersion); ok && p.IfVersion == 0 && d != nil && d.Version == 0 {
		return rejected("precondition", "the record exists; it was not written through walproxy and has no version")
	}
	return nil
}

// writeBlind makes the operation of one blind mutation.
func (w *work) writeBlind(r *row, b *blind, at int) error {
	if b.change == unchanged {
		return nil
	}
	if _, err := w.blindOperation(r, b, at); err != nil {
		return err
	}
	r.beside, r.moved = r.m.beside(), false
	r.exists, r.version, r.expires, r.events = b.change != remove, b.version, b.expires, 0
	return nil
}

// becomeDocument: the whole document is written, once if nothing forbids it.
func (w *work) becomeDocument(r *row, after *mutation.Document, at int) error {
	r.document = after
	if r.m.folds() {
		return nil
	}
	if err := w.documentOperation(r, r.final(), at); err != nil {
		return err
	}
	r.known = !r.m.table.triggers
	return nil
}

// final is a known document as a change.
func (r *row) final() *blind {
	if r.document == nil {
		return &blind{change: remove}
	}
	r.events = r.document.EventCount
	return &blind{change: put, fields: r.document.Fields, version: r.document.Version, expires: r.document.ExpiresAt}
}

// becomeRow writes what differs between the row as it is known and after.
func (w *work) becomeRow(r *row, after *mutation.Document, at int) error {
	var op operation
	var err error
	switch {
	case after == nil && r.document == nil: // expired and written with an end in the past
	case after == nil:
		op, err = w.blindOperation(r, &blind{change: remove}, at)
	case r.document == nil:
		op, err = w.blindOperation(r, &blind{change: create, fields: after.Fields, version: after.Version}, at)
	default:
		op, err = w.difference(r, r.document.Fields, after, at)
	}
	if err != nil {
		return err
	}
	r.beside, r.moved = r.m.beside(), false
	if r.exists = after != nil; !r.exists {
		r.document = nil
		return nil
	}
	r.version, r.expires, r.events = after.Version, after.ExpiresAt, after.EventCount
	r.document = after
	r.settle(op)
	return nil
}

// difference is the update from before to after.
func (w *work) difference(r *row, before fieldMap, after *mutation.Document, at int) (operation, error) {
	changed := fieldMap{}
	for name, v := range after.Fields {
		if old := before[name]; old == nil || !proto.Equal(old, v) {
			changed[name] = v
		}
	}
	columns, values, overflow, err := w.columnsOf(r.m, changed)
	if err != nil {
		return operation{}, err
	}
	defaults := w.defaults[:0]
	for _, c := range r.m.fields {
		if _, there := after.Fields[c.name]; !there && !c.kept && !c.generated && (c.hasValue || !isNull(before[c.name])) {
			defaults = append(defaults, c)
		}
	}
	if r.m.overflow != nil {
		was := r.m.beyond(before)
		if is := r.m.beyond(after.Fields); len(overflow) > 0 || len(is) != len(was) {
			if len(is) > 0 {
				columns, values = append(columns, r.m.overflow), append(values, mutation.MapValue(is))
			} else {
				defaults = append(defaults, r.m.overflow)
			}
		}
	}
	w.columns, w.given, w.defaults = columns, values, defaults
	return w.operation(w.shapeOf(r.m, alter, columns, defaults, false), r, at, columns, values, after.Version)
}

// beyond are the fields without a column.
func (m *mapping) beyond(fields fieldMap) fieldMap {
	rest := fieldMap{}
	for name, v := range fields {
		if m.byField[name] == nil {
			rest[name] = v
		}
	}
	return rest
}

// settle makes r's document what a SELECT would return behind op, or marks it
// to be read again.
func (r *row) settle(op operation) {
	if r.m.table.triggers {
		r.known = false
		return
	}
	for _, c := range op.shape.defaults {
		r.known = r.known && !c.hasValue
	}
	fields := make(fieldMap, len(r.m.fields))
	for _, c := range r.m.fields {
		if c.generated {
			continue
		}
		v := r.document.Fields[c.name]
		if v == nil {
			v = mutation.NullValue()
			r.known = r.known && !(op.shape.change == create && c.hasValue) && !c.kept
		}
		fields[c.name] = v
	}
	if r.m.overflow != nil {
		maps.Copy(fields, r.m.beyond(r.document.Fields))
	}
	inputs := len(r.m.key)
	for i, c := range op.shape.columns {
		raw := op.group.arrays[inputs+i].latest()
		if c == r.m.overflow || raw == nil {
			continue
		}
		v, err := c.codec.decode(raw)
		if err != nil || !c.exact {
			r.known = false
			continue
		}
		fields[c.name] = v
	}
	d := *r.document
	d.Fields, r.document = fields, &d
}
