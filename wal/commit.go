package wal

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/walproxy/walproxy/internal/failpoint"
)

// watermarkDelay is how long the log is idle before its watermark is written.
const watermarkDelay = 5 * time.Millisecond

// gatherMax: what is settled of so many bytes or more came in groups that are worth an
// fsync without waiting for whom it wakes.
const gatherMax = 64 << 10

// writer is the active segment as who writes it sees it: end runs ahead of what is
// durable. Who has mu.writing uses it, before the committer begins begin, after it
// ended close.
type writer struct {
	file segmentFile // only the committer changes it
	seg  *segment
	seed seed
	end  segmentEnd
}

// commitLoop is the committer: it makes one group durable after the other.
func (l *Log) commitLoop() {
	defer close(l.drained)
	for {
		g := l.takeGroup()
		if g == nil {
			return
		}
		large := g.size() >= gatherMax
		l.settle(g, l.write(g))
		if !large && !l.wroteAhead() {
			// Those that this settled come back first: their next records go into one
			// group, instead of a small one at once and the rest an fsync later. Of large
			// ones the next group is written while this one is synced; if it waited for
			// all whom this one wakes, nothing would be left to do meanwhile.
			runtime.Gosched()
		}
	}
}

// takeGroup waits for records and takes the group they are in; nil: the log
// has ended, and what was waiting for more of it knows.
func (l *Log) takeGroup() *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &l.mu.queue
	for {
		wait := l.kick
		switch {
		case l.mu.leading: // it is told behind that if there is more to do
		case l.mu.err == nil && len(q.written) > 0 && l.leaveRest():
			l.mu.syncing, l.mu.noRoom = true, false
			if l.mayWriteAhead() {
				wake(l.ahead)
			}
			return l.fly(nil)
		case l.mu.writing:
			wait = l.wrote
		case l.mu.err != nil:
			l.refuseQueued(l.mu.err)
			return nil
		case !q.filling.empty() || q.filling.prove:
			rest := q.next()
			l.toWrite(rest)
			return l.fly(rest)
		case l.mu.sealed:
			l.mu.drained = true
			l.refuseQueued(ErrClosed)
			return nil
		}
		l.mu.Unlock()
		<-wait
		l.mu.Lock()
	}
}

// leaveRest reports whether an fsync of what is written already is better, or all that
// there is to do, than one that waits until what is queued is written too. Under mu.
func (l *Log) leaveRest() bool {
	b := l.mu.queue.filling
	return l.mu.writing || b.empty() || b.size >= l.aheadMin || !l.hasRoom(b.frames)
}

// toWrite: from here on b is written by the caller, alone, who has taken it from the
// queue. Under mu.
func (l *Log) toWrite(b *batch) {
	l.mu.writing = true
	b.durable = l.mu.durable // what is synced: neither the group in flight nor its own
}

// fly takes what is written from the queue, and rest behind it, if it is not nil, which
// was the last one there. Under mu.
func (l *Log) fly(rest *batch) *group {
	q := &l.mu.queue
	g := &l.flying
	*g = group{batches: append(g.batches[:0], q.written...), rest: rest}
	q.written = q.written[:0]
	if rest != nil {
		g.batches = append(g.batches, rest)
	}
	for _, b := range g.batches {
		q.bytes -= b.size
		q.records -= len(b.queued)
	}
	l.mu.inflight, l.mu.inflightBytes = g, g.size()
	l.mu.committing, l.mu.promised = true, false
	l.mu.alone = min(l.mu.alone+1, aloneMin)
	q.grant(l.o.GroupBytes)
	return g
}

// refuseQueued settles all that is not in flight. Under mu.
func (l *Log) refuseQueued(err error) {
	q := &l.mu.queue
	for _, b := range q.written {
		b.settle(err)
	}
	q.filling.settle(err)
}

// write makes g durable.
func (l *Log) write(g *group) error {
	if g.empty() {
		return l.prove()
	}
	rolled := false
	if g.rest != nil {
		var err error
		if rolled, err = l.writeRest(g.rest); err != nil {
			return err
		}
	}
	failpoint.Hit("wal-before-sync")
	w := &l.writer
	began := l.timings.now()
	if err := w.file.sync(); err != nil {
		return fmt.Errorf("sync LSN %d to %d in %s: %w", g.first(), g.last(), w.seg.place(), err)
	}
	g.synced = l.timings.now() - began
	failpoint.Hit("wal-after-sync")
	if rolled {
		failpoint.Hit("wal-after-activate")
	}
	return nil
}

// writeRest writes b, the last of a group, in the next segment if there is no room.
func (l *Log) writeRest(b *batch) (rolled bool, err error) {
	if !l.hasRoom(b.frames) { // it is a group of its own: all before it is durable
		err = l.roll()
		rolled = true
	}
	if err == nil {
		err = l.writeBatch(b)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.writing, l.mu.syncing, l.mu.noRoom = false, err == nil, false
	if l.mayWriteAhead() {
		wake(l.ahead)
	}
	return rolled, err
}

// hasRoom reports whether f belongs to the active segment.
func (l *Log) hasRoom(f *frames) bool {
	w := &l.writer
	room := min(l.o.SegmentBytes, w.file.room())
	return w.end.offset <= w.seg.headerEnd || w.end.offset+l.sizeOnDisk(f) <= room
}

func (l *Log) sizeOnDisk(f *frames) int64 {
	size, start := int64(len(f.buf)), 0
	for _, end := range f.ends {
		size += int64(l.engine.prefixLen(end - start))
		start = end
	}
	return size
}

// writeBatch writes b to the active segment.
func (l *Log) writeBatch(b *batch) error {
	w := &l.writer
	l.stamp(b)
	failpoint.Hit("wal-before-write")
	if err := w.file.append(b.frames.buf, b.frames.ends); err != nil {
		return fmt.Errorf("write LSN %d to %d to %s: %w", b.first, b.last(), w.seg.place(), err)
	}
	failpoint.Hit("wal-after-write")
	b.seg, b.end = w.seg, w.end
	return nil
}

// stamp completes b's frames for the place they get.
func (l *Log) stamp(b *batch) {
	w := &l.writer
	start := 0
	for _, end := range b.frames.ends {
		w.end.offset += int64(l.engine.prefixLen(end - start))
		w.end.crc = w.seed.stamp(b.frames.buf[start:end], b.durable, w.end.offset)
		w.end.offset += int64(end - start)
		start = end
	}
	w.end.last = b.last()
}

// settle publishes the outcome of g.
func (l *Log) settle(g *group, err error) {
	if g.empty() {
		l.settleProof(g, err)
		return
	}
	l.mu.Lock()
	if err != nil {
		l.poisonLocked(err)
	}
	if err = l.mu.err; err == nil {
		l.publish(g)
	}
	l.mu.inflight, l.mu.inflightBytes, l.mu.syncing = nil, 0, false
	askAgain := err == nil && l.mu.space.written-l.mu.space.askedAt >= l.o.spaceStep()
	l.mu.Unlock()
	if err == nil {
		l.timings.settled(g)
	}
	for _, b := range g.batches {
		b.settle(err)
	}
	if err == nil {
		l.idle.Reset(watermarkDelay)
	}
	if askAgain {
		l.askSpace()
	}
	l.recycle(g)
}

// publish counts a durable group. Under mu.
func (l *Log) publish(g *group) {
	s := &l.mu.stats
	for _, b := range g.batches {
		active := l.mu.segments[len(l.mu.segments)-1]
		grown := b.end.offset - active.end.offset
		if active != b.seg {
			grown = b.end.offset
			l.mu.segments = append(l.mu.segments, b.seg)
		}
		b.seg.reach(b.end)
		l.mu.space.bytes += grown
		l.mu.space.written += grown
		s.Records += uint64(len(b.queued))
		s.PayloadBytes += b.payload
	}
	l.mu.durable = g.last()
	s.Syncs++
	s.Groups++
}

// recycle keeps g's memory for later ones. It is the last that is done for a group.
func (l *Log) recycle(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.committing = false
	if l.mu.leading {
		l.endLead()
	}
	for _, b := range g.batches {
		l.mu.queue.recycle(b, l.o.GroupBytes)
	}
}

// order asks the preparer for a segment and hands it the one before, to seal.
type order struct {
	seq  uint64
	seal segmentFile
}

// prepared is an empty segment whose file and directory entries are durable.
type prepared struct {
	seq  uint64
	dir  string
	file segmentFile
	err  error
}

// prepareLoop makes the next segment while the current one fills.
func (l *Log) prepareLoop() {
	for {
		select {
		case <-l.stop:
			return
		case o := <-l.prepare:
			next := l.prepareSegment(o.seq)
			if next.err != nil {
				l.poison(fmt.Errorf("prepare segment %016x: %w", next.seq, next.err))
			}
			l.prepared <- next
			if o.seal != nil {
				l.sealFile(o.seal)
			}
		}
	}
}

func (l *Log) sealFile(file segmentFile) {
	if l.Err() != nil {
		file.abandon()
		return
	}
	if err := file.seal(); err != nil {
		l.poison(fmt.Errorf("seal a segment: %w", err))
	}
}

func (l *Log) prepareSegment(seq uint64) prepared {
	p := prepared{seq: seq, dir: filepath.Join(l.dir, "segments", segmentName(seq))}
	if p.err = l.o.FS.MkdirAll(p.dir, 0o755); p.err != nil {
		return p
	}
	spare := l.takeSpare()
	p.file, p.err = l.engine.create(l.o.FS, p.dir, spare)
	if p.err != nil {
		return p
	}
	if spare != "" {
		l.delete(filepath.Dir(spare))
	}
	if p.err = l.o.FS.SyncDir(p.dir); p.err == nil {
		p.err = l.o.FS.SyncDir(filepath.Dir(p.dir))
	}
	if p.err != nil {
		p.file.abandon()
		p.file = nil
	}
	return p
}

// roll goes on in the prepared segment. The one before is complete and synced;
// the new header becomes durable with the first group after it.
func (l *Log) roll() error {
	next := <-l.prepared
	if next.err != nil {
		return next.err // the log is poisoned by it already
	}
	before := l.writer.file
	if err := l.activate(next, l.writer.end); err != nil {
		before.abandon()
		return err
	}
	failpoint.Hit("wal-mid-roll")
	l.prepare <- order{seq: next.seq + 1, seal: before}
	select {
	case l.rolled <- struct{}{}:
	default:
	}
	return nil
}

// activate writes the header of a prepared segment and makes it the writer's.
func (l *Log) activate(next prepared, pred segmentEnd) error {
	first := pred.last + 1
	l.mu.Lock()
	if len(l.mu.segments) > 0 {
		first = l.first()
	}
	l.mu.Unlock()
	h := segmentHeader{
		stream:       l.stream,
		seq:          next.seq,
		base:         pred.last + 1,
		boot:         l.boot,
		pred:         pred,
		incarnations: l.incarnations.keptFrom(first),
	}
	b, err := h.frame()
	if err != nil {
		return err
	}
	offset := int64(l.engine.prefixLen(len(b)))
	crc := h.seed().stamp(b, pred.last, offset)
	end := offset + int64(len(b))
	l.writer = writer{
		file: next.file,
		seg: &segment{seq: h.seq, base: h.base, boot: h.boot, incarnation: h.incarnation(),
			layout: l.engine, headerEnd: end},
		seed: h.seed(),
		end:  segmentEnd{end, pred.last, crc},
	}
	if err := next.file.append(slices.Grow(b, appendSlack), []int{len(b)}); err != nil {
		return fmt.Errorf("write the header of %s: %w", l.writer.seg.place(), err)
	}
	return nil
}

// watermarkLoop writes the watermark when the log falls idle, and after a roll.
func (l *Log) watermarkLoop() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.rolled:
		case <-l.idle.C:
			if l.busy() {
				continue // the next settle sets the timer again
			}
		}
		if l.Err() != nil {
			continue
		}
		if err := l.writeWatermark(1); err != nil {
			l.poison(err)
		}
	}
}

func (l *Log) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.inflight != nil || l.mu.queue.records > 0
}

func (l *Log) writeWatermark(times int) error {
	return l.mark.write(times, l.watermarkNow)
}

// watermarkNow is what is durable now, in a slot that otherwise says w.
func (l *Log) watermarkNow(w watermark) watermark {
	l.mu.Lock()
	defer l.mu.Unlock()
	active := l.mu.segments[len(l.mu.segments)-1]
	w.stream, w.incarnation, w.clean = l.stream, active.incarnation, false
	w.segment, w.end, w.durable = active.seq, active.end.offset, l.mu.durable
	return w
}
