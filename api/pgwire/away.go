package pgwire

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Away is what keeps sessions and lets clients in while PostgreSQL is not there.
// Zero values are the defaults.
type Away struct {
	// File keeps what was learnt across restarts, readable by its owner alone; "":
	// nothing is kept.
	File string
	// CheckInterval is how often PostgreSQL is looked for. 1 s.
	CheckInterval time.Duration
	// AttachTimeout bounds how long a statement waits for a new connection to
	// PostgreSQL, with its login. 5 s.
	AttachTimeout time.Duration
	// AnswerTimeout ends a session that has waited for PostgreSQL's answer for so
	// long while PostgreSQL takes no connections either. 30 s.
	AnswerTimeout time.Duration
}

// AuthQuery is a login of walproxy's own that reads the verifiers of others.
type AuthQuery struct {
	User, Password, Database string
	// SQL has one parameter, the name, and answers with a row of a name and its
	// secret, or none. "": what pg_authid has, for which a superuser is needed or a
	// function of a superuser's that the role may execute.
	SQL string
	// Every is how often the answers are refreshed. 1 min.
	Every time.Duration
}

const defaultAuthQuery = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END " +
	"FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin"

// withDefaults of a, which may be nil.
func (a *Away) withDefaults() (o Away) {
	if a != nil {
		o = *a
	}
	o.CheckInterval = positive(o.CheckInterval, time.Second)
	o.AttachTimeout = positive(o.AttachTimeout, 5*time.Second)
	o.AnswerTimeout = positive(o.AnswerTimeout, 30*time.Second)
	return o
}

func (q *AuthQuery) withDefaults() *AuthQuery {
	if q == nil {
		return nil
	}
	o := *q
	o.SQL = cmp.Or(o.SQL, defaultAuthQuery)
	o.Database = cmp.Or(o.Database, "postgres")
	o.Every = positive(o.Every, time.Minute)
	return &o
}

// presence is whether PostgreSQL takes connections. It looks all the time, so that
// nobody has to wait to find out.
type presence struct {
	s      *Server
	roster *roster
	ask    chan string // names for the auth query

	mu struct {
		sync.Mutex
		away   error // why; nil: it is there
		since  time.Time
		missed int             // checks without an answer, one after the other
		here   context.Context // ends when PostgreSQL is away
		gone   func()          // ends here
	}
}

func newPresence(s *Server) (*presence, error) {
	p := &presence{s: s, roster: newRoster(s.o.Users, s.o.away.File), ask: make(chan string, 64)}
	p.mu.here, p.mu.gone = context.WithCancel(context.Background())
	if err := p.roster.load(); err != nil {
		return nil, fmt.Errorf("pgwire: logins that were kept: %w", err)
	}
	return p, nil
}

// away returns why PostgreSQL cannot be reached, and since when; nil: it can, as
// far as is known.
func (p *presence) away() (since time.Time, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.since, p.mu.away
}

// here returns a context that ends when PostgreSQL is away: what waits for it waits no
// more.
func (p *presence) here() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.here
}

// lost takes note that a connection was refused: whoever comes next need not try.
func (p *presence) lost(err error) {
	p.mu.Lock()
	first := p.mu.away == nil
	if first {
		p.mu.away, p.mu.since = err, time.Now()
		p.mu.gone()
	}
	p.mu.Unlock()
	if first {
		p.s.log.Warn("PostgreSQL is away", zap.Error(err))
	}
}

func (p *presence) found() {
	p.mu.Lock()
	was, since := p.mu.away, p.mu.since
	p.mu.away, p.mu.since, p.mu.missed = nil, time.Time{}, 0
	if was != nil {
		p.mu.here, p.mu.gone = context.WithCancel(context.Background())
	}
	p.mu.Unlock()
	if was != nil {
		p.s.log.Info("PostgreSQL is back", zap.Duration("after", time.Since(since)))
	}
}

// watch looks for PostgreSQL and refreshes what the auth query says, until the
// server is closed.
func (p *presence) watch() {
	defer p.save()
	ctx, cancel := context.WithCancel(p.s.logins)
	defer cancel()
	check := time.NewTicker(p.s.o.away.CheckInterval)
	defer check.Stop()
	var refreshed time.Time
	for {
		var names []string
		select {
		case <-p.s.stop:
			return
		case name := <-p.ask:
			names = append(names, name)
		case <-check.C:
			p.check(ctx)
			if q := p.s.o.AuthQuery; q != nil && time.Since(refreshed) > q.Every {
				refreshed, names = time.Now(), p.roster.users()
			}
			p.save()
		}
		if _, away := p.away(); away == nil && len(names) > 0 {
			p.learn(ctx, names)
		}
	}
}

func (p *presence) save() {
	if err := p.roster.save(); err != nil {
		p.s.log.Warn("logins cannot be kept", zap.Error(err))
	}
}

// check connects and asks for TLS, which PostgreSQL answers with one byte and
// without a line in its log.
func (p *presence) check(ctx context.Context) {
	err := p.knock(ctx)
	if _, away := p.away(); err == nil && away != nil {
		err = p.enter(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		p.found()
	case errors.Is(err, context.DeadlineExceeded) && !p.missedTwice():
		// It may be busy. Who is told twice that nobody answers believes it.
	default:
		p.lost(err)
	}
	p.endUnanswered()
}

// endUnanswered ends sessions whose requests PostgreSQL has not answered for too
// long, if it has not been there all the while either.
func (p *presence) endUnanswered() {
	limit := p.s.o.away.AnswerTimeout
	if since, away := p.away(); away == nil || time.Since(since) < limit {
		return
	}
	now := time.Now()
	for _, x := range p.s.list() {
		if l := x.link.Load(); l != nil && l.waits(now) > limit {
			p.s.joined.Go(func() { x.end(endUnanswered(limit)) })
		}
	}
}

func (p *presence) missedTwice() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.missed++
	return p.mu.missed > 1
}

// visit connects, has f talk to PostgreSQL, all of it for no longer than a connection may
// take, and hangs up.
func (p *presence) visit(ctx context.Context, f func(net.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.s.o.ConnectTimeout)
	defer cancel()
	c, _, err := p.s.dial(ctx)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	defer func() { _ = c.Close() }() // nobody uses it
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) })()
	if err := f(c); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return nil
}

// knock asks for TLS.
func (p *presence) knock(ctx context.Context) error {
	return p.visit(ctx, func(c net.Conn) error {
		if p.s.o.Upstream.TLS != nil {
			return nil // it was asked and has answered, and is not to be asked again
		}
		request := binary.BigEndian.AppendUint32(nil, 8)
		if _, err := c.Write(binary.BigEndian.AppendUint32(request, codeTLS)); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	})
}

// enter returns why PostgreSQL, which is there again, lets nobody in: it starts, stops or
// recovers, which may take minutes. It begins a login that PostgreSQL has let in before,
// and does not end it.
func (p *presence) enter(ctx context.Context) error {
	key, ok := p.roster.any()
	if !ok {
		return nil // nobody waits for it
	}
	return p.visit(ctx, func(c net.Conn) error {
		if _, err := c.Write(startupPacket("user", key.User, "database", key.Database, "application_name", "walproxy")); err != nil {
			return err
		}
		b := &backend{conn: c, in: newInbox(c)}
		_, err := b.receive()
		if e, told := errors.AsType[*serverError](err); told && !e.refusesAll() {
			return nil // others may come in
		}
		if err == nil {
			_, _ = c.Write(appendFrame(nil, cTerminate, nil)) // or it finds out
		}
		return err
	})
}

// wanted asks for a user's secret, soon.
func (p *presence) wanted(user string) {
	if p.s.o.AuthQuery == nil {
		return
	}
	select {
	case p.ask <- user:
	default: // the next refresh has it
	}
}

// learn runs the auth query for names.
func (p *presence) learn(ctx context.Context, names []string) {
	q := p.s.o.AuthQuery
	if q == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, p.s.o.away.AttachTimeout+p.s.o.ConnectTimeout)
	defer cancel()
	b, err := p.s.logIn(ctx, startupPacket("user", q.User, "database", q.Database, "application_name", "walproxy"),
		credentials{user: q.User, password: q.Password})
	if err != nil {
		p.s.log.Warn("the auth query cannot be asked", zap.Error(err))
		return
	}
	defer func() { _ = b.conn.Close() }() // its session ends with it
	defer context.AfterFunc(ctx, func() { _ = b.conn.SetDeadline(past) })()
	for _, name := range names {
		rows, err := b.query(q.SQL, name)
		if err == nil && len(rows) > 0 && (len(rows) > 1 || len(rows[0]) < 2 || rows[0][0] != name) {
			err = errors.New("want one row, with the name and its secret")
		}
		if err != nil {
			p.s.log.Warn("the auth query failed", zap.String("user", name), zap.Error(err))
			return
		}
		text := ""
		if len(rows) > 0 {
			text = rows[0][1]
		}
		if err := p.roster.learn(name, text); err != nil {
			p.s.log.Info("a user cannot log in while PostgreSQL is away", zap.String("user", name), zap.Error(err))
		}
	}
}
