package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// SegmentState is what is known of a segment.
type SegmentState string

const (
	// StateSealed: complete; nothing more comes. Also the last one, if nobody has
	// the log open and its end is good.
	StateSealed SegmentState = "sealed"
	// StateActive: the last one of a log that is open.
	StateActive SegmentState = "active"
	// StateTorn: at its end are bytes that nobody was told are durable, and that do
	// not verify. The next start sets them aside.
	StateTorn SegmentState = "torn tail"
	// StatePrepared: made for later and never activated. It holds nothing that was
	// acknowledged; the next start removes it or sets it aside.
	StatePrepared SegmentState = "prepared"
	// StateDamaged: acknowledged data in it is damaged; see Damage.
	StateDamaged SegmentState = "damaged"
	// StateMissing: it is not there and should be.
	StateMissing SegmentState = "missing"
	// StateTrash: freed, being deleted.
	StateTrash SegmentState = "trash"
	// StateQuarantined: what a start cut off.
	StateQuarantined SegmentState = "quarantined"
)

// Segment is one segment of an Inspection.
type Segment struct {
	Seq uint64
	// Run is how many segments in a row it stands for: missing ones may be many.
	Run    uint64
	Path   string // of its file, relative to the log's directory
	Engine string // "" if not known
	State  SegmentState
	// First and Last record. First = Last+1: it holds none. Of a segment that is
	// missing or whose header is damaged: what its neighbours leave for it.
	First, Last LSN
	Bytes       int64     // of its file
	Modified    time.Time // of its file: when it was last written
	Incarnation uuid.UUID // of its records; zero if its header is damaged
	Boot        uint64    // the caller's counter at its start
	// Damage is what names, sizes, headers and the judgement of the tail tell.
	// Frames tells the rest.
	Damage []*CorruptError
	// Torn is the torn tail, if State is StateTorn or StatePrepared.
	Torn *TornTailError

	in     *Inspection
	found  *found         // nil: there is no file
	next   *segmentHeader // of the segment after it, if that is good
	before *found         // the last segment before it that has a good header
	last   bool           // of those that were activated
	open   bool           // no good header comes after it
}

// TornTailError says that the log ends in bytes that are no frame, and that
// nothing says were ever durable. It is not damage: the next start cuts them off
// and keeps them in quarantine/.
type TornTailError struct {
	Segment string // file, relative to the log's directory
	Offset  int64  // where they begin
	Bytes   int64
	LSN     LSN // that the first of them would have
	Err     error
}

func (e *TornTailError) Error() string {
	return fmt.Sprintf("wal: torn tail, never acknowledged: %s at offset %d, %d bytes from LSN %d on: %v",
		e.Segment, e.Offset, e.Bytes, e.LSN, e.Err)
}

func (e *TornTailError) Unwrap() error { return e.Err }

// judge says what Open would say, and describes the segments.
func (in *Inspection) judge() error {
	s := in.start
	in.describe()
	for i := range s.segments {
		in.damaged(s.follows(i))
	}
	missing := s.noneMissing()
	in.damaged(missing)
	if err := in.tail(missing == nil); err != nil {
		return err
	}
	in.ranges()
	return nil
}

// describe lists the segments, as their headers have them.
func (in *Inspection) describe() {
	s := in.start
	var before *found
	add := func(f *found) {
		due := s.mark.first
		if n := len(in.Segments); n > 0 {
			due = in.Segments[n-1].Seq + 1
		}
		if f.err == nil || len(in.Segments) > 0 {
			in.missing(due, f.seq)
		}
		seg := &Segment{Seq: f.seq, Run: 1, Path: f.place(), State: StateSealed, Bytes: f.size, Modified: f.wrote,
			in: in, found: f, before: before}
		if f.layout != nil {
			seg.Engine = f.layout.name()
		}
		if f.err == nil {
			seg.Incarnation, seg.Boot = f.header.incarnation(), f.header.boot
			if n := len(in.Segments); n > 0 && in.Segments[n-1].Seq+1 == f.seq {
				in.Segments[n-1].next = &f.header
			}
			before = f
		}
		in.Segments = append(in.Segments, seg)
	}
	for _, f := range s.segments {
		add(f)
	}
	for _, f := range s.unborn {
		add(f)
		in.Segments[len(in.Segments)-1].State = StatePrepared
	}
	if before != nil {
		for _, i := range before.header.incarnations {
			in.Incarnations = append(in.Incarnations, Point{Incarnation: i.id, LSN: i.first})
		}
	}
}

// missing adds the segments from due on that lack before seq.
func (in *Inspection) missing(due, seq uint64) {
	if due == 0 || due >= seq {
		return
	}
	in.Segments = append(in.Segments, &Segment{Seq: due, Run: seq - due, Path: filepath.Join("segments", segmentName(due)),
		State: StateMissing, in: in})
}

// damaged notes damage with the segment that it is in.
func (in *Inspection) damaged(c *CorruptError) {
	if c == nil {
		return
	}
	if in.Refusal == nil {
		in.Refusal = c
	}
	for _, seg := range in.Segments {
		if seg.Path == c.Segment {
			seg.Damage = append(seg.Damage, c)
			if seg.State != StateMissing {
				seg.State = StateDamaged
			}
			return
		}
	}
	// The watermark's segment, beyond all that are there.
	if seq, ok := parseSegmentName(filepath.Base(c.Segment)); ok {
		in.missing(seq, seq+1)
		seg := in.Segments[len(in.Segments)-1]
		seg.Damage = append(seg.Damage, c)
		return
	}
	in.Damage = append(in.Damage, c)
}

// tail describes the end of the log. complete says that no segment is missing
// at the end: else that of the last one here is as good as sealed.
func (in *Inspection) tail(complete bool) error {
	s := in.start
	in.Durable = s.mark.durable
	var last *Segment
	for _, seg := range in.Segments {
		if n := len(s.segments); n > 0 && seg.found == s.segments[n-1] {
			last = seg
		}
	}
	if last != nil {
		last.last = complete
		in.Durable = max(in.Durable, last.found.header.base-1)
	}
	switch {
	case in.Owner != nil && last != nil && complete:
		return in.liveTail(last)
	case in.Owner != nil || !complete:
		return nil
	}
	judged := s.judge()
	if errors.Is(judged, ErrVersion) {
		return judged
	}
	if last != nil {
		if err := in.readTail(last, judged); err != nil {
			return err
		}
	}
	if corrupt, ok := errors.AsType[*CorruptError](judged); ok {
		in.Durable = max(in.Durable, corrupt.Last)
		in.damaged(corrupt)
		if last != nil {
			last.last = corrupt.Segment == last.Path
		}
	}
	for _, seg := range in.Segments {
		if seg.State == StatePrepared && !seg.found.empty() {
			seg.Torn = &TornTailError{Segment: seg.Path, Bytes: seg.Bytes, LSN: in.Last + 1, Err: seg.found.err}
		}
	}
	return nil
}

// readTail describes the end of the last segment, of which judge said judged. An
// error of the disk is damage too.
func (in *Inspection) readTail(last *Segment, judged error) error {
	s := in.start
	end, durable, err := s.scanDurable(last.found)
	bad, isBad := errors.AsType[*badFrameError](err)
	in.Durable = max(in.Durable, durable)
	last.Last, in.Last = end.last, end.last
	torn := last.Bytes
	if s.tail.cut {
		readErr := withFile(s.fs, last.found.path(), func(file vfs.File, size int64) (err error) {
			torn, err = tornEnd(file, last.found.layout, end.offset, size)
			return err
		})
		if readErr != nil {
			return readErr
		}
	}
	in.Clean = judged == nil && s.tail.clean
	switch {
	case judged == nil && s.tail.cut:
		last.State = StateTorn
		last.Torn = &TornTailError{Segment: last.Path, Offset: end.offset, Bytes: torn - end.offset, LSN: end.last + 1, Err: bad.err}
	case err != nil && !isBad:
		in.damaged(&CorruptError{Segment: last.Path, Offset: end.offset, First: end.last + 1, Last: max(end.last+1, in.Durable), Err: err})
	}
	return nil
}

// liveTail finds what is surely durable of a segment that is being written.
func (in *Inspection) liveTail(last *Segment) error {
	s := in.start
	if last.State == StateSealed {
		last.State = StateActive
	}
	for range inspectAttempts {
		end, durable, err := s.scanDurable(last.found)
		bad, isBad := errors.AsType[*badFrameError](err)
		if err != nil && !isBad {
			return err
		}
		in.Durable = max(in.Durable, durable)
		last.Last = min(end.last, in.Durable)
		if (!isBad || errors.Is(bad, errRoom)) && end.last >= in.Durable {
			return nil
		}
		// It may have been written since: only what is still bad after a witness was
		// seen is damage.
		c, err := s.witnessed(last.found, end, bad)
		if err != nil {
			return err
		}
		if c == nil {
			return nil
		}
		in.Durable = max(in.Durable, c.Last)
		if err := in.reread(last, end, c); err != nil || last.State == StateDamaged {
			return err
		}
	}
	return nil
}

// reread scans the segment again after c was found in it.
func (in *Inspection) reread(last *Segment, was segmentEnd, c *CorruptError) error {
	fresh, err := examine(in.start.fs, last.found.dir, last.Seq, in.Stream)
	if err != nil {
		return err
	}
	*last.found = *fresh
	if fresh.err != nil {
		return nil
	}
	last.Bytes = fresh.size
	if end, _, err := in.start.scanDurable(fresh); end == was && (err != nil || end.last < c.Last) {
		in.damaged(c)
	}
	return nil
}

// ranges fills in which records each segment holds.
func (in *Inspection) ranges() {
	next := LSN(0) // after the segment before; 0: not known
	for i, seg := range in.Segments {
		good := seg.found != nil && seg.found.err == nil
		if good {
			next = seg.found.header.base
		}
		seg.First = max(next, 1)
		switch {
		case seg.next != nil:
			seg.Last = seg.next.pred.last
		case seg.last:
		case good: // what follows it is damaged
			end, _, _ := in.start.scanDurable(seg.found) // as far as it goes
			seg.Last, seg.open = end.last, true
		default:
			base := in.baseAfter(i)
			seg.open = base == 0
			seg.Last = max(base, seg.First) - 1
			if seg.open && seg.State != StatePrepared {
				seg.Last = max(seg.Last, in.Durable)
			}
		}
		if next = seg.Last + 1; !good && seg.next == nil {
			next = seg.First // what it held of that, and what the one after it, nobody knows
		}
	}
	in.First, in.Last = in.Durable+1, in.Durable
	if n := len(in.Segments); n > 0 {
		in.First = in.Segments[0].First
		in.Last = in.First - 1
		for _, seg := range in.Segments {
			if seg.State != StatePrepared {
				in.Last = max(in.Last, seg.Last)
			}
		}
	}
}

// baseAfter is the first record of the next segment with a good header; 0: there
// is none.
func (in *Inspection) baseAfter(i int) LSN {
	for _, seg := range in.Segments[i+1:] {
		if seg.found != nil && seg.found.err == nil {
			return seg.found.header.base
		}
	}
	return 0
}
