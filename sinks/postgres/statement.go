package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// shape is what the operations of one statement have in common. An operation
// gives a value per input.
type shape struct {
	mapping  *mapping
	id       []byte // within the mapping
	change   change
	columns  []*column // that values are given for
	defaults []*column // that become their default
	joins    bool      // the overflow column's value is joined to what is there
	inputs   []input
	sqls     []string // run one after the other with the same parameters
	insert   string   // the same for rows that do not exist yet; "": none
	merge    string   // the same, cheaper, while nobody else inserts these rows; "": none
	dense    string   // merge for dense keys: two more parameters are the lowest and the highest; "": none
	types    []uint32
	sortBy   int     // the input of the first column of the key; -1: rows are not sorted
	logged   *logged // of records that are statements; nil: of mutations
}

// input is one parameter: an array with an element per operation.
type input struct {
	name    string
	element uint32
	array   uint32
	cast    string
	text    bool // the parameter is an array literal
}

func inputOf(name string, c *column) input {
	return input{name: name, element: c.codec.element, array: c.codec.array, cast: c.cast}
}

var (
	inputVersion = input{name: "version", element: oidInt8, array: 1016}
	inputEnd     = input{name: "expires_at", element: oidTimestamptz, array: 1185}
	inputEvents  = input{name: "event_count", element: oidInt8, array: 1016}
	inputDoc     = input{name: "doc", element: oidJSONB, array: 3807}
	inputRemoved = input{name: "removed", element: oidText, array: oidTextArray, cast: "::pg_catalog.text[]"}
)

// value is the expression of an input in a SELECT from source.
func (i input) value() string { return "s." + i.name + i.cast }

// keyInputs are the first inputs of every shape.
func (m *mapping) keyInputs() []input {
	inputs := make([]input, len(m.key))
	for i, c := range m.key {
		inputs[i] = inputOf(fmt.Sprintf("k%d", i), c)
	}
	return inputs
}

// source is the FROM item of the inputs, the first parameter being $1: a row per
// operation. Calls in a select list are run in step, a row at a time; those of
// unnest(a, b, ...) in FROM would each be kept as a whole, at a fifth more of the
// server's time for an INSERT.
func source(inputs []input) string {
	items := make([]string, len(inputs))
	for i, in := range inputs {
		items[i] = fmt.Sprintf("unnest($%d) AS %s", i+1, in.name)
	}
	return fmt.Sprintf("(SELECT %s) AS s", strings.Join(items, ", "))
}

// numbered is source with the number of the row, from 1, as n.
func numbered(inputs []input) string {
	params, names := make([]string, len(inputs)), make([]string, len(inputs))
	for i, in := range inputs {
		params[i], names[i] = fmt.Sprintf("$%d", i+1), in.name
	}
	return fmt.Sprintf("unnest(%s) WITH ORDINALITY AS s(%s, n)", strings.Join(params, ", "), strings.Join(names, ", "))
}

// sameKey is the condition that row t has the key of s.
func (m *mapping) sameKey() string {
	conditions := make([]string, len(m.key))
	for i, c := range m.key {
		conditions[i] = fmt.Sprintf("t.%s = %s", quote(c.name), inputOf(fmt.Sprintf("k%d", i), c).value())
	}
	return strings.Join(conditions, " AND ")
}

func (m *mapping) keyNames() string { return columnNames(m.key) }

func columnNames(columns []*column) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = quote(c.name)
	}
	return strings.Join(names, ", ")
}

func (s *shape) build() {
	s.inputs = s.mapping.keyInputs()
	if s.mapping.document {
		s.buildDocument()
	} else {
		s.buildRow()
	}
	for _, in := range s.inputs {
		s.types = append(s.types, in.array)
	}
}

func (s *shape) buildDocument() {
	m := s.mapping
	table := m.table.quoted()
	target := fmt.Sprintf("INSERT INTO %s AS t (%s, doc, version, updated_at", table, m.keyNames())
	switch s.change {
	case put:
		s.inputs = append(s.inputs, inputDoc, inputVersion, inputEnd, inputEvents)
		s.insert = fmt.Sprintf("%s, expires_at, event_count) SELECT %s, s.doc, s.version, now(), s.expires_at, s.event_count FROM %s",
			target, s.keyValues(), source(s.inputs))
		s.sqls = []string{fmt.Sprintf("%s ON CONFLICT (%s) DO UPDATE SET doc = excluded.doc, version = excluded.version, "+
			"updated_at = excluded.updated_at, expires_at = excluded.expires_at, event_count = excluded.event_count", s.insert, m.keyNames())}
		s.merge = s.merging("doc = s.doc, version = s.version, updated_at = now(), expires_at = s.expires_at, event_count = s.event_count",
			m.keyNames()+", doc, version, updated_at, expires_at, event_count", s.keyValues()+", s.doc, s.version, now(), s.expires_at, s.event_count")
	case patch:
		s.inputs = append(s.inputs, inputDoc, inputVersion)
		if !s.joins {
			s.sqls = []string{fmt.Sprintf("%s) SELECT %s, s.doc, s.version, now() FROM %s "+
				"ON CONFLICT (%s) DO UPDATE SET doc = t.doc || excluded.doc, version = excluded.version, updated_at = excluded.updated_at",
				target, s.keyValues(), source(s.inputs), m.keyNames())}
			s.merge = s.merging("doc = t.doc || s.doc, version = s.version, updated_at = now()",
				m.keyNames()+", doc, version, updated_at", s.keyValues()+", s.doc, s.version, now()")
			return
		}
		s.inputs = append(s.inputs, inputRemoved)
		from := source(s.inputs)
		s.sqls = []string{
			fmt.Sprintf("UPDATE %s AS t SET doc = (t.doc - %s) || s.doc, version = s.version, updated_at = now() FROM %s WHERE %s",
				table, inputRemoved.value(), from, m.sameKey()),
			fmt.Sprintf("%s) SELECT %s, s.doc, s.version, now() FROM %s WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)",
				target, s.keyValues(), from, table, m.sameKey()),
		}
	case alter:
		s.inputs = append(s.inputs, inputVersion, inputRemoved)
		s.sqls = []string{fmt.Sprintf("UPDATE %s AS t SET doc = t.doc - %s, version = s.version, updated_at = now() FROM %s WHERE %s",
			table, inputRemoved.value(), source(s.inputs), m.sameKey())}
	case remove:
		s.sqls = []string{s.deletion()}
	}
}

func (s *shape) deletion() string {
	return fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", s.mapping.table.quoted(), source(s.inputs), s.mapping.sameKey())
}

func (s *shape) keyValues() string {
	values := make([]string, len(s.mapping.key))
	for i := range s.mapping.key {
		values[i] = s.inputs[i].value()
	}
	return strings.Join(values, ", ")
}

// buildRow: an upsert is tried as an insert first, which fires triggers and is
// held to the constraints of a whole row; where that could differ from an update
// it is one update and one insert of what was not there.
func (s *shape) buildRow() {
	m, table := s.mapping, s.mapping.table.quoted()
	if s.change == remove {
		s.sqls = []string{s.deletion()}
		return
	}
	names, values := m.keyNames(), s.keyValues()
	var excluded, sets []string
	add := func(c *column, in input) {
		s.inputs = append(s.inputs, in)
		names += ", " + quote(c.name)
		values += ", " + in.value()
		name := quote(c.name)
		if c == m.overflow && s.joins {
			excluded = append(excluded, fmt.Sprintf("%s = coalesce(t.%s, '{}') || excluded.%s", name, name, name))
			sets = append(sets, fmt.Sprintf("%s = coalesce(t.%s, '{}') || %s", name, name, in.value()))
			return
		}
		excluded = append(excluded, name+" = excluded."+name)
		sets = append(sets, name+" = "+in.value())
	}
	for i, c := range s.columns {
		add(c, inputOf(fmt.Sprintf("c%d", i), c))
	}
	if m.version != nil {
		add(m.version, inputVersion)
	}
	for _, c := range s.defaults {
		excluded = append(excluded, quote(c.name)+" = DEFAULT")
		sets = append(sets, quote(c.name)+" = DEFAULT")
	}
	from := source(s.inputs)
	insert := fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM %s", table, names, values, from)
	update := fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE %s", table, strings.Join(sets, ", "), from, m.sameKey())
	switch {
	case s.change == alter && len(sets) > 0:
		s.sqls = []string{update}
	case s.change == alter:
	case s.change == create:
		s.sqls = []string{insert}
	case len(sets) == 0:
		s.sqls = []string{insert + " ON CONFLICT DO NOTHING"}
	case s.wholeRow():
		s.insert = insert
		s.sqls = []string{fmt.Sprintf("%s ON CONFLICT (%s) DO UPDATE SET %s", insert, m.keyNames(), strings.Join(excluded, ", "))}
		s.merge = s.merging(strings.Join(sets, ", "), names, values)
	default:
		s.sqls = []string{update, fmt.Sprintf("%s WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)", insert, table, m.sameKey())}
	}
}

// merging is the MERGE that does what an INSERT .. ON CONFLICT does; "": there is
// none. It neither makes a row that it then gives up, nor locks before it updates.
// A row that somebody else inserts meanwhile it does not find: that is a
// duplicate key. Columns that keep what a sequence gave them are left to ON
// CONFLICT, which draws from the sequence whether the row exists or not.
func (s *shape) merging(sets, names, values string) string {
	t := s.mapping.table
	if !t.merges || slices.ContainsFunc(t.columns, func(c *column) bool { return c.kept && !s.gives(c) }) {
		return ""
	}
	where := func(condition string) string {
		return fmt.Sprintf("MERGE INTO ONLY %s AS t USING %s ON %s WHEN MATCHED THEN UPDATE SET %s WHEN NOT MATCHED THEN INSERT (%s) VALUES (%s)",
			t.quoted(), source(s.inputs), condition, sets, names, values)
	}
	byKey := s.mapping.sameKey()
	if key := s.mapping.key; len(key) == 1 && key[0].isInteger() {
		s.dense = where(fmt.Sprintf("%s AND t.%s BETWEEN $%d AND $%d", byKey, quote(key[0].name), len(s.inputs)+1, len(s.inputs)+2))
	}
	return where(byKey)
}

// byKey makes the server look up each key in the key's index for a MERGE, which is
// a join: a plan made while a table was small or empty would read all of it, or of
// its index, when it has grown.
const byKey = "SELECT pg_catalog.set_config('enable_seqscan', 'off', true), " +
	"pg_catalog.set_config('enable_hashjoin', 'off', true), pg_catalog.set_config('enable_mergejoin', 'off', true), " +
	"pg_catalog.set_config('enable_material', 'off', true), pg_catalog.set_config('enable_memoize', 'off', true), " +
	"pg_catalog.set_config('enable_nestloop', 'on', true), pg_catalog.set_config('enable_bitmapscan', 'on', true)"

// byRange makes it read the index once, from the lowest to the highest key of a dense
// MERGE, and join that by hash.
const byRange = "SELECT pg_catalog.set_config('enable_seqscan', 'off', true), " +
	"pg_catalog.set_config('enable_hashjoin', 'on', true), pg_catalog.set_config('enable_mergejoin', 'off', true), " +
	"pg_catalog.set_config('enable_nestloop', 'off', true), pg_catalog.set_config('enable_bitmapscan', 'off', true)"

// wholeRow reports whether the row that would be inserted is judged as the one
// that an update would leave.
func (s *shape) wholeRow() bool {
	t := s.mapping.table
	if t.triggers {
		return false
	}
	if s.change == put {
		return true
	}
	if t.checked {
		return false
	}
	for _, c := range t.columns {
		if c.notNull && !c.hasValue && !s.gives(c) {
			return false
		}
	}
	return true
}

func (s *shape) gives(c *column) bool {
	for _, list := range [][]*column{s.columns, s.mapping.key, {s.mapping.version}} {
		for _, given := range list {
			if given == c {
				return true
			}
		}
	}
	return false
}
