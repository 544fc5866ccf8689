package postgres

import (
	"sync"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
)

// scratch is memory that the rows and statements of a batch share, and batches
// one after the other: there are thousands of each.
type scratch struct {
	slab   []row
	sorter sorter
	values [][]byte
	// Good until the next use.
	single            blind
	columns, defaults []*column
	given             []*walproxyv1.Value
	shapeID           []byte
	shape             *shape
}

// Works with more than this are not kept.
const (
	scratchRows  = 16 << 10
	scratchBytes = 4 << 20
)

var works = sync.Pool{New: func() any {
	w := &work{rows: map[string]*row{}}
	w.byShape = map[*shape]int{}
	w.arena = make([]byte, 0, 16<<10)
	return w
}}

// newWork returns a work without rows, to be freed.
func newWork(p *tablePlanner, l link, b *sinks.Batch) *work {
	w := works.Get().(*work)
	w.planner, w.link, w.batch, w.session = p, l, b, l.own()
	w.recent, w.ordered = -1, -1
	if n := len(b.Records); cap(w.slab) < n {
		w.slab = make([]row, 0, n)
	}
	return w
}

// free gives the memory to the next batch: nothing may refer to it any more.
func (w *work) free() {
	w.used = append(w.used, w.groups...) // of a batch that was rejected
	w.recycle()
	bytes := cap(w.arena) + cap(w.sorter.buf)
	for _, g := range w.spare {
		bytes += g.capacity()
		g.shape, g.first = nil, nil
	}
	if cap(w.slab) > scratchRows || cap(w.writes) > scratchRows || bytes > scratchBytes {
		return
	}
	clear(w.rows)
	clear(w.order)
	clear(w.writes)
	clear(w.mappings)
	clear(w.slab)
	clear(w.byShape)
	clear(w.given[:cap(w.given)])
	clear(w.columns[:cap(w.columns)])
	clear(w.defaults[:cap(w.defaults)])
	clear(w.values[:cap(w.values)])
	*w = work{
		rows: w.rows, order: w.order[:0], writes: w.writes[:0], mappings: w.mappings[:0], arena: w.arena[:0],
		statements: statements{groups: w.groups[:0], byShape: w.byShape, used: w.used, spare: w.spare},
		scratch: scratch{
			slab: w.slab[:0], values: w.values[:0], sorter: w.sorter,
			columns: w.columns[:0], defaults: w.defaults[:0], given: w.given[:0], shapeID: w.shapeID[:0],
		},
	}
	works.Put(w)
}

// capacity is the memory of its parameters.
func (g *group) capacity() (n int) {
	for _, a := range g.arrays[:cap(g.arrays)] {
		n += cap(a.buf)
	}
	return n
}

// slots are n empty places for values.
func (w *work) slots(n int) [][]byte {
	if cap(w.values)-len(w.values) < n {
		w.values = make([][]byte, 0, max(n, 16, 2*cap(w.values)))
	}
	start := len(w.values)
	w.values = w.values[:start+n]
	return w.values[start : start : start+n]
}
