package cdt

import (
	"errors"
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// dict applies an operation to the map w.v.
func (w *work) dict() error {
	o := w.op
	switch o.Code {
	case mapSetType:
		return w.mapSetType(o.int(0, 0))
	case mapAdd:
		return w.mapPut(o.Args[0], o.Args[1], o.int(2, 0), mapNoOverwrite)
	case mapPut:
		return w.mapPut(o.Args[0], o.Args[1], o.int(2, 0), o.int(3, 0))
	case mapReplace:
		return w.mapPut(o.Args[0], o.Args[1], 0, mapNoCreate)
	case mapAddItems:
		return w.mapPutItems(o.Args[0], o.int(1, 0), mapNoOverwrite)
	case mapPutItems:
		return w.mapPutItems(o.Args[0], o.int(1, 0), o.int(2, 0))
	case mapReplaceItems:
		if !w.exists {
			return codec.ElementNotFound
		}
		return w.mapPutItems(o.Args[0], 0, mapNoCreate)
	case mapIncrement, mapDecrement:
		return w.mapIncrement(o.Code == mapDecrement)
	}
	if !w.exists {
		return nil
	}
	switch o.Code {
	case mapClear:
		w.v = value.OfMap(nil, w.v.Flags())
		return nil
	case mapSize:
		w.setInt(w.v.Len())
		return nil
	}
	pairs := w.v.Pairs()
	values := valuesOf(pairs)
	s, err := w.mapSelect(pairs, values)
	if err != nil {
		return err
	}
	if err := w.answer(o.int(0, 0), &s, values, pairs); err != nil {
		return err
	}
	if specs[o.Code].modify && len(s.at) > 0 {
		w.v = value.OfMap(without(pairs, s.at), w.v.Flags())
	}
	return nil
}

func (w *work) mapSelect(pairs []value.Pair, values []value.Value) (s selection, err error) {
	o, n := w.op, len(pairs)
	switch o.Code {
	case mapGetByKey, mapRemoveByKey:
		s = selection{by: asIndexes, missing: -1}
		if at, ok := findKey(pairs, o.Args[1]); ok {
			s.at, s.start, s.len = []int{at}, at, 1
		}
	case mapGetByKeyList, mapRemoveByKeyList:
		if o.Args[1].Kind() != value.List {
			return s, codec.Parameter
		}
		s = members(keysOf(pairs), o.Args[1].Items())
		switch o.int(0, 0) {
		case returnIndex, returnRevIndex:
			if w.v.IsOrdered() {
				s, err = membersInOrder(keysOf(pairs), o.Args[1].Items())
			}
		case returnRank, returnRevRank, returnRank | returnInverted, returnRevRank | returnInverted:
			return s, codec.NotApplicable
		}
	case mapGetByKeys, mapRemoveByKeys:
		s = interval(keysOf(pairs), o.Args[1], o.end(2), false, true)
		s.by, s.each = asIndexes, !w.v.IsOrdered()
	case mapGetByRelIndex, mapRemoveByRelIndex:
		index, count := relative(o.int(2, 0), o.count(3), below(keysOf(pairs), o.Args[1]))
		s, err = indexRange(index, count, n, true)
	case mapGetByIndex, mapRemoveByIndex:
		s, err = indexRange(o.int(1, 0), 1, n, false)
	case mapGetByIndexRange, mapRemoveByIndexRange:
		s, err = indexRange(o.int(1, 0), o.count(2), n, true)
	case mapGetByRank, mapRemoveByRank:
		s, err = w.mapRanks(values, o.int(1, 0), 1, false)
	case mapGetByRankRange, mapRemoveByRankRange:
		s, err = w.mapRanks(values, o.int(1, 0), o.count(2), true)
	case mapGetByValue, mapRemoveByValue:
		s = interval(values, o.Args[1], o.Args[1], true, false)
	case mapGetAllByValue, mapRemoveAllByValue:
		s = interval(values, o.Args[1], o.Args[1], true, true)
	case mapGetByInterval, mapRemoveByInterval:
		s = interval(values, o.Args[1], o.end(2), false, true)
	case mapGetByValueList, mapRemoveByValueList:
		if o.Args[1].Kind() != value.List {
			return s, codec.Parameter
		}
		s = members(values, o.Args[1].Items())
	case mapGetByRelRank, mapRemoveByRelRank:
		index, count := relative(o.int(2, 0), o.count(3), below(values, o.Args[1]))
		s, err = w.mapRanks(values, index, count, true)
	default:
		return s, codec.Parameter
	}
	return s, err
}

// mapRanks is rankRange; where values are equal, those of an ordered map go by key.
func (w *work) mapRanks(values []value.Value, index, count int64, multi bool) (selection, error) {
	s, err := rankRange(values, index, count, multi)
	s.order = true
	if err == nil && w.v.IsOrdered() {
		s.at = slices.Clone(ranked(values)[s.start : s.start+s.len])
	}
	return s, err
}

func valuesOf(pairs []value.Pair) []value.Value {
	values := make([]value.Value, len(pairs))
	for i := range pairs {
		values[i] = pairs[i].Value
	}
	return values
}

func keysOf(pairs []value.Pair) []value.Value {
	keys := make([]value.Value, len(pairs))
	for i := range pairs {
		keys[i] = pairs[i].Key
	}
	return keys
}

// findKey returns where key stands, or would.
func findKey(pairs []value.Pair, key value.Value) (at int, ok bool) {
	return slices.BinarySearchFunc(pairs, key, func(p value.Pair, key value.Value) int { return value.Compare(p.Key, key) })
}

// isKey reports whether v can be a key.
func isKey(v value.Value) bool {
	return v.IsInt() || v.Kind() == value.String || v.Kind() == value.Bytes
}

// useMap makes the map that is not there yet.
func (w *work) useMap(flags int64) {
	if !w.exists {
		w.v, w.exists = value.OfMap(nil, byte(flags)&(value.Ordered|value.ByValue)), true
	}
}

func (w *work) mapSetType(flags int64) error {
	if flags&^(value.Ordered|value.ByValue|persistIndex) != 0 {
		return codec.NotApplicable
	}
	w.useMap(0)
	w.v = value.OfMap(w.v.Pairs(), byte(flags)&(value.Ordered|value.ByValue))
	return nil
}

// mapPut sets one key and answers with the map's size.
func (w *work) mapPut(key, v value.Value, order, flags int64) error {
	if !isKey(key) {
		return codec.Parameter
	}
	w.useMap(order)
	pairs := w.v.Pairs()
	at, found := findKey(pairs, key)
	w.setInt(len(pairs))
	switch {
	case found && flags&mapNoOverwrite != 0:
		return unless(flags&mapNoFail != 0, codec.ElementExists)
	case found:
		w.v = replaceEntry(w.v, at, v)
		return nil
	case flags&mapNoCreate != 0:
		return unless(flags&mapNoFail != 0, codec.ElementNotFound)
	}
	out := slices.Insert(slices.Clone(pairs), at, value.Pair{Key: key, Value: v})
	w.v = value.OfMap(out, w.v.Flags())
	w.setInt(len(out))
	return nil
}

// mapPutItems sets several: all, or under the flags those that it may, or none.
func (w *work) mapPutItems(items value.Value, order, flags int64) error {
	if items.Kind() != value.Map {
		return codec.Parameter
	}
	w.useMap(order)
	before, added := w.v.Pairs(), items.Pairs()
	w.setInt(len(before))
	merged := make([]value.Pair, 0, len(before)+len(added))
	for _, p := range added { // both are sorted by key
		if !isKey(p.Key) {
			return codec.Parameter
		}
		at, found := findKey(before, p.Key)
		merged = append(merged, before[:at]...)
		before = before[at:]
		switch {
		case found && flags&mapNoOverwrite != 0:
			if err := refused(flags, codec.ElementExists); !errors.Is(err, errPart) {
				return err
			}
		case found:
			merged, before = append(merged, p), before[1:]
		case flags&mapNoCreate != 0:
			if err := refused(flags, codec.ElementNotFound); !errors.Is(err, errPart) {
				return err
			}
		default:
			merged = append(merged, p)
		}
	}
	merged = append(merged, before...)
	w.v = value.OfMap(merged, w.v.Flags())
	w.setInt(len(merged))
	return nil
}

// errPart: an entry is left out and the others go on.
var errPart = errors.New("left out")

// refused says what becomes of a write of several that one entry refuses: it
// fails, does nothing at all (nil), or goes on without it.
func refused(flags int64, err error) error {
	switch {
	case flags&mapNoFail == 0:
		return err
	case flags&mapPartial == 0:
		return nil
	}
	return errPart
}

func (w *work) mapIncrement(negate bool) error {
	o := w.op
	if !isKey(o.Args[0]) {
		return codec.Parameter
	}
	w.useMap(o.int(2, 0))
	at, found := findKey(w.v.Pairs(), o.Args[0])
	var old value.Value
	if found {
		old = w.v.Pairs()[at].Value
	}
	sum, err := increment(old, found, o.Args, negate)
	if err != nil {
		return err
	}
	err = w.mapPut(o.Args[0], sum, 0, 0)
	w.set(sum)
	return err
}
