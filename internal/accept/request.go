package accept

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// requests knows the request ids of the window. An id goes from reserved (its
// write is being accepted) over logged (it has an LSN, which may not be durable)
// to stored (in the state store); the first two are in memory, bounded.
type requests struct {
	log    *wal.Log
	store  *state.Store
	logger *zap.Logger
	now    func() time.Time
	age    time.Duration
	keep   int
	clock  *atomic.Int64 // the last accepted time

	mu struct {
		sync.Mutex
		open   map[requestKey]*request // reserved and logged
		logged []*request              // in LSN order
		// floor is a lower bound of the LSN of the write being enqueued, 0 if
		// there is none: only one is, under the order lock.
		floor wal.LSN
		mark  wal.LSN // every id up to it is stored
		err   error   // of the last attempt to store
		// change is closed when open shrinks or floor falls; nil: nobody waits.
		change chan struct{}
	}

	closing <-chan struct{} // ends every wait
	dirty   chan struct{}   // capacity 1: something was logged
	full    chan struct{}   // capacity 1: store now
	stopped chan struct{}
	loop    sync.WaitGroup
	filter  *filter
	storing sync.Mutex // one store at a time; also guards what follows
	last    lastDone
	scanned string // the filter has the stored ids up to it
}

type requestKey struct{ principal, id string }

type request struct {
	key  requestKey
	hash [16]byte
	// settled is closed once ticket is set or the id is free again; nil: nobody waits.
	// Under mu.
	settled  chan struct{}
	ticket   wal.Ticket // LSN 0: reserved, or free again
	accepted int64
	isNew    bool // the state store has nothing under the id
	filtered bool // the filter has it; under storing
}

const (
	// requestsOpenMax bounds the ids in memory. Beyond it new ones wait.
	requestsOpenMax = 1 << 16
	// requestsBatch is how many logged ids are stored at once, and when at once.
	requestsBatch = 4096
)

func newRequests(log *wal.Log, store *state.Store, o Options, clock *atomic.Int64) *requests {
	r := &requests{
		log: log, store: store, logger: o.Logger, now: o.Now, age: o.Window.Age, keep: o.Window.Count, clock: clock,
		dirty:   make(chan struct{}, 1),
		full:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	r.mu.open = map[requestKey]*request{}
	r.filter = newFilter(o.Window.Count)
	return r
}

// begin reserves id for a first write, or returns the original's answer.
func (r *requests) begin(ctx context.Context, id requestKey, hash [16]byte) (*request, *Pending, error) {
	mine, err := r.reserve(ctx, id, hash)
	if err != nil {
		return nil, nil, err
	}
	if mine.ticket.LSN != 0 {
		if mine.hash != hash {
			return nil, nil, ErrRequestMismatch
		}
		return nil, &Pending{ticket: mine.ticket, result: Result{LSN: mine.ticket.LSN, Repeat: true}}, nil
	}
	if !r.filter.may(id) {
		if err := ctx.Err(); err != nil {
			r.abort(mine)
			return nil, nil, context.Cause(ctx)
		}
		mine.isNew = true
		return mine, nil, nil
	}
	stored, ok, err := r.store.LookupRequest(ctx, id.principal, id.id)
	if err == nil && (!ok || stored.Accepted.Before(r.now().Add(-r.age))) {
		mine.isNew = !ok
		return mine, nil, nil
	}
	r.abort(mine)
	switch {
	case err != nil:
		return nil, nil, err
	case stored.PayloadHash != hash:
		return nil, nil, ErrRequestMismatch
	}
	return nil, &Pending{stored: true, result: Result{LSN: stored.LSN, Repeat: true}}, nil
}

// reserve returns a new reservation, or another's request that has its LSN. It
// waits while another write with the id is being accepted, or too many are.
func (r *requests) reserve(ctx context.Context, id requestKey, hash [16]byte) (*request, error) {
	for {
		r.mu.Lock()
		other := r.mu.open[id]
		if other != nil && other.ticket.LSN != 0 {
			r.mu.Unlock()
			return other, nil
		}
		if other == nil && len(r.mu.open) < requestsOpenMax {
			mine := &request{key: id, hash: hash}
			r.mu.open[id] = mine
			r.mu.Unlock()
			return mine, nil
		}
		wait, err := r.wait(other), r.mu.err
		r.mu.Unlock()
		if other == nil && err != nil {
			return nil, err // there are too many because they cannot be stored
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-r.closing:
			return nil, wal.ErrClosed
		}
	}
}

// wait returns what to wait for: that other's write has its LSN or failed, or
// without other that there is room. Under mu.
func (r *requests) wait(other *request) <-chan struct{} {
	if other == nil {
		return r.changed()
	}
	if other.settled == nil {
		other.settled = make(chan struct{})
	}
	return other.settled
}

// abort frees the id of a write that was not logged.
func (r *requests) abort(req *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.open, req.key)
	req.settle()
	r.announce()
}

// settle wakes whoever waits for req. Under mu.
func (req *request) settle() {
	if req.settled != nil {
		close(req.settled)
	}
}

// announce wakes whoever waits for a change. Under mu.
func (r *requests) announce() {
	if r.mu.change != nil {
		close(r.mu.change)
		r.mu.change = nil
	}
}

// changed is closed at the next change. Under mu.
func (r *requests) changed() <-chan struct{} {
	if r.mu.change == nil {
		r.mu.change = make(chan struct{})
	}
	return r.mu.change
}

// enqueuing says that a write with an id is about to get its LSN. Under the
// order lock.
func (r *requests) enqueuing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.floor = r.log.Appended() + 1
}

// enqueued ends enqueuing. Under the order lock.
func (r *requests) enqueued(req *request, ticket wal.Ticket, accepted int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.floor = 0
	r.announce()
	if err != nil {
		return // abort follows
	}
	req.ticket, req.accepted = ticket, accepted
	req.settle()
	r.mu.logged = append(r.mu.logged, req)
	if len(r.mu.logged) >= requestsBatch {
		poke(r.full)
	}
}

// grown says that the log grew: the mark can rise.
func (r *requests) grown() { poke(r.dirty) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
