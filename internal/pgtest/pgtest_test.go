package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("PGTEST_ABANDON") != "" {
		abandon()
	}
	pgtest.Main(m)
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func exec1(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(bounded(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func count(t *testing.T, conn *pgx.Conn, sql string) (n int) {
	t.Helper()
	if err := conn.QueryRow(bounded(t), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func TestSharedDatabasesAreApart(t *testing.T) {
	c := pgtest.Shared(t)
	if c != pgtest.Shared(t) {
		t.Error("two shared clusters")
	}
	one, two := pgtest.Connect(t, c.Database(t)), pgtest.Connect(t, c.Database(t))
	exec1(t, one, "CREATE TABLE a (b int)")
	if n := count(t, two, "SELECT count(*) FROM pg_class WHERE relname = 'a'"); n != 0 {
		t.Error("the second database has the first one's table")
	}
}

// TestEndings: what was committed is there after a restart, a kill of the
// postmaster and one of every process; a paused server answers again.
func TestEndings(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	conn := c.Connect(t, "postgres")
	if n := count(t, conn, "SELECT count(*) FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'on'"); n != 3 {
		t.Fatalf("%d of 3 settings of durability are on", n)
	}
	exec1(t, conn, "CREATE TABLE a (b int)")
	for i, end := range []func(testing.TB){c.Stop, c.Kill, c.KillAll} {
		exec1(t, c.Connect(t, "postgres"), "INSERT INTO a VALUES (1)")
		end(t)
		if c.Running() {
			t.Fatalf("ending %d: it runs", i)
		}
		c.Start(t)
		if n := count(t, c.Connect(t, "postgres"), "SELECT count(*) FROM a"); n != i+1 {
			t.Fatalf("after ending %d: %d rows", i, n)
		}
	}
	conn = c.Connect(t, "postgres")
	c.Pause(t)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := conn.Ping(short); err == nil {
		t.Error("a paused server answered")
	}
	c.Continue(t)
	conn = c.Connect(t, "postgres")
	if !c.TerminateBackend(t, conn.PgConn().PID()) || conn.Ping(bounded(t)) == nil {
		t.Error("a terminated session goes on")
	}
}

func TestSnapshotRestore(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	exec1(t, c.Connect(t, "postgres"), "CREATE TABLE a (b int)")
	old := c.Snapshot(t)
	exec1(t, c.Connect(t, "postgres"), "INSERT INTO a VALUES (1)")
	c.Restore(t, old)
	if n := count(t, c.Connect(t, "postgres"), "SELECT count(*) FROM a"); n != 0 {
		t.Errorf("%d rows after the restore", n)
	}
}

func TestStandby(t *testing.T) {
	primary := pgtest.New(t, pgtest.Options{})
	standby := pgtest.New(t, pgtest.Options{StandbyOf: primary})
	conn := standby.Connect(t, "postgres")
	_, err := conn.Exec(bounded(t), "CREATE TABLE a (b int)")
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "25006" {
		t.Fatalf("a write to the standby: %v", err)
	}
	primary.KillAll(t)
	standby.Promote(t)
	exec1(t, conn, "CREATE TABLE a (b int)")
}

func TestFill(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a small file system needs root")
	}
	c := pgtest.New(t, pgtest.Options{DiskBytes: 160 << 20})
	conn := c.Connect(t, "postgres")
	exec1(t, conn, "CREATE TABLE a (b text)")
	c.Fill(t, 1<<20)
	_, err := conn.Exec(bounded(t), "INSERT INTO a SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "53100" {
		t.Fatalf("an insert on the full disk: %v", err)
	}
	c.Free(t)
	exec1(t, conn, "INSERT INTO a VALUES ('x')")
}

func TestProxy(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := pgtest.NewProxy(t, pgtest.Shared(t).Addr())
	through := pgtest.DSN(p.Addr(), pgtest.Superuser, config.Database)
	straight := pgtest.Connect(t, dsn)
	exec1(t, straight, "CREATE TABLE a (b int)")
	for i, side := range []pgtest.Side{pgtest.BeforeServer, pgtest.AfterServer} {
		conn := pgtest.Connect(t, through)
		p.CutAt("INSERT", side, 1)
		if _, err := conn.Exec(bounded(t), "INSERT INTO a VALUES (1)"); err == nil {
			t.Fatal("the cut connection answered")
		}
		if p.Cuts() != i+1 {
			t.Fatalf("%d cuts, want %d", p.Cuts(), i+1)
		}
		if n := count(t, straight, "SELECT count(*) FROM a"); n != i {
			t.Fatalf("side %d: %d rows, want %d", side, n, i)
		}
	}
	half := pgtest.Connect(t, through)
	p.CutAt("INSERT", pgtest.Halfway, 1)
	if _, err := half.Exec(bounded(t), "INSERT INTO a VALUES (1)"); err == nil || p.Cuts() != 3 {
		t.Fatalf("cut halfway: %v, %d cuts", err, p.Cuts())
	}
	if n := count(t, straight, "SELECT count(*) FROM a"); n != 1 {
		t.Fatalf("cut halfway: %d rows, want 1", n)
	}
	conn := pgtest.Connect(t, through)
	p.Delay(30 * time.Millisecond)
	began := time.Now()
	exec1(t, conn, "SELECT 1")
	if took := time.Since(began); took < 60*time.Millisecond {
		t.Errorf("a delayed round trip took %v", took)
	}
	p.Delay(0)
	p.Hold()
	answered := make(chan error, 1)
	go func() { answered <- conn.Ping(context.WithoutCancel(t.Context())) }()
	select {
	case err := <-answered:
		t.Errorf("a held connection answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.Release()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	p.Refuse(true)
	p.Cut()
	if conn.Ping(bounded(t)) == nil {
		t.Error("a cut connection answers")
	}
	if c, err := pgx.Connect(bounded(t), through); err == nil {
		t.Error("a refusing proxy let a client in", c.Close(t.Context()))
	}
}

// abandon is a test process that dies with a running and a paused cluster.
func abandon() {
	t := &testing.T{}
	a, b := pgtest.New(t, pgtest.Options{}), pgtest.New(t, pgtest.Options{})
	b.Pause(t)
	fmt.Println(filepath.Dir(a.Dir()))
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// TestWatchdog: a test process killed with SIGKILL leaves no server, stopped or
// not, and no file.
func TestWatchdog(t *testing.T) {
	cmd := exec.CommandContext(bounded(t), os.Args[0])
	cmd.Env = append(os.Environ(), "PGTEST_ABANDON=1")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v\n%s", err, out)
	}
	root := strings.TrimSpace(string(out))
	if !strings.HasPrefix(root, "/tmp/pgtest-") {
		t.Fatalf("the process said %q", out)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := below(root)
		if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) && len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is left, with processes %v", root, left)
		}
	}
}

// below lists the processes that work in a directory below root.
func below(root string) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if where, err := os.Readlink(link); err == nil && strings.HasPrefix(where, root+"/") {
			pids = append(pids, link)
		}
	}
	return pids
}
