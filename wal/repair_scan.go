package wal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// scan reads all that can be read.
func (p *planner) scan() error {
	p.durable = p.in.Durable
	if p.o.Issued != nil {
		issued, err := p.o.Issued(p.in.Stream)
		if err != nil {
			return err
		}
		p.durable = max(p.durable, issued)
		p.in.Durable = p.durable // a witness like any other
	}
	for i, s := range p.plan.segments {
		if s.from == nil {
			continue
		}
		if err := p.scanSegment(i, s); err != nil {
			return err
		}
		p.read += s.from.Bytes
		p.progress()
	}
	return nil
}

func (p *planner) progress() {
	if p.o.Progress != nil {
		p.o.Progress(p.read, p.total)
	}
}

func (p *planner) scanSegment(i int, s *plannedSegment) error {
	own := uuid.Nil
	last := i+1 == len(p.plan.segments)
	for f, err := range s.from.Frames() {
		if err == nil {
			own = f.Incarnation
			s.add(s.from, f)
			p.durable = max(p.durable, f.Durable)
			continue
		}
		if torn, ok := errors.AsType[*TornTailError](err); ok && last {
			s.cut = true
			p.report.Torn = &RepairTorn{Place: torn.Segment, Offset: torn.Offset, Bytes: torn.Bytes, LSN: torn.LSN, Cut: p.o.CutTornTail}
			if p.o.CutTornTail {
				s.anew("its torn tail is cut off")
			}
			continue
		}
		c, ok := errors.AsType[*CorruptError](err)
		if !ok {
			return err
		}
		p.findCorrupt(c)
		s.anew("damaged")
	}
	if !s.good && own != uuid.Nil {
		s.header.incarnations = incarnations{{id: own}} // the rest follows in join
	}
	if s.why == "" {
		return nil
	}
	for _, other := range s.others {
		for f, err := range other.Frames() {
			if err == nil {
				s.add(other, f)
			} else if !errors.As(err, new(*CorruptError)) && !errors.As(err, new(*TornTailError)) {
				return err
			}
		}
	}
	s.arrange()
	return nil
}

// add notes a frame that can be read.
func (s *plannedSegment) add(from *Segment, f Frame) {
	if !f.Gap {
		s.records++
		s.sample = f.LSN
	}
	if n := len(s.runs); n > 0 && s.runs[n-1].last+1 == f.LSN && s.runs[n-1].from == from {
		s.runs[n-1].last = f.Last
		return
	}
	s.runs = append(s.runs, piece{lsnRun{f.LSN, f.Last}, from})
}

// arrange puts what several files have in order, each record once.
func (s *plannedSegment) arrange() {
	slices.SortStableFunc(s.runs, func(a, b piece) int { return cmp.Compare(a.first, b.first) })
	kept := s.runs[:0]
	next := LSN(0)
	for _, run := range s.runs {
		if run.first = max(run.first, next); run.first <= run.last {
			kept = append(kept, run)
			next = run.last + 1
		}
	}
	s.runs = kept
}

// reject gives up what cannot be of this log: records of another incarnation than
// the successor says, or other ones than it was written behind.
func (p *planner) reject() {
	for i, s := range p.plan.segments[:max(len(p.plan.segments)-1, 0)] {
		after := p.plan.segments[i+1]
		if !s.good || !after.good || s.sample == 0 {
			continue
		}
		id, known := after.header.incarnations.at(s.sample)
		if !known || id == s.header.incarnation() {
			continue
		}
		p.find(RepairFinding{Place: s.from.Path, First: s.runs[0].first, Last: s.runs[len(s.runs)-1].last,
			What: fmt.Sprintf("it is of incarnation %s; its successor knows %s there: another copy of the log", s.header.incarnation(), id)})
		*s = plannedSegment{seq: s.seq, layout: s.layout, why: "of another copy of the log"}
	}
}
