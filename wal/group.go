package wal

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"time"
)

// settlement is the outcome of a group, shared by its tickets.
type settlement struct {
	done chan struct{} // closed once err is set
	err  error
}

func newSettlement() *settlement { return &settlement{done: make(chan struct{})} }

// group is what one fsync makes durable: frames back to back, without the
// engine's prefixes and without what only the committer knows.
type group struct {
	*settlement
	buf     []byte
	ends    []int           // of each frame in buf
	queued  []time.Duration // when each record came, by timings.now
	synced  time.Duration   // how long the fsync took
	first   LSN
	payload uint64 // bytes of all payloads
	prove   bool   // somebody waits for it even if it holds nothing: see Prove
}

// empty says that there is nothing in it to make durable.
func (g *group) empty() bool { return len(g.ends) == 0 }

func (g *group) last() LSN { return g.first + LSN(len(g.ends)) - 1 }

// add encodes a record. Its LSN is the next one.
func (g *group) add(lsn LSN, payload []byte, crc uint32, queued time.Duration) {
	if len(g.ends) == 0 {
		g.first = lsn
	}
	var header [frameHeaderSize]byte
	putFrame(header[:], kindRecord, lsn, len(payload), crc)
	g.buf = slices.Grow(g.buf, len(header)+len(payload)+appendSlack)
	g.buf = append(g.buf, header[:]...)
	g.buf = append(g.buf, payload...)
	g.ends = append(g.ends, len(g.buf))
	g.queued = append(g.queued, queued)
	g.payload += uint64(len(payload))
}

// Ticket stands for a queued record.
type Ticket struct {
	LSN        LSN
	settlement *settlement
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
	select {
	case <-t.settlement.done:
		return t.settlement.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var closedChannel = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done is closed when the record's group was settled, one way or the other.
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

// queue is the group being filled, and who waits for room in it.
type queue struct {
	group    *group
	reserved int // bytes granted to waiters that have not taken them yet
	holders  int // how many these are
	waiters  list.List
	spare    []*group // buffers for the next groups
}

// fits reports whether a frame of size bytes has room.
func (q *queue) fits(size, limit int) bool {
	used, count := len(q.group.buf)+q.reserved, len(q.group.ends)+q.holders
	return count == 0 || used+size <= limit && count < maxGroupCount
}

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
// it returns ctx's cause and the outcome is unknown unless the LSN is 0.
func (l *Log) Append(ctx context.Context, payload []byte) (LSN, error) {
	t, err := l.Enqueue(ctx, payload)
	if err != nil {
		return 0, err
	}
	return t.LSN, t.Wait(ctx)
}

// Enqueue gives payload its LSN and queues it for the next group; it blocks only
// while the queue is full. payload is copied. An error means that nothing was
// queued. Once it returns, ctx's end does not pull the record back.
func (l *Log) Enqueue(ctx context.Context, payload []byte) (Ticket, error) {
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
	q.group.add(l.mu.appended, payload, crc, queued)
	if len(q.group.ends) == 1 {
		l.kickCommitter()
	}
	return Ticket{l.mu.appended, q.group.settlement}, nil
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

// kickCommitter wakes the committer if it sleeps.
func (l *Log) kickCommitter() {
	select {
	case l.kick <- struct{}{}:
	default: // it will look anyway
	}
}
