package postgres

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// place of a row in the order of the keys.
type place struct {
	first uint64 // the first bytes of its key's first column
	row   int32  // in its group
}

// sorter is memory of sort.
type sorter struct {
	places []place
	starts []int32 // of a parameter's elements
	buf    []byte
}

// minSort is how many rows are worth an order of their own.
var minSort = 16 // tests: 2

// sort puts the rows of a statement, each of which has another key, into the order of
// their keys' bytes, so that neighbours share pages of the index, which the server's
// processor then has in its cache. A table where rows depend on each other keeps the
// order of the log, and so does one whose new rows draw from a sequence.
func (w *work) sort(g *group) {
	s := g.shape
	if g.count < minSort || s.sortBy < 0 || s.mapping.table.ordered || s.mapping.table.draws {
		return
	}
	o := &w.sorter
	keys := &g.arrays[s.sortBy]
	starts := o.find(keys)
	value := func(row int32) []byte { return keys.buf[starts[row]+4 : starts[row+1]] }
	compare := func(a, b place) int {
		switch {
		case a.first < b.first:
			return -1
		case a.first > b.first:
			return 1
		}
		return bytes.Compare(value(a.row), value(b.row))
	}
	o.places = o.places[:0]
	rises := true
	for row := range int32(g.count) {
		at := place{leading(value(row)), row}
		rises = rises && (row == 0 || compare(o.places[row-1], at) <= 0)
		o.places = append(o.places, at)
	}
	if rises {
		return
	}
	slices.SortFunc(o.places, compare)
	for i := range g.arrays {
		o.permute(&g.arrays[i])
	}
}

// find returns where the elements of an array begin, and where the last one ends.
func (o *sorter) find(a *arrayBuilder) []int32 {
	o.starts = o.starts[:0]
	at := arrayHead
	for range a.count {
		o.starts = append(o.starts, int32(at))
		size := int32(binary.BigEndian.Uint32(a.buf[at:]))
		at += 4 + int(max(size, 0)) // -1 is null
	}
	o.starts = append(o.starts, int32(at))
	return o.starts
}

// permute puts the elements of an array into the order of places.
func (o *sorter) permute(a *arrayBuilder) {
	starts := o.find(a)
	buf := append(slices.Grow(o.buf[:0], len(a.buf)), a.buf[:arrayHead]...)
	for _, p := range o.places {
		buf = append(buf, a.buf[starts[p.row]:starts[p.row+1]]...)
	}
	o.buf, a.buf, a.last = a.buf, buf, 0
}

// leading is what a value begins with, as a number that compares as its bytes do.
func leading(value []byte) uint64 {
	if len(value) >= 8 {
		return binary.BigEndian.Uint64(value)
	}
	var first [8]byte
	copy(first[:], value)
	return binary.BigEndian.Uint64(first[:])
}
