package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// Frame is one frame of an Inspection. Payload is valid until the next one.
type Frame struct {
	Segment     uint64
	Incarnation uuid.UUID
	Offset, End int64 // in the segment's file, the engine's prefix included
	LSN         LSN
	Last        LSN // = LSN, but for a gap: the last one that it stands for
	Durable     LSN // that was durable when it was written: of one group, all say the same
	Gap         bool
	Payload     []byte // of a record; nil for a gap
}

// ErrFreed: the server that has the log open freed a segment before it was read.
// That is no damage: every sink had applied it.
var ErrFreed = errors.New("wal: freed by the running server")

// FreedError is ErrFreed with what was freed.
type FreedError struct {
	Segment     string
	First, Last LSN
}

func (e *FreedError) Error() string {
	return fmt.Sprintf("%v: %s, LSN %d to %d", ErrFreed, e.Segment, e.First, e.Last)
}

func (e *FreedError) Unwrap() error { return ErrFreed }

// Frames yields everything from LSN from on that can be read, in order: frames
// whose header and payload verify; and, with a zero Frame, what stands in the way
// of others: *CorruptError, *TornTailError, *FreedError; but for those that hit
// only records below from. It goes on after each.
// Of a log that is open it ends at Durable.
//
// It opens one file at a time and holds one buffer. A sector that cannot be read
// is damage like any other.
func (in *Inspection) Frames(from LSN) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		for _, seg := range in.Segments {
			if seg.next != nil && seg.next.base <= from {
				continue
			}
			for f, err := range seg.Frames() {
				if c, ok := errors.AsType[*CorruptError](err); err == nil && f.Last < from || ok && c.First != 0 && c.Last < from {
					continue
				}
				if !yield(f, err) {
					return
				}
			}
		}
	}
}

// Frames is Inspection.Frames of one segment. Different segments may be read at
// the same time.
func (seg *Segment) Frames() iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		if !seg.readable() {
			seg.tell(yield)
			return
		}
		seg.survey(&survey{yield: yield})
	}
}

// readable: there is something to read in it.
func (seg *Segment) readable() bool {
	return seg.State != StatePrepared && seg.found != nil && seg.found.layout != nil
}

// tell yields what is known of a segment that cannot be read.
func (seg *Segment) tell(yield func(Frame, error) bool) {
	if seg.Torn != nil && !yield(Frame{}, seg.Torn) {
		return
	}
	for _, c := range seg.Damage {
		if !yield(Frame{}, c) {
			return
		}
	}
}

// survey goes through the segment's file.
func (seg *Segment) survey(sv *survey) {
	sv.seg, sv.s = seg, seg.in.start
	err := withFile(sv.s.fs, seg.found.path(), sv.run)
	if errors.Is(err, fs.ErrNotExist) {
		err = seg.vanished(err)
	}
	if err != nil && !sv.stopped {
		sv.yield(Frame{}, err)
	}
}

// vanished tells freed from missing.
func (seg *Segment) vanished(err error) error {
	if freed := seg.freed(); freed != nil {
		return freed
	}
	return &CorruptError{Segment: seg.Path, First: seg.First, Last: seg.Last, Err: err}
}

// freed reports that the segment was freed; nil: it was not. The watermark says so
// before its file is deleted, or made another segment's.
func (seg *Segment) freed() error {
	s := seg.in.start
	m, err := loadWatermark(s.fs, s.watermarkPath(), s.stream)
	if err != nil || seg.Seq >= m.first {
		return nil
	}
	return &FreedError{seg.Path, seg.First, seg.Last}
}

// survey goes through one segment's file, over every damage.
type survey struct {
	seg     *Segment
	s       *start
	yield   func(Frame, error) bool
	stopped bool // by the caller

	// If tally is set, good frames are counted instead of yielded where that is quicker.
	tally    *Tally
	skipped  func(first, last LSN)
	progress func(bytes int64)
	done     func() error
	skim     *skimmer

	file   *patchedFile
	size   int64
	sc     *scanner
	id     uuid.UUID          // incarnation
	ids    map[seed]uuid.UUID // that it can be, while it is not known
	end    segmentEnd         // of the good frames so far
	hurt   bool               // damage was reported
	told   LSN                // up to here: read, or reported as lost
	looked bool
	proven LSN // known to have been durable, once looked
}

func (sv *survey) run(file vfs.File, size int64) error {
	f := sv.seg.found
	sv.file, sv.size = &patchedFile{file: file}, size
	if sv.tally != nil {
		k := mapped(file, size)
		defer k.close()
		sv.skim = k
	}
	limit := size
	if sv.seg.next != nil {
		limit = min(limit, max(sv.seg.next.pred.offset, f.end))
	}
	if f.err != nil {
		sv.sc = &scanner{file: sv.file, layout: f.layout, limit: limit, next: sv.seg.First}
		sv.told = sv.seg.First - 1
		if !sv.headless() {
			return nil
		}
	} else {
		sv.sc, sv.id, sv.end, sv.told = f.records(sv.file, limit), f.header.incarnation(), f.headerEnd(), f.header.base-1
	}
	sv.sc.step = headerReadSize
	if sv.records() && sv.complete() && !f.layout.complete(limit, size) {
		sv.damage(limit, 0, fmt.Errorf("%d bytes; its successor says %d", size, sv.seg.next.pred.offset), 0)
	}
	return nil
}

// records goes through the records; false: that is all of this segment.
func (sv *survey) records() bool {
	stop := ^LSN(0)
	if sv.seg.in.Owner != nil && sv.seg.last {
		stop = sv.seg.in.Durable
	}
	for {
		if sv.skim != nil && !sv.skimmed(stop) {
			return false
		}
		if sv.sc.next > stop {
			return false
		}
		f, err := sv.sc.verified()
		if errors.Is(err, io.EOF) {
			return true
		}
		if sv.room(err) {
			return true
		}
		if err != nil {
			if !sv.badFrame(f, err) {
				return false
			}
			continue
		}
		if !sv.good(f) {
			return false
		}
	}
}

// room reports whether err is where the room begins that follows the records.
// What cannot be read is not room, whatever is read in its place.
func (sv *survey) room(err error) bool {
	bad, _ := errors.AsType[*badFrameError](err)
	room, err := sv.sc.isRoom(bad)
	return room && err == nil && sv.file.err(bad.offset, sv.size) == nil
}

func (sv *survey) good(f frame) bool {
	sv.end, sv.told = segmentEnd{f.end, f.last, f.crc}, max(sv.told, f.last)
	out := Frame{Segment: sv.seg.Seq, Incarnation: sv.id, Offset: f.offset, End: f.end, LSN: f.lsn, Last: f.last,
		Durable: f.durable, Gap: f.kind == kindGap}
	if !out.Gap {
		out.Payload = f.payload
	}
	return sv.give(out, nil)
}

func (sv *survey) give(f Frame, err error) bool {
	if !sv.yield(f, err) {
		sv.stopped = true
	}
	return !sv.stopped
}

// damage reports the bytes from offset to end, and the records from the next one
// to last, if any.
func (sv *survey) damage(offset, end int64, err error, last LSN) bool {
	if in := sv.seg.in; in.Owner != nil || sv.seg.Seq >= sv.s.mark.first {
		if freed := sv.seg.freed(); freed != nil { // and its file may be another segment's by now
			return sv.give(Frame{}, freed) && false
		}
	}
	sv.hurt = true
	c := &CorruptError{Segment: sv.seg.Path, Offset: offset, End: end, Err: err}
	if ioErr := sv.file.err(offset, end); ioErr != nil {
		c.Err = ioErr
	}
	if last > sv.told {
		c.First, c.Last = sv.told+1, last
		sv.told = last
	}
	return sv.give(Frame{}, c)
}

// badFrame reports what is there instead of a frame, and goes on at the next
// one. Nothing that was acknowledged is after a torn tail: it ends the segment.
func (sv *survey) badFrame(f frame, err error) bool {
	bad, ok := errors.AsType[*badFrameError](err)
	if !ok {
		bad = &badFrameError{sv.sc.offset, err}
	}
	due := sv.told + 1
	if sv.tornAt(bad, due) {
		return false
	}
	from := bad.offset + 1
	if errors.Is(bad.err, errPayloadCRC) && f.kind == kindRecord {
		// Its header is good: it says where the next one is.
		return sv.damage(f.offset, f.end, bad.err, f.lsn)
	}
	if errors.Is(bad.err, errPayloadCRC) {
		sv.sc.next = f.lsn
		from = f.offset + frameHeaderSize
		due++
	}
	return sv.resume(bad, from, due, []seed{sv.sc.seed})
}

// tornAt reports the torn tail if it begins at bad, where LSN due would be.
func (sv *survey) tornAt(bad *badFrameError, due LSN) bool {
	if !sv.seg.last || sv.witness() >= due {
		return false
	}
	if sv.seg.in.Owner == nil {
		end, _ := tornEnd(sv.file, sv.sc.layout, bad.offset, sv.size) // it reads what was read before
		sv.give(Frame{}, &TornTailError{Segment: sv.seg.Path, Offset: bad.offset, Bytes: end - bad.offset, LSN: due, Err: bad.err})
	}
	return true
}

// resume looks for the next frame from an offset on, of LSN due or later,
// reports what is passed over, and goes on there.
func (sv *survey) resume(bad *badFrameError, from int64, due LSN, seeds []seed) bool {
	h, at, ok, err := sv.sc.search(from, seeds, func(h frameHeader) bool {
		return h.lsn >= due && h.durable < h.lsn && h.lsn <= sv.lastLSN()
	})
	if err != nil {
		return sv.give(Frame{}, err)
	}
	if !ok {
		last := sv.lastLSN()
		if sv.seg.last {
			last = sv.witness()
		} else if sv.seg.open {
			last = sv.seg.Last
		}
		return sv.damage(bad.offset, sv.size, bad.err, last) && false
	}
	if b, err := sv.sc.peek(at, frameHeaderSize); err == nil {
		for _, seed := range seeds {
			if _, err := seed.parse(b, at); err == nil {
				sv.sc.seed = seed
				if id, ok := sv.ids[seed]; ok {
					sv.id = id
				}
			}
		}
	}
	size := frameHeaderSize + int64(h.length)
	f := frame{frameHeader: h, offset: at - int64(sv.sc.layout.prefixLen(int(size)))}
	if !sv.damage(bad.offset, max(f.offset, bad.offset), bad.err, h.lsn-1) {
		return false
	}
	sv.sc.next = h.lsn
	if err = sv.sc.body(&f, at); err == nil {
		if err = f.verify(); err != nil {
			err = &badFrameError{f.offset, err}
		}
	}
	if err == nil {
		return sv.good(f)
	}
	if f.end == 0 { // its body is not to be had: look behind its header
		sv.sc.next = h.lsn
		if worse, ok := errors.AsType[*badFrameError](err); ok {
			if sv.tornAt(worse, h.lsn) {
				return false
			}
			return sv.resume(worse, at+1, h.lsn+1, []seed{sv.sc.seed})
		}
		return sv.give(Frame{}, err)
	}
	return sv.badFrame(f, err)
}

// lastLSN bounds the records that the segment can hold.
func (sv *survey) lastLSN() LSN {
	switch {
	case sv.seg.next != nil:
		return sv.seg.next.pred.last
	case sv.seg.last, sv.seg.open:
		return ^LSN(0)
	}
	return sv.seg.Last
}

// witness is the highest LSN that something says was durable: as judge finds it,
// but looked for once.
func (sv *survey) witness() LSN {
	if sv.looked {
		return sv.proven
	}
	sv.looked, sv.proven = true, sv.seg.in.Durable
	sc := scanner{file: sv.file, layout: sv.sc.layout, limit: sv.size}
	// An error is met again by the survey itself.
	_, _, _, _ = sc.search(sv.sc.offset+1, []seed{sv.sc.seed}, func(h frameHeader) bool {
		if h.lsn > h.durable {
			sv.proven = max(sv.proven, h.durable)
		}
		return false
	})
	return sv.proven
}

// headless begins with a file whose header is damaged: its frames still verify
// with the right incarnation.
func (sv *survey) headless() bool {
	f := sv.seg.found
	sc := scanner{file: sv.file, layout: f.layout, limit: sv.size}
	ids, err := sv.s.guess(&sc, sv.seg.before)
	if err != nil {
		return sv.give(Frame{}, err)
	}
	for _, p := range sv.seg.in.Incarnations {
		ids = append(ids, p.Incarnation)
	}
	sv.ids = map[seed]uuid.UUID{}
	var seeds []seed
	for _, id := range ids {
		s := newSeed(sv.s.stream, id, sv.seg.Seq)
		sv.ids[s] = id
		seeds = append(seeds, s)
	}
	if err := sv.beginAt(seeds); err != nil {
		return sv.give(Frame{}, err)
	}
	return sv.resume(&badFrameError{0, f.err}, 0, sv.sc.next, seeds)
}

// beginAt finds out whether the first frame that can be found follows the
// damaged header: then no record is lost before it. The header's length says so,
// or its base LSN; it is a header of which only a part is damaged.
func (sv *survey) beginAt(seeds []seed) error {
	b, err := sv.sc.peek(0, maxPrefix+frameHeaderSize+headerFixedSize)
	if err != nil {
		return err
	}
	n := sv.sc.layout.prefixLen(frameHeaderSize + headerFixedSize + incarnationSize)
	if len(b) < n+frameHeaderSize+headerFixedSize {
		return nil
	}
	end := int64(n) + frameHeaderSize + int64(le.Uint32(b[n+24:]))
	base := LSN(le.Uint64(b[n+frameHeaderSize+headerBase:]))
	h, at, ok, err := sv.sc.search(0, seeds, func(h frameHeader) bool { return h.lsn >= sv.sc.next })
	if err != nil || !ok {
		return err
	}
	begins := at - int64(sv.sc.layout.prefixLen(frameHeaderSize+int(h.length)))
	if h.lsn == base || begins == end {
		sv.sc.next, sv.told = h.lsn, h.lsn-1
	}
	return nil
}

// complete compares the end with what is said about it elsewhere.
func (sv *survey) complete() bool {
	switch {
	case sv.seg.next != nil:
		pred := sv.seg.next.pred
		if sv.told < pred.last || !sv.hurt && sv.end != pred {
			return sv.damage(sv.end.offset, 0, fmt.Errorf("it ends at LSN %d, offset %d; its successor says LSN %d, offset %d",
				sv.end.last, sv.end.offset, pred.last, pred.offset), pred.last)
		}
	case sv.seg.last:
		if durable := sv.seg.in.Durable; sv.told < durable {
			return sv.damage(sv.end.offset, 0, fmt.Errorf("%w, though LSN %d was durable", errEnds, durable), durable)
		}
	case sv.told < sv.seg.Last:
		return sv.damage(sv.end.offset, 0, errEnds, sv.seg.Last)
	}
	return true
}

// patchedFile reads what can be read of a failing disk: zeros for the rest.
type patchedFile struct {
	file  io.ReaderAt
	holes []hole
}

type hole struct {
	from, to int64
	err      error
}

const patchSize = 4096

func (p *patchedFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := p.file.ReadAt(b, at)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	for n < len(b) {
		m := min(patchSize-int((at+int64(n))%patchSize), len(b)-n)
		got, err := p.file.ReadAt(b[n:n+m], at+int64(n))
		if got < m && errors.Is(err, io.EOF) {
			return n + got, err
		}
		if got < m {
			clear(b[n+got : n+m])
			p.holes = append(p.holes, hole{at + int64(n+got), at + int64(n+m), err})
		}
		n += m
	}
	return n, nil
}

// err is what was wrong with reading [from, to), if anything was.
func (p *patchedFile) err(from, to int64) error {
	for _, h := range p.holes {
		if h.from < max(to, from+1) && from < h.to {
			return h.err
		}
	}
	return nil
}
