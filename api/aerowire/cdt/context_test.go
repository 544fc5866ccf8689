package cdt

import (
	"errors"
	"testing"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// within makes an operation behind a context of kinds and positions.
func within(t testing.TB, context []any, code int, args ...any) Op {
	t.Helper()
	var steps, inner []value.Value
	for _, c := range context {
		steps = append(steps, of(c))
	}
	inner = append(inner, of(code))
	for _, a := range args {
		inner = append(inner, of(a))
	}
	o, err := FromList([]value.Value{of(codeContext), value.OfList(steps, 0), value.OfList(inner, 0)})
	if err != nil {
		t.Fatalf("%v %d %v: %v", context, code, args, err)
	}
	return o
}

func pair(k any, v value.Value) value.Pair { return value.Pair{Key: of(k), Value: v} }

func TestContext(t *testing.T) {
	inner := ints(0, 3, 1, 2)
	bin := value.OfMap([]value.Pair{pair("a", inner), pair("b", ints(value.Ordered, 5))}, value.Ordered)
	nested := value.OfList([]value.Value{ints(0, 7), inner}, 0)
	for _, c := range []struct {
		name string
		o    Op
		on   value.Value
		want value.Value
	}{
		{"by key", within(t, []any{stepMap | byKey, "a"}, listAppend, 9), bin,
			value.OfMap([]value.Pair{pair("a", ints(0, 3, 1, 2, 9)), pair("b", ints(value.Ordered, 5))}, value.Ordered)},
		{"by index", within(t, []any{stepMap | byIndex, -1}, listAppend, 1), bin,
			value.OfMap([]value.Pair{pair("a", inner), pair("b", ints(value.Ordered, 1, 5))}, value.Ordered)},
		{"by rank", within(t, []any{stepMap | byRank, 0}, listClear), bin,
			value.OfMap([]value.Pair{pair("a", ints(0)), pair("b", ints(value.Ordered, 5))}, value.Ordered)},
		{"by value", within(t, []any{stepList | byValue, inner}, listPop, 0), nested,
			value.OfList([]value.Value{ints(0, 7), ints(0, 1, 2)}, 0)},
		{"by index of a list", within(t, []any{stepList | byIndex, 0}, listAppend, 8), nested,
			value.OfList([]value.Value{ints(0, 7, 8), inner}, 0)},
		{"created by key", within(t, []any{stepMap | byKey | createPadded, "c"}, listAppend, 1), bin,
			value.OfMap([]value.Pair{pair("a", inner), pair("b", ints(value.Ordered, 5)), pair("c", ints(0, 1))}, value.Ordered)},
		{"created two deep", within(t, []any{stepMap | byKey | createPadded, "c", stepMap | byKey | createOrdered, "d"}, mapPut, 1, 2), bin,
			value.OfMap([]value.Pair{pair("a", inner), pair("b", ints(value.Ordered, 5)), pair("c",
				value.OfMap([]value.Pair{pair("d", dict(0, map[int64]int64{1: 2}))}, value.Ordered|value.ByValue))}, value.Ordered)},
		{"padded", within(t, []any{stepList | byIndex | createPadded, 4}, listAppend, 1), nested,
			value.OfList([]value.Value{ints(0, 7), inner, {}, {}, ints(0, 1)}, 0)},
	} {
		after := modify(t, c.o, c.on)
		if string(value.Append(nil, after.Bin)) != string(value.Append(nil, c.want)) {
			t.Errorf("%s: %+v, want %+v", c.name, after.Bin, c.want)
		}
	}
	after, err := new(within(t, []any{stepMap | byKey | createUnordered, "x"}, listAppend, 1)).Modify(value.Value{}, false)
	want := value.OfMap([]value.Pair{pair("x", ints(0, 1))}, value.Unordered)
	if err != nil || !after.Exists || !value.Equal(after.Bin, want) {
		t.Errorf("of a bin that is not there: %+v, %v", after, err)
	}
	got, ok, err := new(within(t, []any{stepMap | byKey, "a"}, listGetByRank, returnValue, -1)).Read(bin)
	if err != nil || !ok || got.Int64() != 3 {
		t.Errorf("read: %v, %v, %v", got, ok, err)
	}
}

func TestContextErrors(t *testing.T) {
	bin := value.OfMap([]value.Pair{pair("a", ints(0, 1))}, 0)
	for _, c := range []struct {
		name string
		o    Op
		on   value.Value
		want error
	}{
		{"a key that is not there", within(t, []any{stepMap | byKey, "x"}, listAppend, 1), bin, codec.NotApplicable},
		{"into a list as a map", within(t, []any{stepMap | byKey, "a"}, listAppend, 1), ints(0, 1), codec.NotApplicable},
		{"index outside", within(t, []any{stepMap | byIndex, 1}, listAppend, 1), bin, codec.NotApplicable},
		{"too deep", within(t, []any{stepMap | byKey, "a", stepList | byIndex, 0, stepList | byIndex, 0}, listAppend, 1), bin, codec.NotApplicable},
		{"another type there", within(t, []any{stepMap | byKey, "a"}, mapPut, 1, 1), bin, codec.IncompatibleType},
		{"of a number", within(t, []any{stepMap | byKey, "a"}, listAppend, 1), of(1), codec.Parameter},
	} {
		if after, err := c.o.Modify(c.on, true); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, after, err, c.want)
		}
	}
	for _, context := range []value.Value{{}, value.OfList(nil, 0), ints(0, 1), ints(0, 0x14, 0), ints(0, -1, 0)} {
		if _, err := FromList([]value.Value{of(codeContext), context, value.OfList([]value.Value{of(listSize)}, 0)}); err == nil {
			t.Errorf("%+v is a context", context)
		}
	}
}

// What comes from outside: no panic, nothing that cannot be stored.
func FuzzOperation(f *testing.F) {
	f.Add([]byte{0, listAppend, 0x91, 5}, value.Append(nil, ints(0, 1, 2)))
	f.Add([]byte{0, mapRemoveByRankRange, 0x93, returnValue, 0, 2}, value.Append(nil, dict(1, map[int64]int64{1: 2})))
	o := value.OfList([]value.Value{of(codeContext), value.OfList([]value.Value{of(stepMap | byKey | createPadded), of("x")}, 0),
		value.OfList([]value.Value{of(listIncrement), of(0)}, 0)}, 0)
	f.Add(value.Append(nil, o), value.Append(nil, dict(1, map[int64]int64{1: 2})))
	f.Fuzz(func(t *testing.T, data, on []byte) {
		o, err := Parse(data)
		if err != nil {
			return
		}
		bin, err := value.Decode(on)
		if err != nil || !bin.Storable() {
			return
		}
		if !o.IsModify() {
			_, _, _ = o.Read(bin) // it only must not panic
			return
		}
		after, err := o.Modify(bin, true)
		if err != nil {
			return
		}
		if after.Bin.Len() > paddingMax+bin.Len()+1 {
			t.Fatalf("%d entries", after.Bin.Len())
		}
		enc := value.Append(nil, after.Bin)
		if back, err := value.Decode(enc); err != nil || string(value.Append(nil, back)) != string(enc) {
			t.Fatalf("operation %d %+v made %x, which reads as %+v, %v", o.Code, o.Args, enc, back, err)
		}
	})
}
