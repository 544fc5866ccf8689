package wal

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// join finds what is missing within and between the segments, and gives headers to
// those that have none.
func (p *planner) join() error {
	p.reject()
	p.front()
	next := LSN(0)
	for i, s := range p.plan.segments {
		if s.good {
			next = s.header.base
		} else {
			p.makeHeader(i, s, next)
			next = s.header.base
		}
		last := i+1 == len(p.plan.segments)
		for k, run := range s.runs {
			if last && run.first > next && p.durable < next && p.marked() {
				// Never acknowledged: what a start would cut off, too.
				s.runs, s.cut = s.runs[:k], true
				break
			}
			if run.first > next {
				p.gap(s, next, run.first-1, "damaged")
			}
			next = max(next, run.last+1)
		}
		if !last {
			if after := p.plan.segments[i+1]; after.good {
				if after.header.base < next {
					return fmt.Errorf("%w: segments %016x and %016x both hold LSN %d", ErrCorrupt, s.seq, after.seq, after.header.base)
				}
				if after.header.base > next {
					p.gap(s, next, after.header.base-1, "damaged or missing")
				}
				next = after.header.base
			}
		}
		s.end.last = next - 1
	}
	return nil
}

// gap gives up LSNs for sure.
func (p *planner) gap(s *plannedSegment, first, last LSN, why string) {
	s.gaps = append(s.gaps, lsnRun{first, last})
	s.anew("damaged")
	lost := LostLSNs{First: first, Last: last, Why: why, Doubtful: p.durable < first}
	if s.front {
		lost.Doubtful = true
		lost.Why = "segments are missing before the first one left; those that every sink had may have been freed before"
	}
	p.report.Lost = append(p.report.Lost, lost)
}

// front puts a segment in the place of those that are missing before the first.
// What they held is lost as far as it was not freed before: from where the history
// of the first one left begins.
func (p *planner) front() {
	if len(p.plan.segments) == 0 || p.in.Segments[0].State != StateMissing {
		return
	}
	first := p.plan.segments[0]
	if !first.good {
		return // its header is made up, with a base that is not known: the log begins there
	}
	oldest := first.header.incarnations[0]
	if oldest.first >= first.header.base || first.seq == 1 {
		return
	}
	s := &plannedSegment{seq: first.seq - 1, layout: first.layout, why: "missing", good: true,
		header: segmentHeader{stream: p.in.Stream, seq: first.seq - 1, base: oldest.first, boot: first.header.boot,
			pred: segmentEnd{last: oldest.first - 1}, incarnations: incarnations{oldest}}}
	s.front = p.in.start.mark.first > 1 // else nothing was ever freed
	p.plan.segments = slices.Insert(p.plan.segments, 0, s)
}

// makeHeader makes the header of a segment that has lost its own. next is the LSN
// after the segment before; 0: there is none.
func (p *planner) makeHeader(i int, s *plannedSegment, next LSN) {
	h := segmentHeader{stream: p.in.Stream, seq: s.seq, base: next}
	var before, after incarnations
	if i > 0 {
		before = p.plan.segments[i-1].header.incarnations
		h.boot = p.plan.segments[i-1].header.boot
	}
	for _, later := range p.plan.segments[i+1:] {
		if later.good {
			after = later.header.incarnations
			break
		}
	}
	own := uuid.Nil
	if len(s.header.incarnations) > 0 {
		own = s.header.incarnations[0].id
	}
	if next == 0 { // as in front
		h.base = 1
		if len(after) > 0 {
			h.base = after[0].first
		}
		if at := slices.IndexFunc(after, func(in incarnation) bool { return in.id == own }); at >= 0 {
			h.base = after[at].first
		}
		if len(s.runs) > 0 {
			h.base = min(h.base, s.runs[0].first)
		}
		h.pred.last = h.base - 1
		s.front = p.in.start.mark.first != 1
	}
	h.incarnations = history(before, after, own, h.base)
	if len(h.incarnations) == 0 {
		id := p.in.start.mark.incarnation
		if id == uuid.Nil {
			id = uuid.New()
		}
		h.incarnations = incarnations{{id, h.base}}
	}
	s.header = h
}

// history is the list of incarnations of a segment that begins at base, of which
// the one before has before, a later one has after, and whose records are of own
// (zero: not known).
func history(before, after incarnations, own uuid.UUID, base LSN) (list incarnations) {
	upTo := func(s incarnations) incarnations {
		for n := len(s); n > 0; n-- {
			if s[n-1].first <= base {
				return slices.Clone(s[:n])
			}
		}
		return nil
	}
	list = upTo(after)
	if len(list) == 0 || own != uuid.Nil && !list.has(own) {
		if list = upTo(before); len(list) == 0 {
			list = upTo(after)
		}
	}
	if len(list) == 0 && own == uuid.Nil && len(after) > 0 {
		own = after[0].id // the oldest that is known
	}
	if own == uuid.Nil {
		return list
	}
	if at := slices.IndexFunc(list, func(in incarnation) bool { return in.id == own }); at >= 0 {
		return list[:at+1]
	}
	return list.begin(own, base)
}
