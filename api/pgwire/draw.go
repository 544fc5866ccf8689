package pgwire

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"time"
)

// What a link does whose session has a connection for each transaction only.

// stripped is the outfit of a connection whose settings are not known for sure.
const stripped = "?"

// undress sets everything to what it was at the login.
const undress = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL"

// draw takes a connection from the pool, for the request that begins.
func (l *link) draw() error {
	l.mu.Lock()
	closed, outfit := l.mu.closed, l.mu.held.outfit()
	l.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	b := l.x.s.pools.ready(l, outfit)
	if b == nil || b.worn != outfit || l.lacks(b) {
		if l.carrier != nil && !l.errand {
			if b != nil {
				l.x.s.pools.put(b)
			}
			return errUndrawn
		}
		var err error
		if b, err = l.prepare(b, outfit); err != nil {
			return l.undrawn(err)
		}
	}
	return l.drawn(b)
}

// drawn takes b.
func (l *link) drawn(b *backend) error {
	if l.carrier == nil {
		if err := b.tame(); err != nil {
			l.x.s.pools.lose(l.login.pool(), b)
			return l.undrawn(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		l.x.s.pools.put(b)
		return net.ErrClosed
	}
	l.adopt(b)
	return nil
}

// drawFrom ends in a goroutine what queue began in a loop.
func (l *link) drawFrom(g given, outfit string) (err error) {
	b := g.b
	switch {
	case g.err != nil:
		err = g.err
	case b != nil && !b.silent(): // PostgreSQL has ended it
		l.x.s.pools.lose(l.login.pool(), b)
		return l.draw()
	case b == nil || b.worn != outfit || l.lacks(b):
		b, err = l.suit(b, outfit)
	}
	if err != nil {
		return l.undrawn(err)
	}
	return l.drawn(b)
}

// at is the loop that carries the session; nil: none does.
func (l *link) at() *loop {
	if l.carrier == nil {
		return nil
	}
	return l.carrier.at()
}

// outfit is what the session has set.
func (l *link) outfit() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.held.outfit()
}

func (l *link) lacks(b *backend) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.held.lacking(b.stock)) > 0
}

// prepare waits for a connection, or makes one, and sets what the session has set; b, if
// it is not nil, has only to be set. The session's end and the client's cancel request
// end that.
func (l *link) prepare(b *backend, outfit string) (_ *backend, err error) {
	if b == nil {
		if b, err = l.await(outfit); err != nil {
			return nil, err
		}
		if b != nil && b.worn == outfit && !l.lacks(b) {
			return b, nil
		}
	}
	return l.suit(b, outfit)
}

// await waits for a connection; nil: there is room for one.
func (l *link) await(outfit string) (b *backend, err error) {
	p := l.x.s.pools
	ctx, round := l.task.begin(p.o.WaitTimeout, errPoolWait)
	defer l.task.finish()
	cancel := context.CancelCauseFunc(func(cause error) { l.task.end(round, cause) })
	before := l.x.waiting.Swap(&cancel)
	defer l.x.waiting.Store(before)
	b, err = p.take(ctx, waiter{login: l.login, makes: l.makes(), got: l.got}, l.number, outfit)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, errPoolWait) {
		if b != nil {
			p.put(b)
		} else {
			p.lose(l.login.pool(), nil)
		}
		return nil, cause
	}
	return b, err
}

// suit sets on b what the session has set; nil: it makes a connection, for which there
// is room.
func (l *link) suit(b *backend, outfit string) (_ *backend, err error) {
	s := l.x.s
	ctx, cancel := context.WithCancelCause(s.logins)
	defer cancel(nil)
	before := l.x.waiting.Swap(&cancel)
	defer l.x.waiting.Store(before)
	l.mu.Lock()
	if l.mu.closed {
		cancel(net.ErrClosed)
	}
	l.mu.cancel = func() { cancel(net.ErrClosed) }
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.mu.cancel = nil
	}()
	ctx, done := context.WithTimeout(ctx, s.o.away.AttachTimeout)
	defer done()
	if b == nil {
		b, err = l.reach(ctx)
		if err == nil {
			s.pools.own(b, l.login, b.parameters)
			s.metrics.poolOpened.Inc()
		}
	}
	if err == nil {
		err = b.tame()
	}
	if err == nil {
		l.mu.Lock()
		lacking := l.mu.held.lacking(b.stock)
		l.mu.Unlock()
		err = b.remake(ctx, lacking)
	}
	if err == nil && b.worn != outfit {
		err = b.dress(ctx, outfit)
	}
	if err == nil {
		b.reported = s.pools.alike(b.reported)
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.pools.lose(l.login.pool(), b)
		if cause := context.Cause(ctx); errors.Is(cause, errCancelled) {
			err = cause
		}
		return nil, err
	}
	return b, nil
}

// undrawn refuses the request, or ends the session.
func (l *link) undrawn(err error) error {
	s := l.x.s
	switch {
	case errors.Is(err, errPoolWait):
		s.metrics.poolTimeouts.Inc()
		l.up.refusing, l.up.why = true, refusePool(s.pools.o, l.login)
		return nil
	case errors.Is(err, errCancelled):
		l.up.refusing, l.up.why = true, refuseCancelled()
		return nil
	}
	if e, ok := errors.AsType[*serverError](err); ok && (e.code == "28000" || e.code == "28P01" || e.code == "3D000") {
		s.presence.roster.revoke(l.login) // who logs in next is judged by PostgreSQL
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unattached(s.logins, err)
}

// own takes a connection into the pools: parameters are what PostgreSQL reported.
func (p *pools) own(b *backend, login grantKey, parameters []parameter) {
	b.login, b.born = login, time.Now()
	b.stock = &stock{has: map[string]*article{}}
	b.reported = &reports{map[string]string{}}
	for _, p := range parameters {
		b.reported.of[p.Name] = p.Value
	}
	b.parameters, b.reported = nil, p.alike(b.reported)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[b] = struct{}{}
	p.sort(b)
}

// alikeMax bounds how many different reports are remembered.
const alikeMax = 16

// alike is r, or one that says the same: where nothing differs nothing has to be compared
// when a connection changes hands.
func (p *pools) alike(r *reports) *reports {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.reports {
		if maps.Equal(other.of, r.of) {
			return other
		}
	}
	if len(p.reports) == alikeMax {
		p.reports = p.reports[1:]
	}
	p.reports = append(p.reports, r)
	return r
}

// sort takes note of how connections are made: with TLS, or not. mu is locked.
func (p *pools) sort(b *backend) {
	if _, encrypted := b.conn.(*tls.Conn); encrypted {
		p.encrypted = true
	} else {
		p.plain = true
	}
}

// loops reports that connections are sockets that a loop can read and write.
func (p *pools) loops() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.encrypted && (p.plain || p.s.o.Upstream.TLS == nil)
}

// dress sets what a session has set, on a connection that another one had.
func (b *backend) dress(ctx context.Context, outfit string) error {
	list := splitOutfit(outfit)
	if b.worn != "" {
		list = append([]string{undress}, list...)
	}
	if err := b.restore(ctx, list, nil); err != nil {
		return err
	}
	for _, p := range b.parameters {
		b.reported = b.reported.with(p.Name, p.Value)
	}
	b.worn, b.parameters = outfit, nil
	b.stock.unnamed = nil // the queries dropped it
	return nil
}

// wear puts a link on a connection that was dressed for it. mu is locked.
func (l *link) wear(b *backend) {
	h := &l.mu.held
	h.stock = b.stock
	if b.reported != h.reported {
		for name, value := range b.reported.of {
			l.reported(name, value)
		}
		h.reported = b.reported
	}
	if b.sequences && b.owner != l.number {
		b.sequences = false
		h.queue = append(h.queue, &request{simple: true, own: true})
		l.up.out = appendFrame(l.up.out, cQuery, appendText(nil, "DISCARD SEQUENCES"))
		b.stock.unnamed = nil
	}
	if b.owner != l.number {
		h.gathered = false
	}
	b.owner = l.number
}

// release, which only the reader calls, gives the connection back if the session holds nothing there and everything
// that came from it can be passed on. mu is locked, or nobody else knows the link.
func (l *link) release() {
	b, h := l.mu.behind, &l.mu.held
	if b == nil || b.stock == nil || l.mu.claimed || l.mu.cancels > 0 || l.mu.ended || l.mu.closed || l.mu.farewell || l.broken != nil ||
		h.stays() != "" || h.unfit != "" || len(l.in) != l.passable || !l.down.between() || l.mu.half || l.carrier != nil && l.carrier.ties() {
		return
	}
	l.bind(!l.proves())
	if l.mu.nudged {
		l.mu.nudged = false
		_ = b.conn.SetReadDeadline(time.Time{}) // else its next use fails
	}
	b.worn, b.reported = h.outfit(), h.reported
	if h.stripped {
		b.worn = stripped
	}
	b.sequences = b.sequences || h.sequences
	h.stripped, h.sequences, h.stock = false, false, nil
	l.mu.behind, l.mu.latest = nil, nil
	l.x.s.pools.put(b)
}

// bind has the pool keep connections for the session, or not any more. mu is locked.
func (l *link) bind(bound bool) {
	switch {
	case bound == l.mu.bound:
		return
	case bound:
		l.x.s.pools.bind(l.login, 1)
	default:
		l.x.s.pools.bind(l.login, -1)
	}
	l.mu.bound = bound
}

// makes is proves.
func (l *link) makes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proves()
}

// proves reports that another connection could be made for the session.
func (l *link) proves() bool {
	if !l.proved {
		_, err := l.with()
		l.proved = err == nil
	}
	return l.proved
}
