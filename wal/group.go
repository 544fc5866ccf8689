package wal

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"time"
)

// settlement is the outcome of a batch, shared by its tickets.
type settlement struct {
	done chan struct{} // closed once err is set
	err  error
}

func newSettlement() *settlement { return &settlement{done: make(chan struct{})} }

// settle tells everybody who waits.
func (s *settlement) settle(err error) {
	s.err = err
	close(s.done)
}

// batch is what is written at once.
type batch struct {
	*settlement
	frames  *frames
	size    int             // bytes of all frames
	queued  []time.Duration // when each record came, by timings.now
	first   LSN
	payload uint64 // bytes of all payloads
	prove   bool   // somebody waits for it even if it holds nothing: see Prove

	durable LSN      // when it was taken to be written
	seg     *segment // where it was written
	end     segmentEnd
}

// frames are back to back, without the engine's prefixes and without what is known
// only when they are written.
type frames struct {
	buf  []byte
	ends []int // of each frame in buf
}

// empty says that there is nothing in it to make durable.
func (b *batch) empty() bool { return len(b.queued) == 0 }

func (b *batch) last() LSN { return b.first + LSN(len(b.queued)) - 1 }

// add encodes a record. Its LSN is the next one.
func (b *batch) add(lsn LSN, payload []byte, crc uint32, queued time.Duration) {
	if b.empty() {
		b.first = lsn
	}
	var header [frameHeaderSize]byte
	putFrame(header[:], kindRecord, lsn, len(payload), crc)
	f := b.frames
	f.buf = slices.Grow(f.buf, len(header)+len(payload)+appendSlack)
	f.buf = append(f.buf, header[:]...)
	f.buf = append(f.buf, payload...)
	f.ends = append(f.ends, len(f.buf))
	b.size = len(f.buf)
	b.queued = append(b.queued, queued)
	b.payload += uint64(len(payload))
}

// group is what one fsync makes durable: batches in a row.
type group struct {
	batches []*batch
	rest    *batch // the last one, if it is not yet written
	synced  time.Duration
}

func (g *group) first() LSN { return g.batches[0].first }

func (g *group) last() LSN { return g.batches[len(g.batches)-1].last() }

// empty says that there is nothing in it to make durable.
func (g *group) empty() bool { return g.batches[0].empty() }

// size is the bytes of its frames.
func (g *group) size() (n int) {
	for _, b := range g.batches {
		n += b.size
	}
	return n
}

// Ticket stands for a queued record.
type Ticket struct {
	LSN        LSN
	settlement *settlement
	leads      *Log // see Lead; nil: there is nothing for it to do
}

// Wait returns nil once the record is durable; ErrPoisoned: unknown; ctx's
// cause: unknown.
func (t Ticket) Wait(ctx context.Context) error {
	if t.settlement == nil {
		return ErrClosed
	}
	select {
	case <-t.settlement.done:
		return t.settlement.err
	default:
	}
	ended := ctx.Done()
	if ended == nil { // to wait for one channel alone costs half
		<-t.settlement.done
		return t.settlement.err
	}
	select {
	case <-t.settlement.done:
		return t.settlement.err
	case <-ended:
		return context.Cause(ctx)
	}
}

var closedChannel = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done is closed when the record's batch was settled, one way or the other.
func (t Ticket) Done() <-chan struct{} {
	if t.settlement == nil {
		return closedChannel
	}
	return t.settlement.done
}

// Err is the outcome after Done: nil is durable.
func (t Ticket) Err() error {
	if t.settlement == nil {
		return ErrClosed
	}
	return t.settlement.err
}

// waiter is an Enqueue that waits for room in the queue. They are served in
// the order of their arrival.
type waiter struct {
	size    int
	ready   chan struct{} // closed when granted or when the log ends
	granted bool          // its room is in queue.reserved
}

// queue is the next group, and who waits for room in it.
type queue struct {
	written  []*batch // its first ones, which are written
	filling  *batch   // its last one
	bytes    int      // of all of them, one that is being written included
	records  int      // in them
	reserved int      // bytes granted to waiters that have not taken them yet
	holders  int      // how many these are
	waiters  list.List
	spare    []*batch  // for the next ones
	buffers  []*frames // likewise
}

// fits reports whether a frame of size bytes has room.
func (q *queue) fits(size, limit int) bool {
	count := q.records + q.holders
	return count == 0 || q.bytes+q.reserved+size <= limit && count < maxGroupCount
}

// next begins a batch and returns the one before.
func (q *queue) next() *batch {
	full := q.filling
	q.filling = &batch{}
	if n := len(q.spare); n > 0 {
		q.filling, q.spare = q.spare[n-1], q.spare[:n-1]
	}
	q.filling.settlement = newSettlement()
	q.filling.frames = &frames{}
	if n := len(q.buffers); n > 0 {
		q.filling.frames, q.buffers = q.buffers[n-1], q.buffers[:n-1]
	}
	return full
}

// recycle keeps the memory of b, which is settled, for a later one.
func (q *queue) recycle(b *batch, limit int) {
	q.recycleFrames(b, limit)
	if len(q.spare) < batchesKept {
		*b = batch{queued: b.queued[:0]} // tickets hold the settlement
		q.spare = append(q.spare, b)
	}
}

// recycleFrames keeps the buffer of b, which is written, unless it grew beyond the usual.
func (q *queue) recycleFrames(b *batch, limit int) {
	f := b.frames
	b.frames = nil
	if f != nil && cap(f.buf) <= 2*limit && len(q.buffers) < buffersKept {
		f.buf, f.ends = f.buf[:0], f.ends[:0]
		q.buffers = append(q.buffers, f)
	}
}

const (
	buffersKept = 2  // besides the one that is filled and the one that is written
	batchesKept = 64 // without their buffers
)

// grant gives room to those that wait, first come first served.
func (q *queue) grant(limit int) {
	for e := q.waiters.Front(); e != nil; e = q.waiters.Front() {
		w := e.Value.(*waiter)
		if !q.fits(w.size, limit) {
			return
		}
		w.granted = true
		q.reserved += w.size
		q.holders++
		q.waiters.Remove(e)
		close(w.ready)
	}
}

// take gives a granted waiter's room back, for it to use at once or not at all.
func (q *queue) take(w *waiter) {
	q.reserved -= w.size
	q.holders--
}

// dismiss wakes everybody who waits: the log ends.
func (q *queue) dismiss() {
	for e := q.waiters.Front(); e != nil; e = q.waiters.Front() {
		close(e.Value.(*waiter).ready)
		q.waiters.Remove(e)
	}
}

// Append adds payload and returns its LSN once it is durable. If ctx ends first
// it returns ctx's cause and the outcome is unknown unless the LSN is 0. Where ctx never
// ends, and nobody else writes, the fsync may be made on the caller's own goroutine.
func (l *Log) Append(ctx context.Context, payload []byte) (LSN, error) {
	// Nothing bounds the wait of who has no end to it: it may sync by itself.
	t, err := l.enqueue(ctx, payload, ctx.Done() == nil)
	if err != nil {
		return 0, err
	}
	t.Lead()
	return t.LSN, t.Wait(ctx)
}

// Enqueue gives payload its LSN and queues it for the next group; it blocks only
// while the queue is full. payload is copied. An error means that nothing was
// queued. Once it returns, ctx's end does not pull the record back.
func (l *Log) Enqueue(ctx context.Context, payload []byte) (Ticket, error) {
	return l.enqueue(ctx, payload, false)
}

// enqueue is Enqueue; toLead: EnqueueToLead.
func (l *Log) enqueue(ctx context.Context, payload []byte, toLead bool) (Ticket, error) {
	if len(payload) > l.o.MaxRecordBytes {
		return Ticket{}, fmt.Errorf("%w: %d bytes; the limit is %d", ErrTooLarge, len(payload), l.o.MaxRecordBytes)
	}
	if ctx.Err() != nil {
		return Ticket{}, context.Cause(ctx)
	}
	queued := l.timings.now()
	crc := payloadCRC(payload)
	size := frameHeaderSize + len(payload)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admit(size); err != nil {
		return Ticket{}, err
	}
	q := &l.mu.queue
	if q.waiters.Len() > 0 || !q.fits(size, l.o.GroupBytes) {
		if err := l.awaitRoom(ctx, size); err != nil {
			return Ticket{}, err
		}
	}
	l.mu.appended++
	b := q.filling
	b.add(l.mu.appended, payload, crc, queued)
	q.bytes += size
	q.records++
	t := Ticket{LSN: l.mu.appended, settlement: b.settlement}
	if l.mu.committing || q.records > 1 {
		l.mu.alone = 0
	}
	switch {
	case toLead && q.records == 1 && l.mu.alone >= aloneMin:
		l.mu.promised, t.leads = true, l
	case q.records == 1 || l.mu.promised:
		l.mu.promised = false
		wake(l.kick)
	}
	if l.mayWriteAhead() {
		wake(l.ahead)
	}
	return t, nil
}

// admit returns why a record of size cannot be queued at all, under mu.
func (l *Log) admit(size int) error {
	if err := l.refusal(); err != nil {
		return err
	}
	return l.checkSpace(size)
}

// refusal is why the log takes nothing any more, under mu.
func (l *Log) refusal() error {
	switch {
	case l.mu.err != nil:
		return l.mu.err
	case l.mu.sealed:
		return ErrClosed
	}
	return nil
}

// awaitRoom waits, with mu released meanwhile, until the queue has room for
// size; it does so under mu when it returns nil.
func (l *Log) awaitRoom(ctx context.Context, size int) error {
	q := &l.mu.queue
	w := &waiter{size: size, ready: make(chan struct{})}
	element := q.waiters.PushBack(w)
	l.mu.Unlock()
	var cause error
	select {
	case <-w.ready:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	l.mu.Lock()
	if w.granted {
		q.take(w)
	} else if cause != nil {
		q.waiters.Remove(element)
	}
	if cause == nil {
		// Not admit: that could let go of mu, and somebody else take the room.
		if cause = l.refusal(); cause == nil {
			cause = l.spaceLeft(size)
		}
	}
	if cause != nil {
		q.grant(l.o.GroupBytes)
	}
	return cause
}

// wake wakes who waits for c, or will.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will look anyway
	}
}
