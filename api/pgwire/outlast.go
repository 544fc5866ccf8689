package pgwire

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// What a session leaves behind that ends in the middle of a direct write.

// underWay reports that PostgreSQL may still be at a direct write of the session, which
// is over.
func (x *attended) underWay() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.guarded.ends.direct) > 0 && !x.mu.finished && x.mu.turn.pending()
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
	// outlastPatience is how long that takes before somebody is told.
	outlastPatience = 10 * time.Second
)

// outlast keeps the session's gates until its backend is gone, or the server is closed:
// what it still does must not come behind what is logged then.
func (x *attended) outlast() {
	defer x.release()
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
	func() {
		ctx, cancel := context.WithTimeout(ctx, cancelTimeout)
		defer cancel()
		if err := x.s.passCancel(ctx, address, key); err != nil {
			log.Warn("a direct write that was given up is not cancelled", zap.Error(err))
		}
	}()
	began, told := time.Now(), false
	tick := time.NewTicker(outlastInterval)
	defer tick.Stop()
	for {
		there, err := x.t.backend(ctx, key)
		if err == nil && !there {
			return
		}
		if !told && time.Since(began) > outlastPatience {
			told = true
			log.Warn("a direct write outlives its session: its tables are not written behind until pg_terminate_backend ends it", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// backend reports whether PostgreSQL has a backend, by its cancel key.
func (t *tables) backend(ctx context.Context, key []byte) (there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	rows, err := t.o.Query(ctx, fmt.Sprintf("SELECT pid::text FROM pg_catalog.pg_stat_activity WHERE pid = %d", int32(binary.BigEndian.Uint32(key))))
	return len(rows) > 0, err
}
