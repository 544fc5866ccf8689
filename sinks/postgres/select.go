package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// selectSQL reads the records of the keys that its parameters give: the key's
// columns, then the key in walproxy's encoding, then the collection. Columns:
// the ordinal of the key, version, end, event count, and what document reads.
// lock: nobody else may change the rows until the transaction ends.
func (m *mapping) selectSQL(schema string, lock bool) (sql string, types []uint32, results []int16) {
	inputs := append(m.keyInputs(), input{name: "id", element: oidBytea, array: 1001})
	for _, in := range inputs {
		types = append(types, in.array)
	}
	from := numbered(inputs)
	suffix := ""
	if lock {
		suffix = " FOR UPDATE OF t"
	}
	results = []int16{formatBinary, formatBinary, formatBinary, formatBinary}
	if m.document {
		return fmt.Sprintf("SELECT s.n, t.version, t.expires_at, t.event_count, t.doc FROM %s JOIN %s AS t ON %s%s",
			from, m.table.quoted(), m.sameKey(), suffix), types, append(results, formatBinary)
	}
	version := "r.version"
	if m.version != nil {
		version = "t." + quote(m.version.name)
	}
	var columns strings.Builder
	for _, c := range m.readable() {
		columns.WriteString(", t." + c.selects)
		results = append(results, c.codec.format())
	}
	return fmt.Sprintf("SELECT s.n, coalesce(%s, 0), r.expires_at, coalesce(r.event_count, 0)%s FROM %s JOIN %s AS t ON %s "+
		"LEFT JOIN %s.record AS r ON r.collection = $%d AND r.key = s.id%s",
		version, columns.String(), from, m.table.quoted(), m.sameKey(), quote(schema), len(inputs)+1, suffix), append(types, oidText), results
}

// readable are the columns behind the first four of a SELECT of rows.
func (m *mapping) readable() []*column {
	if m.overflow == nil {
		return m.fields
	}
	return append(m.fields[:len(m.fields):len(m.fields)], m.overflow)
}

// selection is a selectSQL of these rows' keys.
func (m *mapping) selection(schema string, rows []*row, lock bool) command {
	sql, types, results := m.selectSQL(schema, lock)
	arrays := make([]*arrayBuilder, 0, len(m.key)+1)
	for _, in := range m.keyInputs() {
		arrays = append(arrays, newArray(in.element, len(rows)))
	}
	ids := newArray(oidBytea, len(rows))
	for _, r := range rows {
		for i, v := range r.key {
			arrays[i].element(v)
		}
		ids.element(r.id)
	}
	c := command{sql: sql, types: types, formats: binaryParams, results: results}
	for _, a := range append(arrays, ids) {
		c.params = append(c.params, a.bytes())
	}
	if !m.document {
		c.params = append(c.params, []byte(m.collection))
	}
	return c
}

// check compares the types of a selectSQL's answer with those that its values
// will be decoded as.
func (m *mapping) check(a *answer) error {
	if len(a.rows) == 0 || m.document {
		return nil
	}
	for i, c := range m.readable() {
		want := uint32(oidText)
		if c.codec.binary {
			want = c.codec.element
		}
		if a.types[4+i] != want {
			return fmt.Errorf("%w: column %s of table %s has type %d, not %d", errStale, c.name, m.table, a.types[4+i], want)
		}
	}
	return nil
}

// decode reads a row of a selectSQL. generated: with the columns that the
// server computes, which only readers see.
func (m *mapping) decode(raw [][]byte, generated bool) (*mutation.Document, error) {
	d := &mutation.Document{Version: sinks.LSN(readInteger(raw[1])), EventCount: uint64(readInteger(raw[3]))}
	if raw[2] != nil {
		d.ExpiresAt = fromMicroseconds(readInteger(raw[2]))
	}
	if m.document {
		if len(raw[4]) == 0 || raw[4][0] != 1 {
			return nil, malformedRow("jsonb", raw[4])
		}
		var err error
		d.Fields, err = decodeJSONFields(raw[4][1:])
		return d, err
	}
	d.Fields = make(fieldMap, len(m.fields))
	for i, c := range m.readable() {
		value := raw[4+i]
		switch {
		case c == m.overflow:
			if err := m.decodeOverflow(d.Fields, value); err != nil {
				return nil, err
			}
			continue
		case c.generated && !generated:
			continue
		case value == nil:
			d.Fields[c.name] = mutation.NullValue()
			continue
		}
		v, err := c.codec.decode(value)
		if err != nil {
			return nil, fmt.Errorf("column %s.%s: %w", m.table, c.name, err)
		}
		d.Fields[c.name] = v
	}
	return d, nil
}

// decodeOverflow adds the members that no column stands for.
func (m *mapping) decodeOverflow(fields fieldMap, value []byte) error {
	if len(value) < 2 {
		return nil
	}
	rest, err := decodeJSONFields(value[1:])
	if err != nil {
		return fmt.Errorf("column %s.%s: %w", m.table, m.overflow.name, err)
	}
	for name, v := range rest {
		if m.byField[name] == nil {
			fields[name] = v
		}
	}
	return nil
}

// read fills in the documents of rows, and locks them.
func (w *work) read(ctx context.Context, rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	commands, reads, owners := w.pending()
	commands, owners = w.become(nil, -1, commands, owners)
	reads = append(reads, make([][]*row, len(commands)-len(reads))...)
	for _, m := range w.mappings {
		var mine []*row
		for _, r := range rows {
			if r.m == m {
				mine = append(mine, r)
			}
		}
		if len(mine) > 0 {
			commands = append(commands, m.selection(w.planner.o.Schema, mine, true))
			reads = append(reads, mine)
		}
	}
	answers, err := w.exchange(ctx, commands, owners, false)
	if err != nil {
		return err
	}
	for i, mine := range reads {
		if mine == nil {
			continue
		}
		if err := mine[0].m.check(&answers[i]); err != nil {
			return err
		}
		if err := fill(mine, answers[i].rows); err != nil {
			return halt("%w", err) // no value that this program understands
		}
	}
	return nil
}

// pending are the statements collected so far, none of them a read.
func (w *work) pending() (commands []command, reads [][]*row, owners []origin) {
	commands, owners = w.commands()
	return commands, make([][]*row, len(commands)), owners
}

// fill takes over what a SELECT found. A row that was known before keeps what
// table record will say of it.
func fill(rows []*row, found [][][]byte) error {
	again := make([]*mutation.Document, len(rows))
	for _, raw := range found {
		n := readInteger(raw[0]) - 1
		if n < 0 || int(n) >= len(rows) {
			return malformedRow("ordinal", raw[0])
		}
		d, err := rows[n].m.decode(raw, false)
		if err != nil {
			return err
		}
		again[n] = d
	}
	for i, r := range rows {
		switch d := again[i]; {
		case d == nil || !r.touched:
		case r.document != nil:
			d.Version, d.ExpiresAt, d.EventCount = r.document.Version, r.document.ExpiresAt, r.document.EventCount
		case r.m.version == nil: // a new row, which table record does not know
			*d = mutation.Document{Fields: d.Fields}
		}
		r.document, r.known = again[i], true
	}
	return nil
}

// readAgain sends what there is and reads the rows that the rest of the batch,
// from write at, needs and that are no longer known.
func (w *work) readAgain(ctx context.Context, at int) error {
	var stale []*row
	seen := map[*row]bool{}
	for i := range w.writes[at:] {
		if r := w.writes[at+i].row; r.reads && !r.known && !seen[r] {
			seen[r] = true
			stale = append(stale, r)
		}
	}
	return w.read(ctx, stale)
}
