package catalogue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// Query runs one statement as a simple query, on one session for all statements of
// a Load, and returns its rows in text; a null as "".
type Query func(ctx context.Context, sql string) ([][]string, error)

// errChanged: the catalogue changed while it was read.
var errChanged = errors.New("catalogue: the schema changed while it was read")

// attempts at a catalogue that stands still.
const attempts = 5

// Load reads the catalogue.
func Load(ctx context.Context, query Query, tables []Declared) (*Snapshot, error) {
	for attempt := 1; ; attempt++ {
		s, err := loadOnce(ctx, query, tables)
		if err == nil || !errors.Is(err, errChanged) || attempt == attempts {
			return s, err
		}
	}
}

// loadOnce reads in one transaction. Its snapshot does not hold for the server's
// functions, so that the signature is compared again at the end, in the next one.
func loadOnce(ctx context.Context, query Query, tables []Declared) (_ *Snapshot, err error) {
	if len(tables) == 0 {
		return &Snapshot{}, nil
	}
	// Names are then written with their schemas.
	if _, err := query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog"); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	s, err := load(ctx, query, tables)
	if _, ended := query(ctx, "ROLLBACK"); ended != nil || err != nil {
		return nil, fmt.Errorf("catalogue: %w", errors.Join(err, ended))
	}
	now, err := signature(ctx, query, tables)
	if err == nil && now != s.Signature {
		err = errChanged
	}
	return s, err
}

func signature(ctx context.Context, query Query, tables []Declared) (string, error) {
	rows, err := query(ctx, fmt.Sprintf(signatureSQL, fmt.Sprintf(declaredSQL, declaredValues(tables))))
	if err != nil {
		return "", fmt.Errorf("catalogue: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", errors.New("catalogue: no signature")
	}
	return rows[0][0], nil
}

// loader gathers a snapshot; the first error ends it.
type loader struct {
	*Snapshot
	err    error
	byOID  map[uint32]*Table
	types  map[uint32]*Type
	number map[*Table]map[int]*Column
}

func load(ctx context.Context, query Query, tables []Declared) (*Snapshot, error) {
	l := &loader{Snapshot: &Snapshot{relations: map[statement.Name]*Table{}, reads: map[string][]*Table{},
		writes: map[string][]*Table{}, opaque: map[string]bool{}, triggered: map[string]bool{}},
		byOID: map[uint32]*Table{}, types: map[uint32]*Type{}, number: map[*Table]map[int]*Column{}}
	for _, d := range tables {
		l.Tables = append(l.Tables, &Table{Declared: d, Refused: Missing, byName: map[string]*Column{}, privileges: map[string]Privilege{}})
	}
	var err error
	if l.Signature, err = signature(ctx, query, tables); err != nil {
		return nil, err
	}
	values := declaredValues(tables)
	oids := fmt.Sprintf(declaredSQL, values)
	for _, step := range []struct {
		sql   string
		about string // what %[1]s stands for
		width int
		row   func([]string)
	}{
		{tablesSQL, values, 12, l.table},
		{typesSQL, oids, 12, nil}, // below
		{labelsSQL, "", 2, l.label},
		{columnsSQL, oids, 11, l.column},
		{keysSQL, oids, 3, l.key},
		{privilegesSQL, oids, 3, l.privilege},
		{namesakesSQL, values, 3, l.namesake},
		{familySQL, oids, 2, func(row []string) { l.kin(l.reads, row) }},
		{kinSQL, oids, 2, func(row []string) { l.kin(l.writes, row) }},
		{opaqueSQL, "", 2, l.behind},
	} {
		sql := step.sql
		if step.about != "" {
			sql = fmt.Sprintf(sql, step.about)
		}
		rows, err := query(ctx, sql)
		if err != nil {
			return nil, err
		}
		if step.row == nil {
			for _, row := range rows {
				if len(row) != step.width {
					return nil, fmt.Errorf("a row of %d columns, want %d", len(row), step.width)
				}
			}
			l.readTypes(rows)
			continue
		}
		for _, row := range rows {
			if len(row) != step.width {
				return nil, fmt.Errorf("a row of %d columns, want %d", len(row), step.width)
			}
			step.row(row)
		}
	}
	if err := l.sequences(ctx, query); err != nil {
		return nil, err
	}
	for _, name := range builtinOpaque {
		l.opaque[name] = true
	}
	for _, t := range l.Tables {
		t.judgeKey()
	}
	return l.Snapshot, l.err
}

func (l *loader) oid(text string) uint32 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		l.err = errors.Join(l.err, err)
	}
	return uint32(n)
}

func (l *loader) int(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		l.err = errors.Join(l.err, err)
	}
	return n
}

func (l *loader) table(row []string) {
	i := l.int(row[0])
	if i >= len(l.Tables) {
		return
	}
	t := l.Tables[i]
	t.OID, t.Partitioned = l.oid(row[1]), row[2] == "p"
	l.byOID[t.OID] = t
	yes := func(i int) bool { return row[i] == "t" }
	switch {
	case row[2] != "r" && row[2] != "p", row[3] == "t":
		t.Refused = NoTable
	case yes(4):
		t.Refused = RowSecurity
	case yes(5):
		t.Refused = Rules
	case row[6] != "UTF8":
		t.Refused, t.Detail = Encoding, row[6]
	case yes(7) && !t.Safe:
		t.Refused = Triggers
	case yes(8) && !t.Safe:
		t.Refused = ForeignKey
	case yes(9) && !t.Safe:
		t.Refused = Checks
	case yes(10):
		t.Refused = Exclusion
	case yes(11):
		t.Refused = Inheritance
	default:
		t.Refused = Accepted
	}
}

func (l *loader) readTypes(rows [][]string) {
	for _, row := range rows {
		t := &Type{OID: l.oid(row[0]), Schema: row[1], Name: row[2], Display: row[3], BaseModifier: int32(l.int(row[7])),
			NotNull: row[8] == "t", Checked: row[10] == "t", HasDefault: row[11] == "t", Kind: OtherType}
		switch {
		case row[4] == "d":
			t.Kind = DomainType
		case row[4] == "e":
			t.Kind = EnumType
		case row[4] == "b" && row[5] == "A" && row[9] != "0":
			t.Kind = ArrayType
		case row[4] == "b":
			t.Kind = BaseType
		}
		l.types[t.OID] = t
	}
	for _, row := range rows {
		t := l.types[l.oid(row[0])]
		switch t.Kind {
		case DomainType:
			t.Base = l.types[l.oid(row[6])]
		case ArrayType:
			t.Element = l.types[l.oid(row[9])]
		}
		if t.Kind == DomainType && t.Base == nil || t.Kind == ArrayType && t.Element == nil {
			t.Kind = OtherType
		}
	}
}

func (l *loader) label(row []string) {
	if t := l.types[l.oid(row[0])]; t != nil {
		t.Labels = append(t.Labels, row[1])
	}
}

func (l *loader) column(row []string) {
	t := l.byOID[l.oid(row[0])]
	typ := l.types[l.oid(row[3])]
	if t == nil || typ == nil {
		return // not of a declared table
	}
	c := &Column{Number: l.int(row[1]), Name: row[2], Type: typ, Modifier: int32(l.int(row[4])), NotNull: row[5] == "t",
		Always: row[6] == "a", Identity: row[6] != "", Generated: row[7] != "", Deterministic: row[9] == "t"}
	switch {
	case row[6] != "":
		c.Default = Default{Kind: FixableDefault, Func: statement.NextValue, Sequence: row[10]}
	case !c.Generated && row[8] != "":
		c.Default = readDefault(row[8])
	}
	t.Columns = append(t.Columns, c)
	t.byName[c.Name] = c
	if l.number[t] == nil {
		l.number[t] = map[int]*Column{}
	}
	l.number[t][c.Number] = c
	if typ.Kind == DomainType && typ.Checked && !t.Safe && t.Refused == Accepted {
		t.Refused, t.Detail = Checks, "domain "+typ.Display
	}
}

// sequences reads those of the columns' defaults.
func (l *loader) sequences(ctx context.Context, query Query) error {
	l.Sequences = map[string]*Sequence{}
	var names []string
	for _, t := range l.Tables {
		for _, c := range t.Columns {
			if c.Default.Sequence != "" {
				names = append(names, "("+quote(c.Default.Sequence)+")")
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	rows, err := query(ctx, fmt.Sprintf(sequencesSQL, strings.Join(names, ", ")))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if len(row) != 5 {
			return fmt.Errorf("a row of %d columns, want 5", len(row))
		}
		s := l.Sequences[row[0]]
		if s == nil {
			s = &Sequence{Name: row[0], Schema: row[1], OID: l.oid(row[2]), File: l.oid(row[3]), roles: map[string]bool{}}
			l.Sequences[row[0]] = s
		}
		s.roles[row[4]] = true
	}
	return nil
}

// readDefault judges a default as a value of an INSERT.
func readDefault(expression string) Default {
	d := Default{Kind: VolatileDefault, Expression: expression}
	text := statement.Parse("INSERT INTO t VALUES ("+expression+")", false)
	w := text.Statements[0].Write
	if len(text.Statements) != 1 || w == nil || len(w.Rows) != 1 || len(w.Rows[0]) != 1 {
		return d
	}
	switch v := w.Rows[0][0]; v.Source {
	case statement.Null:
		d.Kind = NoDefault
	case statement.Constant:
		d.Kind, d.Text = ConstantDefault, text.Literals[v.N].Value
		if v.Minus {
			d.Text = "-" + d.Text
		}
	case statement.True, statement.False:
		d.Kind, d.Text = ConstantDefault, strings.ToLower(expression)
	case statement.Function:
		d.Kind, d.Func = FixableDefault, v.F
		if v.F == statement.NextValue {
			d.Sequence = text.Literals[v.N].Value
		}
	}
	return d
}

func (l *loader) key(row []string) {
	t := l.byOID[l.oid(row[0])]
	if t == nil {
		return
	}
	t.PrimaryKey = row[1]
	for field := range strings.FieldsSeq(row[2]) {
		if c := l.number[t][l.int(field)]; c != nil {
			t.KeyColumns = append(t.KeyColumns, c)
		}
	}
}

// judgeKey puts the key into the declared order and looks whether it has one form.
func (t *Table) judgeKey() {
	if t.Refused != Accepted {
		return
	}
	if len(t.KeyColumns) == 0 {
		t.Refused = NoKey
		return
	}
	if len(t.Key) > 0 {
		var declared []*Column
		for _, name := range t.Key {
			c := t.Column(name)
			if c == nil || !slices.Contains(t.KeyColumns, c) || slices.Contains(declared, c) {
				t.Refused, t.Detail = NoKey, name
				return
			}
			declared = append(declared, c)
		}
		if len(declared) != len(t.KeyColumns) {
			t.Refused = NoKey
			return
		}
		t.KeyColumns = declared
	}
	for _, c := range t.KeyColumns {
		if !c.hasOneForm() {
			t.Refused, t.Detail = KeyForm, c.Name
			return
		}
	}
}

// hasOneForm: values that PostgreSQL takes for equal are one key; as sinks/postgres
// judges it.
func (c *Column) hasOneForm() bool {
	if !c.Deterministic || c.Generated || c.Always {
		return false
	}
	t := c.Type.Plain()
	if t.Kind == EnumType {
		return true
	}
	switch t.Name {
	case "int2", "int4", "int8", "text", "varchar", "bytea", "uuid", "date", "timestamptz":
		return t.Schema == "pg_catalog"
	}
	return false
}

func (l *loader) privilege(row []string) {
	if t := l.byOID[l.oid(row[0])]; t != nil {
		t.privileges[row[1]] = Privilege(l.int(row[2]))
	}
}

func (l *loader) namesake(row []string) {
	l.relations[statement.Name{Schema: row[0], Name: row[1]}] = l.byOID[l.oid(row[2])]
}

func (l *loader) kin(names map[string][]*Table, row []string) {
	if t := l.byOID[l.oid(row[0])]; t != nil && !slices.Contains(names[row[1]], t) {
		names[row[1]] = append(names[row[1]], t)
	}
}

func (l *loader) behind(row []string) {
	switch row[0] {
	case "r":
		l.opaque[row[1]] = true
	case "w":
		l.triggered[row[1]] = true
	case "*":
		l.anything = true
	}
}
