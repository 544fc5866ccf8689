package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// operation is a row of a statement to come. Right behind it its values are the
// last ones of the group's arrays; the group is nil if there is nothing to do.
type operation struct {
	shape *shape
	group *group
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
	if w.shape != nil && w.shape.mapping == m && bytes.Equal(w.shape.id, id) { // mostly
		return w.shape
	}
	m.shapes.Lock()
	defer m.shapes.Unlock()
	if w.shape = m.shapes.byID[string(id)]; w.shape != nil {
		return w.shape
	}
	if len(m.shapes.byID) >= maxShapes {
		clear(m.shapes.byID)
	}
	s := &shape{mapping: m, id: bytes.Clone(id), change: ch, columns: slices.Clone(columns), defaults: slices.Clone(defaults), joins: joins}
	s.build()
	m.shapes.byID[string(id)], w.shape = s, s
	return s
}

// maxShapes bounds the statements kept per collection.
const maxShapes = 1024

// blindOperation makes the operation of writes that did not look at the record.
func (w *work) blindOperation(r *row, b *blind, record int) (operation, error) {
	if r.m.document {
		return operation{}, w.documentOperation(r, b, record)
	}
	if b.change == remove {
		return w.operation(w.shapeOf(r.m, remove, nil, nil, false), r, record, nil, nil, 0)
	}
	columns, values, overflow, err := w.columnsOf(r.m, b.fields)
	if err != nil {
		return operation{}, err
	}
	if b.change != put {
		for name := range b.removed {
			if r.m.byField[name] == nil {
				// blindFits has sent everything to do with these to a read.
				return operation{}, rejected("unset", "%q has no column in table %s", name, r.m.table)
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
			columns, values = append(columns, r.m.overflow), append(values, mutation.MapValue(overflow))
			joins = b.change == patch
		case b.change == put:
			defaults = append(defaults, r.m.overflow)
		}
	}
	w.columns, w.given, w.defaults = columns, values, defaults
	return w.operation(w.shapeOf(r.m, b.change, columns, defaults, joins), r, record, columns, values, b.version)
}

// columnsOf sorts fields into columns, in the table's order, with their values,
// and the rest. Columns and values are good until the next call.
func (w *work) columnsOf(m *mapping, fields fieldMap) (columns []*column, values []*walproxyv1.Value, overflow fieldMap, err error) {
	columns, values = w.columns[:0], w.given[:0]
	for _, c := range m.fields {
		v, named := fields[c.name]
		if !named {
			continue
		}
		if c.generated || c.always {
			return nil, nil, nil, rejected("fields."+c.name, "the column of table %s is generated always", m.table)
		}
		columns, values = append(columns, c), append(values, v)
	}
	w.columns, w.given = columns, values
	if len(columns) == len(fields) {
		return columns, values, nil, nil
	}
	overflow = fieldMap{}
	for name, v := range fields {
		if m.byField[name] != nil {
			continue
		}
		if slices.ContainsFunc(m.key, func(c *column) bool { return c.name == name }) {
			return nil, nil, nil, rejected("fields."+name, "is part of the key of table %s", m.table)
		}
		if !m.keeps(name) {
			return nil, nil, nil, rejected("fields."+name, "has no column in table %s", m.table)
		}
		overflow[name] = v
	}
	return columns, values, overflow, nil
}

// operation adds a row to a statement of shape s, with the values of columns,
// which are the shape's. After an error the statements are unfinished.
func (w *work) operation(s *shape, r *row, record int, columns []*column, values []*walproxyv1.Value, version sinks.LSN) (operation, error) {
	op := operation{shape: s, group: w.place(s, r, record)}
	if op.group == nil || s.change == remove {
		return op, nil
	}
	rest := op.group.arrays[len(r.key):]
	for i, c := range columns {
		codec := c.codec
		if c == s.mapping.overflow {
			codec = overflowCodec
		}
		if err := rest[i].value(codec, values[i]); err != nil {
			return op, rejected("fields."+c.name, "%s (%s)", err, c.typeName)
		}
	}
	if s.mapping.version != nil {
		rest[len(columns)].fixed(uint64(version), 8)
	}
	return op, nil
}

// number encodes into the arena.
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

// appendNames is the literal of an array of names.
func appendNames(dst []byte, names map[string]bool) []byte {
	list := make([]*walproxyv1.Value, 0, len(names))
	for name := range names {
		list = append(list, mutation.StringValue(name))
	}
	var b strings.Builder
	_ = appendArray(&b, mutation.ListValue(list...), builtin[oidText]) // names hold no NUL
	return append(dst, b.String()...)
}

// documentOperation is blindOperation for a document.
func (w *work) documentOperation(r *row, b *blind, record int) error {
	s := w.shapeOf(r.m, b.change, nil, nil, b.change == patch && len(b.removed) > 0)
	g := w.place(s, r, record)
	if g == nil {
		return nil
	}
	rest := g.arrays[len(r.key):]
	json := func(a *arrayBuilder) { a.close(appendJSONFields(append(a.open(0), 1), b.fields)) }
	removed := func(a *arrayBuilder) { a.close(appendNames(a.open(0), b.removed)) }
	switch b.change {
	case put:
		json(&rest[0])
		rest[1].fixed(uint64(b.version), 8)
		if b.expires.IsZero() {
			rest[2].null()
		} else {
			rest[2].fixed(uint64(microseconds(b.expires)), 8)
		}
		rest[3].fixed(r.events, 8)
	case patch:
		json(&rest[0])
		rest[1].fixed(uint64(b.version), 8)
		if s.joins {
			removed(&rest[2])
		}
	case alter:
		rest[0].fixed(uint64(b.version), 8)
		removed(&rest[1])
	}
	return nil
}
