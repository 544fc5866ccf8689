package pgwire

import (
	"context"
	"sync"
)

// places counts sessions against their bounds.
type places struct {
	mu struct {
		sync.Mutex
		total, user, database int // the bounds; 0: none

		taken     int
		users     map[string]int
		databases map[string]int
		waiting   int
		freed     chan struct{} // closed when a place is freed; nil: nobody waits
	}
}

func newPlaces(o Options) *places {
	p := &places{}
	p.mu.total, p.mu.user, p.mu.database = o.MaxConnections, o.MaxUserConnections, o.MaxDatabaseConnections
	p.mu.users, p.mu.databases = map[string]int{}, map[string]int{}
	return p
}

// set changes the bounds.
func (p *places) set(total, user, database int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.total, p.mu.user, p.mu.database = total, user, database
	p.tellLocked()
}

// waitersMax wait for a place; others are refused at once. Each keeps one of the
// connections that are there for cancel requests, too.
const waitersMax = spare / 2

// take waits for a place until ctx ends; release gives it back, once.
func (p *places) take(ctx context.Context, user, database string) (release func(), err error) {
	for waited := false; ; waited = true {
		full, freed := p.try(user, database, waited)
		if full == nil {
			return func() { p.release(user, database) }, nil
		}
		if freed == nil {
			return nil, full
		}
		select {
		case <-freed:
		case <-ctx.Done():
			p.mu.Lock()
			p.mu.waiting--
			p.mu.Unlock()
			full.cause = context.Cause(ctx)
			return nil, full
		}
	}
}

// try takes a place, or says what is full and what to wait for, if that may be.
// waited: the caller is counted as waiting.
func (p *places) try(user, database string, waited bool) (full *refusal, freed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if waited {
		p.mu.waiting--
	}
	switch {
	case p.mu.taken >= p.mu.total:
		full = refuseFull("", p.mu.total)
	case p.mu.user > 0 && p.mu.users[user] >= p.mu.user:
		full = refuseFull(" of this user", p.mu.user)
	case p.mu.database > 0 && p.mu.databases[database] >= p.mu.database:
		full = refuseFull(" to this database", p.mu.database)
	default:
		p.mu.taken++
		p.mu.users[user]++
		p.mu.databases[database]++
		return nil, nil
	}
	if p.mu.waiting >= waitersMax {
		return full, nil
	}
	p.mu.waiting++
	if p.mu.freed == nil {
		p.mu.freed = make(chan struct{})
	}
	return full, p.mu.freed
}

func (p *places) release(user, database string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.taken--
	less(p.mu.users, user)
	less(p.mu.databases, database)
	p.tellLocked()
}

func (p *places) tellLocked() {
	if p.mu.freed != nil {
		close(p.mu.freed)
		p.mu.freed = nil
	}
}

// less forgets names that nobody uses: clients make them up.
func less(counts map[string]int, name string) {
	if counts[name]--; counts[name] == 0 {
		delete(counts, name)
	}
}
