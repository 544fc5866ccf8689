package pgwire

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// bufferBytes of each direction of a session.
const bufferBytes = 16 << 10

// lastWord bounds how long the endpoint tries to tell a client why it ends.
const lastWord = time.Second

// session is one client and its connection to PostgreSQL, each direction passed on
// by a goroutine.
type session struct {
	s              *Server
	client         net.Conn
	upstream       net.Conn
	address        Address // PostgreSQL's
	user, database string
	key            []byte // for cancel requests; nil: none yet

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

func newSession(s *Server, c net.Conn, st *startup) *session {
	x := &session{s: s, client: c, user: st.user, database: st.database}
	x.mu.turn = newTurn()
	x.mu.up.limit, x.mu.down.limit = s.o.MaxMessageBytes, 1<<31-1
	return x
}

// enter makes the session known by its cancel key.
func (x *session) enter(key []byte) {
	if x.key != nil || len(key) < 8 || len(key) > keyBytesMax {
		return
	}
	x.key = slices.Clone(key)
	x.s.keys.add(x)
}

// leave undoes enter.
func (x *session) leave() {
	if x.key != nil {
		x.s.keys.remove(x)
	}
}

// run passes on until the session ends, and returns why it did. Both connections
// are closed then.
func (x *session) run(fromClient, fromServer []byte) error {
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
func (x *session) passUp(first []byte) {
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

func (x *session) scanUp(b []byte) (int, error) {
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
func (x *session) passDown(first []byte) {
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

func (x *session) scanDown(b []byte) (int, error) {
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

// end ends the session, and tells the client why
// if that can be put between two messages. Only the first call counts.
func (x *session) end(r *refusal) {
	x.tell(r)
	x.cut(r)
}

func (x *session) tell(r *refusal) {
	if !x.out.TryLock() {
		return // the client does not read
	}
	defer x.out.Unlock()
	if x.finish(r) {
		_ = x.client.SetWriteDeadline(time.Now().Add(lastWord))
		_, _ = x.client.Write(r.appendTo(nil)) // it may be gone
	}
}

// cut ends the session without a word.
func (x *session) cut(r *refusal) {
	x.finish(r)
	_ = x.upstream.Close()
	_ = x.client.Close()
}

// finish stops everything from being passed on. It reports whether the client can
// be told why: it was the first call, and between two messages.
func (x *session) finish(r *refusal) bool {
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
// did not take. It returns nil at the end of the stream.
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
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && n == 0:
			return nil
		case n == 0:
			return err
		}
	}
}

// overdue says why the session has to end, if it has. Only the sweep calls it.
func (x *session) overdue(now time.Time) *refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over || x.mu.moves != x.seen || x.since.IsZero() {
		x.seen, x.since = x.mu.moves, now
		return nil
	}
	silent := now.Sub(x.since)
	o := &x.s.o
	switch {
	case x.sending.Load():
		if silent > o.StallTimeout {
			return endStalled(o.StallTimeout)
		}
	case x.mu.turn.holds():
		if silent > o.IdleInTransactionTimeout {
			return endIdleInTransaction(o.IdleInTransactionTimeout)
		}
	case x.mu.turn.idle():
		if o.IdleTimeout > 0 && silent > o.IdleTimeout {
			return endIdle(o.IdleTimeout)
		}
	}
	return nil
}

// idle reports that ending the session interrupts nothing.
func (x *session) idle() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.idle() && x.mu.down.between()
}

func (x *session) fields() []zap.Field {
	return []zap.Field{zap.Stringer("client", x.client.RemoteAddr()), zap.String("user", x.user), zap.String("database", x.database)}
}
