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
	// MinSize are kept ready for a user of a database who has sessions, up to Size. 0.
	MinSize int
	// Reserve may be made beyond Size once somebody has waited for ReserveTimeout; they
	// are closed when nobody waits any more. 0.
	Reserve int
	// ReserveTimeout is how long. 5 s.
	ReserveTimeout time.Duration
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
	o.ReserveTimeout = positive(o.ReserveTimeout, 5*time.Second)
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

	mu sync.Mutex
	// Connections were made without TLS, and with it.
	plain, encrypted bool

	reports []*reports // that connections had last

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
	gone    bool       // it was empty: there may be another one now
	// bound are the sessions that share connections and could make none: nobody knows
	// their passwords. Those that they can have are not closed below their number.
	bound map[grantKey]int
}

// waiter waits for a connection, or, with room, only for leave to make one.
type waiter struct {
	login grantKey
	room  bool
	makes bool // it could make one
	late  bool // the reserve is there for it, too
	// give is called when there is something, once at most and with mu locked; nil: it is
	// put into got, which is empty again when it waits no more.
	give func(given)
	got  chan given
}

// hand gives w what it waits for.
func (w *waiter) hand(g given) {
	if w.give != nil {
		w.give(g)
		return
	}
	w.got <- g
}

// given is a connection, or why there will be none; neither: leave to make one.
type given struct {
	b   *backend
	err error
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

// home is of, for who remembers the pool: looking for it each time costs as much as all else.
func (p *pools) home(q **pool, login grantKey) *pool {
	if *q == nil || (*q).gone {
		*q = p.of(login.pool())
	}
	return *q
}

var errPoolWait = errors.New("all connections of the pool are in use")

func (p *pools) of(key poolKey) *pool {
	if p.by[key] == nil {
		p.by[key] = &pool{bound: map[grantKey]int{}}
	}
	return p.by[key]
}

// take returns a connection of a login, one that suits the session if there is a
// choice; nil: there is room for one, which the caller makes, or says lose. Who could make
// none waits for one of those there are, and gets errCannotProve when there is none left.
func (p *pools) take(ctx context.Context, who waiter, owner uint64, outfit string) (*backend, error) {
	for {
		b, w, err := p.pick(who, owner, outfit)
		if err != nil {
			return nil, err
		}
		if w != nil {
			b, err = p.wait(ctx, who.login.pool(), w)
		}
		if err != nil || b == nil || b.silent() {
			return b, err
		}
		p.lose(b.login.pool(), b) // PostgreSQL has ended it
	}
}

// ready returns an idle connection that suits the session; nil: there is none. What
// PostgreSQL says on one that a loop watches is an event there.
func (p *pools) ready(l *link, outfit string) *backend {
	at := l.at()
	for {
		b := p.fetch(l, outfit)
		if b == nil || at != nil && b.at == at || b.silent() {
			return b
		}
		p.lose(b.login.pool(), b) // PostgreSQL has ended it
	}
}

func (p *pools) fetch(l *link, outfit string) *backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.home(&l.pool, l.login)
	if at := q.suits(l.login, l.number, outfit); at >= 0 {
		return q.pop(at)
	}
	return nil
}

// room waits for leave to make a connection.
func (p *pools) room(ctx context.Context, login grantKey) error {
	_, w, err := p.pick(waiter{login: login, room: true, makes: true}, 0, "")
	if w != nil {
		_, err = p.wait(ctx, login.pool(), w)
	}
	return err
}

func (k grantKey) pool() poolKey { return poolKey{k.User, k.Database} }

// pick returns a connection, or leave to make one, or who waits.
func (p *pools) pick(who waiter, owner uint64, outfit string) (*backend, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, endStopping()
	}
	q := p.of(who.login.pool())
	if at := q.suits(who.login, owner, outfit); at >= 0 && !who.room {
		return q.pop(at), nil, nil
	}
	if g, ok := p.giveLocked(q, &who); ok {
		return g.b, nil, g.err
	}
	if who.got == nil && who.give == nil {
		who.got = make(chan given, 1)
	}
	q.waiting = append(q.waiting, &who)
	return nil, &who, nil
}

// pop takes an idle connection.
func (q *pool) pop(at int) *backend {
	b := q.idle[at]
	q.idle = slices.Delete(q.idle, at, at+1)
	return b
}

// giveLocked finds what one who waits can have now; false: nothing.
func (p *pools) giveLocked(q *pool, w *waiter) (g given, ok bool) {
	if !w.room {
		if at := q.suits(w.login, 0, ""); at >= 0 {
			return given{b: q.pop(at)}, true
		}
	}
	switch {
	case !w.makes:
		return given{err: errCannotProve}, p.count(w.login) == 0 && !p.making(q, w.login.pool())
	case q.open < p.o.Size, w.late && q.open < p.o.Size+p.o.Reserve:
		q.open++
		return given{}, true
	}
	// One that is of other parameters, or not to be had.
	at := slices.IndexFunc(q.idle, func(b *backend) bool { return p.spares(q, b, 1) })
	if at < 0 {
		return given{}, false
	}
	p.endLocked(q.pop(at))
	return given{}, true
}

// serveLocked gives those who wait what is there, the first of them first.
func (p *pools) serveLocked(q *pool) {
	for i := 0; i < len(q.waiting) && (len(q.idle) > 0 || q.open < p.o.Size+p.o.Reserve || len(q.bound) > 0); {
		w := q.waiting[i]
		if g, ok := p.giveLocked(q, w); ok {
			q.waiting = slices.Delete(q.waiting, i, i+1)
			w.hand(g)
		} else {
			i++
		}
	}
}

// spares reports that a connection can be closed: so many like it, or as many as sessions
// are bound to, would be left.
func (p *pools) spares(q *pool, b *backend, left int) bool {
	n := q.bound[b.login]
	return n == 0 || p.count(b.login) > min(n, left)
}

// making reports that a connection of the pool is being made: it may be one of a login that
// has none, and whose client knows already that it is let in.
func (p *pools) making(q *pool, key poolKey) bool {
	n := 0
	for b := range p.all {
		if b.login.pool() == key {
			n++
		}
	}
	return q.open > n
}

// count of the connections of a login.
func (p *pools) count(login grantKey) (n int) {
	for b := range p.all {
		if b.login == login {
			n++
		}
	}
	return n
}

// bind takes note of a session that could make no connection, or (-1) of its end.
func (p *pools) bind(login grantKey, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.of(login.pool())
	if q.bound[login] += n; q.bound[login] == 0 {
		delete(q.bound, login)
	}
	p.serveLocked(q) // what is idle may be closed now
}

// suits finds the connection that has to be changed least; negative: none.
func (q *pool) suits(login grantKey, owner uint64, outfit string) int {
	for i, b := range q.idle { // that it had last, mostly
		if b.owner == owner && b.worn == outfit && b.login == login {
			return i
		}
	}
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
	defer p.reserve(key, w)()
	select {
	case g := <-w.got:
		return g.b, g.err
	case <-ctx.Done():
	}
	if !p.leave(key, w) { // it was given something just now
		p.back(key, <-w.got)
	}
	return nil, context.Cause(ctx)
}

// leave ends a wait; false: it has been given something.
func (p *pools) leave(key poolKey, w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.of(key)
	at := slices.Index(q.waiting, w)
	if at >= 0 {
		q.waiting = slices.Delete(q.waiting, at, at+1)
	}
	return at >= 0
}

// back gives back what one was given who does not want it any more.
func (p *pools) back(key poolKey, g given) {
	switch {
	case g.b != nil:
		p.put(g.b)
	case g.err == nil:
		p.lose(key, nil)
	}
}

// reserve lets one who waits have of the reserve, in time, unless stop is called.
func (p *pools) reserve(key poolKey, w *waiter) (stop func()) {
	if p.o.Reserve == 0 {
		return func() {}
	}
	late := time.AfterFunc(p.o.ReserveTimeout, func() { p.late(key, w) })
	return func() { late.Stop() }
}

// late lets one have of the reserve who has waited for so long.
func (p *pools) late(key poolKey, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.late = true
	p.serveLocked(p.of(key))
}

// put gives a connection back.
func (p *pools) put(b *backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.home(&b.pool, b.login)
	b.rests = time.Now()
	extra := q.open > p.o.Size && len(q.waiting) == 0 || b.rests.Sub(b.born) > p.o.MaxLifetime
	if p.closed || extra && p.spares(q, b, q.open) {
		p.endLocked(b)
		p.leftLocked(q)
		return
	}
	q.idle = append(q.idle, b)
	p.serveLocked(q)
}

// spoke ends a connection on which PostgreSQL said something unasked, unless somebody has it.
func (p *pools) spoke(b *backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.of(b.login.pool())
	if at := slices.Index(q.idle, b); at >= 0 && !b.silent() {
		p.endLocked(q.pop(at))
		p.leftLocked(q)
	}
}

// lose closes a connection that is not idle; nil: none came of the leave to make one.
func (p *pools) lose(key poolKey, b *backend) {
	if b != nil {
		b.unmoor()
		_ = b.conn.Close() // nobody uses it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, b)
	p.leftLocked(p.of(key))
}

// leftLocked: there is room for another connection.
func (p *pools) leftLocked(q *pool) {
	q.open--
	p.serveLocked(q)
}

// endLocked takes leave of PostgreSQL on a connection that is idle.
func (p *pools) endLocked(b *backend) {
	delete(p.all, b)
	b.unmoor()
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
			makers := p.makers()
			p.sweep(now, makers)
			p.fill(makers)
		case <-p.s.stop:
			return
		}
	}
}

// makers are sessions that could make a connection for their pool, where one has to be
// kept filled.
func (p *pools) makers() map[poolKey]*link {
	if p.o.MinSize == 0 {
		return nil
	}
	makers := map[poolKey]*link{}
	for _, x := range p.s.list() {
		if l := x.link.Load(); l != nil && x.pooled && makers[l.login.pool()] == nil && l.makes() {
			makers[l.login.pool()] = l
		}
	}
	return makers
}

func (p *pools) sweep(now time.Time, makers map[poolKey]*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, q := range p.by {
		q.idle = slices.DeleteFunc(q.idle, func(b *backend) bool {
			extra := now.Sub(b.rests) > p.o.IdleTimeout && (q.open > p.o.MinSize || makers[key] == nil) || now.Sub(b.born) > p.o.MaxLifetime
			ends := extra && p.spares(q, b, q.open) || !b.silent()
			if ends {
				p.endLocked(b)
				q.open--
			}
			return ends
		})
		p.serveLocked(q)
		if q.open == 0 && len(q.waiting) == 0 && len(q.bound) == 0 {
			q.gone = true
			delete(p.by, key)
		}
	}
}

// fill makes a connection for each pool of makers that has fewer than MinSize.
func (p *pools) fill(makers map[poolKey]*link) {
	if p.s.isUpstreamAway() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, l := range makers {
		if q := p.of(key); !p.closed && q.open < min(p.o.MinSize, p.o.Size) {
			q.open++
			p.s.joined.Go(func() { p.add(l) })
		}
	}
}

// add makes a connection with a session's login, for whoever comes. There is room for it.
func (p *pools) add(l *link) {
	ctx, cancel := context.WithTimeout(p.s.logins, p.s.o.away.AttachTimeout)
	defer cancel()
	b, err := l.reach(ctx)
	if err != nil {
		p.s.log.Debug("no connection for the pool", append(l.x.fields(), zap.Error(err))...)
		p.lose(l.login.pool(), nil)
		return
	}
	p.own(b, l.login, b.parameters)
	p.s.metrics.poolOpened.Inc()
	p.put(b)
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
