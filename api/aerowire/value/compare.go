package value

import (
	"cmp"
	"strings"
)

// Compare orders values: by kind, integers and doubles by number, strings and
// blobs by their bytes, lists item by item and then by length, maps by length
// and then pair by pair. A wildcard is equal to everything, and ends the
// comparison of the list it stands in.
func Compare(a, b Value) int {
	c, _ := compare(a, b)
	return c
}

// Equal is Compare == 0.
func Equal(a, b Value) bool { return Compare(a, b) == 0 }

// compare reports as well whether a wildcard decided.
func compare(a, b Value) (c int, wild bool) {
	if a.kind == Wildcard || b.kind == Wildcard {
		return 0, true
	}
	if a.kind != b.kind {
		return cmp.Compare(a.kind, b.kind), false
	}
	switch a.kind {
	case NegInt, Int:
		return cmp.Compare(a.num, b.num), false
	case Double:
		x, y := a.Double(), b.Double()
		switch {
		case x < y:
			return -1, false
		case x > y:
			return 1, false
		}
		return 0, false // NaN too: the server's comparison
	case Bytes, Ext:
		return cmp.Or(cmp.Compare(a.sub, b.sub), strings.Compare(a.text, b.text)), false
	case String, GeoJSON:
		return strings.Compare(a.text, b.text), false
	case List:
		return compareLists(a.Items(), b.Items())
	case Map:
		return compareMaps(a.Pairs(), b.Pairs())
	}
	return 0, false
}

func compareLists(a, b []Value) (c int, wild bool) {
	for i := range min(len(a), len(b)) {
		if c, wild := compare(a[i], b[i]); c != 0 || wild {
			return c, wild
		}
	}
	return cmp.Compare(len(a), len(b)), false
}

func compareMaps(a, b []Pair) (c int, wild bool) {
	if len(a) != len(b) {
		return cmp.Compare(len(a), len(b)), false
	}
	for i := range a {
		if c, wild := compare(a[i].Key, b[i].Key); c != 0 || wild {
			return c, wild
		}
		if c, wild := compare(a[i].Value, b[i].Value); c != 0 || wild {
			return c, wild
		}
	}
	return 0, false
}
