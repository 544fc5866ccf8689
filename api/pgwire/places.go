package pgwire

import (
	"context"
	"sync"
)

// places counts sessions against their bounds.
type places struct {
	total, user, database int // the bounds; 0: none

	mu struct {
		sync.Mutex
		taken     int
		users     map[string]int
		databases map[string]int
		freed     chan struct{} // closed when a place is freed; nil: nobody waits
	}
}

func newPlaces(o Options) *places {
	p := &places{total: o.MaxConnections, user: o.MaxUserConnections, database: o.MaxDatabaseConnections}
	p.mu.users, p.mu.databases = map[string]int{}, map[string]int{}
	return p
}

// take waits for a place until ctx ends; release gives it back, once.
func (p *places) take(ctx context.Context, user, database string) (release func(), err error) {
	for {
		full, freed := p.try(user, database)
		if full == nil {
			return func() { p.release(user, database) }, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			full.cause = context.Cause(ctx)
			return nil, full
		}
	}
}

// try takes a place, or says what is full and what to wait for.
func (p *places) try(user, database string) (full *refusal, freed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.mu.taken >= p.total:
		full = refuseFull("", p.total)
	case p.user > 0 && p.mu.users[user] >= p.user:
		full = refuseFull(" of this user", p.user)
	case p.database > 0 && p.mu.databases[database] >= p.database:
		full = refuseFull(" to this database", p.database)
	default:
		p.mu.taken++
		p.mu.users[user]++
		p.mu.databases[database]++
		return nil, nil
	}
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
