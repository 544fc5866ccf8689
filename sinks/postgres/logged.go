package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
)

// logged is the shape of records that are statements: those with one text, types,
// formats and session. Several of them become one statement, which takes arrays of
// their values as they came; one alone, and what cannot be joined, runs as it was
// written.
type logged struct {
	session session
	text    string
	types   []uint32 // of its parameters; 0: the server finds it
	folds   bool
	formats []int16 // of the arrays
	kind    pgstatement.Kind
}

// parameters are those of one statement.
type parameters struct {
	formats []int16
	values  [][]byte
}

// shapeLogged begins the id of a shape of statements; those of mutations begin with
// their change.
const shapeLogged = 0xff

// loggedShape returns the shape of a statement whose parameters have these formats.
func (w *work) loggedShape(m *mapping, s *walproxyv1.Statement, formats []int16) (*shape, error) {
	of, err := sessionOf(s)
	if err != nil {
		return nil, err
	}
	id := append(w.shapeID[:0], shapeLogged)
	for _, part := range [...]string{of.role, of.path, of.zone, s.GetText()} {
		id = append(append(id, part...), 0) // none of them has a NUL
	}
	for _, oid := range s.GetParameterOids() {
		id = binary.BigEndian.AppendUint32(id, oid)
	}
	for _, format := range formats {
		id = append(id, byte(format))
	}
	w.shapeID = id
	if w.shape != nil && w.shape.mapping == m && bytes.Equal(w.shape.id, id) { // mostly
		return w.shape, nil
	}
	m.shapes.Lock()
	defer m.shapes.Unlock()
	if known := m.shapes.byID[string(id)]; known != nil {
		w.shape = known
		return known, nil
	}
	fresh, err := m.newLogged(of, s, formats)
	if err != nil {
		return nil, err
	}
	if len(m.shapes.byID) >= maxShapes {
		clear(m.shapes.byID)
	}
	fresh.id = bytes.Clone(id)
	m.shapes.byID[string(id)], w.shape = fresh, fresh
	return fresh, nil
}

// newLogged reads a statement's text, which has to be one for the table.
func (m *mapping) newLogged(of session, st *walproxyv1.Statement, formats []int16) (*shape, error) {
	form, err := pgstatement.Parse(st.GetText())
	if err != nil {
		return nil, rejected("text", "%s", err)
	}
	if n := len(form.Targets); n != len(st.GetParameterOids()) || n != len(formats) {
		return nil, rejected("parameters", "are %d of %d types; the text has %d", len(formats), len(st.GetParameterOids()), n)
	}
	if err := m.fits(form); err != nil {
		return nil, err
	}
	s := &shape{mapping: m, sortBy: -1, logged: &logged{session: of, text: strings.Clone(st.GetText()), kind: form.Kind}}
	for _, oid := range st.GetParameterOids() {
		if oid >= firstUserOID {
			oid = 0
		}
		s.logged.types = append(s.logged.types, oid)
	}
	s.buildLogged(form, st.GetParameterOids(), formats)
	return s, nil
}

// firstUserOID is the lowest of what is not built in: of a type that somebody made, so
// that it has another one in a database that was restored.
const firstUserOID = 16384

// arrayTypes are those of the built-in types whose values can be joined in arrays.
var arrayTypes = map[uint32]uint32{
	oidBool: 1000, oidBytea: 1001, oidInt8: 1016, oidInt2: 1005, oidInt4: 1007, oidText: oidTextArray, oidJSON: 199, 650: 651, oidFloat4: 1021,
	oidFloat8: 1022, 869: 1041, oidBpchar: 1014, oidVarchar: 1015, oidDate: 1182, 1083: 1183, oidTimestamp: 1115, oidTimestamptz: 1185, 1186: 1187,
	oidNumeric: 1231, oidUUID: 2951, oidJSONB: 3807,
}

// sameInBoth are the types whose text and binary forms are the same bytes.
var sameInBoth = map[uint32]bool{oidText: true, oidVarchar: true, oidBpchar: true, oidJSON: true}

// joined is the input of parameter n; false: its values cannot be joined in an array.
// An array of text forms is one literal of the type's array, so that each value is read
// by the type itself, as that of a parameter.
func (m *mapping) joined(n int, oid uint32, format int16, target string) (input, bool) {
	in := input{name: fmt.Sprintf("p%d", n+1), element: oid, array: arrayTypes[oid]}
	if c := m.table.byName[target]; oid >= firstUserOID && c.enums != 0 {
		in.element, in.array = c.base, c.enums
		return in, true
	}
	in.text = format != formatBinary && !sameInBoth[oid]
	return in, in.array != 0
}

// buildLogged makes the statement that joins several. Rows are written in the order of
// the arrays by an INSERT, in none by the others.
func (s *shape) buildLogged(form *pgstatement.Form, oids []uint32, formats []int16) {
	l, table := s.logged, s.mapping.table
	s.change = map[pgstatement.Kind]change{pgstatement.Insert: create, pgstatement.Update: alter, pgstatement.Delete: remove}[form.Kind]
	if form.Conflict != nil {
		s.change = put
	}
	l.folds = !table.rowwise
	for i, oid := range oids {
		in, ok := s.mapping.joined(i, oid, formats[i], form.Targets[i])
		l.folds = l.folds && ok
		s.inputs = append(s.inputs, in)
	}
	sets, ok := s.setList(form)
	if l.folds = l.folds && ok; !l.folds {
		s.inputs, s.sqls = nil, []string{l.text}
		return
	}
	for _, in := range s.inputs {
		format := formatBinary
		if in.text {
			format = formatText
		}
		l.formats, s.types = append(l.formats, format), append(s.types, in.array)
	}
	if !slices.ContainsFunc(s.inputs, func(in input) bool { return in.text }) {
		s.sortBy = slices.Index(form.Targets, s.mapping.key[0].name)
	}
	from := source(s.inputs)
	conditions := make([]string, len(form.Where))
	for i, c := range form.Where {
		conditions[i] = "t." + quote(c.Column) + " = " + s.inputs[c.Parameter-1].value()
	}
	where := strings.Join(conditions, " AND ")
	var sql string
	switch form.Kind {
	case pgstatement.Insert:
		names, values := make([]string, len(form.Columns)), make([]string, len(form.Columns))
		for i, name := range form.Columns {
			names[i], values[i] = quote(name), s.inputs[i].value()
		}
		sql = fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s%s", table.quoted(), strings.Join(names, ", "), strings.Join(values, ", "), from, onConflict(form.Conflict, sets))
	case pgstatement.Update:
		sql = fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE %s", table.quoted(), sets, from, where)
	case pgstatement.Delete:
		sql = fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", table.quoted(), from, where)
	}
	s.sqls = []string{sql}
}

// setList writes the assignments for joined rows; false: one of ON CONFLICT is to a
// parameter, which has no name there.
func (s *shape) setList(form *pgstatement.Form) (list string, ok bool) {
	sets := form.Sets
	if form.Conflict != nil {
		sets = form.Conflict.Sets
	}
	parts := make([]string, len(sets))
	for i, a := range sets {
		value := "DEFAULT"
		switch {
		case a.Excluded != "":
			value = "EXCLUDED." + quote(a.Excluded)
		case a.Parameter > 0 && form.Conflict != nil:
			return "", false
		case a.Parameter > 0:
			value = s.inputs[a.Parameter-1].value()
		}
		parts[i] = quote(a.Column) + " = " + value
	}
	return strings.Join(parts, ", "), true
}

func onConflict(c *pgstatement.Conflict, sets string) string {
	if c == nil {
		return ""
	}
	target := ""
	if c.Constraint != "" {
		target = " ON CONSTRAINT " + quote(c.Constraint)
	} else if c.Columns != nil {
		names := make([]string, len(c.Columns))
		for i, name := range c.Columns {
			names[i] = quote(name)
		}
		target = " (" + strings.Join(names, ", ") + ")"
	}
	if sets == "" {
		return " ON CONFLICT" + target + " DO NOTHING"
	}
	return " ON CONFLICT" + target + " DO UPDATE SET " + sets
}

// noteStatement adds a statement of record i.
func (w *work) noteStatement(i int, s *walproxyv1.Statement) error {
	r, err := w.row(s.GetCollection(), s.GetKey())
	if err != nil {
		return err
	}
	w.writes = append(w.writes, write{record: i, statement: s, row: r})
	return nil
}

// writeStatement adds a statement to those of its shape, or begins the next.
func (w *work) writeStatement(wr *write) error {
	formats, values, err := pgstatement.Parameters(wr.statement.GetParameters())
	if err != nil {
		return rejected("parameters", "%s", err)
	}
	r := wr.row
	s, err := w.loggedShape(r.m, wr.statement, formats)
	if err != nil {
		return err
	}
	g := w.groupOf(s, r, wr.record)
	if g.count == 1 {
		g.first = &parameters{formats, values}
	}
	for i, in := range s.inputs {
		if in.text {
			g.arrays[i].literal(values[i])
		} else {
			g.arrays[i].element(values[i])
		}
	}
	w.fill(g)
	w.unsettle(s, r)
	w.wroteStatement(r, wr.record, s.change)
	return nil
}

// wroteStatement: the row is to be read again before it is known, its version in table
// record moves if it has one, and what is deleted has none and no events.
func (w *work) wroteStatement(r *row, record int, did change) {
	flags, lsn := r.m.flags, w.batch.Records[record].LSN
	r.record, r.touched, r.known = record, true, false
	if did == remove {
		r.beside, r.exists, r.moved, r.document = flags.recorded.Load(), false, false, nil
		if flags.streaming.Load() {
			r.drops, r.appended = true, nil
		}
		return
	}
	if !r.beside {
		r.moved = flags.recorded.Load()
	}
	r.version = lsn
	if d := r.document; d != nil && d.Version != 0 {
		moved := *d
		moved.Version, r.document = lsn, &moved
	}
}

// statement adds the command of a group of statements.
func (w *work) statement(g *group, commands []command, owners []origin) ([]command, []origin) {
	l := g.shape.logged
	commands, owners = w.become(&l.session, g.owner, commands, owners)
	c := command{sql: l.text, types: l.types, params: g.first.values, formats: g.first.formats}
	if g.count > 1 {
		if g.count >= minHope && l.kind != pgstatement.Insert && w.unordered() {
			commands, owners = w.findByKey(commands, owners)
		}
		w.sort(g)
		c = command{sql: g.shape.sqls[0], types: g.shape.types, params: g.params(), formats: l.formats}
	}
	c.path = w.path()
	return append(commands, c), append(owners, origin{record: g.owner, writer: true})
}
