package behind

import (
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/api/pgwire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// Execution is what one execution of a Plan gets.
type Execution struct {
	// Literals of the text; of any text of the plan's shape.
	Text statement.Text
	// SQL is the text itself, for the positions of errors in it.
	SQL string
	// Formats and Values of the Bind message; a nil value is null.
	Formats []int16
	Values  [][]byte
	// Now is the time of now(), Started of statement_timestamp(), and Clock of
	// clock_timestamp().
	Now, Started time.Time
	Clock        func() time.Time
	UUID         func() (uuid.UUID, error)
	// Next draws from a sequence that the session may draw from; false: it cannot.
	// nil: never.
	Next func(*catalogue.Sequence) (int64, bool)
}

// Row is one row to log.
type Row struct {
	Text *Text
	Key  *walproxyv1.Key
	// Formats and Values of the text's parameters. They share memory with the
	// Execution's.
	Formats []int16
	Values  [][]byte
}

// Refusal is what PostgreSQL would answer.
type Refusal struct {
	*value.Error
	// Position of the literal in the text, in characters from 1; 0: none.
	Position int
	// Table is named in the answer; nil: it is not.
	Table *catalogue.Table
	// Stage is when PostgreSQL would find it.
	Stage Stage
}

// bound is a slot with its value.
type bound struct {
	*slot
	format  int16
	raw     []byte // nil: null
	datum   value.Datum
	verdict value.Verdict
	err     *value.Error
	stage   Stage
}

// Stage is when PostgreSQL finds a fault: the earliest of a statement's is answered.
type Stage uint8

const (
	Parsing   Stage = iota // of literals
	Binding                // of parameters, in the order of their numbers
	Executing              // in the order of the columns
)

// Bind judges one execution. One of rows, refusal and why is returned.
func (p *Plan) Bind(session *Session, e *Execution) (rows []Row, refusal *Refusal, why *Why) {
	if len(e.Values) != len(p.types) || len(e.Formats) > 1 && len(e.Formats) != len(e.Values) {
		return nil, nil, because(Value, "the number of parameters")
	}
	b := binders.Get().(*binder)
	b.Plan, b.session, b.e = p, session, e
	defer b.free()
	rows = make([]Row, 0, len(p.rows))
	for _, r := range p.rows {
		if row, ok := b.row(r); ok {
			rows = append(rows, row)
		}
		if b.why != nil {
			return nil, nil, b.why
		}
	}
	if b.literalFaults() > 1 {
		return nil, nil, because(Value, "several literals") // in which order they are looked at is the parser's
	}
	if refusal = b.first(); refusal != nil {
		return nil, refusal, nil
	}
	if b.repeats(rows) {
		return nil, nil, because(Repeated, "")
	}
	return rows, nil, nil
}

// binder is one call of Bind.
type binder struct {
	*Plan
	session *Session
	e       *Execution
	why     *Why
	faults  []fault
	values  []bound // of the row that is looked at
}

// binders are large, for every value has room for one of any type.
var binders = sync.Pool{New: func() any { return &binder{} }}

func (b *binder) free() {
	clear(b.values[:cap(b.values)])
	*b = binder{values: b.values[:0]}
	binders.Put(b)
}

type fault struct {
	stage Stage
	order int
	*Refusal
}

func (b *binder) unknown(detail string) {
	if b.why == nil {
		b.why = because(Value, detail)
	}
}

func (b *binder) row(r *row) (Row, bool) {
	out := Row{Text: r.text, Formats: make([]int16, len(r.slots)), Values: make([][]byte, len(r.slots))}
	b.values = slices.Grow(b.values[:0], len(r.slots))[:len(r.slots)]
	values := b.values
	for i := range r.slots {
		v := &values[i]
		*v = bound{slot: &r.slots[i], verdict: value.Good}
		b.read(v)
		out.Formats[i], out.Values[i] = v.format, v.raw
		switch {
		case b.why != nil:
			return out, false
		case v.verdict == value.Unknown:
			b.unknown(v.column.Name)
			return out, false
		case v.verdict == value.Bad:
			b.fault(v, i)
		}
	}
	if b.Kind == statement.Insert && len(b.faults) == 0 {
		b.checkNulls(r, values)
	}
	if len(b.faults) > 0 || b.why != nil {
		return out, false
	}
	var err error
	if out.Key, err = b.key(values); err != nil {
		b.unknown(err.Error())
	}
	return out, b.why == nil
}

// fault notes what PostgreSQL would refuse.
func (b *binder) fault(v *bound, at int) {
	f := fault{stage: v.stage, order: at, Refusal: &Refusal{Error: v.err}}
	switch v.stage {
	case Parsing:
		offset := b.e.Text.Literals[v.value.N].Offset
		f.order, f.Position = offset, characters(b.e.SQL, offset)+1
	case Binding:
		f.order, f.Error = v.value.N, v.err.At(v.value.N)
	case Executing:
		// Whether and when a value that is not stored at once is looked at
		// depends on the row and on how the statement was planned.
		if v.part != inserted || len(b.rows) > 1 {
			b.unknown(v.column.Name)
		}
	}
	b.faults = append(b.faults, f)
}

func (b *binder) literalFaults() (n int) {
	for _, f := range b.faults {
		if f.stage == Parsing {
			n++
		}
	}
	return n
}

func (b *binder) first() *Refusal {
	var first *fault
	for i := range b.faults {
		if f := &b.faults[i]; first == nil || f.stage < first.stage || f.stage == first.stage && f.order < first.order {
			first = f
		}
	}
	if first == nil {
		return nil
	}
	first.Refusal.Stage = first.stage
	return first.Refusal
}

// characters counts those of sql before a byte.
func characters(sql string, offset int) int {
	n := 0
	for i := range sql {
		if i >= offset {
			break
		}
		n++
	}
	return n
}

// repeats: PostgreSQL refuses to update a row twice in one statement, and of two
// equal ones inserts none.
func (b *binder) repeats(rows []Row) bool {
	if len(rows) < 2 {
		return false
	}
	seen := make(map[string]bool, len(rows))
	for _, r := range rows {
		id := string(mutation.AppendKey(nil, "", r.Key))
		if seen[id] {
			return true
		}
		seen[id] = true
	}
	return false
}

// read gets a slot's value and judges it for its column.
func (b *binder) read(v *bound) {
	b.fetch(v)
	if v.raw == nil || v.verdict != value.Good || b.why != nil {
		return
	}
	if v.value.Source != statement.Function {
		v.datum, v.verdict, v.err = value.Input(v.from, v.format, v.raw, b.session.SearchPath)
	}
	switch {
	case v.verdict == value.Good:
		b.assign(v)
	case isNumber(v.value):
		b.number(v)
	}
}

// bytesOf are a text's, which are not to be changed; an empty one is no null.
func bytesOf(text string) []byte {
	if text == "" {
		return []byte{}
	}
	return unsafe.Slice(unsafe.StringData(text), len(text))
}

// assign is what happens to a value that could be read.
func (b *binder) assign(v *bound) {
	stored, verdict, err := value.Assign(v.datum, v.from, v.column.Type, v.column.Modifier)
	if v.part == compared {
		// A key that does not fit the column is in no row; one that is cut to fit
		// is another.
		if verdict != value.Good || stored.Text != v.datum.Text {
			verdict = value.Unknown
		}
	}
	v.datum, v.verdict, v.err = stored, verdict, err
	if verdict == value.Bad {
		v.stage = Executing
	}
}

// number: digits are of the smallest type that holds them, and what does not fit the
// column's is found when they are assigned.
func (b *binder) number(v *bound) {
	if v.verdict != value.Bad || v.value.Cast != "" || v.value.Literal != statement.LiteralInteger {
		v.verdict = value.Unknown
		return
	}
	wide := value.ByName("int8")
	d, verdict, _ := value.Input(wide, value.Text, v.raw, nil)
	if verdict != value.Good {
		v.verdict = value.Unknown
		return
	}
	_, v.verdict, v.err = value.Assign(d, wide, v.column.Type, v.column.Modifier)
	v.stage = Executing
	if v.verdict == value.Good || v.part == compared {
		v.verdict = value.Unknown
	}
}

// fetch gets a slot's format and bytes.
func (b *binder) fetch(v *bound) {
	switch v.value.Source {
	case statement.Null:
	case statement.Parameter:
		v.raw = b.e.Values[v.value.N-1]
		switch len(b.e.Formats) {
		case 0:
		case 1:
			v.format = b.e.Formats[0]
		default:
			v.format = b.e.Formats[v.value.N-1]
		}
		v.stage = Binding
	case statement.Constant:
		text := b.e.Text.Literals[v.value.N].Value
		if v.value.Minus {
			text = "-" + text
		}
		v.raw, v.stage = bytesOf(text), Parsing
	case statement.True:
		v.raw = []byte("t")
	case statement.False:
		v.raw = []byte("f")
	case statement.Function:
		b.evaluate(v)
	}
	if v.raw == nil && (!takesNull(v.column.Type) || !takesNull(v.from) || v.part == updated && v.column.NotNull) {
		b.unknown(v.column.Name) // a domain may refuse null; so does a row, if it is there
	}
}
