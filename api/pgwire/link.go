package pgwire

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// link is a session's connection to PostgreSQL, as its carrier sees it, that
// outlives the one behind it. A session that holds nothing when PostgreSQL goes
// away keeps its client; its next statement has a new connection made, on which
// everything is set and prepared as it was, or is answered with why that cannot be.
//
//	carrier ── Write ──► held follows both directions ──► backend, or none
//	        ◄── Read ───                              ◄── what the link says itself
//
// One goroutine writes and one reads, as with any carrier; the rest may be called
// by anybody.
type link struct {
	x       *session
	startup []byte
	login   grantKey
	with    func() (credentials, error)
	number  uint64 // of sessions in pools
	pool    *pool  // that it had last; guarded by pools.mu
	proved  bool   // with has something to show; guarded by mu

	up   upward     // the writer's
	task task       // ... while it waits for a connection of a pool
	got  chan given // ... likewise

	// Where a loop carries the session, which never waits: it reads and writes itself. Set
	// before anybody else knows the link.
	carrier linkCarrier
	errand  bool // a goroutine waits in its place; the writer's

	// The reader's:
	in       []byte // was read and not passed on
	passable int    // so much of it may be
	broken   error  // behind what is passable, the session ends
	down     downward

	mu struct {
		sync.Mutex
		behind   *backend // nil: none
		latest   *backend // the last one that it had, unless it was given back
		held     held
		claimed  bool   // a request is about to begin on behind
		cancels  int    // cancel requests on their way to behind
		awaited  bool   // the writer waits until all requests are answered
		farewell bool   // the backend said that it ends
		say      []byte // the link's own answers
		nudged   bool   // the reader is to look at say
		bound    bool   // the pool keeps connections for it, as it could make none
		half     bool   // PostgreSQL may have a part only of a frame that it will drop
		closed   bool
		ended    bool               // the client sends no more
		changed  chan struct{}      // closed at the next change; nil: nobody waits
		cancel   context.CancelFunc // of an attempt under way
		moved    time.Time          // when something was passed on last
	}
}

// linkBytes of the reader's buffer at first; it grows with the longest frame that
// is looked at, up to wantedBytesMax.
const linkBytes = 16 << 10

// sayBytesMax of the link's own answers: behind so many it takes no more of a client that
// does not read them. In a loop that is any.
const sayBytesMax = 64 << 10

func newLink(x *session, st *startup, parameters []parameter, with func() (credentials, error)) *link {
	l := &link{x: x, startup: st.packet, login: keyOf(st), with: with}
	l.mu.held = newHeld(x.s.statements, parameters)
	if x.pooled {
		l.number = x.s.pools.number.Add(1)
		l.task.parent, l.got = x.s.logins, make(chan given, 1)
		l.mu.held.pending = map[string]int{}
		l.mu.held.application, l.mu.held.changed = st.value(applicationName), true
	}
	return l
}

// attached gives a new link the connection of the login, and what was read of it.
func (l *link) attached(b *backend, rest []byte) *link {
	l.mu.behind, l.mu.latest = b, b
	l.mu.held.stock = b.stock
	l.in = append(make([]byte, 0, max(linkBytes, 2*len(rest))), rest...)
	l.scanDown()
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.in == nil || len(b.in.rest()) == 0 {
		b.in = nil
		l.release()
	}
	return l
}

// linkCarrier is a loop's session, as its link sees it.
type linkCarrier interface {
	// put writes to the connection that the link has. Only who writes calls it.
	put(behind *backend, b []byte) error
	// stir has the loop look what the link has to say, soon. Anybody may call it.
	stir()
	// ties reports that the connection cannot be given back yet. Only who reads calls it.
	ties() bool
	// at is the loop.
	at() *loop
	// now is some time since the loop woke. Only the loop calls it.
	now() time.Time
}

// In a loop nobody waits: what a request has to wait for is said instead. The writer goes
// on from there when it is called again.
var (
	errUnsettled = errors.New("requests before it are not answered yet")
	errUndrawn   = errors.New("no connection is there at once")
)

// now is when something was passed on.
func (l *link) now() time.Time {
	if l.carrier != nil {
		return l.carrier.now()
	}
	return time.Now()
}

// wait returns what is closed at the next change. mu is locked.
func (l *link) wait() <-chan struct{} {
	if l.mu.changed == nil {
		l.mu.changed = make(chan struct{})
	}
	return l.mu.changed
}

// wake tells who waits that something has changed. mu is locked.
func (l *link) wake() {
	if l.mu.changed != nil {
		close(l.mu.changed)
		l.mu.changed = nil
	}
}

// change tells the reader that something has changed. mu is locked.
func (l *link) change() {
	l.wake()
	if l.carrier != nil {
		l.carrier.stir()
		return
	}
	if l.mu.behind != nil && len(l.mu.say) > 0 { // it may wait for a backend that does not answer
		l.mu.nudged = true
		_ = l.mu.behind.conn.SetReadDeadline(past)
	}
}

// discard closes the backend. mu is locked.
func (l *link) discard() {
	b := l.mu.behind
	if b == nil {
		return
	}
	l.mu.behind, l.mu.farewell, l.mu.held.stock = nil, false, nil
	if b.stock != nil {
		l.x.s.pools.lose(b.login.pool(), b)
		return
	}
	_ = b.conn.Close() // it is gone, or nobody uses it any more
}

// Close ends the link and whatever waits for it.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return nil
	}
	l.mu.closed = true
	l.task.stop(net.ErrClosed)
	if l.mu.cancel != nil {
		l.mu.cancel()
	}
	l.change()
	l.bind(false)
	l.discard()
	return nil
}

// CloseWrite says that the client sends no more.
func (l *link) CloseWrite() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.ended = true
	l.change()
	if l.mu.behind == nil {
		return nil
	}
	if _, away := l.x.s.presence.away(); away == nil {
		if half, ok := l.mu.behind.conn.(interface{ CloseWrite() error }); ok {
			return half.CloseWrite()
		}
	}
	return l.mu.behind.conn.Close() // it does not answer, and nobody waits for that
}

// target is where a cancel request for the session goes, which is told when it has
// arrived; nil: nothing is there to be cancelled. Until then the connection is not given
// to another session.
func (l *link) target() (_ Address, key []byte, arrived func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.mu.behind
	if b == nil || l.mu.held.quiet() || len(b.key) == 0 {
		return Address{}, nil, nil
	}
	l.mu.cancels++
	return b.address, bytes.Clone(b.key), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.mu.cancels--; l.mu.cancels == 0 && b.stock != nil && l.mu.behind == b && l.mu.held.quiet() {
			l.yield(b)
		}
	}
}

// last names the backend that the session had last; no key: it had none, or another
// session may have it.
func (l *link) last() (Address, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.latest == nil {
		return Address{}, nil
	}
	return l.mu.latest.address, l.mu.latest.key
}

// waits reports for how long a request has had no answer, not even a part.
func (l *link) waits(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.behind == nil || l.mu.held.quiet() {
		return 0
	}
	return now.Sub(l.mu.moved)
}

// The rest of a net.Conn. Deadlines are for the login, which is over.

func (l *link) LocalAddr() net.Addr              { return l.x.client.LocalAddr() }
func (l *link) RemoteAddr() net.Addr             { return linkAddr{} }
func (l *link) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (l *link) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (l *link) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

type linkAddr struct{}

func (linkAddr) Network() string { return "link" }
func (linkAddr) String() string  { return "PostgreSQL" }
