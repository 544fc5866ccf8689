package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// eventTable is a user's table that the events of a collection are rows of. How
// many there are of a stream is kept with the stream's record, as for others.
type eventTable struct {
	table   *table
	stream  *mapping // not of rows: the key's columns
	version *column  // the event's number
	payload *column
	lsn, at *column // nil: there is none
}

// loadEventTable reads and checks the table of a collection's events; records is
// the table of its records. load is held.
func (p *tablePlanner) loadEventTable(ctx context.Context, conn *pgconn.PgConn, collection string, records *table, o *Events) (*eventTable, error) {
	fail := func(format string, args ...any) (*eventTable, error) {
		return nil, halt("collection %q, events table %s: %s", collection, o.Table, fmt.Sprintf(format, args...))
	}
	p.mu.RLock()
	r := p.mu.relations
	p.mu.RUnlock()
	oid, _, err := r.find(collection, Collection{Table: o.Table})
	if err == nil && oid == 0 {
		if r, err = p.reload(ctx, conn); err == nil {
			oid, _, err = r.find(collection, Collection{Table: o.Table})
		}
	}
	switch {
	case err != nil:
		return nil, err
	case oid == 0:
		return fail("it does not exist: create it, or correct collections.*.events.table")
	case oid == records.oid:
		return fail("it is the table of the records, too")
	}
	t, err := loadTable(ctx, conn, oid)
	if err != nil {
		return nil, err
	}
	e := &eventTable{table: t}
	switch {
	case t.refused != "":
		return fail("it %s", t.refused)
	case t.triggers:
		return fail("it has triggers: what they do to other rows would depend on how records are batched; put them on the table of the records, or read the events from a copy (logical replication)")
	case t.unique:
		return fail("it has a unique index or an exclusion constraint besides its primary key")
	case slices.ContainsFunc(t.references, func(to uint32) bool { return to != records.oid }):
		return fail("it has a foreign key to, or from, a table other than %s", records)
	}
	if err := e.bind(o); err != nil {
		return fail("%v", err)
	}
	return e, nil
}

// bind finds the columns.
func (e *eventTable) bind(o *Events) error {
	t := e.table
	own := []*column{}
	for _, c := range []struct {
		column  **column
		key     string
		name    string
		base    uint32
		what    string
		written bool
	}{
		{&e.version, "version", orElse(o.Version, "version"), oidInt8, "bigint", true},
		{&e.payload, "payload", orElse(o.Payload, "payload"), oidJSONB, "jsonb", true},
		{&e.lsn, "lsn", o.LSN, oidInt8, "bigint", o.LSN != ""},
		{&e.at, "at", o.At, oidTimestamptz, "timestamptz", o.At != ""},
	} {
		if !c.written {
			continue
		}
		found := t.byName[c.name]
		switch {
		case found == nil:
			return fmt.Errorf("column %q (%s) does not exist", c.name, c.key)
		case found.base != c.base:
			return fmt.Errorf("column %q (%s) is %s, want %s", c.name, c.key, found.typeName, c.what)
		case found.generated || found.always:
			return fmt.Errorf("column %q (%s) is generated always", c.name, c.key)
		case slices.Contains(own, found):
			return fmt.Errorf("column %q is named twice", c.name)
		}
		*c.column = found
		own = append(own, found)
	}
	if !slices.Contains(t.primary, e.version) {
		return fmt.Errorf("its primary key has to be the stream's columns and %q, so that no event is there twice", e.version.name)
	}
	stream := slices.DeleteFunc(slices.Clone(t.primary), func(c *column) bool { return c == e.version })
	if len(o.Key) > 0 {
		keys := []*column{}
		for _, name := range o.Key {
			if c := t.byName[name]; c != nil && slices.Contains(stream, c) && !slices.Contains(keys, c) {
				keys = append(keys, c)
			}
		}
		if len(keys) != len(stream) || len(keys) != len(o.Key) {
			return fmt.Errorf("the key %s and %q are not the primary key", strings.Join(o.Key, ", "), e.version.name)
		}
		stream = keys
	}
	for _, c := range stream {
		switch {
		case slices.Contains(own, c):
			return fmt.Errorf("column %q is part of the stream's key", c.name)
		case c.unsafeKey != "":
			return fmt.Errorf("key column %q: %s, so that two streams could be one", c.name, c.unsafeKey)
		case c.generated || c.always:
			return fmt.Errorf("key column %q is generated always", c.name)
		}
	}
	if len(stream) == 0 {
		return fmt.Errorf("its primary key has no column for the stream besides %q", e.version.name)
	}
	for _, c := range t.columns {
		if !slices.Contains(own, c) && !slices.Contains(stream, c) && c.notNull && !c.hasValue && !c.generated {
			return fmt.Errorf("column %q is NOT NULL without a default, and nothing is written to it", c.name)
		}
	}
	// A composite key goes to a single text column as JSON, as in document tables.
	e.stream = &mapping{table: t, key: stream, document: len(stream) == 1}
	return nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// streamOf encodes the columns of a key's stream; nil for walproxy's own table,
// where the key is.
func (w *work) streamOf(m *mapping, key *walproxyv1.Key) ([][]byte, error) {
	if m.events == nil {
		return nil, nil
	}
	return w.keyValues(m.events.stream, key)
}

// streams are records whose events are meant, an array per column of their key.
type streams struct {
	m      *mapping
	inputs []input
	arrays []*arrayBuilder
}

func (m *mapping) newStreams() *streams {
	s := &streams{m: m, inputs: []input{{name: "key", element: oidBytea, array: 1001}}}
	if m.events != nil {
		s.inputs = m.events.stream.keyInputs()
	}
	for _, in := range s.inputs {
		s.arrays = append(s.arrays, newArray(in.element, 0))
	}
	return s
}

func (s *streams) add(r *row) {
	values := r.stream
	if s.m.events == nil {
		values = [][]byte{r.id}
	}
	for i, v := range values {
		s.arrays[i].element(v)
	}
}

func (s *streams) empty() bool { return s.arrays[0].count == 0 }

// drop is the statement that removes the events.
func (s *streams) drop(schema string) command {
	c := command{formats: binaryParams}
	for i, in := range s.inputs {
		c.types, c.params = append(c.types, in.array), append(c.params, s.arrays[i].bytes())
	}
	if e := s.m.events; e != nil {
		c.sql = fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", e.table.quoted(), source(s.inputs), e.stream.sameKey())
		return c
	}
	c.sql = fmt.Sprintf("DELETE FROM %s.event AS e USING unnest($1) AS s(key) WHERE e.collection = $2 AND e.key = s.key", schema)
	c.types, c.params = append(c.types, oidText), append(c.params, []byte(s.m.collection))
	return c
}

// appends are events to add.
type appends struct {
	*streams
	columns []*column // behind the key's
	values  []*arrayBuilder
}

// ownEventColumns are those of table event behind collection and key.
var ownEventColumns = []*column{
	{name: "number", codec: builtin[oidInt8]}, {name: "fields", codec: builtin[oidJSONB]}, {name: "lsn", codec: builtin[oidInt8]},
}

func (m *mapping) newAppends() *appends {
	a := &appends{streams: m.newStreams(), columns: ownEventColumns}
	if e := m.events; e != nil {
		a.columns = []*column{e.version, e.payload, e.lsn, e.at}
	}
	for range a.columns {
		a.values = append(a.values, nil)
	}
	for i, element := range []uint32{oidInt8, oidJSONB, oidInt8, oidTimestamptz}[:len(a.columns)] {
		a.values[i] = newArray(element, 0)
	}
	return a
}

func (a *appends) add(w *work, r *row) {
	for _, stored := range r.appended {
		a.streams.add(r)
		a.values[0].fixed(stored.number, 8)
		a.values[1].element(w.json(stored.fields))
		a.values[2].fixed(uint64(stored.lsn), 8)
		if len(a.values) > 3 {
			a.values[3].fixed(uint64(microseconds(stored.at)), 8)
		}
	}
}

// insert is the statement that adds them.
func (a *appends) insert(schema string) command {
	target, names, values := schema+".event", []string{"key"}, []string{"s.key"}
	inputs, arrays := slices.Clone(a.inputs), slices.Clone(a.arrays)
	if e := a.m.events; e != nil {
		target, names, values = e.table.quoted(), nil, nil
		for i, c := range e.stream.key {
			names, values = append(names, quote(c.name)), append(values, inputs[i].value())
		}
	}
	types := []uint32{oidInt8, oidJSONB, oidInt8, oidTimestamptz}
	for i, c := range a.columns {
		if c == nil {
			continue
		}
		in := input{name: fmt.Sprintf("v%d", i), element: types[i], array: builtin[types[i]].array}
		inputs, arrays = append(inputs, in), append(arrays, a.values[i])
		names, values = append(names, quote(c.name)), append(values, in.value())
	}
	c := command{formats: binaryParams}
	for i, in := range inputs {
		c.types, c.params = append(c.types, in.array), append(c.params, arrays[i].bytes())
	}
	if a.m.events == nil {
		names, values = append(names, "collection"), append(values, fmt.Sprintf("$%d", len(inputs)+1))
		c.types, c.params = append(c.types, oidText), append(c.params, []byte(a.m.collection))
	}
	c.sql = fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", target, strings.Join(names, ", "), strings.Join(values, ", "), source(inputs))
	return c
}

// eventsOf reads a stream: number, LSN (0 where the table has none) and fields.
func (m *mapping) eventsOf(schema string, r *row, from uint64, limit int) command {
	c := command{
		types:   []uint32{oidInt8, oidInt8},
		params:  [][]byte{appendInteger(nil, int64(min(from, math.MaxInt64)), 8), appendInteger(nil, int64(max(limit, 0)), 8)},
		formats: binaryParams, results: binaryParams,
	}
	e := m.events
	if e == nil {
		c.sql = fmt.Sprintf("SELECT number, lsn, fields FROM %s.event WHERE number >= $1 AND collection = $3 AND key = $4 ORDER BY number LIMIT $2", schema)
		c.types, c.params = append(c.types, oidText, oidBytea), append(c.params, []byte(m.collection), r.id)
		return c
	}
	version, lsn := quote(e.version.name), "0::int8"
	if e.lsn != nil {
		lsn = fmt.Sprintf("coalesce(%s, 0)", quote(e.lsn.name))
	}
	where := version + " >= $1"
	for i, k := range e.stream.key {
		where += fmt.Sprintf(" AND %s = $%d%s", quote(k.name), i+3, k.cast)
		c.types, c.params = append(c.types, k.codec.element), append(c.params, r.stream[i])
	}
	c.sql = fmt.Sprintf("SELECT %s, %s, %s FROM %s WHERE %s ORDER BY %s LIMIT $2", version, lsn, quote(e.payload.name), e.table.quoted(), where, version)
	return c
}

// decodeEvents reads what eventsOf returned, of a record with count events.
func decodeEvents(rows [][][]byte, count uint64) ([]mutation.StoredEvent, error) {
	var events []mutation.StoredEvent
	for _, raw := range rows {
		e := mutation.StoredEvent{Number: uint64(readInteger(raw[0])), LSN: mutation.LSN(readInteger(raw[1]))}
		if e.Number > count || len(raw[2]) == 0 {
			continue // of a record that somebody removed and made again
		}
		fields, err := decodeJSONFields(raw[2][1:])
		if err != nil {
			return nil, err
		}
		e.Event = &walproxyv1.Event{Fields: fields}
		events = append(events, e)
	}
	return events, nil
}
