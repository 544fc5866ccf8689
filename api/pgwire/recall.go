package pgwire

import (
	"context"
	"errors"
	"slices"
	"time"
)

// What lets a session write behind while PostgreSQL is away.

// detached reports that PostgreSQL is away and the session has no connection to it:
// what is passed on is refused. One that it has, and does not need, is given up for that: nobody
// answers there. It is called by who writes.
func (l *link) detached() bool {
	if _, away := l.x.s.presence.away(); away == nil {
		return false
	}
	for {
		l.mu.Lock()
		behind, changed := l.mu.behind, l.wait()
		stays := l.mu.closed || l.mu.ended || l.mu.claimed || l.mu.held.stays() != ""
		l.mu.Unlock()
		switch {
		case behind == nil:
			return true
		case stays:
			return false
		}
		_ = behind.conn.Close()
		<-changed
	}
}

// fresh reports that the session is in PostgreSQL as after its login, when it gets there
// again: it has no connection, and nothing was set that is set again on the next one.
func (l *link) fresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.behind == nil && len(l.mu.held.settings) == 0
}

// served counts the requests that PostgreSQL was given, and what else may have
// changed there.
func (l *link) served() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.held.served
}

// remember has the link prepare a statement when it has a connection. It is called
// while there is none, by who writes.
func (l *link) remember(name string, frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &remade{frame: slices.Clone(frame), reading: l.mu.held.reading()}
	l.mu.held.sent[name] = p
	l.mu.held.keep(name, p)
}

// missing refuses a request at once that PostgreSQL is needed for while it is away:
// there is nothing to wait for first.
func (x *attended) missing() *failure {
	l := x.link.Load()
	if l == nil {
		return nil
	}
	since, away := x.s.presence.away()
	if away == nil {
		return nil
	}
	l.mu.Lock()
	quiet := l.mu.held.quiet()
	l.mu.Unlock()
	if !quiet {
		return nil
	}
	return x.withoutUpstream(since, away)
}

// errAway: what a session waits for cannot come, for PostgreSQL is away.
var errAway = errors.New("pgwire: PostgreSQL is away")

// unlessAway ends what work began when PostgreSQL is away, or is so already, until stop
// is called: nothing is applied meanwhile, and what is waited for could not be passed on.
func (x *attended) unlessAway() (stop func() bool) {
	if x.link.Load() == nil {
		return func() bool { return true } // the session ends with PostgreSQL
	}
	round := x.task.round
	return context.AfterFunc(x.s.whileUpstream(), func() { x.task.end(round, errAway) })
}

// withoutUpstream refuses a statement that needs PostgreSQL, of which nothing was done.
func (x *attended) withoutUpstream(since time.Time, why error) *failure {
	x.s.metrics.refused.Inc()
	r := refuseStatement(why, since)
	return &failure{code: r.code, message: r.message, hint: r.hint, reason: r.reason}
}

// recall reports that what is known of the session holds although it cannot be
// asked for: nothing has reached PostgreSQL since, or the session is as it was at
// the login, or will be, and a login like it was asked before.
func (x *attended) recall() bool {
	l := x.link.Load()
	if l == nil || x.missing() == nil {
		return false
	}
	if x.known.asked && x.known.served == l.served() {
		return true
	}
	x.mu.Lock()
	altered := x.guarded.altered
	x.mu.Unlock()
	row := x.s.presence.roster.knownOf(l.login)
	if row == nil || altered && !l.fresh() {
		return false
	}
	if !x.known.asked || altered {
		x.plans.clear()
		x.known = knownFrom(row)
	}
	return true
}

// recallLate is recall while PostgreSQL is there and does not answer: the session is as
// at its login, and one like it was asked before.
func (x *attended) recallLate() bool {
	l := x.link.Load()
	x.mu.Lock()
	altered := x.guarded.altered
	x.mu.Unlock()
	if l == nil || altered {
		return false
	}
	row := x.s.presence.roster.knownOf(l.login)
	if row == nil {
		return false
	}
	if !x.known.asked {
		x.plans.clear()
		x.known = knownFrom(row)
	}
	return true
}

// recollect takes note of what PostgreSQL said of the session.
func (x *attended) recollect(row []string) {
	l := x.link.Load()
	if l == nil {
		return
	}
	x.known.asked, x.known.served = true, l.served()
	x.mu.Lock()
	altered := x.guarded.altered
	x.mu.Unlock()
	if !altered {
		x.s.presence.roster.know(l.login, row)
	}
}

// know keeps what a session like this login's is in PostgreSQL.
func (r *roster) know(key grantKey, row []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.mu.granted[key]
	if old == nil || slices.Equal(old.Known, row) {
		return
	}
	g := *old
	g.Known = row
	r.mu.granted[key], r.mu.changed = &g, true
}

// knownOf is what know was told; nil: nothing.
func (r *roster) knownOf(key grantKey) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.mu.granted[key]; g != nil {
		return g.Known
	}
	return nil
}

// makes reports that a named statement need not be made by PostgreSQL: it would not
// know it, or it is away, and gets it when there is a connection again.
func (x *attended) makes(p *prepared) bool {
	if x.isOwn(p) {
		return true
	}
	return x.detached()
}

// detached is link's.
func (x *attended) detached() bool {
	l := x.link.Load()
	return l != nil && l.detached()
}

// closed forgets the named statements that a query closed that was answered here.
func (x *attended) closed(list []message) {
	for i := range list {
		if m := &list[i]; m.kind == cClose && m.object == 'S' && m.name != "" {
			x.forget(m.name)
			if l := x.link.Load(); l != nil {
				l.forget(m.name)
			}
		}
	}
}

// forget has the link not prepare a statement any more. It is called while there is no
// connection, by who writes.
func (l *link) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.held.sent, name)
	l.mu.held.keep(name, nil)
}

func (x *attended) isOwn(p *prepared) bool {
	return len(p.text.Statements) == 1 && x.own(p.text, p.text.Statements[0]) != nil
}

// deferred keeps the statements of a query that was answered here.
func (x *attended) deferred(made map[string]*prepared) {
	for name, p := range made {
		if p == nil {
			continue
		}
		if l := x.link.Load(); name != "" && l != nil && !x.isOwn(p) {
			l.remember(name, appendParse(nil, name, p.sql, p.types))
			p.upstream = true
		}
		x.keep(name, p)
	}
}
