package wal

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Tally counts what was verified.
type Tally struct {
	Records  uint64
	Gaps     uint64
	Verified int64 // bytes of files that were looked at
	Payload  int64 // bytes of records
}

func (t *Tally) add(o Tally) {
	t.Records += o.Records
	t.Gaps += o.Gaps
	t.Verified += o.Verified
	t.Payload += o.Payload
}

// Range of LSNs, both ends included.
type Range struct{ First, Last LSN }

// VerifyOptions of Inspection.Verify; the zero value is the default.
type VerifyOptions struct {
	// Workers verify so many segments at the same time; 0: one for each processor.
	Workers int
	// Visit sees every record, in order within a segment but those of different
	// segments at the same time. An error of it is reported in its place. It costs
	// the quick way: without it records are only counted.
	Visit func(Frame) error
	// Progress is called as bytes have been verified, from several goroutines.
	Progress func(bytes int64)
}

// findingsMax bounds what is kept of one segment. More is only counted.
const findingsMax = 100

// SegmentReport is what Verify found in a segment.
type SegmentReport struct {
	*Segment
	Tally
	// Findings are *CorruptError, *TornTailError, *FreedError, errors of Visit
	// (*VisitError), and those of the file system; the first ones. More counts the
	// rest.
	Findings []error
	More     int
	// Damaged: one of the findings is more than a torn tail or a freed segment.
	Damaged, Torn, Freed bool

	read []Range
}

// VisitError is what Visit returned of a record.
type VisitError struct {
	Segment string
	Offset  int64
	LSN     LSN
	Err     error
}

func (e *VisitError) Error() string {
	return (&CorruptError{Segment: e.Segment, Offset: e.Offset, First: e.LSN, Last: e.LSN, Err: e.Err}).Error()
}

func (e *VisitError) Unwrap() error { return e.Err }

// Report is what Verify found.
type Report struct {
	Tally
	Segments []SegmentReport
	// Lost are the LSNs between the first and the last record, and up to what is
	// known to have been durable, that no frame covers. Those of gaps are not lost
	// anew: see Gaps.
	Lost []Range
	// Gaps are the LSNs that a repair gave up.
	Gaps []Range
	// Damaged: acknowledged data is damaged, or the directory is. A log of which
	// only this is false may have a torn tail.
	Damaged, Torn bool
}

// Verify reads and checks every frame of the log, several segments at a time. It
// does what Frames does, only quicker. It ends early with ctx's cause.
func (in *Inspection) Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	workers := min(max(o.Workers, 0), len(in.Segments))
	if o.Workers == 0 {
		workers = min(runtime.GOMAXPROCS(0), len(in.Segments))
	}
	report := &Report{Segments: make([]SegmentReport, len(in.Segments)), Damaged: len(in.Damage) > 0}
	gaps := make([][]Range, len(in.Segments))
	var next atomic.Int64
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(in.Segments) || ctx.Err() != nil {
					return
				}
				v := &verifier{ctx: ctx, o: o, report: &report.Segments[i]}
				v.segment(in.Segments[i])
				gaps[i] = v.gaps
			}
		})
	}
	working.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	report.sum(in, slices.Concat(gaps...))
	return report, nil
}

func (r *Report) sum(in *Inspection, gaps []Range) {
	r.Gaps = gaps
	next := in.First
	lost := func(upTo LSN) {
		if next <= upTo {
			r.Lost = append(r.Lost, Range{next, upTo})
		}
	}
	for i := range r.Segments {
		s := &r.Segments[i]
		r.add(s.Tally)
		r.Damaged = r.Damaged || s.Damaged
		r.Torn = r.Torn || s.Torn
		if s.Freed {
			next = max(next, s.Last+1)
		}
		for _, read := range s.read {
			if read.Last < next {
				continue
			}
			lost(read.First - 1)
			next = read.Last + 1
		}
	}
	lost(in.Durable)
}

// verifier verifies one segment.
type verifier struct {
	ctx    context.Context
	o      VerifyOptions
	report *SegmentReport
	gaps   []Range
}

func (v *verifier) segment(seg *Segment) {
	v.report.Segment = seg
	if !seg.readable() {
		seg.tell(v.take)
		return
	}
	sv := &survey{yield: v.take}
	if v.o.Visit == nil {
		sv.tally, sv.progress, sv.done = &v.report.Tally, v.o.Progress, v.ctx.Err
		sv.skipped = v.readUpTo
	}
	seg.survey(sv)
}

// take is what the survey yields.
func (v *verifier) take(f Frame, err error) bool {
	if err != nil {
		v.found(err)
		return v.ctx.Err() == nil
	}
	size := f.End - f.Offset
	if f.Gap {
		v.report.Gaps++
		v.gaps = append(v.gaps, Range{f.LSN, f.Last})
	} else {
		v.report.Records++
		v.report.Payload += int64(len(f.Payload))
	}
	v.report.Verified += size
	v.readUpTo(f.LSN, f.Last)
	if v.o.Progress != nil {
		v.o.Progress(size)
	}
	if v.o.Visit != nil && !f.Gap {
		if err := v.o.Visit(f); err != nil {
			v.found(&VisitError{Segment: v.report.Path, Offset: f.Offset, LSN: f.LSN, Err: err})
		}
	}
	return v.ctx.Err() == nil
}

func (v *verifier) readUpTo(first, last LSN) {
	r := v.report
	if n := len(r.read); n > 0 && r.read[n-1].Last+1 == first {
		r.read[n-1].Last = last
		return
	}
	r.read = append(r.read, Range{first, last})
}

func (v *verifier) found(err error) {
	r := v.report
	torn, isTorn := errors.AsType[*TornTailError](err)
	switch {
	case isTorn:
		r.Torn = true
		r.Verified += torn.Bytes
	case errors.Is(err, ErrFreed):
		r.Freed = true
	default:
		r.Damaged = true
	}
	if len(r.Findings) < findingsMax {
		r.Findings = append(r.Findings, err)
	} else {
		r.More++
	}
}
