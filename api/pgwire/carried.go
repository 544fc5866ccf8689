package pgwire

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// carried is what the carriers have in common that use goroutines, one for each
// direction.
type carried struct {
	*session

	// out is held while something is written to the client. Lock it before mu.
	out sync.Mutex
	mu  struct {
		sync.Mutex
		turn     turn
		down     flow
		last     byte  // type of PostgreSQL's last message
		over     bool  // nothing is passed on any more
		why      error // it ended; nil: one of both sides wanted it
		finished bool  // PostgreSQL has ended the session: its backend is at its end
		gone     bool  // the client said good-bye or closed its end
		busy     bool  // the endpoint is at an answer of its own
		holding  bool  // a transaction is open that PostgreSQL does not know of
		moves    uint64
		stirred  chan struct{} // closed at the next change; nil: nobody waits
	}
	sending atomic.Bool // to the client, which may not take it

	// interrupt ends the wait that the endpoint is in for the client.
	interrupt atomic.Pointer[context.CancelCauseFunc]

	seen  uint64 // moves, when the sweep looked last
	since time.Time
}

var (
	// errUnreachable: PostgreSQL takes nothing more.
	errUnreachable = errors.New("PostgreSQL takes nothing")
	// errClientGone: the client takes nothing more.
	errClientGone = errors.New("the client takes nothing")
)

// begin takes a session.
func (x *carried) begin(s *session) {
	x.session = s
	x.mu.turn = newTurn()
	x.mu.down.limit = 1<<31 - 1
}

// unheard: nothing more is passed on that the client sends, because of err. That
// PostgreSQL takes no more of it is left to the other direction, where it says why.
func (x *carried) unheard(err error) {
	if r, ok := errors.AsType[*refusal](err); ok {
		x.tell(r)
		linger(x.client)
		x.cut(r)
		return
	}
	if errors.Is(err, errUnreachable) {
		return
	}
	x.mu.Lock()
	x.mu.gone = true
	x.mu.Unlock()
	// As the client did: what is under way is answered, if it still listens.
	if half, ok := x.upstream.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		_ = x.upstream.Close()
	}
}

// down passes on what PostgreSQL sends. pass is called with out held, and returns
// how much it took.
func (x *carried) down(first []byte, pass func([]byte) (int, error)) {
	err := pump(x.upstream, first, func(b []byte) (int, error) {
		x.out.Lock()
		defer x.out.Unlock()
		n, err := pass(b)
		if err == nil && x.s.stopping.Load() && x.idle() {
			err = endStopping()
		}
		return n, err
	})
	if errors.Is(err, errClientGone) {
		return
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		x.end(r)
		return
	}
	x.mu.Lock()
	x.mu.finished = endedByPostgres(err)
	lost := !x.mu.gone && x.mu.last != sError
	x.mu.Unlock()
	if lost {
		x.end(endLost(err))
	}
}

// endedByPostgres reports that a connection has ended because the process behind it has:
// not that nothing was heard of it for too long.
func endedByPostgres(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// deliver writes to the client: out is held.
func (x *carried) deliver(b []byte) error {
	x.sending.Store(true)
	defer x.sending.Store(false)
	_, err := x.client.Write(b)
	x.s.metrics.down.Add(float64(len(b)))
	if err != nil {
		return errClientGone
	}
	return nil
}

// await waits until ok, which is called with mu held.
func (x *carried) await(ctx context.Context, ok func() bool) error {
	for {
		x.mu.Lock()
		if x.mu.over {
			x.mu.Unlock()
			return errUnreachable
		}
		if ok() {
			x.mu.Unlock()
			return nil
		}
		if x.mu.stirred == nil {
			x.mu.stirred = make(chan struct{})
		}
		stirred := x.mu.stirred
		x.mu.Unlock()
		select {
		case <-stirred:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stirLocked wakes who waits for a change.
func (x *carried) stirLocked() {
	if x.mu.stirred != nil {
		close(x.mu.stirred)
		x.mu.stirred = nil
	}
}

// give ends the wait that the endpoint is in, if it is.
func (x *carried) give(cause error) {
	if cancel := x.interrupt.Load(); cancel != nil {
		(*cancel)(cause)
	}
}

func (x *carried) end(r *refusal) {
	x.tell(r)
	x.cut(r)
}

func (x *carried) tell(r *refusal) {
	if !x.out.TryLock() {
		return // the client does not read
	}
	defer x.out.Unlock()
	if x.finish(r) {
		_ = x.client.SetWriteDeadline(time.Now().Add(lastWord))
		_, _ = x.client.Write(r.appendTo(nil)) // it may be gone
	}
}

func (x *carried) cut(r *refusal) {
	x.finish(r)
	_ = x.upstream.Close()
	_ = x.client.Close()
	x.give(r)
}

// finish stops everything from being passed on. It reports whether the client can
// be told why: it was the first call, and between two messages.
func (x *carried) finish(r *refusal) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return false
	}
	x.mu.over, x.mu.why = true, r
	x.stirLocked()
	return x.mu.down.between()
}

func (x *carried) overdue(now time.Time) *refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over || x.mu.moves != x.seen || x.since.IsZero() || x.mu.busy && !x.sending.Load() {
		x.seen, x.since = x.mu.moves, now
		return nil
	}
	return x.s.o.overdue(now.Sub(x.since), &x.mu.turn, x.mu.holding, x.sending.Load())
}

// idle reports that ending the session interrupts nothing.
func (x *carried) idle() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.idle() && x.mu.down.between() && !x.mu.busy && !x.mu.holding
}

func (x *carried) stop() {
	if x.idle() {
		x.s.joined.Go(func() { x.end(endStopping()) })
	}
}
