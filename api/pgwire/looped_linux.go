package pgwire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The two ends of a session, and a connection of a pool, which is the other end of whoever
// has it.
const (
	atClient   = 0
	atUpstream = 1
	atBerth    = 2
)

// looped is a session that a loop carries. Its fields are the loop's.
type looped struct {
	l         *loop
	x         *session
	pooled    *pooledEnd // nil: its connection is its own
	slot      int32
	ends      [2]end
	turn      turn
	last      byte // type of PostgreSQL's last message
	gone      bool // the client said good-bye or closed its end
	lingering bool // the client was told why it ends; what it still sends is dropped
	began     bool
	early     *refusal // it is to end, as was said before it began
	over      bool
	done      chan error // why it ended; capacity 1

	owed        bool // PostgreSQL owes the client an answer; counted in loop.owed
	moves, seen uint64
	since       time.Time
}

// end is one socket of a session.
type end struct {
	fd      int
	flow    flow    // of what comes from here
	held    [8]byte // a head that is not whole
	holds   int
	unsent  []byte // what this end did not take
	deaf    bool   // nothing more is read from here
	blocked bool   // a write failed: nothing is written any more
	waits   uint32 // for what the loop waits here
	muted   bool   // the loop does not wait here at all
}

// carry finds a loop for the session, if both of its connections are plain sockets
// and descriptors are to be had.
func (x *session) carry() carrier {
	if len(x.s.loops) == 0 || !plain(x.client) {
		return nil
	}
	l, pooled := x.upstream.(*link)
	if pooled = pooled && x.pooled; pooled && !x.s.pools.loops() || !pooled && !plain(x.upstream) {
		return nil
	}
	client, err := duplicate(x.client)
	if err != nil {
		return nil
	}
	upstream := -1
	if !pooled {
		if upstream, err = duplicate(x.upstream); err != nil {
			_ = unix.Close(client) // the connection stays
			return nil
		}
	}
	c := &looped{l: x.s.nextLoop(), x: x, turn: newTurn(), done: make(chan error, 1)}
	c.ends[atClient] = end{fd: client, flow: flow{limit: x.s.o.MaxMessageBytes}}
	c.ends[atUpstream] = end{fd: upstream, flow: flow{limit: 1<<31 - 1}}
	if pooled {
		c.pool(l)
	}
	return c
}

// plain reports that a connection is a socket and nothing else.
func plain(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// run hands the sockets over and waits for the session's end.
func (c *looped) run(fromClient, fromServer []byte) error {
	_ = c.x.client.Close() // takes them away from Go's poller; the duplicates stay
	if c.pooled == nil {
		_ = c.x.upstream.Close()
	}
	if !c.l.post(func() { c.begin(fromClient, fromServer) }) {
		c.close(endStopping())
	}
	return <-c.done
}

// duplicate makes another descriptor for a connection's socket.
func duplicate(conn net.Conn) (fd int, err error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(control, os.NewSyscallError("fcntl", err))
}

// begin moves what was read during the login, and waits for more.
func (c *looped) begin(fromClient, fromServer []byte) {
	c.began = true
	if c.early != nil {
		c.over = true
		c.close(c.early)
		return
	}
	c.l.enter(c)
	for i := range c.ends {
		e := &c.ends[i]
		if e.fd < 0 {
			continue
		}
		e.waits = unix.EPOLLIN
		if err := c.l.control(unix.EPOLL_CTL_ADD, e.fd, e.waits, c.slot, int32(i)); err != nil {
			c.finish(endLost(err))
			return
		}
	}
	c.pass(atUpstream, fromServer)
	if c.pooled != nil {
		c.drain()
	}
	if !c.over {
		c.pass(atClient, fromClient)
	}
	if !c.over && c.l.s.stopping.Load() && c.idles() {
		c.tell(endStopping())
	}
}

// ready: something happened at an end.
func (c *looped) ready(i int, events uint32) {
	e := &c.ends[i]
	if len(e.unsent) > 0 && events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		if c.flush(i); c.over || e.fd < 0 {
			return
		}
	}
	const gone = unix.EPOLLERR | unix.EPOLLHUP // told whatever the loop waits for
	switch {
	case e.waits&unix.EPOLLIN != 0:
		if events&(unix.EPOLLIN|gone) != 0 {
			c.move(i)
		}
	case events&gone == 0:
	case i == atClient:
		c.finish(nil) // nobody is there to take what it is owed
	default: // what it said last is read once the client has taken the rest
		if c.control(i, unix.EPOLL_CTL_DEL, 0) == nil {
			e.muted = true
		}
	}
}

// move reads at one end and passes it on to the other.
func (c *looped) move(i int) {
	if c.pooled != nil && !c.lingering {
		if i == atUpstream {
			c.receive()
			return
		}
		if c.pooled.waits {
			c.pooled.paused = true
			c.rearm()
			return
		}
	}
	e := &c.ends[i]
	n := copy(c.l.buf, e.held[:e.holds])
	got, errno := read(e.fd, c.l.buf[n:])
	switch {
	case errno == unix.EAGAIN:
	case errno != 0:
		c.broken(i, errno)
	case got == 0:
		c.ended(i)
	case c.lingering:
	default:
		e.holds = 0
		c.pass(i, c.l.buf[:n+got])
	}
}

// pass passes b on, which came from end i, and keeps what it may not.
func (c *looped) pass(i int, b []byte) {
	if len(b) == 0 {
		return
	}
	e := &c.ends[i]
	c.moves++
	n, err := e.flow.scan(b, func(kind byte, body []byte) error { return c.see(i, kind, body) })
	if i == atClient {
		c.l.up += n
	} else {
		c.l.down += n
	}
	c.count(c.turn.pending())
	if err == nil {
		e.holds = copy(e.held[:], b[n:])
	}
	if i == atClient && c.pooled != nil {
		c.upward(b[:n])
	} else {
		c.send(1-i, b[:n])
	}
	switch {
	case c.over:
	case err != nil && i == atClient:
		c.linger(refuseFrame(err))
	case err != nil:
		c.tell(endLost(err))
	case i == atUpstream && c.l.s.stopping.Load() && c.idles():
		c.tell(endStopping())
	}
}

// count keeps loop.owed.
func (c *looped) count(owed bool) {
	if owed == c.owed {
		return
	}
	if c.owed = owed; owed {
		c.l.owed++
	} else {
		c.l.owed--
	}
}

func (c *looped) see(i int, kind byte, body []byte) error {
	if i == atClient {
		if kind == cTerminate {
			c.gone = true
		}
		return c.turn.client(kind)
	}
	c.last = kind
	if kind == sReady {
		c.l.requests++
	}
	c.turn.server(kind, body)
	return nil
}

// send writes b at an end. What the end does not take is kept, and nothing is read
// for it meanwhile.
func (c *looped) send(i int, b []byte) {
	e := &c.ends[i]
	if len(b) == 0 || e.blocked {
		return
	}
	if len(e.unsent) == 0 {
		n, errno := write(e.fd, b)
		if errno != 0 {
			c.unwritable(i)
			return
		}
		b = b[n:]
	}
	if len(b) > 0 {
		e.unsent = append(e.unsent, b...)
		c.rearm()
	}
}

func (c *looped) flush(i int) {
	e := &c.ends[i]
	n, errno := write(e.fd, e.unsent)
	if errno != 0 {
		c.unwritable(i)
		return
	}
	if n > 0 {
		c.moves++
	}
	if n < len(e.unsent) {
		e.unsent = e.unsent[:copy(e.unsent, e.unsent[n:])]
		return
	}
	e.unsent = nil
	c.rearm()
	if i == atUpstream && c.ends[atClient].deaf {
		c.endWrites()
	}
	if i == atClient && c.ends[atUpstream].deaf {
		c.finish(nil)
	}
	if !c.over && c.pooled != nil {
		c.giveBack()
	}
}

// unwritable: PostgreSQL may have said why, so that is still read. A client that
// cannot be reached needs nothing more.
func (c *looped) unwritable(i int) {
	if i == atClient {
		c.gone = true
		c.finish(nil)
		return
	}
	c.ends[i].blocked, c.ends[i].unsent = true, nil
	c.ends[atClient].deaf = true
	c.rearm()
}

// ended: the stream from an end is over.
func (c *looped) ended(i int) {
	e := &c.ends[i]
	e.deaf = true
	switch {
	case c.lingering:
		c.finish(nil)
		return
	case i == atClient:
		c.gone = true
		c.rearm()
		if len(c.ends[atUpstream].unsent) == 0 {
			c.endWrites()
		}
		return
	case !c.gone && c.last != sError:
		c.tell(endLost(io.ErrUnexpectedEOF))
		return
	}
	c.sent()
}

// sent ends the session once the client has taken what it is owed.
func (c *looped) sent() {
	if len(c.ends[atClient].unsent) == 0 {
		c.finish(nil)
		return
	}
	c.rearm()
}

// endWrites tells PostgreSQL what the client told us; what is under way is
// answered, if the client still listens.
func (c *looped) endWrites() {
	if c.pooled != nil {
		c.endPooled()
		return
	}
	if unix.Shutdown(c.ends[atUpstream].fd, unix.SHUT_WR) != nil {
		c.finish(nil)
	}
}

// broken: reading at an end fails.
func (c *looped) broken(i int, errno syscall.Errno) {
	if i == atUpstream && !c.gone && c.last != sError {
		c.tell(endLost(fmt.Errorf("read: %w", errno)))
		return
	}
	c.finish(nil)
}

// rearm has the loop wait for what can be done: nothing is read that could not be
// passed on, or answered by the link.
func (c *looped) rearm() {
	for i := range c.ends {
		e := &c.ends[i]
		if e.fd < 0 {
			continue
		}
		var waits uint32
		if !e.deaf && len(c.ends[1-i].unsent) == 0 && (i == atUpstream || c.pooled == nil || !c.pooled.paused && len(e.unsent) == 0) {
			waits |= unix.EPOLLIN
		}
		if len(e.unsent) > 0 {
			waits |= unix.EPOLLOUT
		}
		if waits == e.waits || e.muted && waits == 0 {
			e.waits = waits
			continue
		}
		op := unix.EPOLL_CTL_MOD
		if e.muted {
			op, e.muted = unix.EPOLL_CTL_ADD, false
		}
		e.waits = waits
		if err := c.control(i, op, waits); err != nil {
			c.finish(endLost(err))
			return
		}
	}
}

// control sets for what the loop waits at an end.
func (c *looped) control(i, op int, waits uint32) error {
	if i == atUpstream && c.pooled != nil {
		return c.l.control(op, c.ends[i].fd, waits, c.pooled.berth, atBerth)
	}
	return c.l.control(op, c.ends[i].fd, waits, c.slot, int32(i))
}

// idles reports that ending the session interrupts nothing.
func (c *looped) idles() bool {
	return c.turn.idle() && c.ends[atUpstream].flow.between() && len(c.ends[atClient].unsent) == 0
}

// say writes the reason if that can be put between two messages.
func (c *looped) say(r *refusal) {
	client := &c.ends[atClient]
	if c.ends[atUpstream].flow.between() && len(client.unsent) == 0 && !client.blocked {
		_, _ = write(client.fd, r.appendTo(nil)) // it may be gone
	}
}

// tell ends the session, and says why.
func (c *looped) tell(r *refusal) {
	if !c.over && !c.lingering {
		c.say(r)
		c.finish(r)
	}
}

// linger says why and drops what the client still sends, for a while: else it
// would see a reset instead of what it was told.
func (c *looped) linger(r *refusal) {
	if c.lingering {
		return
	}
	c.say(r)
	c.lingering, c.since = true, time.Now()
	c.count(false)
	c.done <- r
	_ = unix.Shutdown(c.ends[atClient].fd, unix.SHUT_WR) // it may be gone
	if c.pooled != nil {
		c.unpool()
	} else {
		_ = unix.Shutdown(c.ends[atUpstream].fd, unix.SHUT_RDWR)
	}
	c.ends[atUpstream].deaf, c.ends[atUpstream].unsent, c.ends[atUpstream].blocked = true, nil, true
	c.ends[atClient].unsent = nil
	c.rearm()
}

// finish ends the session; nil: one of both sides wanted it.
func (c *looped) finish(r *refusal) {
	if c.over {
		return
	}
	c.over = true
	c.count(false)
	c.l.leave(c)
	c.close(r)
}

// close closes the sockets and lets the session's goroutine go on.
func (c *looped) close(r *refusal) {
	if c.pooled != nil {
		c.unpool()
	}
	for i := range c.ends {
		if fd := c.ends[i].fd; fd >= 0 {
			_ = unix.Close(fd) // also takes it out of the epoll
		}
	}
	if c.lingering {
		return // its end is known
	}
	if r == nil {
		c.done <- nil
		return
	}
	c.done <- r
}

// look ends the session if its time is up.
func (c *looped) look(now time.Time) {
	if c.lingering {
		if now.Sub(c.since) > lastWord {
			c.finish(nil)
		}
		return
	}
	if c.moves != c.seen || c.since.IsZero() {
		c.seen, c.since = c.moves, now
		return
	}
	if r := c.l.s.o.overdue(now.Sub(c.since), &c.turn, false, len(c.ends[atClient].unsent) > 0); r != nil {
		c.tell(r)
	}
}

// What others call.

func (c *looped) end(r *refusal) {
	c.l.post(func() {
		if c.early = r; c.began {
			c.tell(r)
		}
	})
}

func (c *looped) cut(r *refusal) {
	c.l.post(func() {
		if c.early = r; c.began {
			c.finish(r)
		}
	})
}

func (c *looped) stop() {
	c.l.post(func() {
		if waits := c.pooled != nil && c.pooled.queued != nil; c.began && !c.over && (waits || c.idles()) {
			c.tell(endStopping())
		}
	})
}

// state asks the loop, which is never long at anything.
func (c *looped) state() string {
	told := make(chan string, 1)
	if !c.l.post(func() { told <- c.turn.state() }) {
		return stateIdle // it has ended
	}
	return <-told
}

// overdue: the loop looks itself.
func (c *looped) overdue(time.Time) *refusal { return nil }
