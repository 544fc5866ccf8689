package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/walproxy/walproxy/sinks"
)

// minVersion of the server: 12.
const minVersion = 120000

// newPool makes a pool of at most size connections; it does not connect yet.
func (s *Sink) newPool(from *pgx.ConnConfig, size int) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	pc.ConnConfig = s.connConfig(from)
	// A call that is given up asks the server to stop, so that its locks go soon,
	// and closes the connection if there is no answer to that.
	pc.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
	}
	pc.ConnConfig.OnNotice = noteReplication
	pc.MaxConns, pc.MinConns = int32(size), 0
	pc.MaxConnLifetime, pc.MaxConnLifetimeJitter = time.Hour, 10*time.Minute
	pc.MaxConnIdleTime, pc.HealthCheckPeriod = 5*time.Minute, 30*time.Second
	pc.AfterConnect = s.prepareSession
	pc.BeforeClose = func(conn *pgx.Conn) {
		// A server that does not answer must not hold up a Close.
		_ = conn.PgConn().Conn().SetDeadline(time.Now().Add(time.Second))
	}
	return pgxpool.NewWithConfig(context.Background(), pc)
}

// connConfig is the configuration that every connection shares. Time-outs are not
// sent at the start of the session, which poolers refuse, but in prepareSession.
func (s *Sink) connConfig(from *pgx.ConnConfig) *pgx.ConnConfig {
	c := from.Copy()
	c.ConnectTimeout = s.o.Timeouts.Connect
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "walproxy"
	}
	return c
}

// sessionSettings make a session the same whatever role, database and server say
// by default: finite waits, commits that are durable, and one form of text.
func (s *Sink) sessionSettings() [][2]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }
	return [][2]string{
		{"statement_timeout", ms(s.o.Timeouts.Statement)},
		{"lock_timeout", ms(s.o.Timeouts.Lock)},
		{"idle_in_transaction_session_timeout", ms(s.o.Timeouts.IdleInTransaction)},
		{"tcp_keepalives_idle", "10"}, {"tcp_keepalives_interval", "5"}, {"tcp_keepalives_count", "3"},
		{"client_encoding", "UTF8"},
		{"TimeZone", ownZone}, {"DateStyle", "ISO, YMD"}, {"IntervalStyle", "iso_8601"},
		{"extra_float_digits", "1"}, {"bytea_output", "hex"}, {"standard_conforming_strings", "on"},
		// Parameters are arrays of any length, and every join is by a key: planning
		// a statement anew for its values costs more than it can gain.
		{"plan_cache_mode", "force_generic_plan"},
		// Statements take milliseconds. Where estimates of their arrays or of the
		// catalogue make the server compile them, that costs tens of times as much.
		{"jit", "off"},
	}
}

// prepareSession checks a new connection's server and sets the session up.
func (s *Sink) prepareSession(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeouts.Connect) // a pool's own limit is minutes
	defer cancel()
	// First: settings would stay with a session that is somebody else's next.
	if err := s.direct(ctx, conn); err != nil {
		return err
	}
	query := `SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
		(SELECT format('postgres system %s database %s', c.system_identifier, d.oid)
			FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d WHERE d.datname = current_database()),
		CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
			THEN set_config('synchronous_commit', 'on', false) END,
		current_setting('role'), current_setting('search_path')`
	var args []any
	for _, setting := range s.sessionSettings() {
		query += fmt.Sprintf(", set_config('%s', $%d, false)", setting[0], len(args)+1)
		args = append(args, setting[1])
	}
	var version int
	var standby bool
	var identity string
	own := session{zone: ownZone}
	targets := []any{&version, &standby, &identity, nil, &own.role, &own.path}
	for range args {
		targets = append(targets, nil)
	}
	err := conn.QueryRow(ctx, query, args...).Scan(targets...)
	if codeOf(err) == "42501" {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("%w: GRANT EXECUTE ON FUNCTION pg_control_system() to the role, so that this cluster is told from a copy", err))
	}
	if err != nil {
		return err
	}
	conn.PgConn().CustomData()[identityKey], conn.PgConn().CustomData()[sessionKey] = identity, own
	switch {
	case version < minVersion:
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("the server is PostgreSQL %d, 12 is the oldest that works", version/10000))
	case standby:
		// Not Halt: it may be promoted, or the name may come to mean the primary.
		return sinks.WithOutcome(sinks.Retry, fmt.Errorf("%s is a standby and takes no writes; name all hosts with target_session_attrs=read-write to find the primary", conn.Config().Host))
	}
	return nil
}

// direct refuses a pooler that gives every transaction another session: the lock
// would belong to nobody.
func (s *Sink) direct(ctx context.Context, conn *pgx.Conn) error {
	pid, err := backend(ctx, conn)
	if err != nil {
		return err
	}
	if pid == conn.PgConn().PID() {
		return nil // the server itself
	}
	// A pooler. With session pooling a second connection changes nothing for the
	// first; with transaction pooling it gets the session that the first one used.
	probe, err := pgx.ConnectConfig(ctx, s.owner.config)
	if err != nil {
		return err
	}
	defer closeSoon(probe)
	if _, err := probe.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	other, err := backend(ctx, probe)
	if err != nil {
		return err
	}
	again, err := backend(ctx, conn)
	if err == nil && other != pid && again == pid {
		return nil
	}
	return sinks.WithOutcome(sinks.Halt, errors.Join(errors.New("sink postgres: the dsn leads to a pooler that pools transactions (pgbouncer's pool_mode=transaction, say): the stream's lock, time-outs and prepared statements need a session; connect to the server itself, or to a pool with pool_mode=session"), err))
}

// errBusy is why there is no connection. Its text is made when it is asked for: the
// pool copies its configuration.
type errBusy struct {
	pool   *pgxpool.Pool
	waited time.Duration
}

func (e errBusy) Error() string {
	return fmt.Sprintf("no connection of the pool's %d within %v", e.pool.Config().MaxConns, e.waited)
}

// acquire takes a connection from a pool. Errors are not classified yet and mean
// that nothing was sent.
func (s *Sink) acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.Timeouts.Acquire, errBusy{pool, s.o.Timeouts.Acquire})
	defer cancel()
	conn, err := pool.Acquire(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if err != nil {
		return nil, err
	}
	if err := s.sameStore(conn.Conn()); err != nil {
		s.release(conn)
		return nil, err
	}
	return conn, nil
}

// onConn runs f on a connection of a pool. Whatever f does, the connection goes
// back without a transaction, or is closed.
func (s *Sink) onConn(ctx context.Context, pool *pgxpool.Pool, f func(*pgx.Conn) error) error {
	conn, err := s.acquire(ctx, pool)
	if err != nil {
		return err
	}
	defer s.release(conn)
	return f(conn.Conn())
}

// release gives a connection back. A transaction that is still open, for whatever
// reason, a panic too, is rolled back first, on a context of its own: the
// caller's has often just ended. If that fails the connection is closed.
func (s *Sink) release(conn *pgxpool.Conn) {
	defer conn.Release() // destroys what is closed
	rollback(conn.Conn())
}

func rollback(conn *pgx.Conn) {
	pc := conn.PgConn()
	if pc.IsClosed() || (!pc.IsBusy() && pc.TxStatus() == 'I') {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	if _, err := pc.Exec(ctx, "ROLLBACK").ReadAll(); err != nil || pc.TxStatus() != 'I' {
		_ = pc.Close(ctx) // the server rolls back with the session
	}
}

// inTransaction runs f between BEGIN and COMMIT and commits if it returns nil.
func (s *Sink) inTransaction(ctx context.Context, conn *pgx.Conn, f func(*pgx.Conn) error) error {
	defer rollback(conn)
	if _, err := conn.Exec(ctx, begin); err != nil {
		return s.classify(err, false)
	}
	if err := f(conn); err != nil {
		return s.classify(err, false)
	}
	tag, err := conn.Exec(ctx, "COMMIT")
	if err == nil && tag.String() != "COMMIT" {
		return s.classify(errRolledBack, false)
	}
	return s.classify(err, true)
}
