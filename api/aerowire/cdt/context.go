package cdt

import (
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Step of a context: one level down, into an entry of a list or map.
type Step struct {
	by     int  // byIndex, ...
	list   bool // only into a list
	dict   bool // only into a map
	create int  // createUnordered, ...; 0: the entry must be there
	at     value.Value
}

const (
	byIndex = 0
	byRank  = 1
	byKey   = 2
	byValue = 3

	stepList   = 0x10
	stepMap    = 0x20
	stepCreate = 0xc0
	stepKnown  = 0x0f | stepList | stepMap | stepCreate | 0x100 // 0x100: how it is stored
)

// What a step creates, if its list or map is missing.
const (
	createUnordered = 0x40
	createPadded    = 0x80 // a list, padded with nils; a map ordered by key
	createOrdered   = 0xc0 // a list; a map ordered by key with ranks
)

// parseContext reads a list of kinds and positions.
func parseContext(v value.Value) ([]Step, error) {
	items := v.Items()
	if v.Kind() != value.List || len(items) == 0 || len(items)%2 == 1 || len(items)/2 > value.MaxDepth {
		return nil, codec.Parameter
	}
	var steps []Step
	for i := 0; i < len(items); i += 2 {
		if items[i].Kind() != value.Int {
			return nil, codec.Parameter
		}
		kind := int(items[i].Int64())
		s := Step{by: kind & 0x0f, list: kind&stepList != 0, dict: kind&stepMap != 0, create: kind & stepCreate, at: items[i+1]}
		switch {
		case kind&^stepKnown != 0 || s.by > byValue:
			return nil, codec.Unsupported // expressions and lists of keys, of newer clients
		case s.create != 0 && !s.list && !s.dict:
			return nil, codec.NotApplicable
		case s.by <= byRank && !s.at.IsInt():
			return nil, codec.NotApplicable
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// dig returns the value that o's context leads to.
func (o *Op) dig(v value.Value) (value.Value, error) {
	if len(o.Context) > 0 && v.Kind() != value.List && v.Kind() != value.Map {
		return v, codec.Parameter
	}
	return dig(v, o.Context)
}

func dig(v value.Value, path []Step) (value.Value, error) {
	for i := range path {
		at, found, err := path[i].find(v)
		if err != nil || !found {
			return v, codec.NotApplicable
		}
		v = entry(v, at)
	}
	return v, nil
}

// Dig returns the value that a context, as clients encode it, leads to.
func Dig(v value.Value, context value.Value) (value.Value, error) {
	path, err := parseContext(context)
	if err != nil {
		return v, err
	}
	return dig(v, path)
}

func entry(v value.Value, at int) value.Value {
	if v.Kind() == value.List {
		return v.Items()[at]
	}
	return v.Pairs()[at].Value
}

// find returns the position of the entry that s means. If it is not there, at is
// where it would be.
func (s *Step) find(v value.Value) (at int, found bool, err error) {
	n := v.Len()
	switch v.Kind() {
	case value.List:
		if s.dict {
			return 0, false, codec.NotApplicable
		}
		return s.findItem(v, n)
	case value.Map:
		if s.list {
			return 0, false, codec.NotApplicable
		}
		return s.findPair(v, n)
	}
	return 0, false, codec.NotApplicable
}

func (s *Step) findItem(v value.Value, n int) (at int, found bool, err error) {
	items := v.Items()
	switch s.by {
	case byIndex:
		at, found = position(s.at.Int64(), n)
		return at, found, nil
	case byRank:
		if at, found = position(s.at.Int64(), n); found {
			at = rankedRange(items, at, 1)[0]
		}
		return at, found, nil
	case byValue:
		at = slices.IndexFunc(items, func(item value.Value) bool { return value.Equal(item, s.at) })
		return at, at >= 0, nil
	}
	return 0, false, codec.NotApplicable
}

func (s *Step) findPair(v value.Value, n int) (at int, found bool, err error) {
	pairs := v.Pairs()
	switch s.by {
	case byIndex:
		at, found = position(s.at.Int64(), n)
		return at, found, nil
	case byRank:
		if at, found = position(s.at.Int64(), n); found {
			at = rankedRange(valuesOf(pairs), at, 1)[0]
		}
		return at, found, nil
	case byKey:
		at, found = findKey(pairs, s.at)
		return at, found, nil
	}
	at = slices.IndexFunc(pairs, func(p value.Pair) bool { return value.Equal(p.Value, s.at) })
	return at, at >= 0, nil
}

// position makes an index, which counts from the end if it is negative, one from
// the front. ok is false if it lies outside.
func position(index int64, n int) (at int, ok bool) {
	if index < 0 {
		index += int64(n)
	}
	if index < 0 || index >= int64(n) {
		return 0, false
	}
	return int(index), true
}

// descend goes down path, applies the operation there and rebuilds what lies
// above.
func (w *work) descend(v value.Value, exists bool, path []Step) (value.Value, bool, error) {
	if len(path) == 0 {
		return w.apply(v, exists)
	}
	s := &path[0]
	if !exists {
		if s.create == 0 || !creatable(path) {
			return v, false, codec.NotApplicable
		}
		return w.create(s, path)
	}
	if v.Kind() != value.List && v.Kind() != value.Map {
		if len(path) == len(w.op.Context) {
			return v, true, codec.Parameter
		}
		return v, true, codec.NotApplicable
	}
	at, found, err := s.find(v)
	if err != nil {
		return v, true, err
	}
	if !found {
		return w.insert(v, s, path)
	}
	after, kept, err := w.descend(entry(v, at), true, path[1:])
	if err != nil || !kept {
		return v, true, err
	}
	return replaceEntry(v, at, after), true, nil
}

// below applies the rest of the path to an entry that is not there yet.
func (w *work) below(path []Step) (value.Value, bool, error) {
	if len(path) > 1 {
		return w.create(&path[1], path[1:])
	}
	v, exists, err := w.apply(value.Value{}, false)
	return v, exists && !w.nothing, err
}

// creatable reports whether what path leads through can be made: once its first
// step is, the others need not ask for it.
func creatable(path []Step) bool {
	return !slices.ContainsFunc(path, func(s Step) bool {
		switch {
		case s.dict && s.by == byKey:
			return !isKey(s.at)
		case s.list && s.by == byIndex:
			index := s.at.Int64()
			return index < -1 || index > 0 && s.create < createPadded || index > paddingMax
		}
		return true
	})
}

// create makes the list or map that s steps into, and what follows; it is creatable.
func (w *work) create(s *Step, path []Step) (value.Value, bool, error) {
	after, exists, err := w.below(path)
	if err != nil || !exists {
		return value.Value{}, false, err
	}
	switch {
	case s.dict:
		flags := byte(value.Unordered)
		switch s.create {
		case createPadded:
			flags = value.Ordered
		case createOrdered:
			flags = value.Ordered | value.ByValue
		}
		return value.OfMap([]value.Pair{{Key: s.at, Value: after}}, flags), true, nil
	case s.create == createOrdered:
		return value.OfList([]value.Value{after}, value.Ordered), true, nil
	}
	return value.OfList(append(make([]value.Value, max(s.at.Int64(), 0)), after), value.Unordered), true, nil
}

// paddingMax bounds what one index can make a list grow to: a nil is a byte, and
// a record of that size is too big anyway.
const paddingMax = 8 << 20

// insert makes an entry of v that is not there.
func (w *work) insert(v value.Value, s *Step, path []Step) (value.Value, bool, error) {
	if s.create == 0 || !creatable(path[1:]) {
		return v, true, codec.NotApplicable
	}
	if v.Kind() == value.Map {
		if s.by != byKey || !isKey(s.at) {
			return v, true, codec.NotApplicable
		}
		after, exists, err := w.below(path)
		if err != nil || !exists {
			return v, true, err
		}
		at, _ := findKey(v.Pairs(), s.at)
		return value.OfMap(slices.Insert(slices.Clone(v.Pairs()), at, value.Pair{Key: s.at, Value: after}), v.Flags()), true, nil
	}
	index, n := s.at.Int64(), v.Len()
	if index == -1 && n == 0 {
		index = 0
	}
	padded := s.create == createPadded && !v.IsOrdered()
	switch {
	case s.by != byIndex || index < 0 || index > paddingMax:
		return v, true, codec.NotApplicable
	case index > int64(n) && !padded && !v.IsOrdered():
		return v, true, codec.NotApplicable
	}
	after, exists, err := w.below(path)
	if err != nil || !exists {
		return v, true, err
	}
	items := slices.Clone(v.Items())
	if padded {
		items = append(items, make([]value.Value, max(0, int(index)-n))...)
	}
	return listOf(append(items, after), v.Flags()), true, nil
}

// replaceEntry returns v with another value at a position.
func replaceEntry(v value.Value, at int, to value.Value) value.Value {
	if v.Kind() == value.List {
		items := slices.Clone(v.Items())
		items[at] = to
		return listOf(items, v.Flags())
	}
	pairs := slices.Clone(v.Pairs())
	pairs[at].Value = to
	return value.OfMap(pairs, v.Flags())
}

// listOf returns a list of items, which it sorts if the list is ordered.
func listOf(items []value.Value, flags byte) value.Value {
	if flags&value.Ordered != 0 {
		value.SortItems(items)
	}
	return value.OfList(items, flags)
}
