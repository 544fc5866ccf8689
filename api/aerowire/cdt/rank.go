package cdt

import (
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/value"
)

// rankedRange returns the positions of count values from the start-th lowest on, in
// rising order. Which one of equal values stands first is left open by their
// order and yet seen, by what is removed: so it is decided by a heap, built from
// the nearer end, as the server's is.
func rankedRange(values []value.Value, start, count int) []int {
	h := heap{values: values, at: make([]int, len(values)), above: 1}
	for i := range h.at {
		h.at[i] = i
	}
	skip, tail := start, len(values)-start-count
	lowest := start <= tail
	if lowest {
		h.above = -1
	} else {
		skip = tail
	}
	for i := len(values)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
	var out []int
	for i := range count + skip {
		top := h.pop()
		if i >= skip {
			out = append(out, top)
		}
	}
	if !lowest {
		slices.Reverse(out)
	}
	return out
}

// heap of positions. above is what Compare says of a value that stands above
// another.
type heap struct {
	values []value.Value
	at     []int
	above  int
}

func (h *heap) pop() int {
	top, last := h.at[0], len(h.at)-1
	h.at[0] = h.at[last]
	h.at = h.at[:last]
	h.down(0)
	return top
}

func (h *heap) compare(i, j int) int { return value.Compare(h.values[h.at[i]], h.values[h.at[j]]) }

func (h *heap) down(i int) {
	for {
		child, right := 2*i+1, 2*i+2
		if child >= len(h.at) {
			return
		}
		if right < len(h.at) {
			if c := h.compare(child, right); c != h.above && c != 0 {
				child = right
			}
		}
		if h.compare(child, i) != h.above {
			return
		}
		h.at[i], h.at[child] = h.at[child], h.at[i]
		i = child
	}
}
