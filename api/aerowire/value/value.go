// Package value is what a bin holds: the Aerospike data types, their particles
// on the wire, their MessagePack inside lists and maps, and their order.
//
// Values are never changed once made; what changes one returns another that may
// share parts with it.
package value

import (
	"math"
	"slices"
)

// Kind of a value. Their order is the order of values of different kinds.
type Kind uint8

// Kinds of values. Wildcard and Infinity are for comparison alone and are never
// stored.
const (
	Nil Kind = iota
	False
	True
	NegInt
	Int
	String
	List
	Map
	Bytes
	Double
	GeoJSON
	Ext
	Wildcard
	Infinity
)

// Order flags of lists and maps.
const (
	// Unordered list or map. A map is kept in the order of its keys all the same.
	Unordered = 0
	// Ordered list, or map ordered by key.
	Ordered = 1
	// ByValue, with Ordered: a map ordered by key that has ranks at hand.
	ByValue = 2
	// Preserve marks a map in an answer whose order is the answer's; never stored.
	Preserve = 8
)

// Value is one value. The zero Value is nil.
type Value struct {
	kind Kind
	sub  byte   // Bytes: particle type; Ext: type; List and Map: order flags
	num  uint64 // integers in two's complement, bits of a double
	text string // String, Bytes, GeoJSON, Ext
	tree *tree  // List, Map; nil: empty. A pointer, for most values have none
}

// tree is what a list or map holds.
type tree struct {
	items []Value
	pairs []Pair
}

// Pair is an entry of a map.
type Pair struct{ Key, Value Value }

// OfInt returns an integer.
func OfInt(n int64) Value {
	if n < 0 {
		return Value{kind: NegInt, num: uint64(n)}
	}
	return Value{kind: Int, num: uint64(n)}
}

// OfBool returns a boolean.
func OfBool(b bool) Value {
	if b {
		return Value{kind: True}
	}
	return Value{kind: False}
}

// OfDouble returns a double.
func OfDouble(f float64) Value { return Value{kind: Double, num: math.Float64bits(f)} }

// OfString returns a string; it may hold any bytes.
func OfString(s string) Value { return Value{kind: String, text: s} }

// OfBytes returns a blob.
func OfBytes[T ~string | ~[]byte](b T) Value {
	return Value{kind: Bytes, sub: ParticleBlob, text: string(b)}
}

// OfList returns a list. It keeps items; an Ordered one must be sorted.
func OfList(items []Value, flags byte) Value {
	return Value{kind: List, sub: flags, tree: &tree{items: items}}
}

// OfMap returns a map. It keeps pairs, which are sorted by key but for a
// Preserve one.
func OfMap(pairs []Pair, flags byte) Value {
	return Value{kind: Map, sub: flags, tree: &tree{pairs: pairs}}
}

// InfinityValue is above every other value.
var InfinityValue = Value{kind: Infinity}

// Kind of v.
func (v Value) Kind() Kind { return v.kind }

// IsInt reports whether v is an integer.
func (v Value) IsInt() bool { return v.kind == Int || v.kind == NegInt }

// IsBool reports whether v is a boolean.
func (v Value) IsBool() bool { return v.kind == True || v.kind == False }

// Int64 of an integer; an unsigned one above its range wraps.
func (v Value) Int64() int64 { return int64(v.num) }

// Bool of a boolean.
func (v Value) Bool() bool { return v.kind == True }

// Double of a double.
func (v Value) Double() float64 { return math.Float64frombits(v.num) }

// Text of a string, blob or GeoJSON.
func (v Value) Text() string { return v.text }

// Flags are the order flags of a list or map.
func (v Value) Flags() byte { return v.sub }

// Items of a list; not to be changed.
func (v Value) Items() []Value {
	if v.tree == nil {
		return nil
	}
	return v.tree.items
}

// Pairs of a map; not to be changed.
func (v Value) Pairs() []Pair {
	if v.tree == nil {
		return nil
	}
	return v.tree.pairs
}

// Len is the number of entries of a list or map.
func (v Value) Len() int { return len(v.Items()) + len(v.Pairs()) }

// IsOrdered reports whether v is an ordered list or map.
func (v Value) IsOrdered() bool { return v.sub&Ordered != 0 }

// SortPairs sorts by key, in place. ok is false if a key stands twice.
func SortPairs(pairs []Pair) (ok bool) {
	byKey := func(a, b Pair) int { return Compare(a.Key, b.Key) }
	if !slices.IsSortedFunc(pairs, byKey) {
		slices.SortStableFunc(pairs, byKey)
	}
	for i := 1; i < len(pairs); i++ {
		if byKey(pairs[i-1], pairs[i]) == 0 {
			return false
		}
	}
	return true
}

// SortItems sorts items in place.
func SortItems(items []Value) { slices.SortStableFunc(items, Compare) }

// Weigh counts the entries of v, at every depth, and how deep it nests; it ends
// soon above most entries. A plain value has none, at depth 0.
func Weigh(v Value, most int) (entries, depth int) {
	for _, item := range v.Items() {
		if entries > most {
			return entries, depth
		}
		n, below := Weigh(item, most-entries)
		entries, depth = entries+1+n, max(depth, below)
	}
	for _, p := range v.Pairs() {
		if entries > most {
			return entries, depth
		}
		inKey, belowKey := Weigh(p.Key, most-entries)
		inValue, below := Weigh(p.Value, most-entries-inKey)
		entries, depth = entries+1+inKey+inValue, max(depth, belowKey, below)
	}
	if v.kind == List || v.kind == Map {
		depth++
	}
	return entries, depth
}

// Storable reports whether v can be in a bin: a Wildcard or Infinity cannot.
func (v Value) Storable() bool {
	if v.kind >= Wildcard {
		return false
	}
	for _, item := range v.Items() {
		if !item.Storable() {
			return false
		}
	}
	for _, p := range v.Pairs() {
		if !p.Key.Storable() || !p.Value.Storable() {
			return false
		}
	}
	return true
}

// Raw is the bytes of a string that was encoded without a particle type, as
// names within expressions are: its first byte was taken for the type.
func (v Value) Raw() (raw string, ok bool) {
	switch v.kind {
	case String:
		return string(rune(ParticleString)) + v.text, true
	case GeoJSON:
		return string(rune(ParticleGeoJSON)) + v.text, true
	case Bytes:
		if v.sub == 0 && v.text == "" {
			return "", true
		}
		return string([]byte{v.sub}) + v.text, true
	}
	return "", false
}
