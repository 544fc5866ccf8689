package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/sinks"
)

// ErrOwned: another process owns the stream and is alive.
var ErrOwned = errors.New("sink postgres: another process owns the stream")

// OwnedError says who owns the stream. It is marked sinks.Retry: whoever waits
// takes over when the owner ends, or falls silent for the lease.
type OwnedError struct {
	Owner  string // of the last claim: host and pid
	Epoch  uint64
	PID    uint32        // of the server process that holds the lock; 0: unknown
	Silent time.Duration // since the owner's last sign of life; negative: not visible to this role
}

func (e *OwnedError) Error() string {
	silent := "its sessions are another role's: grant pg_monitor to see how long it has been silent"
	if e.Silent >= 0 {
		silent = fmt.Sprintf("last heard %v ago", e.Silent.Round(time.Millisecond))
	}
	return fmt.Sprintf("%v: %q, epoch %d, server process %d, %s", ErrOwned, e.Owner, e.Epoch, e.PID, silent)
}

func (e *OwnedError) Unwrap() error { return ErrOwned }

// lockKey is the advisory lock's key.
func lockKey(parts ...string) int64 {
	h := fnv.New64a()
	for _, part := range append([]string{"walproxy"}, parts...) {
		_, _ = h.Write([]byte(part)) // never fails
		_, _ = h.Write([]byte{0})
	}
	return int64(h.Sum64())
}

// owner holds the stream's advisory lock on a connection of its own, and takes it
// again when that was lost.
type owner struct {
	sink   *Sink
	config *pgx.ConnConfig

	held  atomic.Bool
	epoch atomic.Uint64
	who   atomic.Pointer[string]
	pid   atomic.Uint32 // of the server process that held the lock last

	mu     sync.Mutex // of take and close; what follows
	key    int64
	cancel context.CancelFunc // ends the keeper; nil: there is none
	keeper sync.WaitGroup
}

func newOwner(s *Sink, config *pgx.ConnConfig) *owner {
	return &owner{sink: s, config: s.connConfig(config)}
}

// holds reports whether the lock is held, as far as this process knows.
func (o *owner) holds() bool { return o.held.Load() }

// claimed notes who claimed the stream, and the epoch under which a lost lock may
// be taken again.
func (o *owner) claimed(epoch uint64, who string) {
	o.epoch.Store(epoch)
	o.who.Store(&who)
}

// name is who claimed the stream, if this process did.
func (o *owner) name() string {
	if who := o.who.Load(); who != nil {
		return *who
	}
	return ""
}

// patience is how long a claimer waits for the lock in one Resume: a crashed
// owner's session ends within moments.
func (o *owner) patience() time.Duration { return min(2*time.Second, o.sink.o.Timeouts.Lock) }

// take gets the lock for a claim, unless it is held already.
func (o *owner) take(ctx context.Context, c sinks.Claim) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := lockKey("stream", o.sink.o.Schema, c.Stream.String())
	if o.held.Load() && o.key == key {
		return nil
	}
	o.stop()
	conn, err := o.lock(ctx, key)
	if err != nil {
		return err
	}
	o.key = key
	o.held.Store(true)
	keep, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	o.keeper.Go(func() { o.keep(keep, conn, key) })
	return nil
}

// stop ends the keeper, which gives the lock back.
func (o *owner) stop() {
	if o.cancel == nil {
		return
	}
	o.cancel()
	o.keeper.Wait()
	o.cancel = nil
}

// Yield implements sinks.Yielder: it gives the stream's lock back.
func (s *Sink) Yield() { s.owner.close() }

func (o *owner) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stop()
}

// lock connects and waits a moment for the lock.
func (o *owner) lock(ctx context.Context, key int64) (_ *pgx.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.sink.o.Timeouts.Connect+2*o.patience())
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, o.config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeSoon(conn)
		}
	}()
	if err := o.sink.prepareSession(ctx, conn); err != nil {
		return nil, err
	}
	if err := o.sink.sameStore(conn); err != nil {
		return nil, err
	}
	// The session is idle for most of its life (14 and later may end such).
	_, err = conn.Exec(ctx, "SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN $1 ELSE '0' END, false) FROM pg_catalog.pg_settings WHERE name IN ('lock_timeout', 'idle_session_timeout')",
		fmt.Sprint(max(o.patience().Milliseconds(), 1)))
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "SELECT pg_advisory_lock($1)", key)
	if codeOf(err) == "55P03" {
		return nil, o.owned(ctx, conn, key)
	}
	if err != nil {
		return nil, err
	}
	pid, err := backend(ctx, conn)
	o.pid.Store(pid)
	return conn, err
}

// backend is the process id of the session that runs a connection's statements.
func backend(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid, err
}

// owned finds out who has the lock. An owner that has been silent for the lease
// is ended; the next try may then get it.
func (o *owner) owned(ctx context.Context, conn *pgx.Conn, key int64) error {
	owned := &OwnedError{Silent: -1}
	var pid *int
	var silent *float64
	err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT s.owner, s.epoch, l.pid, extract(epoch FROM clock_timestamp() - a.state_change)::float8
		FROM %s.store s LEFT JOIN pg_catalog.pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
			AND l.classid = ($1::int8 >> 32 & 4294967295)::oid AND l.objid = ($1::int8 & 4294967295)::oid
			AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid LIMIT 1`, o.sink.schema), key).
		Scan(&owned.Owner, &owned.Epoch, &pid, &silent)
	if err != nil {
		return err
	}
	if pid != nil {
		owned.PID = uint32(*pid)
	}
	if silent != nil {
		owned.Silent = time.Duration(*silent * float64(time.Second))
	}
	// A session of our own that the server does not know to be lost needs no lease.
	if owned.PID != 0 && (owned.Silent > o.sink.o.Timeouts.Lease || owned.PID == o.pid.Load()) {
		o.sink.log.Warn("the session with the stream's lock is silent: it is ended", zap.Error(owned))
		if _, err := conn.Exec(ctx, "SELECT pg_terminate_backend($1)", *pid); err != nil {
			return sinks.WithOutcome(sinks.Retry, fmt.Errorf("%w; its session cannot be ended (%w): use one role for all owners, or grant pg_signal_backend", owned, err))
		}
	}
	return sinks.WithOutcome(sinks.Retry, owned)
}

// keep watches the connection that holds the lock, and takes the lock again when
// it was lost, until ctx ends or somebody else claimed the stream.
func (o *owner) keep(ctx context.Context, conn *pgx.Conn, key int64) {
	defer o.held.Store(false)
	for {
		err := o.watch(ctx, conn)
		o.held.Store(false)
		closeSoon(conn)
		if ctx.Err() != nil {
			return
		}
		o.sink.metrics.lost.Inc()
		o.sink.log.Warn("the connection with the stream's lock was lost: applying waits", zap.Error(err))
		if conn = o.retake(ctx, key); conn == nil {
			return
		}
		o.held.Store(true)
		o.sink.log.Info("the stream's lock is held again", zap.Uint64("epoch", o.epoch.Load()))
	}
}

// watch returns when the connection is lost, or ctx ends. It gives a sign of life
// three times per lease.
func (o *owner) watch(ctx context.Context, conn *pgx.Conn) error {
	beat := o.sink.o.Timeouts.Lease / 3
	for {
		quiet, cancel := context.WithTimeout(ctx, beat)
		err := conn.PgConn().WaitForNotification(quiet) // notices a lost connection at once
		idle := quiet.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !idle || conn.IsClosed():
			return err
		}
		alive, cancel := context.WithTimeout(ctx, beat)
		_, err = conn.Exec(alive, "SELECT 1")
		cancel()
		if err != nil {
			return err
		}
	}
}

// retake gets the lock back, nil if ctx ends or the stream has a new owner.
func (o *owner) retake(ctx context.Context, key int64) *pgx.Conn {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		conn, err := o.lock(ctx, key)
		if err == nil {
			var epoch uint64
			err = conn.QueryRow(ctx, fmt.Sprintf("SELECT epoch FROM %s.store", o.sink.schema)).Scan(&epoch)
			if err == nil && epoch == o.epoch.Load() {
				return conn
			}
			closeSoon(conn)
		}
		if err == nil || o.replaced(ctx) {
			o.sink.log.Error("another process claimed the stream: applying ends")
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// replaced reports whether the store is known to have a newer epoch.
func (o *owner) replaced(ctx context.Context) bool {
	var epoch uint64
	err := o.sink.onConn(ctx, o.sink.applyPool, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, fmt.Sprintf("SELECT epoch FROM %s.store", o.sink.schema)).Scan(&epoch)
	})
	return err == nil && epoch != o.epoch.Load()
}

// closeSoon closes a connection, however its server is.
func closeSoon(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
