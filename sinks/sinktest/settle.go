package sinktest

import (
	"cmp"
	"slices"

	"github.com/walproxy/walproxy/sinks"
)

// settles reports whether the sink is a sinks.Settler: its checkpoint trails what
// was applied, and the loop applies again what lies between.
func (r *rig) settles() bool {
	_, ok := r.sink.(sinks.Settler)
	return ok
}

// catchUp does what the loop does behind the Resume of a Settler: it applies again,
// in LSN order, everything above the checkpoint. All lanes are at the highest of
// before then.
func (r *rig) catchUp(before []sinks.Point) {
	r.t.Helper()
	if before == nil {
		return
	}
	low := sinks.Checkpoint{Lanes: before}.Low()
	high := slices.MaxFunc(before, func(a, b sinks.Point) int { return cmp.Compare(a.LSN, b.LSN) })
	for i, at := range r.cp.Lanes {
		if at.LSN > low.LSN {
			r.t.Fatalf("Resume returned lane %d at %v, but not every lane had applied more than %v", i, at, low)
		}
	}
	r.again(high)
}

// again applies the history above the checkpoint, and moves every lane to high.
func (r *rig) again(high sinks.Point) {
	r.t.Helper()
	const size = 50
	from := r.cp.Low().LSN
	records := slices.DeleteFunc(slices.Clone(r.history), func(rec sinks.Record) bool { return rec.LSN <= from })
	slices.SortFunc(records, func(a, b sinks.Record) int { return cmp.Compare(a.LSN, b.LSN) })
	for len(records) > 0 {
		n := min(size, len(records))
		r.mustReport(r.everywhere(records[:n], r.point(records[n-1].LSN)))
		records = records[n:]
	}
	if r.cp.Low().LSN < high.LSN {
		r.mustReport(r.everywhere(nil, high))
	}
}

// everywhere is a batch that moves all lanes, and the loop's checkpoint with them.
func (r *rig) everywhere(records []sinks.Record, to sinks.Point) *sinks.Batch {
	b := &sinks.Batch{Epoch: r.cp.Epoch, Records: records}
	for i, at := range r.cp.Lanes {
		if at.LSN < to.LSN {
			b.Moves = append(b.Moves, sinks.Move{Lane: i, From: at, To: to})
			r.cp.Lanes[i] = to
		}
	}
	return b
}

// renewed is b as the loop sends it after a Resume.
func (r *rig) renewed(b *sinks.Batch) *sinks.Batch {
	c := *b
	c.Epoch = r.cp.Epoch
	if !r.settles() || b.Relane {
		return &c
	}
	c.Moves = slices.Clone(b.Moves)
	for i := range c.Moves {
		c.Moves[i].From = r.cp.Lanes[c.Moves[i].Lane]
	}
	return &c
}

// countTo applies again, from the checkpoint on, the records that each raise the
// counter "a", up to one that may have been the last, and wants them counted once.
func (r *rig) countTo(last sinks.LSN, when string) {
	r.t.Helper()
	for r.cp.Lanes[0].LSN < last {
		b := counter(r, r.cp.Epoch, r.cp.Lanes[0], r.cp.Lanes[0].LSN+1)
		r.mustReport(b)
		r.cp.Lanes[0] = b.Moves[0].To
	}
	r.mustCount("a", last, when)
}
