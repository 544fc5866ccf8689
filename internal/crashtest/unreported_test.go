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

// applied waits until a batch of walproxy's is, and reports false if ended is closed
// before.
func (u unreported) applied(ctx context.Context, ended <-chan struct{}) bool {
	u.Helper()
	conn := pgtest.Connect(u.T, u.direct)
	defer func() { _ = conn.Close(ctx) }()
	for {
		var n int
		must(u.T, conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walproxy' AND wait_event = 'SyncRep'").Scan(&n))
		if n > 0 {
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
