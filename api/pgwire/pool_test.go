package pgwire

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// pooling has sessions share so many connections.
func pooling(size int) func(*Options) {
	return func(o *Options) { o.Pool = &Pool{Size: size} }
}

// pooled is an endpoint with a pool before the common server, a database there and a
// session that looks at it past the endpoint.
func pooled(t testing.TB, size int, change ...func(*Options)) (s *Server, through string, direct *pgx.Conn) {
	t.Helper()
	s, through, dsn := shared(t, append([]func(*Options){pooling(size)}, change...)...)
	return s, through, pgtest.Connect(t, dsn)
}

func pid(t testing.TB, conn *pgx.Conn) int {
	t.Helper()
	return one[int](t, conn, "SELECT pg_backend_pid()")
}

// TestPoolCrowd: many clients on few connections, with tags: every answer is its
// client's, and PostgreSQL never has more processes than the pool's size. A third of
// them has TLS, and so goroutines, the others are in two loops.
func TestPoolCrowd(t *testing.T) {
	t.Parallel()
	sessions, rounds, size := 100, 4, 4
	cert := newCertificate(t)
	s, dsn, direct := pooled(t, size, looping, func(o *Options) { o.TLS = cert.server() })
	do(t, direct, "CREATE TABLE crowd (client int, n int)")
	most := 0
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			default:
				var n int
				if direct.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&n) == nil {
					most = max(most, n)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range sessions {
		dsn := dsn
		if i%3 == 0 {
			dsn = strings.Replace(dsn, "sslmode=disable", "sslmode=require", 1)
		}
		wg.Go(func() {
			if err := crowdMember(bounded(t), dsn, i, rounds); err != nil {
				t.Errorf("session %d: %v", i, err)
				return
			}
			if err := poolMember(bounded(t), dsn, i); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-watched
	if most > size+2 { // those that were closed may still be on their way out
		t.Errorf("%d processes of PostgreSQL", most)
	}
	if n := one[int](t, direct, "SELECT count(DISTINCT client) FROM crowd WHERE n = 2"); n != sessions {
		t.Errorf("%d sessions have committed", n)
	}
	eventually(t, "no session is left", func() bool { return s.sessionCount() == 0 })
	eventually(t, "all connections are idle", func() bool {
		n := s.pools.total()
		return n.open == n.idle && n.open <= size && n.waiting == 0
	})
}

// poolMember has a state of its own that it looks for in transactions.
func poolMember(ctx context.Context, dsn string, i int) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	name := fmt.Sprintf("member %d", i%7)
	if _, err := conn.Exec(ctx, "SET application_name = '"+name+"'"); err != nil {
		return err
	}
	for n := range 3 {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		var before, after int
		var got string
		if err := tx.QueryRow(ctx, "SELECT pg_backend_pid(), current_setting('application_name')").Scan(&before, &got); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO crowd VALUES ($1, $2)", i, n); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&after); err != nil {
			return err
		}
		if before != after || got != name {
			return fmt.Errorf("process %d, then %d in one transaction; %q is named %q", before, after, name, got)
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// TestPoolState: what a session does to its connection is not seen by others: it is set
// for each, or keeps the session on it.
func TestPoolState(t *testing.T) {
	t.Parallel()
	s, dsn, direct := pooled(t, 1)
	do(t, direct, "CREATE ROLE pooler NOLOGIN", "CREATE SCHEMA other", "CREATE TABLE public.t (v text)", "CREATE TABLE other.t (v text)",
		"INSERT INTO t VALUES ('public')", "INSERT INTO other.t VALUES ('other')", "CREATE TABLE numbered (id serial, v int)", "GRANT ALL ON t TO pooler")
	t.Cleanup(func() { do(t, direct, "DROP TABLE t", "DROP ROLE pooler") })
	a, b := pgtest.Connect(t, dsn), pgtest.Connect(t, dsn)
	both := func(what, query, inA, inB string) {
		t.Helper()
		for range 2 {
			if got := one[string](t, a, query); got != inA {
				t.Errorf("%s: %q where it was set; want %q", what, got, inA)
			}
			if got := one[string](t, b, query); got != inB {
				t.Errorf("%s: %q in the other session; want %q", what, got, inB)
			}
		}
	}
	do(t, a, "SET search_path = other", "SET work_mem = '5MB'")
	both("search_path", "SELECT v FROM t", "other", "public")
	both("a setting", "SELECT current_setting('work_mem')", "5MB", "4MB")
	do(t, a, "SET ROLE pooler", "RESET search_path")
	both("role", "SELECT current_user::text", "pooler", "postgres")
	both("prepared", "SELECT v FROM t", "public", "public")
	do(t, b, "BEGIN", "SET LOCAL work_mem = '6MB'", "COMMIT", "BEGIN", "SET work_mem = '7MB'", "ROLLBACK")
	both("set in a transaction", "SELECT current_setting('work_mem')", "5MB", "4MB")
	do(t, a, "RESET ALL", "RESET ROLE", "SET application_name = 'a'")
	both("application_name", "SELECT current_setting('application_name')", "a", "")
	do(t, a, "DISCARD ALL")
	both("discarded", "SELECT current_setting('application_name') || current_setting('work_mem')", "4MB", "4MB")
	if pid(t, a) != pid(t, b) {
		t.Error("two processes in a pool of one")
	}
	do(t, a, "INSERT INTO numbered (v) VALUES (1)")
	if _, err := b.Exec(bounded(t), "SELECT lastval()"); code(err) != "55000" {
		t.Errorf("lastval of another session: %v", err)
	}
	do(t, b, "DISCARD ALL") // it asked for a connection of its own
	if n := s.pools.total(); n.open != 1 || n.idle != 1 {
		t.Errorf("the pool has %+v", n)
	}
}

// TestPoolPinned: a session that has something on its connection keeps it, and others
// wait, until it lets go of that or ends.
func TestPoolPinned(t *testing.T) {
	t.Parallel()
	s, dsn, direct := pooled(t, 2, func(o *Options) { o.Pool.WaitTimeout = 200 * time.Millisecond })
	do(t, direct, "CREATE SEQUENCE drawn")
	dsn += "&default_query_exec_mode=exec" // pgx's own statements do not outlive a DISCARD ALL
	for name, c := range map[string]struct {
		statements []string
		check      string // true where it is there
	}{
		"a temporary table": {[]string{"CREATE TEMP TABLE x (v int)"}, "SELECT to_regclass('pg_temp.x') IS NOT NULL"},
		"one by its path":   {[]string{"SET search_path = pg_temp", "CREATE TABLE x (v int)"}, "SELECT to_regclass('pg_temp.x') IS NOT NULL"},
		"LISTEN":            {[]string{"LISTEN c"}, "SELECT EXISTS (SELECT FROM pg_listening_channels())"},
		"an advisory lock":  {[]string{"SELECT pg_advisory_lock(7)"}, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"},
		"a cursor":          {[]string{"BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"}, "SELECT EXISTS (SELECT FROM pg_cursors WHERE name = 'c')"},
		"PREPARE":           {[]string{"PREPARE p AS SELECT 1"}, "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'p')"},
		"set_config":        {[]string{"SELECT set_config('work_mem', '9MB', false)"}, "SELECT current_setting('work_mem') = '9MB'"},
		"DO":                {[]string{"DO $$ BEGIN PERFORM set_config('work_mem', '8MB', false); END $$"}, "SELECT current_setting('work_mem') = '8MB'"},
	} {
		for _, lets := range []string{"DISCARD ALL", "end"} {
			a, b, third := pgtest.Connect(t, dsn), pgtest.Connect(t, dsn), pgtest.Connect(t, dsn)
			do(t, b, "SELECT 1")
			do(t, a, c.statements...)
			if !one[bool](t, a, c.check) {
				t.Errorf("%s: it is not there", name)
			}
			for range 2 {
				if one[bool](t, b, c.check) {
					t.Errorf("%s: another session has it", name)
				}
			}
			do(t, b, "BEGIN", "SELECT 1")
			if _, err := third.Exec(bounded(t), "SELECT 1"); code(err) != "53300" || !strings.Contains(err.Error(), "query_wait_timeout") {
				t.Errorf("%s: with all connections in use: %v", name, err)
			}
			do(t, b, "COMMIT")
			do(t, third, "SELECT 1") // it goes on
			if lets == "end" {
				_ = a.Close(bounded(t))
			} else {
				do(t, a, lets)
				if one[bool](t, a, c.check) {
					t.Errorf("%s: it is there still", name)
				}
			}
			eventually(t, name+" is let go of", func() bool { n := s.pools.total(); return n.open == n.idle })
			for range 3 {
				if one[bool](t, b, c.check) || one[bool](t, third, c.check) {
					t.Errorf("%s: another session has it then", name)
				}
			}
			for _, conn := range []*pgx.Conn{a, b, third} {
				_ = conn.Close(bounded(t))
			}
		}
	}
}

// TestPoolClientGone: what a client began that vanished is rolled back, and nobody else is
// in it.
func TestPoolClientGone(t *testing.T) {
	t.Parallel()
	s, dsn, direct := pooled(t, 1)
	do(t, direct, "CREATE TABLE t (v int)")
	a := pgtest.Connect(t, dsn)
	do(t, a, "BEGIN", "INSERT INTO t VALUES (1)")
	_ = a.PgConn().Conn().(*net.TCPConn).Close()
	b := pgtest.Connect(t, dsn)
	if n := one[int](t, b, "SELECT count(*) FROM t"); n != 0 {
		t.Errorf("%d rows", n)
	}
	eventually(t, "the connection is idle", func() bool { n := s.pools.total(); return n.open == 1 && n.idle == 1 })
}

// TestPoolKilled: connections that PostgreSQL ends while nobody has them trouble no
// session, nor does a restart.
func TestPoolKilled(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	s := start(t, c.Addr(), pooling(3), quick(nil))
	dsn := s.through(t, c.DSN("postgres"))
	var sessions []*pgx.Conn
	for range 6 {
		sessions = append(sessions, pgtest.Connect(t, dsn))
	}
	for range 3 {
		for i, conn := range sessions {
			if got := one[int](t, conn, "SELECT $1::int", i); got != i {
				t.Errorf("%d instead of %d", got, i)
			}
		}
		if n := c.TerminateAll(t, "postgres"); n == 0 {
			t.Error("nothing was terminated")
		}
		eventually(t, "the connections are found dead", func() bool { return s.pools.total().open == 0 })
	}
	c.Restart(t)
	s.isAway(t, false)
	for i, conn := range sessions {
		if got := one[int](t, conn, "SELECT $1::int", i); got != i {
			t.Errorf("%d instead of %d", got, i)
		}
	}
}
