package postgres

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// operation is one row of a statement to come.
type operation struct {
	shape  *shape
	row    *row
	record int      // index in the batch
	values [][]byte // one per input; nil is NULL
}

// rejected is why a record does not fit its table.
func rejected(field, format string, args ...any) error {
	return &mutation.RejectedError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// shapeOf returns the shape with these columns, cached with its statements. It
// does not keep the slices.
func (w *work) shapeOf(m *mapping, ch change, columns, defaults []*column, joins bool) *shape {
	id := append(w.shapeID[:0], byte(ch), 0)
	if joins {
		id[1] = 1
	}
	for _, c := range columns {
		id = binary.BigEndian.AppendUint16(id, uint16(c.number))
	}
	id = append(id, 0, 0) // no column has number 0
	for _, c := range defaults {
		id = binary.BigEndian.AppendUint16(id, uint16(c.number))
	}
	w.shapeID = id
	m.shapes.Lock()
	defer m.shapes.Unlock()
	if s := m.shapes.byID[string(id)]; s != nil {
		return s
	}
	if len(m.shapes.byID) >= maxShapes {
		clear(m.shapes.byID)
	}
	s := &shape{mapping: m, change: ch, columns: slices.Clone(columns), defaults: slices.Clone(defaults), joins: joins}
	s.build()
	m.shapes.byID[string(id)] = s
	return s
}

// maxShapes bounds the statements kept per collection.
const maxShapes = 1024

// blindOperation is the operation of writes that did not look at the record.
func (w *work) blindOperation(r *row, b *blind, record int) (*operation, error) {
	if r.m.document {
		return w.documentOperation(r, b, record)
	}
	if b.change == remove {
		return w.operation(w.shapeOf(r.m, remove, nil, nil, false), r, record, nil, 0)
	}
	columns, overflow, err := w.columnsOf(r.m, b.fields)
	if err != nil {
		return nil, err
	}
	if b.change != put {
		for name := range b.removed {
			if r.m.byField[name] == nil {
				// blindFits has sent everything to do with these to a read.
				return nil, rejected("unset", "%q has no column in table %s", name, r.m.table)
			}
		}
	}
	defaults := w.defaults[:0]
	if b.change == put && len(columns) < len(r.m.fields) || len(b.removed) > 0 {
		for _, c := range r.m.fields {
			_, named := b.fields[c.name]
			if !named && !c.kept && !c.generated && (b.change == put || b.removed[c.name]) {
				defaults = append(defaults, c)
			}
		}
	}
	joins := false
	if r.m.overflow != nil {
		switch {
		case len(overflow) > 0:
			columns = append(columns, r.m.overflow)
			joins = b.change == patch
		case b.change == put:
			defaults = append(defaults, r.m.overflow)
		}
	}
	w.columns, w.defaults = columns, defaults
	return w.operation(w.shapeOf(r.m, b.change, columns, defaults, joins), r, record, func(c *column) *walproxyv1.Value {
		if c == r.m.overflow {
			return mutation.MapValue(overflow)
		}
		return b.fields[c.name]
	}, b.version)
}

// columnsOf sorts fields into columns, in the table's order, and the rest. The
// columns are good until the next call.
func (w *work) columnsOf(m *mapping, fields fieldMap) (columns []*column, overflow fieldMap, err error) {
	found := 0
	columns = w.columns[:0]
	for _, c := range m.fields {
		if _, named := fields[c.name]; !named {
			continue
		}
		if c.generated || c.always {
			return nil, nil, rejected("fields."+c.name, "the column of table %s is generated always", m.table)
		}
		columns = append(columns, c)
		found++
	}
	if found == len(fields) {
		return columns, nil, nil
	}
	overflow = fieldMap{}
	for name, v := range fields {
		if m.byField[name] != nil {
			continue
		}
		if slices.ContainsFunc(m.key, func(c *column) bool { return c.name == name }) {
			return nil, nil, rejected("fields."+name, "is part of the key of table %s", m.table)
		}
		if m.overflow == nil || name == m.overflow.name || m.version != nil && name == m.version.name {
			return nil, nil, rejected("fields."+name, "has no column in table %s", m.table)
		}
		overflow[name] = v
	}
	return columns, overflow, nil
}

// newOperation begins an operation with its key, in memory that the batch shares.
func (w *work) newOperation(s *shape, r *row, record int) *operation {
	if len(w.operations) == cap(w.operations) {
		w.operations = make([]operation, 0, 256)
	}
	w.operations = append(w.operations, operation{shape: s, row: r, record: record, values: append(w.slots(len(s.inputs)), r.key...)})
	return &w.operations[len(w.operations)-1]
}

// slots are n empty places for values.
func (w *work) slots(n int) [][]byte {
	if cap(w.values)-len(w.values) < n {
		w.values = make([][]byte, 0, max(n, 1024))
	}
	start := len(w.values)
	w.values = w.values[:start+n]
	return w.values[start : start : start+n]
}

// operation encodes the values of the shape's columns.
func (w *work) operation(s *shape, r *row, record int, value func(*column) *walproxyv1.Value, version sinks.LSN) (*operation, error) {
	op := w.newOperation(s, r, record)
	if s.change == remove {
		return op, nil
	}
	for _, c := range s.columns {
		v := value(c)
		if isNull(v) {
			op.values = append(op.values, nil)
			continue
		}
		enc, err := w.encode(c, v)
		if err != nil {
			return nil, rejected("fields."+c.name, "%s (%s)", err, c.typeName)
		}
		op.values = append(op.values, enc)
	}
	if s.mapping.version != nil {
		op.values = append(op.values, w.number(uint64(version)))
	}
	return op, nil
}

// encode keeps its results in the arena.
func (w *work) encode(c *column, v *walproxyv1.Value) ([]byte, error) {
	start := len(w.arena)
	out, err := c.codec.encode(w.arena, v)
	if err != nil {
		return nil, err
	}
	w.arena = out
	return out[start:len(out):len(out)], nil
}

func (w *work) number(n uint64) []byte {
	start := len(w.arena)
	w.arena = binary.BigEndian.AppendUint64(w.arena, n)
	return w.arena[start:len(w.arena):len(w.arena)]
}

func (w *work) json(fields fieldMap) []byte {
	start := len(w.arena)
	w.arena = appendJSONFields(append(w.arena, 1), fields)
	return w.arena[start:len(w.arena):len(w.arena)]
}

// end is an expiry, NULL for never.
func (w *work) end(t time.Time) []byte {
	if t.IsZero() {
		return nil
	}
	return w.number(uint64(microseconds(t)))
}

// names is the literal of an array of names.
func (w *work) names(names map[string]bool) []byte {
	list := make([]*walproxyv1.Value, 0, len(names))
	for name := range names {
		list = append(list, mutation.StringValue(name))
	}
	var b strings.Builder
	_ = appendArray(&b, mutation.ListValue(list...), builtin[oidText]) // names hold no NUL
	start := len(w.arena)
	w.arena = append(w.arena, b.String()...)
	return w.arena[start:len(w.arena):len(w.arena)]
}

// documentOperation is a document's.
func (w *work) documentOperation(r *row, b *blind, record int) (*operation, error) {
	s := w.shapeOf(r.m, b.change, nil, nil, b.change == patch && len(b.removed) > 0)
	op := w.newOperation(s, r, record)
	version := func() { op.values = append(op.values, w.number(uint64(b.version))) }
	switch b.change {
	case put:
		op.values = append(op.values, w.json(b.fields))
		version()
		op.values = append(op.values, w.end(b.expires), w.number(r.events))
	case patch:
		op.values = append(op.values, w.json(b.fields))
		version()
		if s.joins {
			op.values = append(op.values, w.names(b.removed))
		}
	case alter:
		version()
		op.values = append(op.values, w.names(b.removed))
	}
	return op, nil
}
