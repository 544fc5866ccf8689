package crashtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// unreported makes PostgreSQL report no commit any more: each is done and on its disk,
// and waits for a replica that is not there. So what walproxy has in flight is applied and
// not known to be, and everything behind it is pending, for as long as a test wants.
type unreported struct {
	*testing.T
	direct string // DSN of the database
}

// begin also has it that a server that is started again reports its commits.
func (u unreported) begin(ctx context.Context) {
	u.Helper()
	u.exec(ctx, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
}

// lanes are walproxy's own, by default.
const lanes = 4

// applied waits until a batch of walproxy's with records in it is, or one of each lane,
// and reports false if ended is closed before.
func (u unreported) applied(ctx context.Context, ended <-chan struct{}) bool {
	u.Helper()
	conn := pgtest.Connect(u.T, u.direct)
	defer func() { _ = conn.Close(ctx) }()
	for {
		var batches, full int
		must(u.T, conn.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = a.pid AND l.mode = 'RowExclusiveLock' AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace))
			FROM pg_stat_activity a WHERE application_name = 'walproxy' AND wait_event = 'SyncRep'`).Scan(&batches, &full))
		if full > 0 || batches >= lanes {
			_, err := conn.Exec(ctx, "ALTER SYSTEM RESET synchronous_standby_names") // for the next start
			must(u.T, err)
			return true
		}
		select {
		case <-ended:
			u.end(ctx)
			return false
		case <-time.After(time.Millisecond):
		}
	}
}

// cut ends the sessions that wait, without a word about their commits: the batches are
// sent again.
func (u unreported) cut(ctx context.Context) {
	u.Helper()
	u.exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walproxy' AND wait_event = 'SyncRep'")
}

// end reports what was done.
func (u unreported) end(ctx context.Context) {
	u.Helper()
	u.exec(ctx, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
}

func (u unreported) exec(ctx context.Context, statements ...string) {
	u.Helper()
	conn := pgtest.Connect(u.T, u.direct)
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		_, err := conn.Exec(ctx, sql)
		must(u.T, err)
	}
}

// headStart is what is given to a write that nothing but a gate holds up: with the gate
// kept it waits longer, whatever this is.
const headStart = 50 * time.Millisecond
