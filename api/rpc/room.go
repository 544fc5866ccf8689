package rpc

import (
	"context"
	"iter"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// answerBytes is about what the answer to an accepted write takes.
	answerBytes = 64
	// narrowRoom is a stream's room for answers when all of them have taken theirs.
	narrowRoom = 8 << 10
	// shortPage is as large as an answer of many records may become then.
	shortPage = 64 << 10
)

// room bounds what a stream holds of answers that its client has yet to take. Who takes
// some waits first, and may then take more than is left, once.
type room struct {
	mu   sync.Mutex
	used int64
	most int64
	free chan struct{} // closed when there is some; nil: nobody waits
}

// wait returns when there is room, or false when ctx ends.
func (r *room) wait(ctx context.Context) bool {
	for {
		free := r.lack()
		if free == nil {
			return ctx.Err() == nil
		}
		select {
		case <-free:
		case <-ctx.Done():
			return false
		}
	}
}

// lack is nil if there is room, or else what is closed once there is.
func (r *room) lack() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used < r.most {
		return nil
	}
	if r.free == nil {
		r.free = make(chan struct{})
	}
	return r.free
}

func (r *room) take(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used += n
}

func (r *room) give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used -= n; r.free != nil && r.used < r.most {
		close(r.free)
		r.free = nil
	}
}

// streamRoom is the room of one stream, and what gives it back. All streams together
// have limits.streams, and each of those beyond narrowRoom: clients that take no answers
// narrow the others' streams, and stop none.
func (s *Server) streamRoom() (*room, func()) {
	wide := int64(s.options.Window) * answerBytes
	if all := s.limits.Load().streams; wide > narrowRoom && all.TryAcquire(wide) {
		return &room{most: wide}, func() { all.Release(wide) }
	}
	return &room{most: min(wide, narrowRoom)}, func() {}
}

// page bounds one answer of many records.
type page struct {
	size int // bytes that it may have, and the last record beyond
	all  *semaphore.Weighted
	held int64
}

// page of at most so many bytes; end it when the client has it. All of them together have
// limits.pages. When that is taken by clients that do not take their answers, a page ends
// sooner, where the next one goes on.
func (s *Server) page(most int) *page {
	all := s.limits.Load().pages
	if n := int64(most); all.TryAcquire(n) {
		return &page{size: most, all: all, held: n}
	}
	return &page{size: min(most, shortPage), all: all}
}

// made notes how large the answer has become.
func (p *page) made(size int) {
	if n := p.held - int64(size); n > 0 {
		p.held -= n
		p.all.Release(n)
	}
}

func (p *page) end() { p.made(0) }

// queue hands items from one goroutine to another, in order. Who puts them bounds them.
// It keeps no memory while it is empty.
type queue[T any] struct {
	mu     sync.Mutex
	more   sync.Cond
	items  []T
	closed bool
}

func (q *queue[T]) init() { q.more.L = &q.mu }

func (q *queue[T]) put(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, item)
	q.more.Signal()
}

// close ends all, behind what was put.
func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Signal()
}

// all yields what was put, as much as there is at once, until close.
func (q *queue[T]) all() iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for items := q.take(); len(items) > 0 && yield(items); items = q.take() {
		}
	}
}

func (q *queue[T]) take() (items []T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.more.Wait()
	}
	items, q.items = q.items, nil
	return items
}

// reserveFor is reserve for a client that has been let in: it waits for longer.
func (s *Server) reserveFor(ctx context.Context, wait time.Duration, n int64) (release func(), failed *Error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	most := s.limits.Load() // as long as it is held
	n = min(n, most.MaxInFlightBytes)
	if err := most.inFlight.Acquire(ctx, n); err != nil {
		return nil, tooManyRequests()
	}
	return func() { most.inFlight.Release(n) }, nil
}
