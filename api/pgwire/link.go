package pgwire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
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
	put(b []byte) error
	// stir has the loop look what the link has to say, soon. Anybody may call it.
	stir()
	// ties reports that the connection cannot be given back yet. Only who reads calls it.
	ties() bool
	// at is the loop.
	at() *loop
}

// In a loop nobody waits: what a request has to wait for is said instead. The writer goes
// on from there when it is called again.
var (
	errUnsettled = errors.New("requests before it are not answered yet")
	errUndrawn   = errors.New("no connection is there at once")
)

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

// Read returns what PostgreSQL, or the link in its place, says.
func (l *link) Read(b []byte) (int, error) {
	for {
		if l.passable > 0 {
			n := copy(b, l.in[:l.passable])
			l.in = l.in[:copy(l.in, l.in[n:])]
			l.passable -= n
			return n, nil
		}
		if l.broken != nil {
			return 0, l.broken
		}
		l.mu.Lock()
		if len(l.mu.say) > 0 && l.down.between() {
			n := copy(b, l.mu.say)
			l.mu.say = l.mu.say[n:]
			l.mu.Unlock()
			return n, nil
		}
		behind, closed, ended, changed := l.mu.behind, l.mu.closed, l.mu.ended, l.wait()
		l.mu.Unlock()
		switch {
		case closed:
			return 0, net.ErrClosed
		case behind != nil:
			l.receive(behind)
		case ended:
			return 0, io.EOF
		default:
			<-changed
		}
	}
}

// receive reads from the backend, and decides what its end means.
func (l *link) receive(b *backend) {
	if b.in != nil { // what came behind the login
		l.in = append(l.in, b.in.rest()...)
		b.in = nil
		l.mu.Lock()
		l.scanDown()
		l.mu.Unlock()
		return
	}
	if len(l.in) == cap(l.in) {
		l.in = append(make([]byte, 0, max(linkBytes, 2*cap(l.in))), l.in...)
	}
	n, failed := b.conn.Read(l.in[len(l.in):cap(l.in)])
	l.in = l.in[:len(l.in)+n]
	l.received(b, n, failed)
}

// received takes note of n more bytes, which are the last of in, and of why no more come.
func (l *link) received(b *backend, n int, failed error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > 0 {
		l.mu.moved = time.Now()
		l.scanDown()
	}
	defer l.settled()
	switch {
	case failed == nil:
		l.release()
		return
	case l.mu.nudged && errors.Is(failed, os.ErrDeadlineExceeded):
		l.mu.nudged = false
		_ = b.conn.SetReadDeadline(time.Time{})
		l.release()
		return
	}
	l.lost(failed)
}

// lost: the backend is gone. mu is locked.
func (l *link) lost(failed error) {
	l.discard()
	why := l.mu.held.stays()
	if l.mu.closed || l.mu.ended || why != "" || !l.down.between() {
		l.passable, l.broken = len(l.in), failed // what it said last is for the client
		if why != "" && !l.mu.closed && !l.mu.ended {
			l.x.s.log.Debug("a session ends with PostgreSQL", append(l.x.fields(), zap.String("holds", why))...)
		}
		return
	}
	l.in, l.down = l.in[:l.passable], downward{}
	l.x.s.metrics.detached.Inc()
	l.x.s.log.Debug("a session lost PostgreSQL and stays", append(l.x.fields(), zap.Error(failed))...)
	l.change()
}

// scanDown looks at what was read, and finds how much of it may be passed on.
// mu is locked, or nobody else knows the link yet.
func (l *link) scanDown() {
	for {
		n, instead, put := l.down.scan(l.in[l.passable:], &l.mu.held)
		l.passable += n
		if instead == 0 {
			break
		}
		l.in = slices.Replace(l.in, l.passable, l.passable+instead, put...)
		l.passable += len(put)
	}
	l.mu.farewell = l.down.farewell
	if l.mu.held.outdated {
		l.mu.held.outdated = false
		l.x.s.pools.generation.Add(1)
	}
	if why := l.mu.held.unfit; why != "" && l.x.pooled && l.broken == nil {
		l.broken = endUnfit(why)
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

// Write passes on what the client sends.
func (l *link) Write(b []byte) (int, error) {
	taken := len(b)
	if len(l.up.kept) > 0 {
		l.up.kept = append(l.up.kept, b...)
		b = l.up.kept
	}
	sent, at := 0, 0 // b[sent:at] is to be passed on
	for at < len(b) {
		if l.up.left == 0 {
			if len(b)-at < headBytes {
				break
			}
			kind, body, err := parseHead(b[at:], 1<<31-1)
			if err != nil {
				return 0, err // the carrier has seen to that
			}
			if l.x.pooled && l.waitsFor(kind) && !tells(kind, body, b[at+headBytes:]) {
				break
			}
			if l.unsettled(kind, body, b[at+headBytes:]) {
				if err := l.flush(b[sent:at]); err != nil {
					return 0, err
				}
				sent = at
				if err := l.settle(); err != nil {
					l.keep(b[at:])
					return 0, err
				}
			}
			if l.starts() {
				if err := l.flush(b[sent:at]); err != nil {
					return 0, err
				}
				sent = at
				if err := l.ready(kind); err != nil {
					l.keep(b[at:])
					return 0, err
				}
			}
			instead, err := l.begin(kind, body, b[sent:at], b[at+headBytes:])
			if err != nil {
				return 0, err
			}
			if instead >= 0 {
				sent = at + instead
			}
			at += headBytes
		}
		n := int(min(l.up.left, int64(len(b)-at)))
		l.up.take(b[at : at+n])
		if at += n; l.up.dropped {
			sent = at
		}
		if l.up.left == 0 {
			l.endFrame()
		}
	}
	err := l.flush(b[sent:at])
	l.keep(b[at:])
	l.whole()
	return taken, err
}

// keep keeps what the client sent and is not passed on yet.
func (l *link) keep(b []byte) { l.up.kept = append(l.up.kept[:0], b...) }

// whole: what was passed on ends with a frame, unless more of one is to come.
func (l *link) whole() {
	if !l.up.stray || l.up.left > 0 {
		return
	}
	l.up.stray = false
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.half = false
	if b := l.mu.behind; b != nil && b.stock != nil && l.mu.held.quiet() { // the rest was on its way still
		l.yield(b)
	}
}

// yield has the reader give the connection back. mu is locked.
func (l *link) yield(b *backend) {
	if l.carrier != nil {
		l.carrier.stir()
		return
	}
	l.mu.nudged = true
	_ = b.conn.SetReadDeadline(past)
}

// begin begins a frame of whose body rest was read. before is to be passed on; where the
// frame is translated, so many bytes of it and all of before are in up.out.
func (l *link) begin(kind byte, body int64, before, rest []byte) (instead int, err error) {
	l.up.begin(kind, body)
	if l.up.dropped {
		return -1, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.claimed, l.mu.half = false, l.up.stray
	first := l.mu.held.quiet()
	l.mu.held.begin(kind)
	if !l.x.pooled {
		return -1, nil
	}
	if why := l.mu.held.unfit; why != "" {
		r := endUnfit(why)
		l.x.s.joined.Go(func() { l.x.end(r) })
		return -1, r
	}
	if kind != cQuery && !translates(kind) || l.mu.behind == nil {
		return -1, nil
	}
	var ahead []byte
	if first && l.mu.held.taints > 0 { // it may set something again, where nothing can go before it
		ahead = l.before(l.gather)
	}
	out, instead := l.translate(kind, body, rest)
	out = append(ahead, out...)
	if len(out) == 0 && instead == 0 {
		return -1, nil
	}
	l.up.out = append(append(l.up.out, before...), out...)
	return instead, nil
}

// flush passes on what is kept for that, and b.
func (l *link) flush(b []byte) error {
	if len(l.up.out) == 0 {
		return l.send(b)
	}
	l.up.out = append(l.up.out, b...)
	err := l.send(l.up.out)
	l.up.out = l.up.out[:0]
	l.up.release()
	return err
}

// starts reports that the next frame begins a request, with nothing under way.
func (l *link) starts() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.up.refusing && l.mu.held.quiet()
}

// endFrame takes note of a frame that is whole, before its end is passed on.
func (l *link) endFrame() {
	kind := l.up.kind
	if l.up.dropped {
		l.refuse(kind)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.held.client(kind, l.up.body, l.up.whole)
	l.mu.ended = l.mu.ended || kind == cTerminate // PostgreSQL's end is what was asked for
	l.up.release()
}

// send passes bytes on to PostgreSQL.
func (l *link) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	l.mu.Lock()
	behind := l.mu.behind
	l.mu.moved = time.Now()
	l.mu.Unlock()
	if behind == nil {
		return io.ErrClosedPipe // it was lost in the middle of a request
	}
	if l.carrier != nil {
		return l.carrier.put(b)
	}
	_, err := behind.conn.Write(b)
	return err
}

// ready sees to it that a request has a backend, or that it is refused.
func (l *link) ready(kind byte) error {
	for {
		l.mu.Lock()
		behind, leaving, closed := l.mu.behind, l.mu.farewell, l.mu.closed
		var changed <-chan struct{}
		if leaving && l.carrier == nil {
			changed = l.wait()
		} else if leaving && !closed { // it is who reads, too
			l.lost(io.EOF)
			if behind, leaving = nil, false; l.broken != nil {
				l.mu.Unlock()
				return io.ErrClosedPipe
			}
		}
		l.mu.Unlock()
		switch {
		case closed:
			return net.ErrClosed
		case behind == nil:
			l.up.why = nil
			switch kind {
			case cQuery, cFunctionCall, cParse, cBind, cDescribe, cExecute, cClose:
				return l.attach()
			}
			l.up.refusing = true // nothing that needs PostgreSQL
			return nil
		case leaving: // and takes nothing any more
			_ = behind.conn.Close()
			<-changed
		default:
			if since, away := l.x.s.presence.away(); away != nil {
				l.up.refusing, l.up.why = true, refuseStatement(away, since)
				return nil
			}
			if l.claim() {
				return nil
			}
		}
	}
}

// claim keeps the backend for the request that begins; false: it is gone.
func (l *link) claim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.claimed = l.mu.behind != nil
	return l.mu.claimed
}

// refuse answers a frame of a request that is not passed on.
func (l *link) refuse(kind byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	why := l.up.why
	switch kind {
	case cQuery, cFunctionCall, cSync:
		if kind != cSync && !l.up.told {
			l.say(why)
		}
		l.mu.say = appendFrame(l.mu.say, sReady, []byte{txIdle})
		l.up.refusing, l.up.told = false, false
	case cParse, cBind, cDescribe, cExecute, cClose:
		if !l.up.told {
			l.say(why)
			l.up.told = true
		}
	case cTerminate:
		l.mu.ended = true
	default: // Flush, and what is no request
		l.up.refusing = l.up.told
		return
	}
	l.change()
}

// say has the client told that its request is refused. mu is locked.
func (l *link) say(why *refusal) {
	l.mu.say = why.appendAs(l.mu.say, "ERROR")
	l.x.s.metrics.refused.Inc()
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
