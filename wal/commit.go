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

// writer is the active segment as the committer sees it: end runs ahead of
// what is durable. Only the committer uses it, before it begins begin, after it
// ended close.
type writer struct {
	file segmentFile
	seg  *segment
	seed seed
	end  segmentEnd
}

// publish makes what was synced visible in the segment. Under mu.
func (w *writer) publish() { w.seg.end = w.end }

// commitLoop is the committer: it makes one group durable after the other.
func (l *Log) commitLoop() {
	defer close(l.drained)
	for {
		g := l.takeGroup()
		if g == nil {
			return
		}
		l.settle(g, l.write(g))
		// Those that this settled come back first: their next records go into one
		// group, instead of a small one at once and the rest an fsync later.
		runtime.Gosched()
	}
}

// takeGroup waits for records and takes the group they are in; nil: the log
// has ended, and what was waiting for more of it knows.
func (l *Log) takeGroup() *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &l.mu.queue
	for l.mu.err == nil && q.group.empty() && !q.group.prove {
		if l.mu.sealed {
			l.mu.drained = true
			q.group.err = ErrClosed
			close(q.group.done)
			return nil
		}
		l.mu.Unlock()
		<-l.kick
		l.mu.Lock()
	}
	if l.mu.err != nil {
		q.group.err = l.mu.err
		close(q.group.done)
		return nil
	}
	g := q.group
	l.mu.inflight = g
	q.group = &group{}
	if n := len(q.spare); n > 0 {
		q.group, q.spare = q.spare[n-1], q.spare[:n-1]
	}
	q.group.settlement = newSettlement()
	q.grant(l.o.GroupBytes)
	return g
}

// write makes g durable.
func (l *Log) write(g *group) error {
	if g.empty() {
		return l.prove()
	}
	w := &l.writer
	rolled := false
	room := min(l.o.SegmentBytes, w.file.room())
	if w.end.offset > w.seg.headerEnd && w.end.offset+l.sizeOnDisk(g) > room {
		if err := l.roll(); err != nil {
			return err
		}
		rolled = true
	}
	l.stamp(g)
	failpoint.Hit("wal-before-write")
	if err := w.file.append(g.buf, g.ends); err != nil {
		return fmt.Errorf("write LSN %d to %d to %s: %w", g.first, g.last(), w.seg.place(), err)
	}
	failpoint.Hit("wal-after-write")
	failpoint.Hit("wal-before-sync")
	began := l.timings.now()
	if err := w.file.sync(); err != nil {
		return fmt.Errorf("sync LSN %d to %d in %s: %w", g.first, g.last(), w.seg.place(), err)
	}
	g.synced = l.timings.now() - began
	failpoint.Hit("wal-after-sync")
	if rolled {
		failpoint.Hit("wal-after-activate")
	}
	return nil
}

func (l *Log) sizeOnDisk(g *group) int64 {
	size, start := int64(len(g.buf)), 0
	for _, end := range g.ends {
		size += int64(l.engine.prefixLen(end - start))
		start = end
	}
	return size
}

// stamp completes g's frames for the place they get.
func (l *Log) stamp(g *group) {
	w := &l.writer
	durable := g.first - 1 // groups are written one after the other
	start := 0
	for _, end := range g.ends {
		w.end.offset += int64(l.engine.prefixLen(end - start))
		w.end.crc = w.seed.stamp(g.buf[start:end], durable, w.end.offset)
		w.end.offset += int64(end - start)
		start = end
	}
	w.end.last = g.last()
}

// settle publishes the outcome of g. The ring comes first: a reader that is
// woken finds the records there.
func (l *Log) settle(g *group, err error) {
	if g.empty() {
		l.settleProof(g, err)
		return
	}
	if err == nil {
		l.ring.add(g.first, g.buf, g.ends)
	}
	l.mu.Lock()
	if err != nil {
		l.poisonLocked(err)
	}
	if g.err = l.mu.err; g.err == nil {
		l.publish(g)
	}
	l.mu.inflight = nil
	askAgain := g.err == nil && l.mu.space.written-l.mu.space.askedAt >= l.o.spaceStep()
	l.mu.Unlock()
	if g.err == nil {
		l.timings.settled(g.queued, g.synced)
	}
	close(g.done)
	if g.err == nil {
		l.idle.Reset(watermarkDelay)
	}
	l.recycle(g)
	if askAgain {
		l.askSpace()
	}
}

// publish counts a durable group. Under mu.
func (l *Log) publish(g *group) {
	w := &l.writer
	active := l.mu.segments[len(l.mu.segments)-1]
	grown := w.end.offset - active.end.offset
	if active != w.seg {
		grown = w.end.offset
		l.publishSegment()
	}
	w.publish()
	l.mu.durable = g.last()
	l.mu.space.bytes += grown
	l.mu.space.written += grown
	s := &l.mu.stats
	s.Syncs++
	s.Groups++
	s.Records += uint64(len(g.ends))
	s.PayloadBytes += g.payload
}

// publishSegment adds the writer's segment to those kept. Under mu.
func (l *Log) publishSegment() { l.mu.segments = append(l.mu.segments, l.writer.seg) }

// recycle keeps g's buffer for a later group, unless it grew beyond the usual.
func (l *Log) recycle(g *group) {
	if cap(g.buf) > 2*l.o.GroupBytes {
		return
	}
	*g = group{buf: g.buf[:0], ends: g.ends[:0], queued: g.queued[:0]} // tickets hold the settlement
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := &l.mu.queue; len(q.spare) < 2 {
		q.spare = append(q.spare, g)
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
	return l.mu.inflight != nil || len(l.mu.queue.group.ends) > 0
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
