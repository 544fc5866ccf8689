package cdt

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// dict makes a map of integers.
func dict(flags byte, m map[int64]int64) value.Value {
	var pairs []value.Pair
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, value.Pair{Key: value.OfInt(k), Value: value.OfInt(m[k])})
	}
	return value.OfMap(pairs, flags)
}

func mapOf(v value.Value) map[int64]int64 {
	out := map[int64]int64{}
	for _, p := range v.Pairs() {
		out[p.Key.Int64()] = p.Value.Int64()
	}
	return out
}

// A map of integers under random operations is what Go's is under the same.
func TestMapLikeGos(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := rapid.MapOfN(rapid.Int64Range(0, 9), rapid.Int64Range(0, 5), 0, 8)
		model := draw.Draw(rt, "map")
		flags := rapid.SampledFrom([]byte{value.Unordered, value.Ordered, value.Ordered | value.ByValue}).Draw(rt, "order")
		m := dict(flags, model)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			k, x := rapid.Int64Range(0, 9).Draw(rt, "key"), rapid.Int64Range(0, 5).Draw(rt, "value")
			k2 := rapid.Int64Range(0, 10).Draw(rt, "end")
			want := maps.Clone(model)
			var o Op
			switch rapid.SampledFrom([]string{"put", "put items", "add", "increment", "remove", "remove keys", "remove values", "remove ranks", "clear"}).Draw(rt, "op") {
			case "put":
				o, want[k] = op(t, mapPut, k, x), x
			case "put items":
				items := draw.Draw(rt, "items")
				o = op(t, mapPutItems, dict(0, items))
				maps.Copy(want, items)
			case "add":
				o = op(t, mapPut, k, x, 0, mapNoOverwrite|mapNoFail)
				if _, ok := model[k]; !ok {
					want[k] = x
				}
			case "increment":
				o = op(t, mapIncrement, k, x)
				want[k] += x
			case "remove":
				o = op(t, mapRemoveByKey, returnNone, k)
				delete(want, k)
			case "remove keys":
				o = op(t, mapRemoveByKeys, returnNone, k, k2)
				maps.DeleteFunc(want, func(key, _ int64) bool { return key >= k && key < k2 })
			case "remove values":
				o = op(t, mapRemoveAllByValue, returnNone, x)
				maps.DeleteFunc(want, func(_, v int64) bool { return v == x })
			case "remove ranks":
				count := rapid.IntRange(0, 4).Draw(rt, "count")
				o = op(t, mapRemoveByRankRange, returnNone, 1, count)
				keys := slices.SortedFunc(maps.Keys(model), func(a, b int64) int {
					if d := model[a] - model[b]; d != 0 {
						return int(d)
					}
					return int(a - b)
				})
				for _, key := range keys[min(1, len(keys)):min(1+count, len(keys))] {
					delete(want, key)
				}
			case "clear":
				o, want = op(t, mapClear), map[int64]int64{}
			}
			before := maps.Clone(model)
			after := modify(t, o, m)
			if got := mapOf(after.Bin); flags == value.Unordered && o.Code == mapRemoveByRankRange &&
				slices.Equal(slices.Sorted(maps.Values(got)), slices.Sorted(maps.Values(want))) {
				want = got // which of equal values goes is open
			}
			if got := mapOf(after.Bin); !maps.Equal(got, want) || after.Bin.Flags() != flags {
				rt.Fatalf("operation %d %v on %v: %v, want %v; order %d", o.Code, o.Args, before, got, want, after.Bin.Flags())
			}
			if !maps.Equal(mapOf(m), before) {
				rt.Fatalf("operation %d changed its map", o.Code)
			}
			if !slices.IsSortedFunc(after.Bin.Pairs(), func(a, b value.Pair) int { return value.Compare(a.Key, b.Key) }) {
				rt.Fatalf("the keys are out of order after operation %d", o.Code)
			}
			m, model = after.Bin, want
		}
	})
}

func TestMapAnswers(t *testing.T) {
	m := dict(value.Ordered, map[int64]int64{1: 30, 2: 10, 3: 20, 4: 10})
	list := func(n ...int64) value.Value { return ints(value.Unordered, n...) }
	for _, c := range []struct {
		name string
		o    Op
		want value.Value
	}{
		{"value of a key", op(t, mapGetByKey, returnValue, 3), of(20)},
		{"rank of a key", op(t, mapGetByKey, returnRank, 3), of(2)},
		{"index of a key that is not there", op(t, mapGetByKey, returnIndex, 9), of(-1)},
		{"keys of a value", op(t, mapGetAllByValue, returnKey, 10), list(2, 4)},
		{"ranks of a value", op(t, mapGetAllByValue, returnRank, 10), list(0, 1)},
		{"keys but of a value", op(t, mapGetAllByValue, returnKey|returnInverted, 10), list(1, 3)},
		{"values by rank", op(t, mapGetByRankRange, returnValue, -2, 2), list(20, 30)},
		{"keys from one on", op(t, mapGetByKeys, returnKey, 3), list(3, 4)},
		{"keys behind one", op(t, mapGetByRelIndex, returnKey, 2, 1), list(3, 4)},
		{"values above one", op(t, mapGetByRelRank, returnValue, 10, 2), list(20, 30)},
		{"index range", op(t, mapGetByIndexRange, returnIndexRange, 1, 2), list(1, 2)},
		{"reverse index range", op(t, mapGetByIndexRange, returnRevIndexes, 0, 1), list(3, 1)},
		{"pairs", op(t, mapGetByKeyList, returnPairs, list(4, 9, 1)), value.OfMap(dict(0, map[int64]int64{1: 30, 4: 10}).Pairs(), value.Preserve)},
		{"exists", op(t, mapGetByKey, returnExists, 9), value.OfBool(false)},
		{"size", op(t, mapSize), of(4)},
	} {
		got, ok, err := c.o.Read(m)
		if err != nil || !ok || string(value.Append(nil, got)) != string(value.Append(nil, c.want)) {
			t.Errorf("%s: %+v, %v, %v; want %+v", c.name, got, ok, err, c.want)
		}
	}
	if got, ok, err := new(op(t, mapGetByKey, returnValue, 9)).Read(m); err != nil || ok {
		t.Errorf("the value of a key that is not there: %v, %v, %v", got, ok, err)
	}
}

func TestMapErrors(t *testing.T) {
	m := dict(value.Ordered, map[int64]int64{1: 1})
	for _, c := range []struct {
		name string
		o    Op
		want error
	}{
		{"add what is there", op(t, mapAdd, 1, 2), codec.ElementExists},
		{"replace what is not there", op(t, mapReplace, 2, 2), codec.ElementNotFound},
		{"put items, one of them new", op(t, mapPutItems, dict(0, map[int64]int64{1: 2, 2: 2}), 0, mapNoCreate), codec.ElementNotFound},
		{"a key that is a list", op(t, mapPut, ints(0, 1), 2), codec.Parameter},
		{"a key that is a float", op(t, mapPut, value.OfDouble(1), 2), codec.Parameter},
		{"index outside", op(t, mapRemoveByIndex, returnValue, 1), codec.NotApplicable},
		{"increment by text", op(t, mapIncrement, 1, "x"), codec.Parameter},
	} {
		if after, err := c.o.Modify(m, true); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, after, err, c.want)
		}
	}
	partial := modify(t, op(t, mapPutItems, dict(0, map[int64]int64{1: 2, 2: 2}), 0, mapNoCreate|mapNoFail|mapPartial), m)
	if got := mapOf(partial.Bin); !maps.Equal(got, map[int64]int64{1: 2}) {
		t.Errorf("those that may: %v", got)
	}
	none := modify(t, op(t, mapPutItems, dict(0, map[int64]int64{1: 2, 2: 2}), 0, mapNoCreate|mapNoFail), m)
	if got := mapOf(none.Bin); !maps.Equal(got, map[int64]int64{1: 1}) {
		t.Errorf("all or none: %v", got)
	}
}
