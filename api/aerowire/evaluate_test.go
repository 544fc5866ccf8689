package aerowire

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/expression"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/mutation"
)

// What a client sends is drawn here as it could be meant and as nobody would: every
// operation on lists, maps and bits, contexts, expressions, with indexes and counts
// at the ends of their range, values that stand twice, and what no client makes.

// drawn is one thing that a test draws from.
type drawn struct{ *rapid.T }

func (d drawn) upTo(n int) int { return rapid.IntRange(0, n).Draw(d.T, "n") }

// one is true in one of n cases.
func (d drawn) one(n int) bool { return d.upTo(n-1) == n-1 }

func pickOf[T any](d drawn, from ...T) T { return from[d.upTo(len(from)-1)] }

func (d drawn) number() int64 {
	if !d.one(3) {
		return int64(d.upTo(12)) - 5
	}
	return pickOf[int64](d, 100, -100, 127, 128, 255, 256, math.MaxInt16, math.MaxInt32, math.MaxInt32+1, math.MinInt32, math.MinInt32-1,
		math.MaxUint32, math.MaxUint32+1, 1<<20, 8<<20+1, 1<<40, math.MaxInt64, math.MaxInt64-1, math.MinInt64, math.MinInt64+1)
}

func (d drawn) plain() value.Value {
	switch d.upTo(11) {
	case 0:
		return value.Value{}
	case 1:
		return value.OfBool(d.one(2))
	case 2, 3, 4, 5:
		return value.OfInt(d.number())
	case 6, 7:
		return value.OfString(pickOf(d, "", "a", "b", "ab", "\x00", "\xff"))
	case 8:
		return value.OfBytes(d.bytes())
	case 9:
		return value.OfDouble(pickOf(d, 0, 1.5, -2, math.NaN(), math.Inf(1), math.Inf(-1), 1e300, math.Copysign(0, -1)))
	case 10:
		return value.InfinityValue
	}
	odd, err := value.Decode(pickOf(d, []byte{0xd4, 0xff, 0}, []byte{0xa0}, []byte{0xa1, 18}, []byte{0xa2, 23, '{'}, []byte{0xd4, 5, 1}, []byte{0xa2, 9, 1}))
	if err != nil {
		d.Fatal(err)
	}
	return odd // a wildcard, no bytes, a HyperLogLog, GeoJSON, an extension, a Python blob
}

func (d drawn) bytes() []byte {
	return slices.Repeat([]byte{byte(pickOf(d, 0, 1, 0x5a, 0xff))}, pickOf(d, 0, 1, 2, 3, 7, 8, 9, 20))
}

func (d drawn) any(depth int) value.Value {
	if depth > 0 {
		switch d.upTo(9) {
		case 0, 1:
			return d.list(depth - 1)
		case 2:
			return d.dict(depth - 1)
		}
	}
	return d.plain()
}

// list holds some values twice.
func (d drawn) list(depth int) value.Value {
	var items []value.Value
	for range d.upTo(6) {
		if len(items) > 0 && d.one(3) {
			items = append(items, items[d.upTo(len(items)-1)])
		} else {
			items = append(items, d.any(depth))
		}
	}
	flags := byte(d.upTo(1))
	if flags != 0 {
		value.SortItems(items)
	}
	return value.OfList(items, flags)
}

func (d drawn) dict(depth int) value.Value {
	var pairs []value.Pair
	for range d.upTo(5) {
		p := value.Pair{Key: d.plain(), Value: d.any(depth)}
		if !slices.ContainsFunc(pairs, func(o value.Pair) bool { return value.Equal(o.Key, p.Key) }) {
			pairs = append(pairs, p)
		}
	}
	value.SortPairs(pairs)
	return value.OfMap(pairs, pickOf[byte](d, value.Unordered, value.Ordered, value.Ordered|value.ByValue))
}

// cdt is the code and the arguments of an operation on a list or map. What the
// code takes is not looked up: one of the signatures that there are fits it.
func (d drawn) cdt() []value.Value {
	code := int64(d.upTo(40))
	if d.one(2) {
		code = 64 + int64(d.upTo(46))
	}
	if d.one(40) {
		code = d.number()
	}
	items := []value.Value{value.OfInt(code)}
	for _, kind := range pickOf(d, "", "n", "i", "ni", "np", "in", "nin", "npp", "npin", "snn", "isn", "ipnn", "ss", "ssnn", "ppn", "pppp", "nl", "m", "mnn", "lnn", "il") {
		switch {
		case d.one(30):
			items = append(items, d.any(2))
		case kind == 'i':
			items = append(items, value.OfInt(d.number()))
		case kind == 'n' && d.one(2):
			items = append(items, value.OfInt(int64(d.upTo(17))+pickOf[int64](d, 0, 0x10000)))
		case kind == 'n':
			items = append(items, value.OfInt(d.number()))
		case kind == 'l':
			items = append(items, d.list(1))
		case kind == 'm':
			items = append(items, d.dict(1))
		default:
			items = append(items, d.any(1))
		}
	}
	return items
}

// within puts a context in front of an operation, or none.
func (d drawn) within(operation []value.Value) []value.Value {
	if !d.one(3) {
		return operation
	}
	var steps []value.Value
	for range 1 + d.upTo(2) {
		kind := pickOf[int64](d, 0, 1, 2, 3) + pickOf[int64](d, 0x10, 0x10, 0x20, 0x20, 0, 0x30) + pickOf[int64](d, 0, 0, 0x40, 0x80, 0xc0)
		steps = append(steps, value.OfInt(kind), d.plain())
	}
	inner := value.OfList(operation, 0)
	if d.one(30) {
		inner = d.any(3)
	}
	return []value.Value{value.OfInt(0xff), value.OfList(steps, 0), inner}
}

func (d drawn) bits() []value.Value {
	items := []value.Value{value.OfInt(pickOf(d, int64(d.upTo(12)), 50+int64(d.upTo(4))))}
	for _, kind := range pickOf(d, "nnn", "nb", "nbn", "nn", "nnbn", "nnn", "nnnn", "nnnnn", "nnt", "n") {
		switch kind {
		case 'b':
			items = append(items, value.OfBytes(d.bytes()))
		case 't':
			items = append(items, value.OfBool(d.one(2)))
		default:
			items = append(items, value.OfInt(pickOf(d, int64(d.upTo(70))-2, d.number())))
		}
	}
	return items
}

// Types of expressions, as they are declared on the wire.
const (
	anyBool, anyInt, anyText, anyList, anyDict, anyBlob, anyFloat = 1, 2, 3, 4, 5, 6, 7
)

func form(code int64, args ...value.Value) value.Value {
	return value.OfList(append([]value.Value{value.OfInt(code)}, args...), 0)
}

// name is a name within an expression, which has no particle type.
func (d drawn) name(text string) value.Value {
	v, err := value.Decode(append([]byte{0xa0 | byte(len(text))}, text...))
	if err != nil {
		d.Fatal(err)
	}
	return v
}

// expression is one of a type; seldom what is none.
func (d drawn) expression(kind int64, depth int) value.Value {
	if d.one(60) {
		return form(d.number(), d.any(1), d.any(2))
	}
	if d.one(60) {
		return value.OfList(d.within(d.cdt()), 0)
	}
	of := func(kind int64) value.Value { return d.expression(kind, depth-1) }
	bin := form(81, value.OfInt(kind), d.name(pickOf(d, "v", "i", "l", "m", "b", "f", "s", "t", "x")))
	if depth <= 0 || d.one(6) {
		if d.one(2) {
			return bin
		}
		switch kind {
		case anyBool:
			return value.OfBool(d.one(2))
		case anyInt:
			return value.OfInt(d.number())
		case anyText:
			return value.OfString("ab")
		case anyList:
			return form(126, d.list(1))
		case anyDict:
			return d.dict(1)
		case anyBlob:
			return value.OfBytes(d.bytes())
		}
		return value.OfDouble(pickOf(d, 1.5, math.NaN(), math.Inf(-1), 1e300))
	}
	switch d.upTo(7) {
	case 0: // a variable
		return form(125, d.name("q"), of(kind), pickOf(d, form(124, d.name("q")), of(kind)))
	case 1:
		return form(123, of(anyBool), of(kind), pickOf(d, of(kind), form(0)))
	case 2, 3: // a call
		on := pickOf[int64](d, anyList, anyDict, anyBlob)
		operation, system := d.within(d.cdt()), pickOf[int64](d, 0, 0x40)
		if on == anyBlob {
			operation, system = d.bits(), pickOf[int64](d, 1, 0x41)
		}
		return form(127, value.OfInt(kind), value.OfInt(system), value.OfList(operation, 0), of(on))
	}
	switch kind {
	case anyBool:
		same := pickOf[int64](d, anyInt, anyText, anyList, anyDict, anyBlob, anyFloat, anyBool)
		return pickOf(d, form(1+int64(d.upTo(5)), of(same), of(same)), form(9, of(same), of(anyList)), form(16+int64(d.upTo(3)), of(anyBool)),
			form(16+int64(d.upTo(3)), of(anyBool), of(anyBool)), form(7, value.OfInt(int64(d.upTo(15))), d.name(pickOf(d, "a.*", "[a", "\\(b\\)", "(")), of(anyText)))
	case anyInt:
		return pickOf(d, form(20+int64(d.upTo(31)), of(anyInt), of(anyInt)), form(20+int64(d.upTo(31)), of(anyInt)), form(40+int64(d.upTo(1)), of(anyInt), of(anyBool)),
			form(64, value.OfInt(d.number())), form(65+int64(d.upTo(10))), form(30, of(anyFloat)), form(82, d.name("m")))
	case anyFloat:
		return pickOf(d, form(20+int64(d.upTo(31)), of(anyFloat), of(anyFloat)), form(20+int64(d.upTo(31)), of(anyFloat)), form(31, of(anyInt)))
	case anyText:
		return pickOf(d, form(70), form(80, value.OfInt(anyText)))
	case anyList:
		return form(101+int64(d.upTo(1)), of(anyDict))
	}
	return bin
}

// op draws one op of a message.
func (d drawn) op() codec.Op {
	op := codec.Op{Particle: value.ParticleBlob, Name: []byte(pickOf(d, "v", "l", "m", "b", "i", "s", "x"))}
	listed := func(items []value.Value) []byte { return value.Append(nil, value.OfList(items, 0)) }
	switch d.upTo(11) {
	case 0, 1, 2:
		op.Type, op.Value = codec.OpCDTRead, listed(d.within(d.cdt()))
	case 3, 4, 5, 6:
		op.Type, op.Value = codec.OpCDTModify, listed(d.within(d.cdt()))
	case 7:
		op.Type, op.Value = pickOf[byte](d, codec.OpBitsRead, codec.OpBitsModify), listed(d.bits())
	case 8, 9:
		kind := pickOf[int64](d, anyBool, anyInt, anyText, anyList, anyDict, anyBlob, anyFloat)
		op.Type = pickOf[byte](d, codec.OpExpRead, codec.OpExpModify)
		op.Value = listed([]value.Value{d.expression(kind, 3), value.OfInt(int64(d.upTo(31)))})
	case 10:
		p := d.any(2).Particle()
		op.Type, op.Particle, op.Value = pickOf[byte](d, codec.OpWrite, codec.OpIncrement, codec.OpAppend, codec.OpPrepend), p.Type, p.Data
	default: // an older form: two bytes of code, then the arguments
		op.Type = pickOf[byte](d, codec.OpCDTRead, codec.OpCDTModify)
		items := d.cdt()
		op.Value = append([]byte{0, byte(items[0].Int64())}, listed(items[1:])...)
	}
	if d.one(25) && len(op.Value) > 0 { // damaged
		op.Value = slices.Clone(op.Value)
		op.Value[d.upTo(len(op.Value)-1)] = byte(d.upTo(255))
	}
	return op
}

// evaluation is a record and a message for it.
type evaluation struct {
	bins   []bin
	ops    []codec.Op
	filter []byte
	info2  byte
}

func drawEvaluation(t *rapid.T) evaluation {
	d := drawn{t}
	e := evaluation{info2: codec.Info2Write | pickOf[byte](d, 0, codec.Info2RespondAll)}
	var r record
	for _, b := range []struct {
		name string
		v    value.Value
	}{{"l", d.list(2)}, {"m", d.dict(2)}, {"v", d.any(3)}, {"b", value.OfBytes(d.bytes())}, {"i", value.OfInt(d.number())},
		{"f", value.OfDouble(1.5)}, {"s", value.OfString("ab")}, {"t", value.OfBool(true)}} {
		if b.v.Storable() && !d.one(6) {
			r.set(b.name, b.v.Particle())
		}
	}
	e.bins = r.bins
	for range 1 + d.upTo(3) {
		e.ops = append(e.ops, d.op())
	}
	if d.one(4) {
		e.filter = value.Append(nil, d.expression(anyBool, 3))
	}
	return e
}

// run evaluates as a write or a read would, with nothing in front of it or behind.
// What it leaves in the record must be readable again. It returns how many ops were done.
func (e evaluation) run(t interface{ Fatalf(string, ...any) }) (done int) {
	const limit = 1 << 20
	o := &operation{Message: &codec.Message{Header: codec.Header{Info1: codec.Info1Read, Info2: e.info2}, Ops: e.ops}, namespace: "test", set: "s", room: 1 << 40}
	before := &record{bins: e.bins, generation: 3, updated: time.UnixMilli(1_700_000_000_000), key: value.OfString("k").Particle()}
	w := &work{o: o, r: &record{}, old: before, before: before.bins, existed: true, now: time.UnixMilli(1_800_000_000_000), limit: limit}
	*w.r = *before
	w.r.bins = slices.Clone(before.bins)
	if e.filter != nil {
		if filter, err := expression.Parse(e.filter); err == nil {
			o.filter = filter
			_ = o.pass(before, w.now)
		}
	}
	for i := range o.Ops {
		if err := w.op(&o.Ops[i]); err != nil {
			break
		}
		done++
	}
	for _, op := range w.results {
		if _, err := (value.Particle{Type: op.Particle, Data: op.Value}).Value(); err != nil {
			t.Fatalf("op %d answers with particle %d, %x: %v", op.Type, op.Particle, cut(op.Value), err)
		}
	}
	w.table.keeps = true
	m, _, _ := w.mutation(false)
	m.Collection, m.Key = "test.s", mutation.Bytes(make([]byte, codec.DigestBytes))
	if err := mutation.Validate(m); err != nil && w.r.size() < limit {
		t.Fatalf("what would be logged: %v", err)
	}
	for _, b := range w.r.bins {
		p, err := fromValue(toValue(b.particle))
		if err == nil {
			_, err = p.Value()
		}
		if err != nil {
			t.Fatalf("bin %s holds particle %d, %x: %v", b.name, b.particle.Type, cut(b.particle.Data), err)
		}
	}
	return done
}

func cut(b []byte) []byte { return b[:min(len(b), 200)] }

func (e evaluation) String() string {
	text := fmt.Sprintf("filter %x", e.filter)
	for _, b := range e.bins {
		text += fmt.Sprintf("\nbin %s: particle %d, %x", b.name, b.particle.Type, b.particle.Data)
	}
	for _, op := range e.ops {
		text += fmt.Sprintf("\nop %d on %s: particle %d, %x", op.Type, op.Name, op.Particle, op.Value)
	}
	return text
}

// TestEvaluate looks for panics, and for what can be written and not be read again,
// in all that is evaluated on a record.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	rounds := 5 // of a hundred
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 5000
	}
	for range rounds {
		rapid.Check(t, func(rt *rapid.T) {
			e := drawEvaluation(rt)
			rt.Log(e)
			e.run(rt)
		})
	}
}

// FuzzEvaluateDrawn is TestEvaluate under the fuzzer.
func FuzzEvaluateDrawn(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(rt *rapid.T) { drawEvaluation(rt).run(rt) }))
}

// hostile are messages that took the process with them, or could have, each a value
// of an op.
var hostile = map[string]struct {
	kind  byte
	name  string
	value func() []byte
}{
	// A remove by a list that names one value twice.
	"named twice": {codec.OpCDTModify, "v", func() []byte {
		twice := value.OfList([]value.Value{value.OfInt(1), value.OfInt(1), value.OfInt(1)}, 0)
		return value.Append(nil, value.OfList([]value.Value{value.OfInt(36), value.OfInt(7), twice}, 0))
	}},
	// A call with a context in a context: what stood inside was evaluated unprepared.
	"context in context": {codec.OpExpRead, "v", func() []byte {
		quoted := form(126, value.OfList([]value.Value{value.OfInt(1), form(123)}, 0))
		inner := value.OfList([]value.Value{value.OfInt(0xff), value.OfInt(0), quoted}, 0)
		call := form(127, value.OfInt(anyInt), value.OfInt(0), value.OfList([]value.Value{value.OfInt(0xff), value.OfInt(0), inner}, 0),
			form(81, value.OfInt(anyList), drawn{}.name("v")))
		return value.Append(nil, value.OfList([]value.Value{call, value.OfInt(0)}, 0))
	}},
	// Maps whose mark of order is followed by the next map, each deeper in the stack
	// and none in what was counted.
	"maps behind marks": {codec.OpCDTRead, "v", func() []byte {
		return append([]byte{0x92, 0x10}, slices.Repeat([]byte{0x81, 0xc7, 0, 1}, 3_000_000)...)
	}},
	// A context that steps down, and creates, further than the stack goes.
	"long context": {codec.OpCDTModify, "absent", func() []byte {
		const steps = 2_000_000
		b := append([]byte{0x93, 0xcc, 0xff}, 0xdd, 0, steps*2>>16, steps*2>>8&0xff, steps*2&0xff)
		b = append(b, slices.Repeat([]byte{0xcc, 0x22 | 0x40, 0}, steps)...)
		return append(b, 0x93, 1, 7, 0)
	}},
	// A list that is appended to itself, forty times.
	"doubled": {codec.OpExpRead, "v", func() []byte {
		args := []value.Value{value.OfInt(125)}
		last := form(126, value.OfList([]value.Value{value.OfInt(1)}, 0))
		names := drawn{}
		for i := range 40 {
			name := names.name(fmt.Sprintf("v%d", i))
			args = append(args, name, form(127, value.OfInt(anyList), value.OfInt(0x40), form(2, last, value.OfInt(0)), last))
			last = form(124, name)
		}
		return value.Append(nil, value.OfList([]value.Value{value.OfList(append(args, last), 0), value.OfInt(0)}, 0))
	}},
	// A name, which has no particle type, as a value.
	"a name": {codec.OpExpModify, "v", func() []byte { return []byte{0x92, 0xa4, 0x51, 1, 0xa1, 0x76, 0} }},
}

// TestHostile: none of them panics, or works for long.
func TestHostile(t *testing.T) {
	t.Parallel()
	list := value.OfList([]value.Value{value.OfInt(1), value.OfInt(2), value.OfInt(2)}, 0).Particle()
	for name, h := range hostile {
		t.Run(name, func(t *testing.T) {
			evaluation{bins: []bin{{"v", list}}, ops: []codec.Op{{Type: h.kind, Particle: value.ParticleBlob, Name: []byte(h.name), Value: h.value()}},
				info2: codec.Info2Write}.run(t)
		})
	}
}

// greedy are messages that are small beside what they would have made.
var greedy = map[string]func() evaluation{
	// Many bins, each as large as a record may be.
	"blobs": func() (e evaluation) {
		resize := value.Append(nil, value.OfList([]value.Value{value.OfInt(0), value.OfInt(1<<20 - 100)}, 0))
		for i := range 400 {
			e.ops = append(e.ops, codec.Op{Type: codec.OpBitsModify, Particle: value.ParticleBlob, Name: fmt.Append(nil, "b", i), Value: resize})
		}
		return e
	},
	// Expressions that each take as long as one may.
	"expressions": func() (e evaluation) {
		e.bins = []bin{{"b", value.OfBytes(make([]byte, 1<<20-1000)).Particle()}}
		first := form(127, value.OfInt(anyInt), value.OfInt(1), form(54, value.OfInt(0), value.OfInt(8)), form(81, value.OfInt(anyBlob), drawn{}.name("b")))
		sum := form(20, slices.Repeat([]value.Value{first}, 18)...)
		for range 40 {
			e.ops = append(e.ops, codec.Op{Type: codec.OpExpRead, Particle: value.ParticleBlob, Name: []byte("x"),
				Value: value.Append(nil, value.OfList([]value.Value{sum, value.OfInt(0)}, 0))})
		}
		return e
	},
	// A pattern that repeats what repeats, and one that is many large classes.
	"repeats": func() evaluation { return matching(strings.Repeat(`(a{0,30}){0,30}`, 20) + "b") },
	"classes": func() evaluation { return matching(strings.Repeat(`[^\pL]`, 20_000)) },
	// Variables of an expression, each a blob of a megabyte made of a byte.
	"variables": func() (e evaluation) {
		args := []value.Value{value.OfInt(125)}
		for i := range 300 {
			args = append(args, drawn{}.name(fmt.Sprintf("v%d", i)),
				form(127, value.OfInt(anyBlob), value.OfInt(0x41), form(0, value.OfInt(1<<20)), value.OfBytes("a")))
		}
		e.ops = []codec.Op{{Type: codec.OpExpRead, Particle: value.ParticleBlob, Name: []byte("x"),
			Value: value.Append(nil, value.OfList([]value.Value{value.OfList(append(args, value.OfInt(1)), 0), value.OfInt(0)}, 0))}}
		return e
	},
	// Each of many equal entries of an ordered list, as often.
	"repeated": func() (e evaluation) {
		same := slices.Repeat([]value.Value{value.OfInt(5)}, 5000)
		e.bins = []bin{{"l", value.OfList(same, value.Ordered).Particle()}}
		e.ops = []codec.Op{{Type: codec.OpCDTRead, Particle: value.ParticleBlob, Name: []byte("l"),
			Value: value.Append(nil, value.OfList([]value.Value{value.OfInt(23), value.OfInt(7), value.OfList(same, 0)}, 0))}}
		return e
	},
	// Many wanted values that have to be held against every entry. It takes time, not room.
	"wildcards": func() (e evaluation) {
		entries, wanted := make([]value.Value, 100_000), make([]value.Value, 100_000)
		for i := range wanted {
			entries[i] = value.OfList([]value.Value{value.OfInt(1)}, 0)
			wanted[i] = value.OfList([]value.Value{value.OfInt(2), value.OfList(nil, 0)}, 0)
		}
		e.bins = []bin{{"l", value.OfList(entries, 0).Particle()}}
		b := value.Append(nil, value.OfList([]value.Value{value.OfInt(23), value.OfInt(7), value.OfList(wanted, 0)}, 0))
		return e.with(append(b[:len(b)-1], 0xd4, 0xff, 0)) // the last is [2, *]
	},
}

// matching holds a text against a pattern.
func matching(pattern string) (e evaluation) {
	n := len(pattern)
	name, err := value.Decode(append([]byte{0xdb, 0, byte(n >> 16), byte(n >> 8), byte(n)}, pattern...))
	if err != nil {
		panic(err)
	}
	e.bins = []bin{{"s", value.OfString(strings.Repeat("a", 100_000)).Particle()}}
	match := form(7, value.OfInt(1), name, form(81, value.OfInt(anyText), drawn{}.name("s")))
	e.ops = []codec.Op{{Type: codec.OpExpRead, Particle: value.ParticleBlob, Name: []byte("x"),
		Value: value.Append(nil, value.OfList([]value.Value{match, value.OfInt(0)}, 0))}}
	return e
}

func (e evaluation) with(op []byte) evaluation {
	e.ops = []codec.Op{{Type: codec.OpCDTRead, Particle: value.ParticleBlob, Name: []byte("l"), Value: op}}
	return e
}

// TestGreedy: what a message makes is bounded, and how often it goes through a list.
func TestGreedy(t *testing.T) { // not parallel: it counts what is allocated
	for name, e := range greedy {
		t.Run(name, func(t *testing.T) {
			e := e()
			e.info2 = codec.Info2Write
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if done := e.run(t); done == len(e.ops) {
				t.Errorf("%d ops were done, all of them", done)
			}
			runtime.ReadMemStats(&after)
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 200 {
				t.Errorf("%d MB were allocated", mb)
			}
		})
	}
}

// FuzzEvaluate is one op on one bin, as bytes.
func FuzzEvaluate(f *testing.F) {
	for _, h := range hostile {
		if b := h.value(); len(b) < 1000 {
			f.Add(h.kind, byte(value.ParticleList), []byte{0x93, 1, 2, 2}, b)
		}
	}
	for _, p := range []value.Particle{value.OfInt(3).Particle(), value.OfBytes("abc").Particle(), value.OfMap([]value.Pair{{Key: value.OfInt(1), Value: value.OfInt(2)}}, 1).Particle()} {
		f.Add(byte(codec.OpBitsModify), p.Type, p.Data, []byte{0x94, 1, 0, 0xa2, 4, 1, 0})
		f.Add(byte(codec.OpExpModify), p.Type, p.Data, []byte{0x92, 0x93, 20, 1, 2, 0})
		f.Add(byte(codec.OpCDTModify), p.Type, p.Data, []byte{0x93, 64 + 3, 1, 2})
	}
	f.Fuzz(func(t *testing.T, kind, particle byte, data, op []byte) {
		p, err := value.Particle{Type: particle, Data: data}.Canonical()
		if err != nil || particle == value.ParticleNull {
			return
		}
		evaluation{bins: []bin{{"v", p}}, ops: []codec.Op{{Type: kind, Particle: value.ParticleBlob, Name: []byte("v"), Value: op}},
			filter: op, info2: codec.Info2Write | codec.Info2RespondAll}.run(t)
	})
}
