package cdt

import (
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// list applies an operation to the list w.v.
func (w *work) list() error {
	o := w.op
	switch o.Code {
	case listSetType:
		return w.listSetType(o.int(0, 0))
	case listAppend:
		w.useList(o.int(1, 0))
		return w.listInsert(int64(w.v.Len()), o.Args[:1], o.int(2, 0), w.v.IsOrdered())
	case listAppendItems:
		if o.Args[0].Kind() != value.List {
			return codec.Parameter
		}
		w.useList(o.int(1, 0))
		return w.listInsert(int64(w.v.Len()), o.Args[0].Items(), o.int(2, 0), w.v.IsOrdered())
	case listInsert:
		w.useList(0)
		return w.listInsertAt(o.Args[1:2])
	case listInsertItems:
		if o.Args[1].Kind() != value.List {
			return codec.Parameter
		}
		w.useList(0)
		return w.listInsertAt(o.Args[1].Items())
	case listSet:
		w.useList(0)
		return w.listSet(o.int(0, 0), o.Args[1], o.int(2, 0))
	case listIncrement:
		w.useList(o.int(2, 0))
		return w.listIncrement()
	case listSort:
		return w.listSort(o.int(0, 0))
	}
	if !w.exists { // what only removes has nothing to do
		return nil
	}
	switch o.Code {
	case listClear:
		w.v = value.OfList(nil, w.v.Flags())
		return nil
	case listSize:
		w.setInt(w.v.Len())
		return nil
	}
	kind, s, err := w.listSelect()
	if err != nil {
		return err
	}
	if err := w.answer(kind, &s, w.v.Items(), nil); err != nil {
		return err
	}
	if specs[o.Code].modify && len(s.at) > 0 {
		w.v = value.OfList(without(w.v.Items(), s.at), w.v.Flags())
	}
	return nil
}

// listSelect returns what the operation selects and what it returns of that.
func (w *work) listSelect() (kind int64, s selection, err error) {
	o, items := w.op, w.v.Items()
	kind = o.int(0, 0)
	switch o.Code {
	case listGet, listPop:
		s, err = indexRange(o.int(0, 0), 1, len(items), false)
		return returnValue, s, err
	case listGetRange, listPopRange:
		s, err = indexRange(o.int(0, 0), o.count(1), len(items), true)
		return returnValue, s, err
	case listRemove:
		s, err = indexRange(o.int(0, 0), 1, len(items), false)
		return returnCount, s, err
	case listRemoveRange:
		s, err = indexRange(o.int(0, 0), o.count(1), len(items), true)
		return returnCount, s, err
	case listTrim:
		s, err = indexRange(o.int(0, 0), o.count(1), len(items), true)
		return returnCount | returnInverted, s, err
	case listGetByIndex, listRemoveByIndex:
		s, err = indexRange(o.int(1, 0), 1, len(items), false)
	case listGetByIndexRange, listRemoveByIndexRange:
		s, err = indexRange(o.int(1, 0), o.count(2), len(items), true)
	case listGetByRank, listRemoveByRank:
		s, err = w.listRanks(o.int(1, 0), 1, false)
	case listGetByRankRange, listRemoveByRankRange:
		s, err = w.listRanks(o.int(1, 0), o.count(2), true)
	case listGetByValue, listRemoveByValue:
		s = interval(items, o.Args[1], o.Args[1], true, false)
	case listGetAllByValue, listRemoveAllByValue:
		s = interval(items, o.Args[1], o.Args[1], true, true)
	case listGetByInterval, listRemoveByInterval:
		s = interval(items, o.Args[1], o.end(2), false, true)
	case listGetByValueList, listRemoveByValueList:
		if o.Args[1].Kind() != value.List {
			return 0, s, codec.Parameter
		}
		if w.v.IsOrdered() && kind&returnInverted == 0 {
			s, err = membersInOrder(items, o.Args[1].Items())
		} else {
			s = members(items, o.Args[1].Items())
		}
	case listGetByRelRank, listRemoveByRelRank:
		index, count := relative(o.int(2, 0), o.count(3), below(items, o.Args[1]))
		s, err = w.listRanks(index, count, true)
	default:
		return 0, s, codec.Parameter
	}
	if w.v.IsOrdered() && s.by != asMask {
		s.by = asBoth
	}
	return kind, s, err
}

// listRanks is rankRange of w.v. An unordered list answers with the entries of a
// range from the highest on, if the range is nearer to the lowest end.
func (w *work) listRanks(index, count int64, multi bool) (selection, error) {
	s, err := rankRange(w.v.Items(), index, count, multi)
	if !w.v.IsOrdered() && s.start <= w.v.Len()-s.start-s.len {
		slices.Reverse(s.at)
	}
	return s, err
}

// without returns items but for those at positions, which may be there twice.
func without[T any](items []T, at []int) []T {
	gone := make([]bool, len(items))
	left := len(items)
	for _, i := range at {
		if !gone[i] {
			gone[i] = true
			left--
		}
	}
	out := make([]T, 0, left)
	for i := range items {
		if !gone[i] {
			out = append(out, items[i])
		}
	}
	return out
}

// useList makes the list that is not there yet.
func (w *work) useList(flags int64) {
	if !w.exists {
		w.v, w.exists = value.OfList(nil, byte(flags)&value.Ordered), true
	}
}

// persistIndex asks the server to keep an index with the value.
const persistIndex = 0x10

func (w *work) listSetType(flags int64) error {
	if flags&^(value.Ordered|persistIndex) != 0 {
		return codec.NotApplicable
	}
	w.useList(0)
	w.v = listOf(slices.Clone(w.v.Items()), byte(flags)&value.Ordered)
	return nil
}

// listInsertAt is insert and insert_items, which an ordered list refuses.
func (w *work) listInsertAt(items []value.Value) error {
	if w.v.IsOrdered() {
		return codec.NotApplicable
	}
	return w.listInsert(w.op.int(0, 0), items, w.op.int(2, 0), false)
}

// listInsert puts items at an index and answers with the list's length.
func (w *work) listInsert(index int64, items []value.Value, flags int64, ordered bool) error {
	list := w.v.Items()
	n := int64(len(list))
	w.setInt(len(list))
	if len(items) == 0 {
		return nil
	}
	if index < 0 {
		index += n
	}
	if index < 0 || index > 1<<31-1 {
		return codec.NotApplicable
	}
	if flags&listBounded != 0 && index > n {
		return unless(flags&listNoFail != 0, codec.NotApplicable)
	}
	if flags&listUnique != 0 {
		var err error
		if items, err = unique(list, items, flags, ordered); err != nil || len(items) == 0 {
			w.nothing = true
			return err
		}
	}
	if index > paddingMax {
		return codec.RecordTooBig
	}
	out := slices.Clone(list)
	if index > n {
		out = append(out, make([]value.Value, index-n)...)
	}
	out = slices.Insert(out, int(index), items...)
	w.v = listOf(out, w.v.Flags())
	w.setInt(len(out))
	return nil
}

// unless returns err, or nil if forgiven.
func unless(forgiven bool, err error) error {
	if forgiven {
		return nil
	}
	return err
}

// unique returns those of items that are to be added to list, which takes each
// value once: all, or under the flags those that fit, or none. An ordered list
// looks first whether items hold one twice.
func unique(list, items []value.Value, flags int64, ordered bool) ([]value.Value, error) {
	noFail, partial := flags&listNoFail != 0, flags&listPartial != 0
	held, added := encodings(list), map[string]bool{}
	if ordered && !noFail && len(encodings(items)) < len(items) {
		return nil, codec.NotApplicable
	}
	var kept []value.Value
	for _, item := range items {
		enc := string(value.Append(nil, item))
		switch {
		case held[enc] && !partial:
			return nil, unless(noFail, codec.ElementExists)
		case held[enc]:
		case !added[enc]:
			added[enc] = true
			kept = append(kept, item)
		case !noFail:
			return nil, codec.NotApplicable
		case !partial:
			return nil, nil
		}
	}
	if len(kept) == 0 {
		return nil, unless(noFail, codec.ElementExists)
	}
	return kept, nil
}

// encodings of values: equal ones have one.
func encodings(values []value.Value) map[string]bool {
	set := make(map[string]bool, len(values))
	for i := range values {
		set[string(value.Append(nil, values[i]))] = true
	}
	return set
}

func (w *work) listSet(index int64, v value.Value, flags int64) error {
	if w.v.IsOrdered() {
		return codec.NotApplicable
	}
	list := w.v.Items()
	if index >= int64(len(list)) {
		err := w.listInsert(index, []value.Value{v}, flags, false)
		w.has = false
		return err
	}
	at, ok := position(index, len(list))
	if !ok {
		return codec.NotApplicable
	}
	if flags&listUnique != 0 {
		for i := range list {
			if i != at && value.Equal(list[i], v) {
				return unless(flags&listNoFail != 0, codec.ElementExists)
			}
		}
	}
	w.v = replaceEntry(w.v, at, v)
	return nil
}

func (w *work) listIncrement() error {
	o, list := w.op, w.v.Items()
	index, flags := o.int(0, 0), o.int(3, 0)
	if index < 0 {
		index += int64(len(list))
	}
	if index < 0 || index > 1<<31-1 {
		return codec.NotApplicable
	}
	var old value.Value
	at := int(index)
	exists := at < len(list)
	if exists {
		old = list[at]
	}
	sum, err := increment(old, exists, o.Args, false)
	if err != nil {
		return err
	}
	if !w.v.IsOrdered() {
		err = w.listSet(index, sum, flags)
		w.set(sum)
		return err
	}
	if at > len(list) {
		return codec.NotApplicable
	}
	if flags&listUnique != 0 && slices.ContainsFunc(list, func(v value.Value) bool { return value.Equal(v, sum) }) {
		w.set(sum)
		return unless(flags&listNoFail != 0, codec.ElementExists)
	}
	out := slices.Clone(list)
	if exists {
		out[at] = sum
	} else {
		out = append(out, sum)
	}
	w.v = listOf(out, w.v.Flags())
	w.set(sum)
	return nil
}

// increment adds the second argument, 1 if there is none, to old.
func increment(old value.Value, exists bool, args []value.Value, negate bool) (value.Value, error) {
	delta := value.OfInt(1)
	if len(args) > 1 && args[1].Kind() != value.Nil {
		delta = args[1]
	}
	if !delta.IsInt() && delta.Kind() != value.Double {
		return old, codec.Parameter
	}
	if negate {
		if delta.IsInt() {
			delta = value.OfInt(-delta.Int64())
		} else {
			delta = value.OfDouble(0 - delta.Double())
		}
	}
	switch {
	case !exists:
		return delta, nil
	case old.IsInt() && delta.IsInt():
		return value.OfInt(old.Int64() + delta.Int64()), nil
	case old.IsInt():
		return value.OfInt(old.Int64() + int64(delta.Double())), nil
	case old.Kind() == value.Double && delta.IsInt():
		return value.OfDouble(old.Double() + float64(delta.Int64())), nil
	case old.Kind() == value.Double:
		return value.OfDouble(old.Double() + delta.Double()), nil
	}
	return old, codec.Parameter
}

func (w *work) listSort(flags int64) error {
	if !w.exists {
		return codec.IncompatibleType
	}
	items := slices.Clone(w.v.Items())
	if !w.v.IsOrdered() {
		value.SortItems(items)
		if flags&sortDescending != 0 {
			slices.Reverse(items)
		}
	}
	if flags&sortUnique != 0 {
		items = slices.CompactFunc(items, value.Equal)
	}
	w.v = value.OfList(items, w.v.Flags())
	return nil
}
