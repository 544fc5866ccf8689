package accept

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// order makes the accepted time rise with the LSN, whatever the wall clock does:
// time and LSN are taken under one lock, and the time is never below the last.
type order struct {
	lock mutex
	// last is the accepted time of the last record, Unix nanoseconds. It is set
	// under lock, before the record can become durable.
	last atomic.Int64
}

// clock is the time that a write accepted now would get at least.
func (a *Acceptor) clock() time.Time {
	return unixTime(max(a.order.last.Load(), a.o.Now().UnixNano()))
}

// enqueue gives w its accepted time and LSN. ok is false, and nothing was
// queued, if what the preconditions found has ended by then.
func (a *Acceptor) enqueue(ctx context.Context, w *write) (ok bool, err error) {
	if err := a.order.lock.lock(ctx); err != nil {
		return false, err
	}
	defer a.order.lock.unlock()
	accepted := max(a.order.last.Load(), a.o.Now().UnixNano(), w.notBefore)
	if w.until != 0 && accepted >= w.until {
		return false, nil
	}
	// Under the lock: nobody else comes between this and the LSN.
	if err := w.admit(len(w.payload)); err != nil {
		return false, err
	}
	a.order.last.Store(accepted)
	if w.request != nil {
		a.requests.enqueuing()
	}
	payload := mutation.AppendAccepted(w.payload, accepted)
	*w.buffer = payload[:0] // it may have grown
	enqueue := a.log.Enqueue
	if w.toLead {
		enqueue = a.log.EnqueueToLead
	}
	ticket, err := enqueue(ctx, payload)
	if w.request != nil {
		a.requests.enqueued(w.request, ticket, accepted, err)
	}
	if err != nil {
		return false, err
	}
	w.added(ticket.LSN, len(payload))
	failpoint.Hit("accept-after-enqueue")
	a.requests.grown()
	w.ticket, w.accepted = ticket, accepted
	return true, nil
}

// Pending is a write that has its LSN.
type Pending struct {
	result Result
	ticket wal.Ticket
	stored bool // durable long since; there is no ticket
	route  *route
}

// Result of a write.
type Result struct {
	LSN wal.LSN
	// Repeat: the request id was seen before and LSN is the original's.
	Repeat bool
	// EventCount after an append_event under if_event_count, when known; else 0.
	EventCount uint64
}

var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Route is the number of the route that the write takes, for Acceptor.Routed. ok
// is false for a repeat: its original's may have been another.
func (p *Pending) Route() (number int, ok bool) {
	if p.route == nil {
		return 0, false
	}
	return p.route.number, true
}

// LSN of the write (the original's for a repeat); known at once.
func (p *Pending) LSN() wal.LSN { return p.result.LSN }

// Done is closed when the outcome is known.
func (p *Pending) Done() <-chan struct{} {
	if p.stored {
		return closed
	}
	return p.ticket.Done()
}

// Wait returns once the write is durable; see wal.Ticket. The result is filled
// in whatever the error.
func (p *Pending) Wait(ctx context.Context) (Result, error) {
	if p.stored {
		return p.result, nil
	}
	p.ticket.Lead()
	return p.result, p.ticket.Wait(ctx)
}

// unixTime is the inverse of time.Time.UnixNano.
func unixTime(nanos int64) time.Time { return time.Unix(0, nanos) }
