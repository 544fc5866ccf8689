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
