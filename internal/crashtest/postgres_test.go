package crashtest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// onPostgres prepares a server whose store is a database of the cluster.
func onPostgres(t *testing.T, dsn string, env ...string) *server {
	t.Helper()
	return newServer(t, t.TempDir(), append([]string{
		"WALPROXY_SINKS__MAIN__TYPE=postgres", "WALPROXY_SINKS__MAIN__DSN=" + dsn,
		"WALPROXY_SINKS__MAIN__AUTO_CREATE=true",
		"WALPROXY_SINKS__MAIN__TIMEOUTS__CONNECT=2s", "WALPROXY_SINKS__MAIN__TIMEOUTS__LOCK=2s",
		"WALPROXY_SINKS__MAIN__TIMEOUTS__LEASE=5s",
	}, env...)...)
}

// noTransactions wants none left open in the database of the DSN.
func noTransactions(t *testing.T, c *pgtest.Cluster, dsn string) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	must(t, err)
	for end := time.Now().Add(20 * time.Second); c.OpenTransactions(t, config.Database) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d transactions are open", c.OpenTransactions(t, config.Database))
		}
	}
}

// TestPostgresKills kills walproxy, PostgreSQL, and both, at random instants
// while clients write, and compares after each.
func TestPostgresKills(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	c, r := pgtest.New(t, pgtest.Options{}), rng(t)
	dsn := c.Database(t)
	s := onPostgres(t, dsn)
	s.start(ctx)
	for round := range times(6, 90) {
		stop := s.load(ctx)
		s.waitAcked(ctx, 1+r.IntN(300))
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond)))) // a random instant, not a condition
		if round%3 != 0 {
			if round%2 == 0 {
				c.Kill(t)
			} else {
				c.KillAll(t)
			}
			s.waitAcked(ctx, 100) // acks go on
		}
		if round%3 != 1 {
			s.process.Kill()
		}
		stop()
		if !c.Running() {
			c.Start(t)
		}
		if round%3 != 1 {
			s.start(ctx)
		}
		s.check(ctx)
		noTransactions(t, c, dsn)
	}
	s.stop()
}

// TestPostgresKillsAtFailpoints lets walproxy kill itself on both sides of the
// commit.
func TestPostgresKillsAtFailpoints(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	c, r := pgtest.Shared(t), rng(t)
	dsn := c.Database(t)
	s := onPostgres(t, dsn)
	for range times(1, 20) {
		for _, point := range []string{"sink-before-commit", "sink-after-commit", "replay-mid-apply", "replay-before-checkpoint-release"} {
			most := 20
			if point == "replay-before-checkpoint-release" {
				most = 3
			}
			s.dieAt(ctx, fmt.Sprintf("%s=%d", point, 1+r.IntN(most)))
			noTransactions(t, c, dsn)
		}
	}
}

// TestPostgresFullQueue ends walproxy by SIGTERM, and by SIGKILL, with 10,000
// records queued for PostgreSQL: they are there after the restart, each once.
func TestPostgresFullQueue(t *testing.T) {
	t.Parallel()
	endWithFullQueue(t, func(t *testing.T, env string) *server {
		return onPostgres(t, pgtest.Shared(t).Database(t), env)
	})
}

// TestPostgresRestored puts an older state of the database back: inside of retain
// what it lost is applied again; outside the sink refuses.
func TestPostgresRestored(t *testing.T) {
	t.Parallel()
	for _, e := range []struct {
		name, retain string
		records      int // after the backup
		refuses      bool
	}{
		{"inside of retain", "4MiB", 500, false},
		{"outside", "64KiB", 4000, true},
	} {
		t.Run(e.name, func(t *testing.T) {
			ctx := timeout(t, time.Minute, time.Minute)
			c := pgtest.New(t, pgtest.Options{})
			s := onPostgres(t, c.DSN("postgres"), "WALPROXY_SINKS__MAIN__RETAIN="+e.retain)
			s.start(ctx)
			s.fill(ctx, 500, 0)
			must(t, s.client.WaitDrained(ctx))
			s.stop()
			backup := c.Snapshot(t)
			s.start(ctx)
			s.fill(ctx, e.records, 200)
			s.check(ctx)
			s.stop()
			c.Restore(t, backup)
			s.start(ctx)
			if e.refuses {
				s.fill(ctx, 10, 0) // something to wait for
				s.halts(ctx, "the log starts at LSN")
				s.accepts(nil, nil, "the store lacks them for good", "is accepted, and")
				must(t, s.client.WaitDrained(ctx))
				s.stop()
				return
			}
			s.check(ctx)
			s.stop()
		})
	}
}

// TestPostgresOldLog puts an older copy of log and state back and writes past the
// store's checkpoint: diverged, and nothing reaches the store.
func TestPostgresOldLog(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, time.Minute)
	s := onPostgres(t, pgtest.Shared(t).Database(t))
	s.start(ctx)
	s.fill(ctx, 100, 0)
	must(t, s.client.WaitDrained(ctx))
	s.stop()
	older := s.copyLog()
	s.start(ctx)
	s.fill(ctx, 100, 0)
	s.check(ctx)
	s.stop()
	s.putBack(older)
	s.start(ctx, paused)
	behind := newServer(t, s.dir)
	behind.client.SetAddr(s.process.Addr("api"))
	behind.runs = 100
	behind.fill(ctx, 300, 0)
	s.process.Kill()
	s.start(ctx)
	s.halts(ctx, "diverged")
}

// TestPostgresCopy connects a log to a copy of its store in another database, as
// a staging system is made: refused, nothing is written there.
func TestPostgresCopy(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, time.Minute)
	c := pgtest.Shared(t)
	dsn := c.Database(t)
	s := onPostgres(t, dsn)
	s.start(ctx)
	s.fill(ctx, 100, 0)
	must(t, s.client.WaitDrained(ctx))
	s.stop()
	production, err := pgx.ParseConfig(dsn)
	must(t, err)
	admin := c.Connect(t, "postgres")
	staging := production.Database + "_staging"
	_, err = admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", staging, production.Database))
	must(t, err)
	t.Cleanup(func() { must(t, c.DropDatabase(staging)) })
	s.start(ctx, "WALPROXY_SINKS__MAIN__DSN="+c.DSN(staging))
	s.fill(ctx, 10, 0) // something to wait for
	s.halts(ctx, "the one that was claimed")
	s.process.Kill()
	s.start(ctx)
	s.check(ctx)
	s.stop()
}
