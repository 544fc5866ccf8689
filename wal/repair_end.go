package wal

import (
	"slices"

	"github.com/google/uuid"
)

// finishEnd finds out where the log ends, or may have ended.
func (p *planner) finishEnd() error {
	n := len(p.plan.segments)
	if n == 0 {
		p.nothingLeft()
		return nil
	}
	last := p.plan.segments[n-1]
	next := last.end.last + 1
	lost := p.durable >= next
	unsure := lost || !p.marked() || p.in.start.mark.segment > last.seq
	if !unsure {
		return nil
	}
	if !p.marked() {
		// Its last words are missing: records may be, too.
		last.anew("its end is not known")
	}
	list := p.endIncarnations(last.header.incarnations, next)
	if own := list[len(list)-1].id; own != last.header.incarnation() {
		if len(last.runs) == 0 && len(last.gaps) == 0 {
			last.header.incarnations = list
		} else {
			last.anew("it was not the last one")
			last = &plannedSegment{seq: last.seq + 1, layout: last.layout, why: "missing", end: segmentEnd{last: next - 1},
				header: segmentHeader{stream: p.in.Stream, seq: last.seq + 1, base: next, boot: last.header.boot, incarnations: list}}
			p.plan.segments = append(p.plan.segments, last)
		}
	}
	p.endGap(last, next)
	return nil
}

// endIncarnations is the history of LSNs from next on: of the last incarnation that
// had a record or, if the watermark knows of a later one, of that.
func (p *planner) endIncarnations(known incarnations, next LSN) incarnations {
	list := slices.Clone(known)
	for len(list) > 1 && list[len(list)-1].first >= next {
		list = list[:len(list)-1]
	}
	if m := p.in.start.mark; m.incarnation != uuid.Nil && !known.has(m.incarnation) && p.durable >= next {
		list = append(list, incarnation{m.incarnation, next})
	}
	return list
}

// endGap gives up what was durable after the last record, and what may have been.
func (p *planner) endGap(s *plannedSegment, next LSN) {
	high := max(p.durable, next-1)
	if p.durable >= next {
		p.report.Lost = append(p.report.Lost, LostLSNs{First: next, Last: p.durable, Why: "the end of the log is damaged or missing"})
	}
	skip := max(doubtfulMin, LSN(2*p.largest/frameHeaderSize))
	p.report.Lost = append(p.report.Lost, LostLSNs{First: high + 1, Last: high + skip, Doubtful: true,
		Why: "nothing shows whether the log went on; they are skipped"})
	s.gaps = append(s.gaps, lsnRun{next, high + skip})
	s.anew("the end of the log is damaged or missing")
	s.end.last = high + skip
}

// nothingLeft makes a log of which no segment is left.
func (p *planner) nothingLeft() {
	m := p.in.start.mark
	if m.segment == 0 && p.durable == 0 && p.marked() {
		return // none was ever begun
	}
	id := m.incarnation
	if id == uuid.Nil {
		id = uuid.New()
	}
	s := &plannedSegment{seq: max(m.segment, 1), layout: layouts[0], why: "missing",
		header: segmentHeader{stream: p.in.Stream, seq: max(m.segment, 1), base: 1, incarnations: incarnations{{id, 1}}}}
	p.plan.segments = append(p.plan.segments, s)
	p.endGap(s, 1)
}
