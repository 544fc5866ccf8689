package pgwire

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// What a session leaves behind that ends in the middle of a direct write.

// underWay reports that PostgreSQL may still be at a direct write of the session, which
// is over.
func (x *attended) underWay() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := &x.guarded.ends
	return (len(e.direct) > 0 || e.yielded) && !x.mu.finished && x.mu.turn.pending()
}

// release leaves the session's gates.
func (x *attended) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.guarded.ends.release()
}

const (
	// outlastInterval is how often PostgreSQL is asked for a backend.
	outlastInterval = 100 * time.Millisecond
	// outlastCancel bounds one attempt to cancel: the next one comes soon.
	outlastCancel = 2 * time.Second
	// outlastPatience is how long that takes before somebody is told, or, when it cannot
	// be asked, before the gates are left.
	outlastPatience = 10 * time.Second
)

// outlast keeps the session's gates until its backend is gone, PostgreSQL is away, or the
// server is closed: what the backend still does must not come behind what is logged then.
// While PostgreSQL is away nothing of the log is applied, and one that was started again
// has no backend of before. One that was only cut off, and comes back with the backend
// still at its write, is made to cancel it.
func (x *attended) outlast() {
	release := sync.OnceFunc(x.release)
	defer release()
	address, key := x.address, x.key
	if l := x.link.Load(); l != nil {
		address, key = l.last()
	}
	if len(key) == 0 {
		return // it never had one
	}
	log := x.s.log.With(append(x.fields(), zap.Uint32("backend", binary.BigEndian.Uint32(key)))...)
	ctx, cancel := x.s.untilStop()
	defer cancel()
	began, first := time.Now(), ""
	cancelled, told := false, false
	tick := time.NewTicker(outlastInterval)
	defer tick.Stop()
	for {
		if x.s.isUpstreamAway() {
			release()
		}
		if !cancelled {
			cancelled = x.cancelLast(ctx, address, key) == nil
		}
		started, err := x.lastBackend(ctx, key)
		if first == "" {
			first = started
		}
		switch {
		case err == nil && (started == "" || started != first): // gone; another one may have its number
			return
		case err != nil && time.Since(began) > outlastPatience:
			release()
		case !told && time.Since(began) > outlastPatience:
			told = true
			log.Warn("a direct write outlives its session: its tables are not written behind until pg_terminate_backend ends it")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// cancelLast is cut short when PostgreSQL goes away, for the gates are left then.
func (x *attended) cancelLast(ctx context.Context, address Address, key []byte) error {
	ctx, cancel := x.s.unlessUpstreamGoes(ctx, outlastCancel)
	defer cancel()
	return x.s.passCancel(ctx, address, key)
}

// lastBackend is tables.backend, cut short likewise.
func (x *attended) lastBackend(ctx context.Context, key []byte) (started string, err error) {
	ctx, cancel := x.s.unlessUpstreamGoes(ctx, refreshTimeout)
	defer cancel()
	return x.t.backend(ctx, key)
}

// unlessUpstreamGoes returns a context that ends after limit, and when it gets known that
// PostgreSQL is away; one that is begun while it is away finds out whether it is back.
func (s *Server) unlessUpstreamGoes(ctx context.Context, limit time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	here := s.whileUpstream()
	if here.Err() != nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(here, cancel)
	return ctx, func() { stop(); cancel() }
}

// backend returns when a backend of PostgreSQL was started, by its cancel key; "": there
// is none.
func (t *tables) backend(ctx context.Context, key []byte) (started string, err error) {
	rows, err := t.watch.Ask(ctx, fmt.Sprintf("SELECT backend_start::text FROM pg_catalog.pg_stat_activity WHERE pid = %d", int32(binary.BigEndian.Uint32(key))))
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0][0], nil
}
