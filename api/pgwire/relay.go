package pgwire

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// bufferBytes of each direction of a relay.
const bufferBytes = 16 << 10

// relay carries a session with a goroutine for each direction.
type relay struct {
	*session

	// out is held while something is written to the client. Lock it before mu.
	out sync.Mutex
	mu  struct {
		sync.Mutex
		turn     turn
		up, down flow
		last     byte  // type of PostgreSQL's last message
		over     bool  // nothing is passed on any more
		why      error // it ended; nil: one of both sides wanted it
		gone     bool  // the client said good-bye or closed its end
		moves    uint64
	}
	sending atomic.Bool // to the client, which may not take it

	seen  uint64 // moves, when the sweep looked last
	since time.Time
}

func newRelay(s *session) *relay {
	x := &relay{session: s}
	x.mu.turn = newTurn()
	x.mu.up.limit, x.mu.down.limit = s.s.o.MaxMessageBytes, 1<<31-1
	return x
}

func (x *relay) run(fromClient, fromServer []byte) error {
	var up sync.WaitGroup
	up.Go(func() { x.passUp(fromClient) })
	x.passDown(fromServer)
	_ = x.upstream.Close() // all of it was read, or nobody is there to tell
	_ = x.client.Close()
	up.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.why
}

// passUp passes on what the client sends. That PostgreSQL takes no more of it is
// left to the other direction, where it says why.
func (x *relay) passUp(first []byte) {
	var unreachable error // PostgreSQL
	err := pump(x.client, first, func(b []byte) (int, error) {
		n, err := x.scanUp(b)
		if n > 0 {
			if _, unreachable = x.upstream.Write(b[:n]); unreachable != nil {
				return n, unreachable
			}
			x.s.metrics.up.Add(float64(n))
		}
		return n, err
	})
	if r, ok := errors.AsType[*refusal](err); ok {
		x.tell(r)
		linger(x.client)
		x.cut(r)
		return
	}
	if unreachable != nil {
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

func (x *relay) scanUp(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return 0, net.ErrClosed
	}
	x.mu.moves++
	n, err := x.mu.up.scan(b, func(kind byte, _ []byte) error {
		if kind == cTerminate {
			x.mu.gone = true
		}
		return x.mu.turn.client(kind)
	})
	if err != nil {
		err = refuseFrame(err)
	}
	return n, err
}

// passDown passes on what PostgreSQL sends.
func (x *relay) passDown(first []byte) {
	var unreachable error // the client
	err := pump(x.upstream, first, func(b []byte) (int, error) {
		x.out.Lock()
		defer x.out.Unlock()
		n, err := x.scanDown(b)
		if n > 0 {
			x.sending.Store(true)
			_, unreachable = x.client.Write(b[:n])
			x.sending.Store(false)
			x.s.metrics.down.Add(float64(n))
		}
		if unreachable != nil {
			return n, unreachable
		}
		if err == nil && x.s.stopping.Load() && x.idle() {
			err = endStopping()
		}
		return n, err
	})
	if unreachable != nil {
		return
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		x.end(r)
		return
	}
	x.mu.Lock()
	lost := !x.mu.gone && x.mu.last != sError
	x.mu.Unlock()
	if lost {
		x.end(endLost(err))
	}
}

func (x *relay) scanDown(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return 0, net.ErrClosed
	}
	x.mu.moves++
	n, err := x.mu.down.scan(b, func(kind byte, body []byte) error {
		x.mu.last = kind
		if kind == sReady {
			x.s.metrics.requests.Inc()
		}
		x.mu.turn.server(kind, body)
		return nil
	})
	return n, err
}

func (x *relay) end(r *refusal) {
	x.tell(r)
	x.cut(r)
}

func (x *relay) tell(r *refusal) {
	if !x.out.TryLock() {
		return // the client does not read
	}
	defer x.out.Unlock()
	if x.finish(r) {
		_ = x.client.SetWriteDeadline(time.Now().Add(lastWord))
		_, _ = x.client.Write(r.appendTo(nil)) // it may be gone
	}
}

func (x *relay) cut(r *refusal) {
	x.finish(r)
	_ = x.upstream.Close()
	_ = x.client.Close()
}

// finish stops everything from being passed on. It reports whether the client can
// be told why: it was the first call, and between two messages.
func (x *relay) finish(r *refusal) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return false
	}
	x.mu.over, x.mu.why = true, r
	return x.mu.down.between()
}

// linger takes what a client still sends before its connection is closed: else it
// would see a reset instead of what it was told.
func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lastWord)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c)
}

// pump reads from one connection and shows pass what came, again with what it
// did not take. It returns io.EOF at the end of the stream.
func pump(from net.Conn, first []byte, pass func([]byte) (int, error)) error {
	buf := make([]byte, max(bufferBytes, len(first)+headBytes+1))
	have := copy(buf, first)
	for read := have > 0; ; read = true {
		if read {
			n, err := pass(buf[:have])
			if err != nil {
				return err
			}
			have = copy(buf, buf[n:have])
		}
		n, err := from.Read(buf[have:])
		have += n
		if err != nil && n == 0 {
			return err
		}
	}
}

func (x *relay) overdue(now time.Time) *refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over || x.mu.moves != x.seen || x.since.IsZero() {
		x.seen, x.since = x.mu.moves, now
		return nil
	}
	return x.s.o.overdue(now.Sub(x.since), &x.mu.turn, x.sending.Load())
}

// idle reports that ending the session interrupts nothing.
func (x *relay) idle() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.idle() && x.mu.down.between()
}

func (x *relay) stop() {
	if x.idle() {
		x.s.joined.Go(func() { x.end(endStopping()) })
	}
}
