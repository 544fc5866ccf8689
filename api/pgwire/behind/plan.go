package behind

import (
	"slices"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/api/pgwire/value"
	"github.com/walproxy/walproxy/mutation"
)

// Session is what of a session a write depends on, never changed once it was used, by
// one goroutine at a time. A session that may have
// temporary tables, whose client does not speak UTF-8, or that reads backslashes
// in plain strings has none.
type Session struct {
	Role       string
	SearchPath []string // its parts, without quotes
	TimeZone   string   // as the session has it
	Location   *time.Location

	written written
}

// Plan is how the executions of one statement are logged. It is never changed and may
// be used concurrently.
type Plan struct {
	Table *catalogue.Table
	Kind  statement.Kind
	// Parameters are the types of $1 and on, as a ParameterDescription has them.
	Parameters []uint32
	// Counted: how many rows it affects is known at the ack: one for each that is
	// logged.
	Counted bool

	types []*catalogue.Type // of the parameters
	rows  []*row
	zoned bool // a value may depend on TimeZone

	sequences map[string]*catalogue.Sequence // by name
}

// Text is a statement as it is logged, in the form of internal/pgstatement.
type Text struct {
	SQL  string
	OIDs []uint32 // of its parameters
}

// row is one row that the statement writes.
type row struct {
	text  *Text
	slots []slot // the parameters of text
	// missing are the columns of an INSERT that get null without being named.
	missing []*catalogue.Column
	// constant are those that get a default that is not evaluated here.
	constant []*catalogue.Column
}

type part uint8

const (
	inserted part = iota
	updated       // SET
	compared      // WHERE
)

// slot is a parameter of a logged text.
type slot struct {
	part   part
	column *catalogue.Column
	value  statement.Value
	from   *catalogue.Type // what the value is read and logged as
}

// planner makes one plan.
type planner struct {
	*Plan
	statement *statement.Statement
	write     *statement.Write
	why       *Why
}

// Prepare plans st, whose parameters were declared with types (0: left to the
// server). Why says why it has to be passed through.
func Prepare(known *catalogue.Snapshot, st *statement.Statement, types []uint32, session *Session) (*Plan, *Why) {
	if st.Write == nil {
		return nil, &Why{Text: st.Why}
	}
	// pg_catalog before all else is what names of functions and types are read with.
	if i := slices.Index(session.SearchPath, "pg_catalog"); i > 0 {
		return nil, because(NotDeclared, "pg_catalog is not first in search_path")
	}
	table := known.Resolve(st.Write.Table, session.SearchPath, session.Role)
	switch {
	case table == nil:
		return nil, because(NotDeclared, st.Write.Table.Name)
	case table.Refused != catalogue.Accepted:
		return nil, &Why{Table: table.Refused, Detail: table.Detail}
	}
	p := &planner{Plan: &Plan{Table: table, Kind: st.Kind, sequences: known.Sequences}, statement: st, write: st.Write}
	if !table.May(session.Role, p.privileges()) {
		return nil, because(Privilege, session.Role)
	}
	if p.why = p.parameters(types); p.why != nil {
		return nil, p.why
	}
	if st.Kind == statement.Insert {
		p.insert()
	} else {
		p.change()
	}
	if p.why == nil {
		p.describe()
	}
	if p.why != nil {
		return nil, p.why
	}
	return p.Plan, nil
}

func (p *planner) privileges() catalogue.Privilege {
	conflict := p.write.Conflict
	switch {
	case p.Kind == statement.Update:
		return catalogue.MaySelect | catalogue.MayUpdate
	case p.Kind == statement.Delete:
		return catalogue.MaySelect | catalogue.MayDelete
	case conflict != nil && len(conflict.Sets) > 0:
		return catalogue.MaySelect | catalogue.MayInsert | catalogue.MayUpdate
	case conflict != nil:
		return catalogue.MaySelect | catalogue.MayInsert
	}
	return catalogue.MayInsert
}

// fail keeps the first reason.
func (p *planner) fail(r Reason, detail string) {
	if p.why == nil {
		p.why = because(r, detail)
	}
}

// oidUnknown is what a client may declare a parameter of any type with.
const oidUnknown = 705

// parameters takes the declared types.
func (p *planner) parameters(declared []uint32) *Why {
	p.types = make([]*catalogue.Type, max(p.write.Parameters, len(declared)))
	for i, oid := range declared {
		if oid == 0 || oid == oidUnknown {
			continue
		}
		if p.types[i] = p.typeOf(oid); p.types[i] == nil {
			return because(Types, "")
		}
	}
	return nil
}

// typeOf finds a type that is known: a built-in one or a column's.
func (p *planner) typeOf(oid uint32) *catalogue.Type {
	if t := value.ByOID(oid); t != nil {
		return t
	}
	for _, c := range p.Table.Columns {
		if c.Type.OID == oid {
			return c.Type
		}
	}
	return nil
}

// describe fills in what follows from all slots.
func (p *planner) describe() {
	for i, t := range p.types {
		if t == nil {
			p.fail(Types, "") // a parameter that nothing uses
			return
		}
		p.Parameters = append(p.Parameters, t.OID)
		p.zoned = p.zoned || isZoned(p.types[i])
	}
	for _, r := range p.rows {
		for _, s := range r.slots {
			p.zoned = p.zoned || isZoned(s.column.Type) || s.from != nil && isZoned(s.from)
		}
	}
	conflict := p.write.Conflict
	p.Counted = p.Kind == statement.Insert && (conflict == nil || len(conflict.Sets) > 0)
}

// isZoned: the session's TimeZone may decide what a text means.
func isZoned(t *catalogue.Type) bool {
	t = t.Plain()
	if t.Kind == catalogue.ArrayType {
		t = t.Element.Plain()
	}
	return t.Name == "timestamptz"
}

// slot makes the parameter for a value of a column.
func (p *planner) slot(part part, c *catalogue.Column, v statement.Value) slot {
	s := slot{part: part, column: c, value: v}
	target := c.Type
	if part == compared {
		target = comparedAs(c.Type)
	}
	switch {
	case v.Cast != "":
		if s.from = value.ByName(v.Cast); s.from == nil {
			p.fail(Types, v.Cast)
			return s
		}
	case v.Source == statement.Function:
		s.from = value.ByName(functionTypes[v.F])
	case v.Source == statement.True, v.Source == statement.False:
		s.from = value.ByName("bool")
	case v.Source == statement.Parameter:
		s.from = target
	default:
		s.from = target.Plain()
	}
	if isNumber(v) && !numberTypes[s.from.Name][v.Literal] {
		p.fail(Types, c.Name)
		return s
	}
	if v.Source == statement.Parameter {
		p.parameter(&s)
	}
	if p.why == nil && !p.fits(s, target) {
		p.fail(Types, c.Name)
	}
	return s
}

// isNumber: digits, which are of a type of their own before any cast.
func isNumber(v statement.Value) bool {
	return v.Source == statement.Constant && v.Literal != statement.LiteralString
}

// numberTypes are those of which digits, or digits with a point, are a text.
var numberTypes = func() map[string]map[statement.LiteralKind]bool {
	whole := map[statement.LiteralKind]bool{statement.LiteralInteger: true}
	all := map[statement.LiteralKind]bool{statement.LiteralInteger: true, statement.LiteralDecimal: true}
	return map[string]map[statement.LiteralKind]bool{"int2": whole, "int4": whole, "int8": whole, "numeric": all, "float4": all, "float8": all}
}()

// parameter settles the type of a parameter that was not declared, as its first use
// does.
func (p *planner) parameter(s *slot) {
	have := p.types[s.value.N-1]
	switch {
	case have == nil:
		p.types[s.value.N-1] = s.from
	case s.value.Cast != "" && have.OID != s.from.OID:
		p.fail(Types, s.column.Name) // a cast of a value that has a type
	default:
		s.from = have
	}
}

// fits reports whether values of the slot's type go into its column.
func (p *planner) fits(s slot, target *catalogue.Type) bool {
	if s.from.OID == target.OID {
		return true
	}
	if s.part == compared {
		return comparable(s.from, target)
	}
	return value.Convertible(s.from, target)
}

// comparedAs is the type that a parameter gets beside column =.
func comparedAs(t *catalogue.Type) *catalogue.Type {
	t = t.Plain()
	if t.Name == "varchar" && t.Schema == "pg_catalog" {
		return value.ByName("text")
	}
	return t
}

// comparable: values of two types are equal if they are written alike.
func comparable(from, target *catalogue.Type) bool {
	integers := []string{"int2", "int4", "int8"}
	texts := []string{"text", "varchar"}
	return from.Schema == "pg_catalog" && target.Schema == "pg_catalog" &&
		(slices.Contains(integers, from.Name) && slices.Contains(integers, target.Name) ||
			slices.Contains(texts, from.Name) && slices.Contains(texts, target.Name))
}

// functionTypes are what the functions return.
var functionTypes = map[statement.Func]string{statement.TransactionTime: "timestamptz", statement.StatementTime: "timestamptz", statement.ClockTime: "timestamptz",
	statement.LocalTimestamp: "timestamp", statement.CurrentDate: "date", statement.RandomUUID: "uuid", statement.NextValue: "int8"}

// rowsMax is how many rows a statement has at most: a group's members.
const rowsMax = mutation.MaxMembers
