package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/horizon"
	"github.com/walproxy/walproxy/sinks"
)

// sweeper removes expired rows behind the applied records, a few at a time (see
// package horizon for why nobody sees it). It works from the first Resume on,
// whenever the horizon has moved, or when a row's end has come and nothing is
// applied that would move it; and only as the owner: its transactions check the
// epoch as those of batches do.
type sweeper struct {
	sink   *Sink
	signal chan struct{} // the horizon has moved
	fresh  chan struct{} // there may be other ends: see changed
	cancel context.CancelFunc
	ctx    context.Context
	joined sync.WaitGroup

	mu struct {
		sync.Mutex
		started, ended bool
		epoch          uint64
		lanes          []sinks.Point
		horizon        horizon.Horizon
		ask            horizonOf // nil: only what is applied moves the horizon
		asked          sinks.LSN // what ask said last is true above it
	}

	// The goroutine's own: what is known under an epoch.
	epoch       uint64
	collections map[string]*expiring
}

// expiring is a collection whose records can have an end.
type expiring struct {
	collection string
	cursor     cursor // behind the last row that was looked at
	limit      int    // rows of the next transaction
	// again is when to start from the beginning: rows are passed over that others
	// hold locked, or that the table's constraints keep.
	again time.Time
	told  bool // a row that is kept was logged
}

// cursor is a row in the order of removal, as PostgreSQL encodes it; before all
// without an end.
type cursor struct{ end, key []byte }

const (
	// relook is how long rows that others held locked are passed over, and how long
	// nothing is looked for behind a failure, or while another process owns the stream;
	// keepFor is how long those rows are passed over that cannot be deleted.
	relook  = 10 * time.Second
	keepFor = time.Hour
	// sweepLock bounds the waits of a removal for locks, below the server's
	// deadlock_timeout: a batch never has to give way to it.
	sweepLock = 100 * time.Millisecond
)

func newSweeper(s *Sink) *sweeper {
	w := &sweeper{sink: s, signal: make(chan struct{}, 1), fresh: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// claimed starts anew under a claim's checkpoint.
func (w *sweeper) claimed(cp sinks.Checkpoint) {
	if w.sink.o.Expiry.Disabled {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.epoch, w.mu.lanes, w.mu.horizon, w.mu.asked = cp.Epoch, slices.Clone(cp.Lanes), horizon.Horizon{}, 0
	w.changed()
	if w.mu.ended || w.mu.started {
		return
	}
	w.mu.started = true
	w.joined.Go(w.run)
}

// applied takes a batch that is in the store.
func (w *sweeper) applied(b *sinks.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.Epoch != w.mu.epoch || !w.mu.started {
		return
	}
	if b.Relane {
		w.mu.lanes = make([]sinks.Point, len(b.Moves))
	}
	for _, m := range b.Moves {
		if m.Lane < len(w.mu.lanes) {
			w.mu.lanes[m.Lane] = m.To
		}
	}
	if !w.mu.horizon.Observe(horizon.SampleOf(b), sinks.Checkpoint{Lanes: w.mu.lanes}.Low().LSN) {
		w.changed()
		return
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// reach is the horizon and the epoch that it was found under.
func (w *sweeper) reach() (at time.Time, epoch uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.horizon.At(), w.mu.epoch
}

// end cuts a removal off; join waits for it.
func (w *sweeper) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.ended = true
	w.cancel()
}

func (w *sweeper) join() { w.joined.Wait() }

func (w *sweeper) run() {
	timer := time.NewTimer(lookAnew)
	defer timer.Stop()
	var at time.Time // of timer; zero: it does not run
	arm := func(next time.Time) {
		if at = next; at.IsZero() {
			timer.Stop()
			return
		}
		timer.Reset(time.Until(at))
	}
	arm(time.Time{})
	for {
		select {
		case <-w.signal:
			w.rounds()
		case <-w.fresh:
		case <-timer.C:
			arm(w.idle())
			continue
		case <-w.ctx.Done():
			return
		}
		if soon := time.Now().Add(lull * w.sink.o.Expiry.Every); at.IsZero() || at.After(soon) {
			arm(soon)
		}
	}
}

// rounds removes all that there is to remove.
func (w *sweeper) rounds() {
	for w.round() && w.wait(w.sink.o.Expiry.Every) {
	}
}

func (w *sweeper) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// round makes one transaction per collection; more says that rows are left.
func (w *sweeper) round() (more bool) {
	at, epoch := w.reach()
	if at.IsZero() || !w.sink.owner.holds() {
		return false
	}
	if err := w.list(epoch); err != nil {
		w.failed("", err)
		return false
	}
	for i, name := range slices.Sorted(maps.Keys(w.collections)) {
		if i > 0 && !w.wait(w.sink.o.Expiry.Every) {
			return false
		}
		again, err := w.sweep(w.collections[name], at, epoch)
		if err != nil {
			w.failed(name, err)
		}
		if w.ctx.Err() != nil || errors.Is(err, sinks.ErrFenced) {
			return false
		}
		more = more || again
	}
	return more
}

// list brings collections up to date with those in use and those noted in the
// store.
func (w *sweeper) list(epoch uint64) error {
	var unknown []string
	if w.collections == nil || w.epoch != epoch {
		w.collections = nil
	}
	for _, name := range w.sink.planner.expiring() {
		if w.collections[name] == nil {
			unknown = append(unknown, name)
		}
	}
	if w.collections != nil && len(unknown) == 0 {
		return nil
	}
	return w.onConn(func(conn *pgconn.PgConn) error {
		schema := w.sink.schema
		answers, err := runPipeline(w.ctx, conn, []command{
			noteExpiring(schema, unknown),
			{sql: fmt.Sprintf("SELECT collection FROM %s.expiring", schema)},
		})
		if err != nil {
			return err
		}
		if w.collections == nil {
			w.collections, w.epoch = map[string]*expiring{}, epoch
		}
		for _, row := range answers[1].rows {
			if name := string(row[0]); w.collections[name] == nil {
				w.collections[name] = &expiring{collection: name, limit: w.sink.o.Expiry.Batch}
			}
		}
		return nil
	})
}

// sweep makes one transaction. What the table refuses to delete is found by
// halving, and passed over; more says that it is worth going on.
func (w *sweeper) sweep(e *expiring, at time.Time, epoch uint64) (more bool, err error) {
	if time.Now().After(e.again) {
		e.cursor, e.again = cursor{}, time.Now().Add(relook)
	}
	r := &removal{sink: w.sink, e: e, until: at, epoch: epoch}
	err = w.onConn(func(conn *pgconn.PgConn) error { return r.run(w.ctx, conn) })
	outcome, said := judge(err, false)
	switch {
	case err == nil:
		w.sink.metrics.expired.Add(float64(r.removed))
		full := r.found == e.limit
		e.cursor, e.limit = r.last, min(2*e.limit, w.sink.o.Expiry.Batch)
		return full, nil
	case errors.Is(err, errStale) || staleCode(codeOf(err)):
		return false, w.onConn(func(conn *pgconn.PgConn) error { return w.sink.planner.refresh(w.ctx, conn, false) })
	case codeOf(err) == "" || outcome != sinks.Rejected || r.found == 0:
		return false, err
	case r.found > 1:
		e.limit = max(1, r.found/2)
		return true, nil
	}
	e.cursor, e.again = r.last, time.Now().Add(keepFor)
	w.sink.metrics.expiredKept.Inc()
	if !e.told {
		e.told = true
		w.sink.log.Warn("an expired row cannot be deleted and is kept: it is absent for reads and writes through walproxy; said once per collection, the others are counted",
			zap.String("collection", e.collection), zap.Error(said))
	}
	return true, nil
}

// onConn runs f on a connection of the apply pool.
func (w *sweeper) onConn(f func(*pgconn.PgConn) error) error {
	conn, err := w.sink.acquire(w.ctx, w.sink.applyPool)
	if err != nil {
		return err
	}
	defer w.sink.release(conn)
	return f(conn.Conn().PgConn())
}
