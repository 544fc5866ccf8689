package expression

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// e makes an expression: a code and arguments, which are numbers, texts, truths,
// values, expressions or raw names.
func e(code int, args ...any) value.Value {
	items := []value.Value{value.OfInt(int64(code))}
	for _, a := range args {
		items = append(items, of(a))
	}
	return value.OfList(items, value.Unordered)
}

// raw is a name, which is encoded without a particle type.
type raw string

func of(arg any) value.Value {
	switch a := arg.(type) {
	case int:
		return value.OfInt(int64(a))
	case float64:
		return value.OfDouble(a)
	case string:
		return value.OfString(a)
	case bool:
		return value.OfBool(a)
	case raw:
		v, err := value.Decode(append([]byte{0xa0 | byte(len(a))}, a...))
		if err != nil {
			panic(err)
		}
		return v
	}
	return arg.(value.Value)
}

func binOf(kind int, name string) value.Value { return e(opBin, kind, raw(name)) }

var (
	now    = time.Unix(1_700_000_000, 0)
	list   = value.OfList([]value.Value{value.OfInt(3), value.OfInt(1)}, value.Unordered)
	quoted = e(opQuote, list)
)

func subject() *Record {
	bins := map[string]value.Value{
		"int": value.OfInt(5), "float": value.OfDouble(2.5), "text": value.OfString("Hello"), "list": list, "blob": value.OfBytes("\x0f\xff"),
		"map": value.OfMap([]value.Pair{{Key: value.OfString("k"), Value: value.OfInt(7)}}, value.Ordered), "yes": value.OfBool(true),
	}
	return &Record{
		Bin: func(name string) (value.Value, byte, bool) {
			v, ok := bins[name]
			return v, v.Particle().Type, ok
		},
		Digest: [20]byte{17: 1, 16: 0xd2, 18: 0, 19: 0}, Set: "demo", Key: value.OfString("user"), HasKey: true,
		Updated: now.Add(-time.Minute), Expires: now.Add(time.Hour), Now: now, Size: 100,
	}
}

func TestEval(t *testing.T) {
	unknown, parameter := ErrUnknown, error(codec.Parameter)
	missing := binOf(typeInt, "none")
	for _, c := range []struct {
		name string
		e    value.Value
		want any
		err  error
	}{
		{"literal", of(7), 7, nil},
		{"bin", binOf(typeInt, "int"), 5, nil},
		{"bin of another type", binOf(typeString, "int"), nil, unknown},
		{"bin that is not there", missing, nil, unknown},
		{"equal", e(opEqual, binOf(typeInt, "int"), 5), true, nil},
		{"equal floats", e(opEqual, binOf(typeFloat, "float"), 2.5), true, nil},
		{"NaN", e(opEqual, math.NaN(), math.NaN()), false, nil},
		{"lists", e(opGreater, quoted, e(opQuote, value.OfList([]value.Value{value.OfInt(2)}, 0))), true, nil},
		{"of two types", e(opEqual, 5, "5"), nil, parameter},
		{"less, unknown", e(opLess, missing, 5), nil, unknown},
		{"and", e(opAnd, true, e(opAtLeast, 5, 5), e(opAtMost, 4, 5)), true, nil},
		{"and decides", e(opAnd, e(opLess, missing, 5), false), false, nil},
		{"and does not", e(opAnd, e(opLess, missing, 5), true), nil, unknown},
		{"or decides", e(opOr, e(opLess, missing, 5), true), true, nil},
		{"or does not", e(opOr, e(opLess, missing, 5), false), nil, unknown},
		{"not", e(opNot, binOf(typeBool, "yes")), false, nil},
		{"not unknown", e(opNot, e(opLess, missing, 5)), nil, unknown},
		{"exclusive", e(opExclusive, true, false, true), false, nil},
		{"regex", e(opRegex, regexExtended, raw("^H.l+o$"), binOf(typeString, "text")), true, nil},
		{"regex folds", e(opRegex, regexFold, raw("hello"), binOf(typeString, "text")), true, nil},
		{"basic regex", e(opRegex, 0, raw("l+"), binOf(typeString, "text")), false, nil},
		{"basic group", e(opRegex, 0, raw(`\(l\)\{2\}`), binOf(typeString, "text")), true, nil},
		{"in list", e(opInList, 1, quoted), true, nil},
		{"add", e(opAdd, 1, 2, binOf(typeInt, "int")), 8, nil},
		{"add floats", e(opAdd, 1.5, 2.0), 3.5, nil},
		{"add both", e(opAdd, 1.5, 2), nil, parameter},
		{"negate", e(opSub, 3), -3, nil},
		{"divide by nothing", e(opDiv, 3, 0), nil, unknown},
		{"least by -1", e(opDiv, value.OfInt(math.MinInt64), -1), value.OfInt(math.MinInt64), nil},
		{"modulo", e(opMod, 7, 4), 3, nil},
		{"power", e(opPow, 2.0, 10.0), 1024.0, nil},
		{"floor", e(opFloor, 2.7), 2.0, nil},
		{"to int", e(opToInt, 2.7), 2, nil},
		{"to int, too big", e(opToInt, 1e300), nil, unknown},
		{"min", e(opMin, 3, 1, 2), 1, nil},
		{"bits", e(opIntAnd, 12, e(opIntNot, 4)), 8, nil},
		{"logical shift", e(opShiftLog, -1, 63), 1, nil},
		{"arithmetic shift", e(opShiftArit, -8, 1), -4, nil},
		{"count", e(opCount, 255), 8, nil},
		{"scan from the left", e(opScanLeft, 1, true), 63, nil},
		{"scan from the right", e(opScanRight, 8, true), 60, nil},
		{"set name", e(opSetName), "demo", nil},
		{"digest modulo", e(opDigestMod, 100), 66, nil}, // of the last four bytes, little-endian: 466
		{"since update", e(opSince), 60_000, nil},
		{"ttl", e(opTTL), 3600, nil},
		{"key", e(opKey, typeString), "user", nil},
		{"key of another type", e(opKey, typeInt), nil, unknown},
		{"key exists", e(opKeyExists), true, nil},
		{"bin type", e(opBinType, raw("map")), 19, nil},
		{"bin type of nothing", e(opBinType, raw("none")), 0, nil},
		{"cond", e(opCond, e(opEqual, 1, 2), "a", e(opEqual, 1, 1), "b", "c"), "b", nil},
		{"cond, else", e(opCond, false, "a", e(opUnknown)), nil, unknown},
		{"let", e(opLet, raw("x"), 5, raw("y"), e(opAdd, e(opVar, raw("x")), 1), e(opMul, e(opVar, raw("x")), e(opVar, raw("y")))), 30, nil},
		{"variable that is not there", e(opVar, raw("z")), nil, parameter},
		{"list size", e(opCall, typeInt, 0, e(16), binOf(typeList, "list")), 2, nil},
		{"list get", e(opCall, typeInt, 0, e(19, 7, e(opSub, 1, 1)), binOf(typeList, "list")), 3, nil},
		{"list get of another type", e(opCall, typeString, 0, e(19, 7, 0), binOf(typeList, "list")), nil, unknown},
		{"list sum after append", e(opCall, typeInt, 0, e(16), e(opCall, typeList, callModify, e(1, 9, 0, 0), binOf(typeList, "list"))), 3, nil},
		{"map get", e(opCall, typeInt, 0, e(97, 7, "k"), binOf(typeMap, "map")), 7, nil},
		{"bit count", e(opCall, typeInt, callBits, e(51, 0, 16), binOf(typeBlob, "blob")), 12, nil},
		{"HyperLogLog", e(opCall, typeInt, 2, e(50), binOf(typeBlob, "blob")), nil, codec.Unsupported},
	} {
		x, err := New(c.e)
		var got value.Value
		if err == nil {
			got, err = x.Eval(subject())
		}
		if !errors.Is(err, c.err) || c.err == nil && !value.Equal(got, of(c.want)) {
			t.Errorf("%s: %+v, %v; want %v, %v", c.name, got, err, c.want, c.err)
		}
	}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		name string
		e    value.Value
		pass bool
		err  error
	}{
		{"true", e(opEqual, 1, 1), true, nil},
		{"false", e(opEqual, 1, 2), false, nil},
		{"unknown", e(opEqual, binOf(typeInt, "none"), 1), false, nil},
		{"no truth", e(opAdd, 1, 1), false, codec.Parameter},
	} {
		x, err := New(c.e)
		if err != nil {
			t.Fatal(err)
		}
		if pass, err := x.Filter(subject()); pass != c.pass || !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v", c.name, pass, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		e    value.Value
		want error
	}{
		"geo":              {e(opGeo, "a", "b"), codec.Unsupported},
		"unknown code":     {e(99), codec.Parameter},
		"mixed types":      {e(opEqual, 1, "a"), codec.Parameter},
		"types in a cond":  {e(opCond, true, 1, "a"), codec.Parameter},
		"no such variable": {e(opVar, raw("x")), codec.Parameter},
		"within":           {e(opAnd, true, e(opNot, e(opGeo, "a", "b"))), codec.Unsupported},
		"too few":          {e(opEqual, 1), codec.Parameter},
		"too many":         {e(opNot, true, true), codec.Parameter},
		"empty":            {value.OfList(nil, 0), codec.Parameter},
		"no code":          {value.OfList([]value.Value{value.OfString("x")}, 0), codec.Parameter},
		"broken regex":     {e(opRegex, regexExtended, raw("(("), "x"), codec.Parameter},
		"cond without end": {e(opCond, true, 1, false, 2), codec.Parameter},
	} {
		if _, err := New(c.e); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := Parse([]byte{0x93, 1}); !errors.Is(err, codec.Parameter) {
		t.Errorf("half an expression: %v", err)
	}
}

func FuzzExpression(f *testing.F) {
	for _, x := range []value.Value{e(opEqual, binOf(typeInt, "int"), 5), e(opRegex, 1, raw("^H"), binOf(typeString, "text")),
		e(opLet, raw("x"), 5, e(opVar, raw("x"))), e(opCall, typeInt, 0, e(19, 7, 0), binOf(typeList, "list")),
		e(opCond, true, 1, 2), e(opCall, typeInt, callBits, e(51, 0, 16), binOf(typeBlob, "blob"))} {
		f.Add(value.Append(nil, x))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := Parse(data)
		if err != nil {
			return
		}
		_, _ = x.Eval(subject()) // it only must not panic
	})
}

// An expression that goes through a large list again and again ends.
func TestStepsAreBounded(t *testing.T) {
	r := subject()
	bin := r.Bin
	large := value.OfList(make([]value.Value, 100_000), value.Unordered)
	r.Bin = func(name string) (value.Value, byte, bool) {
		if name == "large" {
			return large, value.ParticleList, true
		}
		return bin(name)
	}
	terms := []any{}
	for range 1000 {
		terms = append(terms, e(opEqual, e(opCall, typeInt, 0, e(16), binOf(typeList, "large")), 100_000))
	}
	x, err := New(e(opAnd, terms...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Eval(r); !errors.Is(err, codec.Unsupported) {
		t.Errorf("%v, want %v", err, codec.Unsupported)
	}
}
