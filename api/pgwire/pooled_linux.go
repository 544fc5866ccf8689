package pgwire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// pooledEnd is the end at PostgreSQL of a loop's session that has a connection for each
// transaction only: its link decides what is passed on, and on which one. The loop reads
// and writes there, and never waits: what a request has to wait for, a goroutine waits for
// in its place, and the client is not read meanwhile.
//
//	client ── upward ──► link ── put ──► the backend that it has ── berth ──► receive ──► client
//	                      └── none at once: queue ──► given ──► resume
//	                                             └────► errand ──┘
//
// Its fields are the loop's.
type pooledEnd struct {
	link   *link
	c      *looped
	b      *backend // where the loop waits; nil: the link has none
	berth  int32    // b's
	waits  bool     // the request does
	paused bool     // the client has sent more meanwhile, or is gone
	queued *waiter  // for a connection; nil: it waits for something else, or not
	since  time.Time
	timer  *time.Timer // ends the wait
	late   func()      // stops what lets it have of the reserve
}

// pool has the session use l in the loop.
func (c *looped) pool(l *link) {
	c.pooled = &pooledEnd{link: l, c: c}
	l.carrier = c.pooled
	l.in = bytes.Clone(l.in)
}

func (p *pooledEnd) at() *loop { return p.c.l }

func (p *pooledEnd) stir() {
	c := p.c
	c.l.post(func() {
		if c.began && !c.over && !c.lingering {
			c.giveBack()
		}
	})
}

// giveBack gives the connection back if that was put off.
func (c *looped) giveBack() {
	l := c.pooled.link
	l.mu.Lock()
	l.release()
	l.mu.Unlock()
	c.drain()
}

// ties: not all was read or written there.
func (p *pooledEnd) ties() bool {
	e := &p.c.ends[atUpstream]
	return p.b != nil && (len(e.unsent) > 0 || e.waits != unix.EPOLLIN || e.muted || e.blocked)
}

func (p *pooledEnd) now() time.Time { return p.c.l.now() }

// put writes to the connection that the link has.
func (p *pooledEnd) put(behind *backend, b []byte) error {
	c := p.c
	c.follow(behind)
	if c.over {
		return io.ErrClosedPipe
	}
	c.send(atUpstream, b)
	return nil
}

// follow has the loop wait at the connection that the link has now.
func (c *looped) follow(b *backend) {
	p, e := c.pooled, &c.ends[atUpstream]
	if b == p.b {
		return
	}
	if e.blocked { // of the next one that is not known
		c.ends[atClient].deaf = c.gone
	}
	c.cast()
	if b == nil {
		c.rearm()
		return
	}
	if err := c.l.moor(b, c); err != nil {
		c.tell(endLost(err))
		return
	}
	p.b, p.berth = b, b.berth
	e.fd, e.waits = b.conn.(*bare).fd, unix.EPOLLIN
	c.rearm()
	if in := b.in; in != nil && !c.over { // what came behind the login
		if b.in = nil; len(in.rest()) > 0 {
			p.link.in = append(p.link.in, in.rest()...)
			p.link.received(b, len(in.rest()), nil)
		}
	}
}

// cast leaves the connection.
func (c *looped) cast() {
	p, e := c.pooled, &c.ends[atUpstream]
	if p.b == nil {
		return
	}
	if here := &c.l.berths[p.berth]; here.c == c { // else it is somebody else's already
		here.c = nil
	}
	p.b = nil
	*e = end{fd: -1, flow: e.flow}
}

// upward has the link pass on what the client sent, and whatever waited before.
func (c *looped) upward(b []byte) {
	p := c.pooled
	_, err := p.link.Write(b)
	r, refused := errors.AsType[*refusal](err)
	switch {
	case c.over:
		return
	case errors.Is(err, errUnsettled):
		p.waits = true
	case errors.Is(err, errUndrawn):
		p.waits = true
		c.queue()
	case refused:
		c.linger(r)
		return
	case err != nil: // its end is on its way
		c.ends[atClient].deaf = true
		c.rearm()
	}
	c.drain()
}

// queue has the request wait for a connection.
func (c *looped) queue() {
	p, pools := c.pooled, c.l.s.pools
	l := p.link
	b, w, err := pools.pick(waiter{login: l.login, makes: l.makes(), give: p.given}, l.number, l.outfit())
	if w == nil {
		c.errand(given{b, err})
		return
	}
	p.queued, p.since, p.late = w, time.Now(), pools.reserve(l.login.pool(), w)
	cancel := context.CancelCauseFunc(func(cause error) {
		c.l.post(func() { c.unqueue(w, cause) })
	})
	l.x.waiting.Store(&cancel)
	if p.timer == nil {
		p.timer = time.AfterFunc(pools.o.WaitTimeout, func() { c.l.post(c.overslept) })
	} else {
		p.timer.Reset(pools.o.WaitTimeout)
	}
	if c.l.s.stopping.Load() {
		c.tell(endStopping())
	}
}

// overslept ends a wait that has lasted for too long, unless it is a later one.
func (c *looped) overslept() {
	if p := c.pooled; p.queued != nil && time.Since(p.since) >= c.l.s.pools.o.WaitTimeout {
		c.unqueue(p.queued, errPoolWait)
	}
}

// rested: the wait is over.
func (p *pooledEnd) rested() {
	p.late()
	p.timer.Stop()
	p.link.x.waiting.Store(nil)
	p.queued, p.late = nil, nil
	p.c.l.s.metrics.poolWait.Observe(time.Since(p.since).Seconds())
}

// given is called by who gives what was waited for.
func (p *pooledEnd) given(g given) { p.c.l.post(func() { p.c.take(g) }) }

// take goes on with what the pool gave.
func (c *looped) take(g given) {
	p, l := c.pooled, c.pooled.link
	if p.queued == nil { // the session has ended
		c.l.s.pools.back(l.login.pool(), g)
		return
	}
	p.rested()
	if g.b == nil || g.b.at != c.l || g.b.worn != l.outfit() || l.lacks(g.b) {
		c.errand(g)
		return
	}
	c.resume(l.drawn(g.b))
}

// unqueue: the request waits no more for a connection, because of why.
func (c *looped) unqueue(w *waiter, why error) {
	p := c.pooled
	if p.queued != w || !c.l.s.pools.leave(p.link.login.pool(), w) { // or it comes just now
		return
	}
	p.rested()
	c.resume(p.link.undrawn(why))
}

// errand has a goroutine make a connection ready, or g.b.
func (c *looped) errand(g given) {
	l := c.pooled.link
	outfit := l.outfit()
	l.errand = true
	c.l.s.joined.Go(func() {
		err := l.drawFrom(g, outfit)
		c.l.post(func() { c.resume(err) })
	})
}

// resume goes on with what has waited.
func (c *looped) resume(err error) {
	p := c.pooled
	p.link.errand = false
	if c.over || c.lingering {
		return
	}
	if p.waits = false; p.paused {
		p.paused = false
		c.rearm()
	}
	if err != nil {
		c.ends[atClient].deaf = true // its end is on its way
		c.rearm()
		return
	}
	c.upward(nil)
}

// receive reads what PostgreSQL says.
func (c *looped) receive() {
	p := c.pooled
	l := p.link
	if p.b == nil {
		return
	}
	buf := c.l.buf
	if len(l.in) > len(buf)/2 { // of a frame that is looked at as a whole
		buf = make([]byte, 2*len(l.in)+len(buf))
	}
	have := copy(buf, l.in)
	got, errno := read(c.ends[atUpstream].fd, buf[have:])
	var failed error
	switch {
	case errno == unix.EAGAIN:
		return
	case errno != 0:
		failed, got = fmt.Errorf("read: %w", errno), 0
	case got == 0:
		failed = io.EOF
	}
	l.in = buf[:have+got]
	l.received(p.b, got, failed)
	c.drain()
}

// drain passes on to the client what the link has for it, and goes on with what has waited
// for that.
func (c *looped) drain() {
	p := c.pooled
	l := p.link
	for {
		l.mu.Lock()
		b := l.mu.behind
		var say []byte
		if b == p.b && !c.over && !c.lingering && l.passable == 0 && l.broken == nil && l.down.between() {
			say, l.mu.say = l.mu.say, nil
		}
		settled := len(l.mu.held.queue) == 0 || l.mu.behind == nil
		over := l.mu.ended && l.mu.behind == nil || l.mu.closed
		l.mu.Unlock()
		switch {
		case c.over, c.lingering:
			return
		case b != p.b:
			c.follow(b)
			continue
		case l.passable > 0:
			some := l.in[:l.passable]
			l.in, l.passable = l.in[l.passable:], 0
			c.pass(atUpstream, some)
			continue
		case l.broken != nil:
			c.lost(l.broken)
			return
		case len(say) > 0:
			c.pass(atUpstream, say)
			continue
		case over && !p.waits:
			c.ends[atUpstream].deaf = true
			c.sent()
			return
		case p.waits && !l.errand && p.queued == nil && settled:
			l.in = bytes.Clone(l.in)
			c.resume(nil)
			return
		}
		if len(l.in) == 0 {
			l.in = nil
		} else {
			l.in = bytes.Clone(l.in)
		}
		return
	}
}

// lost: the session ends with PostgreSQL.
func (c *looped) lost(err error) {
	if r, ok := errors.AsType[*refusal](err); ok {
		c.tell(r)
		return
	}
	c.ends[atUpstream].deaf, c.ends[atClient].deaf = true, true
	if !c.gone && c.last != sError {
		c.tell(endLost(err))
		return
	}
	c.sent()
}

// endPooled tells PostgreSQL what the client told us, if it has something under way there.
func (c *looped) endPooled() {
	l := c.pooled.link
	if _, away := c.l.s.presence.away(); away != nil {
		c.finish(nil) // it does not answer, and nobody waits for that
		return
	}
	if err := l.CloseWrite(); err != nil {
		c.finish(nil)
		return
	}
	c.drain()
}

// unpool closes the link.
func (c *looped) unpool() {
	if p := c.pooled; p.queued != nil {
		c.l.s.pools.leave(p.link.login.pool(), p.queued)
		p.rested()
	}
	_ = c.pooled.link.Close()
	c.cast()
}
