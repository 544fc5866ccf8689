package wal

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
)

// doubtfulMin is how many LSNs, at least, are skipped where it is not known how
// far the log went: twice what segments of their size can hold, for the watermark
// is written at every roll, if a little later.
const doubtfulMin = 1 << 20

// runMax bounds how many missing segments in a row are believed.
const runMax = 1 << 20

// repairPlan is what the log will be.
type repairPlan struct {
	in       *Inspection
	segments []*plannedSegment // in order, without holes
	mark     *watermark        // to be written; nil: it stays
	format   bool
}

// plannedSegment is a segment of the repaired log.
type plannedSegment struct {
	seq     uint64
	from    *Segment   // what is in its place; nil: nothing is left
	others  []*Segment // copies of it in the place of others
	header  segmentHeader
	layout  layout
	good    bool     // header is as found
	runs    []piece  // in order, without overlap
	sample  LSN      // of one of its records; 0: it has none
	records uint64   // in its place
	gaps    []lsnRun // to be written, in order
	cut     bool     // bytes at its end go
	front   bool     // stands for what is missing before the first one left
	why     string   // it is written anew; "": it stays
	end     segmentEnd
	built   built // once it was built
}

// piece are records that are read from one file.
type piece struct {
	lsnRun
	from *Segment
}

// lsnRun are LSNs from first to last.
type lsnRun struct{ first, last LSN }

func (p *plannedSegment) anew(why string) {
	if p.why == "" {
		p.why = why
	}
}

// place is the segment's file in the repaired log.
func (p *plannedSegment) place() string {
	return filepath.Join("segments", segmentName(p.seq), p.layout.file())
}

// planner makes a plan.
type planner struct {
	*Repair
	in      *Inspection // arranged
	report  *RepairReport
	plan    *repairPlan
	durable LSN // highest that something says was durable
	largest int64
	read    int64
	total   int64
}

func (r *Repair) makePlan() (*RepairReport, *repairPlan, error) {
	now := time.Now().UTC()
	id := "repair-" + now.Format("20060102T150405Z") + "-" + uuid.NewString()[:8]
	p := &planner{Repair: r, plan: &repairPlan{},
		report: &RepairReport{Version: 1, ID: id, Created: now.Truncate(time.Second)}}
	raw, err := r.view(false)
	if err != nil {
		return nil, nil, err
	}
	if p.in, err = r.view(true); err != nil {
		return nil, nil, err
	}
	p.Repair.in = p.in
	p.plan.in, p.report.Stream = p.in, p.in.Stream
	p.directory(raw)
	for _, step := range []func() error{p.list, p.scan, p.join, p.finishEnd, p.build} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	p.describe()
	if !p.report.Needed() {
		p.plan = nil
	}
	return p.report, p.plan, nil
}

// find notes something that is wrong.
func (p *planner) find(f RepairFinding) {
	if !slices.Contains(p.report.Findings, f) {
		p.report.Findings = append(p.report.Findings, f)
	}
}

func (p *planner) findCorrupt(c *CorruptError) {
	p.find(RepairFinding{Place: c.Segment, Offset: c.Offset, End: c.End, First: c.First, Last: c.Last, What: c.Err.Error()})
}

// directory judges FORMAT and the watermark. raw is the log as it is.
func (p *planner) directory(raw *Inspection) {
	for _, err := range slices.Concat(raw.Damage, p.in.Damage) {
		if c, ok := errors.AsType[*CorruptError](err); ok {
			if c.Segment != "watermark" || p.in.start.mark == (watermark{}) {
				p.findCorrupt(c)
			}
			continue
		}
		p.find(RepairFinding{Place: "FORMAT", What: err.Error()})
	}
	if raw.formatDamaged() {
		p.plan.format = true
	}
	if raw.Stream != p.in.Stream && !p.plan.format {
		p.plan.format = true
		p.find(RepairFinding{Place: "FORMAT", What: fmt.Sprintf("it is of stream %s, the segments are of %s", raw.Stream, p.in.Stream)})
	}
}

// marked reports that the watermark can be read.
func (p *planner) marked() bool { return p.in.start.mark != watermark{} }

// list makes the list of segments, with one for each that is missing between
// others. Those at the end that were never activated are left to the start.
func (p *planner) list() error {
	segments := p.in.Segments
	if !p.marked() {
		p.openEnd()
	}
	for n := len(segments); n > 0; n-- {
		if s := segments[n-1].State; s != StatePrepared && s != StateMissing {
			break
		}
		segments = segments[:n-1]
	}
	for _, seg := range p.in.Segments[len(segments):] {
		if seg.State == StateMissing {
			p.damages(seg)
		}
	}
	for i, seg := range segments {
		if seg.State == StateMissing {
			p.damages(seg)
			if seg.Run > runMax {
				return fmt.Errorf("%w: %d segments are missing from %s on: that is more than can be believed", ErrCorrupt, seg.Run, seg.Path)
			}
			if i == 0 {
				continue // see front
			}
		}
		for k := range max(seg.Run, 1) {
			s := &plannedSegment{seq: seg.Seq + k, layout: layouts[0], why: "missing"}
			if seg.State != StateMissing {
				s.from, s.why = seg, ""
				if seg.State == StatePrepared { // a later one was activated
					seg.State = StateDamaged
				}
				if f := seg.found; f.layout != nil {
					s.layout = f.layout
					p.largest, p.total = max(p.largest, f.size), p.total+f.size
				}
				if f := seg.found; f.err == nil {
					s.header, s.good = f.header, true
					s.others = p.copies(s)
					if filepath.Base(f.dir) != segmentName(s.seq) {
						s.anew("it lay in another one's place, " + filepath.Base(f.dir))
						p.find(RepairFinding{Place: f.place(), What: fmt.Sprintf("it lies in the place of segment %s", filepath.Base(f.dir))})
					}
				} else {
					s.anew("its header is damaged")
				}
			}
			p.plan.segments = append(p.plan.segments, s)
		}
	}
	return nil
}

// openEnd: without the watermark there may be no witness for what was acknowledged,
// so all that can be read at the end is kept.
func (p *planner) openEnd() {
	for _, seg := range p.in.Segments {
		if seg.last {
			seg.last, seg.open = false, true
		}
		if seg.State != StatePrepared || seg.found.empty() {
			continue
		}
		state := seg.State
		seg.State = StateDamaged
		for _, err := range seg.Frames() {
			if err == nil {
				state = StateDamaged
				break
			}
		}
		seg.State = state
	}
}

// copies are files in the place of other segments that are s as well.
func (p *planner) copies(s *plannedSegment) (copies []*Segment) {
	for _, f := range p.in.start.copies {
		if f.seq == s.seq && f.header.base == s.header.base && f.header.incarnation() == s.header.incarnation() && f.dir != s.from.found.dir {
			other := *s.from
			other.found, other.Path, other.Bytes = f, f.place(), f.size
			copies = append(copies, &other)
		}
	}
	return copies
}

func (p *planner) damages(seg *Segment) {
	for _, c := range seg.Damage {
		p.findCorrupt(c)
	}
	if len(seg.Damage) == 0 {
		p.find(RepairFinding{Place: seg.Path, First: seg.First, Last: seg.Last, What: errMissing.Error()})
	}
}

// build finds out what the segments that are written anew will be, and which others
// have to follow them.
func (p *planner) build() error {
	segments := p.plan.segments
	for i, s := range segments {
		var pred segmentEnd
		if i > 0 {
			pred = segments[i-1].end
		} else if s.good {
			pred = s.header.pred
		} else {
			pred.last = s.header.base - 1
		}
		if s.good && i > 0 && s.header.pred != pred {
			s.anew("the one before it changes")
		}
		s.header.pred = pred
		if s.why == "" {
			if i+1 < len(segments) && segments[i+1].good {
				s.end = segments[i+1].header.pred
				continue
			}
			end, _, err := p.in.start.scanDurable(s.from.found)
			if bad := (*badFrameError)(nil); err != nil && !errors.As(err, &bad) {
				return err
			}
			s.end = end
			continue
		}
		var err error
		if s.built, err = s.write(nil, p.in); err != nil {
			return err
		}
		s.end = s.built.end
	}
	return nil
}

// describe completes plan and report.
func (p *planner) describe() {
	r := p.report
	slices.SortFunc(r.Lost, func(a, b LostLSNs) int { return cmp.Compare(a.First, b.First) })
	r.First, r.Next = 1, 1
	for i, s := range p.plan.segments {
		if i == 0 {
			r.First = s.header.base
		}
		r.Boot = max(r.Boot, s.header.boot)
		r.Next = s.end.last + 1
		if s.why == "" {
			r.Kept += s.records
			continue
		}
		r.Kept += s.built.records
		_, err := p.fs.Stat(filepath.Join(p.dir, "segments", segmentName(s.seq)))
		r.Segments = append(r.Segments, RepairSegment{Seq: s.seq, Place: s.place(), First: s.header.base, Last: s.end.last,
			Records: s.built.records, Bytes: s.end.offset, CRC: s.built.crc, Why: s.why, Aside: err == nil})
		r.Bytes += s.end.offset
	}
	r.Format = p.plan.format
	p.newMark()
	r.Watermark = p.plan.mark != nil
}

// newMark is the watermark of the repaired log, if the one there does not fit.
func (p *planner) newMark() {
	n := len(p.plan.segments)
	if n == 0 {
		if !p.marked() {
			p.plan.mark = &watermark{stream: p.in.Stream, first: 1}
		}
		return
	}
	first, last := p.plan.segments[0], p.plan.segments[n-1]
	old := p.in.start.mark
	if p.marked() && last.why == "" && first.seq <= old.first {
		return
	}
	m := watermark{stream: p.in.Stream, incarnation: last.header.incarnation(), slot: old.slot + 2, durable: last.end.last,
		segment: last.seq, end: last.end.offset, first: max(first.seq, 1)}
	if p.marked() && old.first > m.first {
		m.first = old.first
	}
	if last.cut && last.why == "" { // its end is for the start to judge
		m.durable, m.end = old.durable, old.end
	}
	p.plan.mark = &m
}
