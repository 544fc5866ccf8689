package pgwire

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Pool has sessions share connections to PostgreSQL: each has one for as long as a
// transaction of its lasts. Zero values are the defaults.
type Pool struct {
	// Size bounds the connections of one user to one database. 20.
	Size int
	// WaitTimeout bounds how long a request, or a login, waits for one. 30 s.
	WaitTimeout time.Duration
	// IdleTimeout closes a connection that nobody has used for so long. 10 min.
	IdleTimeout time.Duration
	// MaxLifetime closes a connection once it is so old and not in use. 1 h.
	MaxLifetime time.Duration
	// MaxStatements bounds the prepared statements that are kept on each connection;
	// the one that was used longest ago goes first. 200.
	MaxStatements int
}

func (p *Pool) withDefaults() *Pool {
	if p == nil {
		return nil
	}
	o := *p
	o.Size, o.MaxStatements = positive(o.Size, 20), positive(o.MaxStatements, 200)
	o.WaitTimeout = positive(o.WaitTimeout, 30*time.Second)
	o.IdleTimeout = positive(o.IdleTimeout, 10*time.Minute)
	o.MaxLifetime = positive(o.MaxLifetime, time.Hour)
	return &o
}

// pools are the connections that sessions share.
type pools struct {
	s *Server
	o Pool
	// generation tells statements apart that were prepared before and after one had
	// to be prepared again.
	generation atomic.Uint64
	number     atomic.Uint64 // of sessions

	mu     sync.Mutex
	by     map[poolKey]*pool
	all    map[*backend]struct{} // that are connected
	closed bool
}

// poolKey is what connections are counted by. Those of one pool may differ in the
// parameters of their startup packets.
type poolKey struct{ user, database string }

// pool is guarded by the mutex of pools.
type pool struct {
	idle    []*backend // the one that was used last at the end
	open    int        // connections, and those that are being made
	waiting []*waiter  // the first at the beginning
}

// waiter waits for a connection, or, with room, only for leave to make one.
type waiter struct {
	login grantKey
	room  bool
	got   chan *backend // nil: leave to make one
}

// generation of statements that are prepared now: another one whenever the schema was
// seen to change.
func (s *Server) generation() uint64 {
	n := s.pools.generation.Load()
	if s.tables != nil {
		n += s.tables.watch.Snapshots()
	}
	return n
}

func newPools(s *Server, o Pool) *pools {
	return &pools{s: s, o: o, by: map[poolKey]*pool{}, all: map[*backend]struct{}{}}
}

var errPoolWait = errors.New("all connections of the pool are in use")

func (p *pools) of(key poolKey) *pool {
	if p.by[key] == nil {
		p.by[key] = &pool{}
	}
	return p.by[key]
}

// take returns a connection of a login, one that suits the session if there is a
// choice; nil: there is room for one, which the caller makes, or says lose.
func (p *pools) take(ctx context.Context, login grantKey, owner uint64, outfit string) (*backend, error) {
	for {
		b, w, err := p.pick(login, owner, outfit, false)
		if err != nil {
			return nil, err
		}
		if w != nil {
			b, err = p.wait(ctx, login.pool(), w)
		}
		if err != nil || b == nil || b.silent() {
			return b, err
		}
		p.lose(b.login.pool(), b) // PostgreSQL has ended it
	}
}

// ready returns an idle connection of a login that suits the session; nil: there is none.
func (p *pools) ready(login grantKey, owner uint64, outfit string) *backend {
	for {
		b := p.fetch(login, owner, outfit)
		if b == nil || b.silent() {
			return b
		}
		p.lose(b.login.pool(), b) // PostgreSQL has ended it
	}
}

func (p *pools) fetch(login grantKey, owner uint64, outfit string) (b *backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.of(login.pool())
	if at := q.suits(login, owner, outfit); at >= 0 {
		b = q.idle[at]
		q.idle = slices.Delete(q.idle, at, at+1)
	}
	return b
}

// room waits for leave to make a connection.
func (p *pools) room(ctx context.Context, login grantKey) error {
	_, w, err := p.pick(login, 0, "", true)
	if w != nil {
		_, err = p.wait(ctx, login.pool(), w)
	}
	return err
}

func (k grantKey) pool() poolKey { return poolKey{k.User, k.Database} }

// pick returns a connection, or leave to make one, or who waits.
func (p *pools) pick(login grantKey, owner uint64, outfit string, room bool) (*backend, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, endStopping()
	}
	q := p.of(login.pool())
	if at := q.suits(login, owner, outfit); at >= 0 && !room {
		b := q.idle[at]
		q.idle = slices.Delete(q.idle, at, at+1)
		return b, nil, nil
	}
	switch {
	case q.open < p.o.Size:
		q.open++
	case len(q.idle) > 0: // of other parameters, or not to be had
		p.endLocked(q.idle[0])
		q.idle = slices.Delete(q.idle, 0, 1)
	default:
		w := &waiter{login: login, room: room, got: make(chan *backend, 1)}
		q.waiting = append(q.waiting, w)
		return nil, w, nil
	}
	return nil, nil, nil
}

// suits finds the connection that has to be changed least; negative: none.
func (q *pool) suits(login grantKey, owner uint64, outfit string) int {
	best, worth := -1, 0
	for i := len(q.idle) - 1; i >= 0; i-- {
		b := q.idle[i]
		if b.login != login {
			continue
		}
		n := 1
		if b.worn == outfit {
			n += 2
		}
		if b.owner == owner {
			n++
		}
		if n > worth {
			best, worth = i, n
		}
	}
	return best
}

func (p *pools) wait(ctx context.Context, key poolKey, w *waiter) (*backend, error) {
	began := time.Now()
	defer func() { p.s.metrics.poolWait.Observe(time.Since(began).Seconds()) }()
	select {
	case b := <-w.got:
		return b, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	q := p.of(key)
	at := slices.Index(q.waiting, w)
	if at >= 0 {
		q.waiting = slices.Delete(q.waiting, at, at+1)
	}
	p.mu.Unlock()
	if at < 0 { // it was given one just now
		if b := <-w.got; b != nil {
			p.put(b)
		} else {
			p.lose(key, nil)
		}
	}
	return nil, context.Cause(ctx)
}

// put gives a connection back.
func (p *pools) put(b *backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.of(b.login.pool())
	b.rests = time.Now()
	switch {
	case p.closed || b.rests.Sub(b.born) > p.o.MaxLifetime:
		p.endLocked(b)
		p.leftLocked(q)
	case len(q.waiting) == 0:
		q.idle = append(q.idle, b)
	default:
		w := q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		if w.room || w.login != b.login {
			p.endLocked(b)
			b = nil
		}
		w.got <- b
	}
}

// lose closes a connection that is not idle; nil: none came of the leave to make one.
func (p *pools) lose(key poolKey, b *backend) {
	if b != nil {
		_ = b.conn.Close() // nobody uses it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, b)
	p.leftLocked(p.of(key))
}

// leftLocked: there is room for another connection.
func (p *pools) leftLocked(q *pool) {
	if len(q.waiting) == 0 {
		q.open--
		return
	}
	w := q.waiting[0]
	q.waiting = slices.Delete(q.waiting, 0, 1)
	w.got <- nil
}

// endLocked takes leave of PostgreSQL on a connection that is idle.
func (p *pools) endLocked(b *backend) {
	delete(p.all, b)
	_ = b.conn.SetWriteDeadline(time.Now().Add(lastWord))
	_, _ = b.conn.Write(appendFrame(nil, cTerminate, nil)) // it sees the end anyway
	_ = b.conn.Close()
}

// watch closes connections that are too old or dead, until the server is closed.
func (p *pools) watch() {
	tick := time.NewTicker(min(max(min(p.o.IdleTimeout, p.o.MaxLifetime)/8, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.sweep(now)
		case <-p.s.stop:
			return
		}
	}
}

func (p *pools) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, q := range p.by {
		q.idle = slices.DeleteFunc(q.idle, func(b *backend) bool {
			stays := now.Sub(b.rests) <= p.o.IdleTimeout && now.Sub(b.born) <= p.o.MaxLifetime && b.silent()
			if !stays {
				p.endLocked(b)
				q.open-- // nobody waits while one is idle
			}
			return !stays
		})
		if q.open == 0 && len(q.waiting) == 0 {
			delete(p.by, key)
		}
	}
}

// close ends all idle connections, and those that are given back from now on.
func (p *pools) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, q := range p.by {
		for _, b := range q.idle {
			p.endLocked(b)
			q.open--
		}
		q.idle = nil
		if q.open != 0 || len(q.waiting) != 0 {
			p.s.log.Error("connections of the pool were not given back", zap.Int("connections", q.open), zap.Int("waiting", len(q.waiting)))
		}
	}
}

// poolCounts are what a pool has at the moment.
type poolCounts struct{ open, idle, waiting int }

func (p *pools) counts() map[poolKey]poolCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := map[poolKey]poolCounts{}
	for key, q := range p.by {
		counts[key] = poolCounts{q.open, len(q.idle), len(q.waiting)}
	}
	return counts
}

// byAddress counts connections by where PostgreSQL is.
func (p *pools) byAddress() map[Address]poolCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := map[Address]poolCounts{}
	for b := range p.all {
		n := counts[b.address]
		n.open++
		counts[b.address] = n
	}
	for _, q := range p.by {
		for _, b := range q.idle {
			n := counts[b.address]
			n.idle++
			counts[b.address] = n
		}
	}
	return counts
}

func (p *pools) total() (n poolCounts) {
	for _, c := range p.counts() {
		n.open, n.idle, n.waiting = n.open+c.open, n.idle+c.idle, n.waiting+c.waiting
	}
	return n
}
