package replay

import (
	"context"
	"errors"
	"time"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// lane is one share of the keys. The pipeline's mu covers it.
type lane struct {
	index   int
	feed    *feed         // that gives it records; fixed
	from    wal.LSN       // checkpoint when the pipeline began; fixed
	stored  sinks.Point   // checkpoint in the sink
	queue   []item        // to be applied, in LSN order
	bytes   int           // of the log, in queue
	since   time.Time     // when the first of queue could have been taken
	taken   time.Time     // when the last flight was
	landed  time.Time     // ... and when it had landed
	flight  []item        // handed to the sink, not all of it answered yet
	counted int           // of flight: the checkpoint has passed them, and that is counted
	passed  wal.LSN       // with a flight: every record of the lane up to it is applied or a dead letter
	flying  bool          // a batch, possibly without records, is in flight
	due     bool          // the checkpoint is to move even without records
	wake    chan struct{} // token: look again
	waiters []*keyWaiter

	// The feed's goroutine's alone: records of its chunk, and their payloads.
	ahead []item
	slab  slab
}

// item is a queued record. Its Body and Accepted are missing until the lane
// decodes payload. previous is the record of any lane before it in the log: as
// far as a checkpoint may go that does not cover it.
type item struct {
	sinks.Record
	previous wal.LSN
	payload  string
}

// pushAhead queues what is ahead and wakes the lane if that changes what it waits
// for.
func (ln *lane) pushAhead(s size) {
	was := len(ln.queue)
	for i := range ln.ahead {
		ln.bytes += ln.ahead[i].Bytes
	}
	ln.queue = append(ln.queue, ln.ahead...)
	clear(ln.ahead)
	ln.ahead = ln.ahead[:0]
	if was == 0 {
		ln.since = time.Now()
	}
	if was == 0 || ln.full(s) {
		signal(ln.wake)
	}
}

func (ln *lane) full(s size) bool {
	return len(ln.queue) >= s.records || ln.bytes >= s.bytes
}

// applied is the LSN up to which everything of this lane is applied.
func (ln *lane) applied() wal.LSN {
	switch {
	case len(ln.flight) > 0:
		return ln.passed
	case len(ln.queue) > 0:
		return ln.queue[0].LSN - 1
	}
	return max(ln.feed.read, ln.stored.LSN)
}

// reach is how far the checkpoint may go once the flight has landed: up to the
// record before the next one of this lane, whoever that belongs to.
func (ln *lane) reach() wal.LSN {
	if len(ln.queue) > 0 {
		return ln.queue[0].previous
	}
	return ln.feed.last
}

// take moves the next batch's records to the flight.
func (ln *lane) take(s size) {
	n, bytes := 0, 0
	for n < len(ln.queue) && n < s.records && (n == 0 || bytes+ln.queue[n].Bytes <= s.bytes) {
		bytes += ln.queue[n].Bytes
		n++
	}
	ln.flight, ln.counted = ln.queue[:n:n], 0
	ln.queue = ln.queue[n:]
	if n > 0 {
		ln.passed = ln.flight[0].LSN - 1
	}
	if len(ln.queue) == 0 {
		ln.queue = nil // the array goes with the flight
	}
	ln.bytes -= bytes
	ln.since = time.Now()
	ln.taken = ln.since
}

// errExited: a sink ended the goroutine that called it.
var errExited = errors.New("the sink ended its caller's goroutine (runtime.Goexit)")

// runLane applies ln's batches until stop ends, the loop halts, or nothing more
// comes.
func (p *pipeline) runLane(stop, work context.Context, ln *lane) {
	returned := false
	defer func() {
		if !returned {
			p.halt(&HaltError{Sink: p.loop.o.Name, Err: errExited})
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		to, wait, end := p.next(stop, ln)
		if end {
			break
		}
		if to != 0 {
			if !p.fly(stop, work, ln, to) {
				break
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ln.wake:
		case <-timer.C:
		case <-stop.Done():
		}
	}
	returned = true
}

// next fills ln's flight and returns where the checkpoint goes with it, or 0 and
// how long to wait unless woken, or that the lane is done.
func (p *pipeline) next(stop context.Context, ln *lane) (to wal.LSN, wait time.Duration, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stop.Err() != nil {
		return 0, 0, true
	}
	if len(ln.queue) == 0 {
		switch {
		case ln.feed.ended:
			return 0, 0, true
		case ln.due && !p.alone && ln.feed.last > ln.stored.LSN:
		default:
			ln.due = ln.due && ln.feed.last > ln.stored.LSN
			return 0, time.Hour, false
		}
	} else if left := p.lingerLocked(ln); left > 0 {
		return 0, left, false
	}
	ln.take(p.size)
	ln.due, ln.flying = false, true
	p.flying++
	return ln.reach(), 0, false
}

// lingerLocked is how long ln's batch may still wait for more.
func (p *pipeline) lingerLocked(ln *lane) time.Duration {
	o := &p.loop.o
	if ln.feed.flush || p.alone || o.Batch.Linger < 0 || ln.full(p.size) || uint64(ln.queue[0].LSN) <= p.loop.marks.wanted.Load() {
		return 0
	}
	left := o.Batch.Linger - time.Since(ln.since)
	if o.Batch.Rest < 0 || left <= 0 {
		return left
	}
	rest := min(o.Batch.Rest*float64(ln.landed.Sub(ln.taken)), float64(o.Batch.Linger)) // which a Duration has room for
	return min(left, time.Duration(rest)-time.Since(ln.landed))
}
