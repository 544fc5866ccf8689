package crashtest_test

import (
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPostgresHung lets PostgreSQL hang (SIGSTOP) while 10,000 writes are
// acknowledged, and ends walproxy: by SIGTERM it is gone by its deadline and says
// exactly what remains. When PostgreSQL goes on, the next start applies these, each
// once, whatever the hung server still commits of what it was sent.
func TestPostgresHung(t *testing.T) {
	t.Parallel()
	for _, e := range []struct {
		name string
		end  func(s *server)
	}{
		{"SIGTERM", func(s *server) {
			began := time.Now()
			s.terminate(exitRemaining, "10000 records stay in the log")
			if took := time.Since(began); took > 15*time.Second { // 1 s to drain, 5 s for what is in flight, the pools
				s.Errorf("it took %v to stop beside a hung server", took)
			}
		}},
		{"SIGKILL", func(s *server) { s.process.Kill() }},
	} {
		t.Run(e.name, func(t *testing.T) {
			ctx := timeout(t, time.Minute, time.Minute)
			c := pgtest.New(t, pgtest.Options{})
			s := onPostgres(t, c.Database(t), "WALPROXY_LOG__SEGMENT_BYTES=1MiB", "WALPROXY_SHUTDOWN__DRAIN_TIMEOUT=1s")
			s.start(ctx)
			s.fill(ctx, 100, 0)
			must(t, s.client.WaitDrained(ctx))
			c.Pause(t)
			s.fill(ctx, 10_000, 0)
			e.end(s)
			c.Continue(t)
			s.start(ctx)
			s.check(ctx)
			s.stop()
		})
	}
}

// TestPostgresReadOnly makes PostgreSQL read-only, as in a failover, while clients
// write: the sink halts and acks go on. When it takes writes again, :resume lets
// the same process go on.
func TestPostgresReadOnly(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, time.Minute)
	c := pgtest.New(t, pgtest.Options{})
	s := onPostgres(t, c.Database(t))
	s.start(ctx)
	stop := s.load(ctx)
	s.waitAcked(ctx, 200)
	admin := c.Connect(t, "postgres")
	readOnly := func(on string) {
		t.Helper()
		for _, statement := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM SET default_transaction_read_only = " + on, "SELECT pg_reload_conf()"} {
			_, err := admin.Exec(ctx, statement)
			must(t, err)
		}
	}
	readOnly("on")
	s.halts(ctx, "read-only")
	s.waitAcked(ctx, 200)
	readOnly("off")
	stop()
	for { // halted until it got further; the server's processes see the setting one after the other
		must(t, s.client.Resume(ctx, "main"))
		status, err := s.client.Status(ctx)
		must(t, err)
		if status.Sinks[0].State != "halted" {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("still halted: %+v", status)
		case <-time.After(100 * time.Millisecond):
		}
	}
	s.check(ctx)
	s.stop()
}
