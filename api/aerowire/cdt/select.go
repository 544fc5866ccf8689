package cdt

import (
	"cmp"
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// selection is the entries of a list or map that an operation means.
type selection struct {
	multi bool
	// at are the positions, in the order of the answer.
	at []int
	// by is how they were found: a range of positions, a range of ranks, or
	// neither.
	by         int
	start, len int  // of the range
	missing    int  // what a range that found nothing answers as its start
	inverted   bool // the others are meant
	found      int  // how many were found before that
	order      bool // of ranks, also of all entries together
	each       bool // their ranks are looked up one by one, also of all
	stable     bool // equal values have ranks of their own
	groups     bool // at may hold a position twice
}

const (
	asMask    = 0
	asIndexes = 1
	asRanks   = 2
	asBoth    = 3 // of an ordered list, where they are the same
)

// clip makes a range that may lie partly outside one within n entries. Single
// ones must lie inside.
func clip(index, count int64, n int, multi bool) (start, length int, err error) {
	if !multi {
		at, ok := position(index, n)
		if !ok {
			return 0, 0, codec.NotApplicable
		}
		return at, 1, nil
	}
	if index >= int64(n) {
		return n, 0, nil
	}
	if index < 0 {
		index += int64(n)
	}
	if index < 0 {
		count = max(0, count+index)
		index = 0
	}
	return int(index), int(min(count, int64(n)-index)), nil
}

// relative moves a range by what it is relative to.
func relative(index, count int64, to int) (int64, int64) {
	index += int64(to)
	if index < 0 {
		return 0, max(0, count+index)
	}
	return index, count
}

// ranked returns positions in the order of their values; equal ones by position.
func ranked(values []value.Value) []int {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return value.Compare(values[a], values[b]) })
	return order
}

func indexRange(index, count int64, n int, multi bool) (selection, error) {
	start, length, err := clip(index, count, n, multi)
	s := selection{multi: multi, by: asIndexes, start: start, len: length, missing: start}
	for i := range length {
		s.at = append(s.at, start+i)
	}
	return s, err
}

func rankRange(values []value.Value, index, count int64, multi bool) (selection, error) {
	start, length, err := clip(index, count, len(values), multi)
	s := selection{multi: multi, by: asRanks, start: start, len: length, missing: start}
	if err == nil && length > 0 {
		s.at = rankedRange(values, start, length)
	}
	return s, err
}

// repeatedMax bounds an answer with entries that are wanted more than once.
const repeatedMax = 1 << 20

// membersInOrder is members of an ordered list, which answers with the entries of
// one wanted value after the other, and with those that are wanted twice twice.
func membersInOrder(values, wanted []value.Value) (selection, error) {
	s := selection{multi: true, groups: true}
	most := max(repeatedMax, len(values), len(wanted))
	for _, w := range wanted {
		if !w.Storable() { // a wildcard is equal to values in any place
			s.at = append(s.at, interval(values, w, w, true, true).at...)
		} else {
			for at, _ := slices.BinarySearchFunc(values, w, value.Compare); at < len(values) && value.Equal(values[at], w) && len(s.at) <= most; at++ {
				s.at = append(s.at, at)
			}
		}
		if len(s.at) > most {
			return s, codec.RecordTooBig
		}
	}
	return s, nil
}

// Passes is how often o goes through the list or map that it works on: once for each of
// many wanted values, if a wildcard among them keeps them from being looked up.
func (o *Op) Passes() int {
	switch o.Code {
	case listGetByValueList, listRemoveByValueList, mapGetByValueList, mapRemoveByValueList, mapGetByKeyList, mapRemoveByKeyList:
		if len(o.Args) > 1 && !o.Args[1].Storable() {
			return max(1, o.Args[1].Len())
		}
	}
	return 1
}

// interval selects the values of [begin, end), or those equal to begin. What it
// finds is a range of ranks; the answer's order is that of positions.
func interval(values []value.Value, begin, end value.Value, same, multi bool) selection {
	s := selection{multi: multi, by: asRanks}
	for i, v := range values {
		c := value.Compare(v, begin)
		switch {
		case c == 0 && same, c >= 0 && !same && value.Compare(v, end) < 0:
			s.at = append(s.at, i)
		case c < 0:
			s.start++
		}
	}
	if !multi && len(s.at) > 1 {
		s.at = s.at[:1]
	}
	s.len = len(s.at)
	return s
}

// members selects the values that are equal to one of wanted.
func members(values, wanted []value.Value) selection {
	s := selection{multi: true}
	wanted = slices.Clone(wanted)
	wild := slices.ContainsFunc(wanted, func(v value.Value) bool { return !v.Storable() })
	value.SortItems(wanted)
	for i, v := range values {
		var ok bool
		if wild {
			ok = slices.ContainsFunc(wanted, func(w value.Value) bool { return value.Equal(w, v) })
		} else {
			_, ok = slices.BinarySearchFunc(wanted, v, value.Compare)
		}
		if ok {
			s.at = append(s.at, i)
		}
	}
	return s
}

// below is how many values are less than v.
func below(values []value.Value, v value.Value) int {
	n := 0
	for i := range values {
		if value.Compare(values[i], v) < 0 {
			n++
		}
	}
	return n
}

// distinct is how many entries are selected.
func (s *selection) distinct() int {
	if !s.groups {
		return len(s.at)
	}
	seen := map[int]bool{}
	for _, i := range s.at {
		seen[i] = true
	}
	return len(seen)
}

// invert selects the others.
func (s *selection) invert(n int) {
	s.inverted, s.found = true, len(s.at)
	chosen := make([]bool, n)
	for _, i := range s.at {
		chosen[i] = true
	}
	s.at = s.at[:0:0]
	for i := range n {
		if !chosen[i] {
			s.at = append(s.at, i)
		}
	}
}

// counted returns the numbers of a range from start on, or all others of n, from
// the front or as counted from the end.
func (s *selection) counted(n int, reverse bool) []int {
	var out []int
	add := func(from, to int) {
		if reverse {
			from, to = n-to, n-from
		}
		for i := from; i < to; i++ {
			out = append(out, i)
		}
	}
	if s.inverted {
		if s.found == 0 {
			add(0, n)
			return out
		}
		add(0, s.start)
		add(s.start+s.len, n)
	} else {
		add(s.start, s.start+s.len)
	}
	return out
}

// ranks returns the rank of each selected entry: how many values are less.
func (s *selection) ranks(values []value.Value) []int {
	ranks := make([]int, len(s.at))
	order := ranked(values)
	if s.stable {
		rankOf := make([]int, len(values))
		for rank, at := range order {
			rankOf[at] = rank
		}
		for i, at := range s.at {
			ranks[i] = rankOf[at]
		}
		return ranks
	}
	for i, at := range s.at {
		ranks[i], _ = slices.BinarySearchFunc(order, values[at], func(j int, v value.Value) int {
			return value.Compare(values[j], v)
		})
	}
	if s.inverted {
		slices.SortFunc(ranks, cmp.Compare)
	}
	return ranks
}

// answer sets the result that the operation asks for, of n entries.
func (w *work) answer(kind int64, s *selection, values []value.Value, pairs []value.Pair) error {
	n := len(values)
	w.values = values
	if kind&returnInverted != 0 {
		switch kind & returnMask {
		case returnIndexRange, returnRevIndexes, returnRankRange, returnRevRanks:
			return codec.NotApplicable
		}
		if !s.multi {
			return codec.NotApplicable
		}
		s.invert(n)
		if s.order && s.found == 0 {
			s.at = ranked(values)
		}
	}
	switch kind & returnMask {
	case returnNone:
	case returnCount:
		w.setInt(s.distinct())
	case returnExists:
		if s.inverted && s.by == asRanks && len(s.at) > 0 { // whether the range is empty
			w.set(value.OfBool(s.found == 0))
		} else {
			w.set(value.OfBool(len(s.at) > 0))
		}
	case returnIndex, returnRevIndex:
		w.positions(s, kind&returnMask == returnRevIndex, asIndexes, s.at, n)
	case returnRank, returnRevRank:
		s.stable = w.v.Flags()&value.ByValue != 0
		w.positions(s, kind&returnMask == returnRevRank, asRanks, nil, n)
	case returnValue:
		w.entries(s, func(i int) value.Value { return values[i] })
	case returnIndexRange, returnRevIndexes, returnRankRange, returnRevRanks:
		return w.rangeOf(kind&returnMask, s, n)
	default:
		return w.pairsOf(kind&returnMask, s, pairs)
	}
	return nil
}

// positions answers with indexes or ranks. Those of a range are counted through,
// also where values are equal; the positions at are nil for ranks.
func (w *work) positions(s *selection, reverse bool, by int, at []int, n int) {
	switch {
	case by == asRanks && s.by == asIndexes && len(s.at) == n && !s.each: // all of them
		s.start, s.len, s.inverted = 0, n, false
		w.numbers(s, s.counted(n, reverse))
		return
	case s.by == by, s.by == asBoth, s.inverted && s.found == 0 && s.by != asMask && !s.each && (w.v.Kind() == value.Map || by == asRanks):
		w.numbers(s, s.counted(n, reverse))
		return
	case by == asRanks:
		at = s.ranks(w.values)
	case w.v.Kind() == value.List && !s.groups:
		at = slices.Sorted(slices.Values(at))
	}
	if reverse {
		at = reversed(at, n)
	}
	w.numbers(s, at)
}

func reversed(positions []int, n int) []int {
	out := make([]int, len(positions))
	for i, at := range positions {
		out[i] = n - 1 - at
	}
	return out
}

func (w *work) numbers(s *selection, numbers []int) {
	if !s.multi {
		if len(numbers) == 0 {
			numbers = []int{-1}
		}
		w.setInt(numbers[0])
		return
	}
	items := make([]value.Value, len(numbers))
	for i, n := range numbers {
		items[i] = value.OfInt(int64(n))
	}
	w.set(value.OfList(items, value.Unordered))
}

func (w *work) entries(s *selection, of func(i int) value.Value) {
	if !s.multi {
		if len(s.at) > 0 {
			w.set(of(s.at[0]))
		}
		return
	}
	items := make([]value.Value, len(s.at))
	for i, at := range s.at {
		items[i] = of(at)
	}
	w.set(value.OfList(items, value.Unordered))
}

func (w *work) rangeOf(kind int64, s *selection, n int) error {
	wanted := asIndexes
	if kind == returnRankRange || kind == returnRevRanks {
		wanted = asRanks
	}
	if s.by != wanted && s.by != asBoth && len(s.at) > 0 {
		return codec.NotApplicable
	}
	start := s.start
	switch {
	case len(s.at) == 0:
		start = s.missing
	case kind == returnRevIndexes || kind == returnRevRanks:
		start = n - start - len(s.at)
	}
	w.set(value.OfList([]value.Value{value.OfInt(int64(start)), value.OfInt(int64(len(s.at)))}, value.Unordered))
	return nil
}

// pairsOf answers with entries of a map.
func (w *work) pairsOf(kind int64, s *selection, pairs []value.Pair) error {
	if w.v.Kind() != value.Map {
		return codec.NotApplicable
	}
	flags := byte(value.Preserve)
	switch kind {
	case returnKey:
		w.entries(s, func(i int) value.Value { return pairs[i].Key })
		return nil
	case returnPairs:
	case returnUnordered:
		flags = value.Unordered
	case returnOrdered:
		flags = value.Ordered
	default:
		return codec.NotApplicable
	}
	if kind != returnPairs {
		slices.Sort(s.at)
	}
	out := make([]value.Pair, len(s.at))
	for i, at := range s.at {
		out[i] = pairs[at]
	}
	w.set(value.OfMap(out, flags))
	return nil
}
