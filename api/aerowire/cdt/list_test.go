package cdt

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// ints makes a list of integers.
func ints(flags byte, n ...int64) value.Value {
	items := make([]value.Value, len(n))
	for i := range n {
		items[i] = value.OfInt(n[i])
	}
	return value.OfList(items, flags)
}

func int64s(v value.Value) []int64 {
	out := []int64{}
	for _, item := range v.Items() {
		out = append(out, item.Int64())
	}
	return out
}

// op makes an operation: arguments are int, value.Value or string.
func op(t testing.TB, code int, args ...any) Op {
	t.Helper()
	items := []value.Value{value.OfInt(int64(code))}
	for _, arg := range args {
		items = append(items, of(arg))
	}
	o, err := FromList(items)
	if err != nil {
		t.Fatalf("operation %d %v: %v", code, args, err)
	}
	return o
}

func of(arg any) value.Value {
	switch a := arg.(type) {
	case int:
		return value.OfInt(int64(a))
	case int64:
		return value.OfInt(a)
	case string:
		return value.OfString(a)
	}
	return arg.(value.Value)
}

func modify(t testing.TB, o Op, v value.Value) Modified {
	t.Helper()
	m, err := o.Modify(v, true)
	if err != nil {
		t.Fatalf("operation %d on %v: %v", o.Code, v, err)
	}
	return m
}

// isPart reports whether part is whole with some entries left out.
func isPart(part, whole []int64) bool {
	for _, v := range whole {
		if len(part) > 0 && part[0] == v {
			part = part[1:]
		}
	}
	return len(part) == 0
}

// A list of integers under random operations is what a slice under the same is.
func TestListLikeASlice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		model := rapid.SliceOfN(rapid.Int64Range(0, 9), 0, 12).Draw(rt, "list")
		list := ints(value.Unordered, model...)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			n := len(model)
			index := rapid.IntRange(-n-2, n+2).Draw(rt, "index")
			count := rapid.IntRange(0, n+2).Draw(rt, "count")
			x := rapid.Int64Range(0, 9).Draw(rt, "value")
			before := slices.Clone(model)
			var o Op
			var want []int64
			switch rapid.SampledFrom([]string{"append", "insert", "remove range", "trim", "remove value", "remove rank", "keep rank", "set"}).Draw(rt, "op") {
			case "append":
				o, want = op(t, listAppend, x), append(model, x)
			case "insert":
				at := index
				if at < 0 {
					at += n
				}
				if at < 0 || at > n {
					continue
				}
				o, want = op(t, listInsert, index, x), slices.Insert(model, at, x)
			case "remove range":
				from, to := bounds(index, count, n)
				o, want = op(t, listRemoveByIndexRange, returnCount, index, count), slices.Delete(model, from, to)
			case "trim":
				from, to := bounds(index, count, n)
				o, want = op(t, listTrim, index, count), model[from:to]
			case "remove value":
				o = op(t, listRemoveAllByValue, returnCount, x)
				want = slices.DeleteFunc(model, func(v int64) bool { return v == x })
			case "remove rank":
				from, to := bounds(index, count, n)
				o, want = op(t, listRemoveByRankRange, returnNone, index, count), lessRanks(model, from, to, false)
			case "keep rank":
				from, to := bounds(index, count, n)
				o, want = op(t, listRemoveByRankRange, returnNone|returnInverted, index, count), lessRanks(model, from, to, true)
			case "set":
				if index >= n || index < -n {
					continue
				}
				o, want = op(t, listSet, index, x), slices.Clone(model)
				want[(index+n)%n] = x
			}
			after := modify(t, o, list)
			if got := int64s(after.Bin); o.Code == listRemoveByRankRange && isPart(got, before) &&
				slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
				want = got // which of equal values goes is open
			}
			if got := int64s(after.Bin); !slices.Equal(got, want) {
				rt.Fatalf("operation %d %v on %v: %v, want %v", o.Code, o.Args, before, got, want)
			}
			if got := int64s(list); !slices.Equal(got, before) {
				rt.Fatalf("operation %d changed its list from %v to %v", o.Code, before, got)
			}
			list, model = after.Bin, slices.Clone(want)
		}
	})
}

// bounds is a range of positions as operations mean it.
func bounds(index, count, n int) (from, to int) {
	if index < 0 {
		index += n
	}
	return min(max(index, 0), n), min(max(index+count, 0, min(index, n)), n)
}

// lessRanks removes the values of ranks from to to, or keeps them alone.
func lessRanks(values []int64, from, to int, keep bool) []int64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(values[a] - values[b]) })
	out := []int64{}
	for i, v := range values {
		rank := slices.Index(order, i)
		if (rank >= from && rank < to) == keep {
			out = append(out, v)
		}
	}
	return out
}

// What is read of a list is what is removed of it, and an ordered list stays so.
func TestListReadsWhatItRemoves(t *testing.T) {
	pairs := map[int]int{
		listGetByIndex: listRemoveByIndex, listGetByRank: listRemoveByRank, listGetByIndexRange: listRemoveByIndexRange,
		listGetByRankRange: listRemoveByRankRange, listGetAllByValue: listRemoveAllByValue, listGetByInterval: listRemoveByInterval,
		listGetByRelRank: listRemoveByRelRank, listGetByValueList: listRemoveByValueList,
	}
	codes := []int{listGetByIndex, listGetByRank, listGetByIndexRange, listGetByRankRange, listGetAllByValue, listGetByInterval, listGetByRelRank, listGetByValueList}
	returns := []int{returnIndex, returnRevIndex, returnRank, returnRevRank, returnCount, returnValue, returnExists}
	rapid.Check(t, func(rt *rapid.T) {
		model := rapid.SliceOfN(rapid.Int64Range(0, 9), 0, 12).Draw(rt, "list")
		flags := rapid.SampledFrom([]byte{value.Unordered, value.Ordered}).Draw(rt, "order")
		if flags == value.Ordered {
			slices.Sort(model)
		}
		list := ints(flags, model...)
		code := rapid.SampledFrom(codes).Draw(rt, "code")
		kind := rapid.SampledFrom(returns).Draw(rt, "return")
		single := code == listGetByIndex || code == listGetByRank
		if !single && rapid.Bool().Draw(rt, "inverted") {
			kind |= returnInverted
		}
		a, b := rapid.IntRange(-3, 12).Draw(rt, "a"), rapid.IntRange(0, 12).Draw(rt, "b")
		args := []any{kind, a}
		switch code {
		case listGetByIndexRange, listGetByRankRange, listGetByInterval:
			args = append(args, b)
		case listGetByRelRank:
			args = append(args, a, b)
		case listGetByValueList:
			args[1] = ints(value.Unordered, int64(a), int64(b))
		}
		read, remove := op(t, code, args...), op(t, pairs[code], args...)
		got, has, err := read.Read(list)
		after, err2 := remove.Modify(list, true)
		if !errors.Is(err, err2) {
			rt.Fatalf("read: %v, remove: %v", err, err2)
		}
		if err != nil {
			return
		}
		if has != after.HasResult || has && !value.Equal(got, after.Result) {
			rt.Fatalf("read %v, removed %v", got, after.Result)
		}
		if !slices.IsSorted(int64s(after.Bin)) && flags == value.Ordered {
			rt.Fatalf("%v is not ordered", int64s(after.Bin))
		}
		switch kind {
		case returnValue:
			times := 1
			if code == listGetByValueList && flags == value.Ordered && a == b { // wanted twice, answered twice
				times = 2
			}
			if !single && times*(len(model)-after.Bin.Len()) != got.Len() {
				rt.Fatalf("%d removed, %d answered", len(model)-after.Bin.Len(), got.Len())
			}
		case returnCount:
			if int64(len(model)-after.Bin.Len()) != got.Int64() {
				rt.Fatalf("%d removed, %d answered", len(model)-after.Bin.Len(), got.Int64())
			}
		case returnIndex:
			for _, at := range got.Items() {
				if at.Int64() < 0 || at.Int64() >= int64(len(model)) {
					rt.Fatalf("index %d of %d", at.Int64(), len(model))
				}
			}
		}
	})
}

func TestListErrors(t *testing.T) {
	list, sorted := ints(value.Unordered, 3, 1, 2), ints(value.Ordered, 1, 2, 3)
	for _, c := range []struct {
		name string
		o    Op
		on   value.Value
		want error
	}{
		{"index outside", op(t, listRemoveByIndex, returnValue, 3), list, codec.NotApplicable},
		{"pop outside", op(t, listPop, -4), list, codec.NotApplicable},
		{"insert into an ordered list", op(t, listInsert, 0, 1), sorted, codec.NotApplicable},
		{"set in an ordered list", op(t, listSet, 0, 1), sorted, codec.NotApplicable},
		{"insert beyond a bound", op(t, listInsert, 5, 1, listBounded), list, codec.NotApplicable},
		{"append what is there", op(t, listAppend, 1, 0, listUnique), list, codec.ElementExists},
		{"append twice the same", op(t, listAppendItems, ints(0, 7, 7), 0, listUnique), list, codec.NotApplicable},
		{"increment of text", op(t, listIncrement, 0, 1), value.OfList([]value.Value{value.OfString("x")}, 0), codec.Parameter},
		{"append to a map", op(t, listAppend, 1), value.OfMap(nil, 0), codec.IncompatibleType},
		{"inverted of one", op(t, listRemoveByIndex, returnValue|returnInverted, 0), list, codec.NotApplicable},
		{"keys of a list", op(t, listRemoveByIndex, returnKey, 0), list, codec.NotApplicable},
		{"unknown flags", op(t, listSetType, 0x40), list, codec.NotApplicable},
	} {
		if after, err := c.o.Modify(c.on, true); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, after, err, c.want)
		}
	}
	for _, items := range [][]value.Value{{}, {of("x")}, {of(200)}, {of(codeContext), of(1)}} {
		if o, err := FromList(items); !errors.Is(err, codec.Parameter) {
			t.Errorf("%v is an operation: %+v, %v", items, o, err)
		}
	}
	// Arguments count once there is a list.
	for _, items := range [][]value.Value{{of(listAppend)}, {of(listPop), of("x")}, {of(listAppend), {}, of(0), of(0), of(0)}, {of(listAppend), value.InfinityValue}} {
		o, err := FromList(items)
		if err != nil {
			t.Fatal(err)
		}
		if after, err := o.Modify(list, true); !errors.Is(err, codec.Parameter) {
			t.Errorf("%v is done: %+v, %v", items, after, err)
		}
	}
	if o, err := FromList([]value.Value{of(listGet), of("x")}); err != nil {
		t.Error(err)
	} else if v, _, err := o.Read(list); !errors.Is(err, codec.Parameter) {
		t.Errorf("get of text: %v, %v", v, err)
	}
	if o, err := FromList([]value.Value{of(listPop), of("x")}); err != nil {
		t.Error(err)
	} else if after, err := o.Modify(value.Value{}, false); err != nil || after.Exists {
		t.Errorf("pop of text from nothing: %+v, %v", after, err)
	}
}

func TestListOfNothing(t *testing.T) {
	for _, c := range []struct {
		o      Op
		exists bool
		want   []int64
	}{
		{op(t, listAppend, 1), true, []int64{1}},
		{op(t, listAppendItems, ints(0, 2, 1), value.Ordered), true, []int64{1, 2}},
		{op(t, listInsert, 0, 1), true, []int64{1}},
		{op(t, listIncrement, 0), true, []int64{1}},
		{op(t, listPop, 0), false, nil},
		{op(t, listClear), false, nil},
		{op(t, listTrim, 0, 1), false, nil},
		{op(t, listRemoveByValueList, returnValue, ints(0, 1)), false, nil},
	} {
		after, err := c.o.Modify(value.Value{}, false)
		if err != nil || after.Exists != c.exists || c.exists && !slices.Equal(int64s(after.Bin), c.want) {
			t.Errorf("operation %d: %+v, %v", c.o.Code, after, err)
		}
	}
}

// TestListRemovesOnce: values that are wanted twice are counted and removed once, and
// answered twice where the list is ordered, as Community Edition 8.0 does.
func TestListRemovesOnce(t *testing.T) {
	for _, c := range []struct {
		list, left []int64
		count      int64
		values     []int64
	}{
		{[]int64{0}, nil, 1, []int64{0, 0}},
		{[]int64{0, 1, 2}, []int64{1, 2}, 1, []int64{0, 0}},
		{[]int64{0, 0, 1}, []int64{1}, 2, []int64{0, 0, 0, 0}},
	} {
		for kind, want := range map[int]value.Value{returnCount: value.OfInt(c.count), returnValue: ints(value.Unordered, c.values...)} {
			remove := op(t, listRemoveByValueList, kind, ints(value.Unordered, 0, 0))
			after, err := remove.Modify(ints(value.Ordered, c.list...), true)
			if err != nil || !value.Equal(after.Result, want) || !slices.Equal(int64s(after.Bin), c.left) {
				t.Errorf("%v, return type %d: answered %v, left %v, %v", c.list, kind, after.Result, int64s(after.Bin), err)
			}
		}
	}
}
