package pgwire

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

// untilRefused inserts rows until one is refused, and returns why, and how many were not.
func untilRefused(t testing.TB, conn *pgx.Conn, name string) (taken int, err error) {
	t.Helper()
	for id := range 100_000 {
		if _, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, $2)", id, name); err != nil {
			return id, err
		}
	}
	t.Fatal("none is refused")
	return 0, nil
}

// TestNoRoom: with a full log, and with a sink that is too far behind, a write is
// refused with what it is, and nothing of it is done; the session goes on, and its
// writes do when there is room again.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]struct {
		proxy func(*walproxy.Options)
		code  string
	}{
		"full": {func(o *walproxy.Options) { o.Log.SegmentBytes, o.Log.MaxBytes = 64<<10, 256<<10 }, "53100"},
		"lag":  {func(o *walproxy.Options) { o.Sinks[0].MaxLagBytes = 64 << 10 }, "53400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) { o.proxy = e.proxy })
			conn := r.connect(pgx.QueryExecModeExec)
			release := r.hold("items")
			taken, err := untilRefused(t, conn, strings.Repeat("x", 8000))
			if code(err) != e.code {
				t.Fatalf("after %d writes: %v, want %s", taken, err, e.code)
			}
			do(t, conn, "SELECT count(*) FROM other")
			release()
			eventually(t, "a write is taken again", func() bool {
				_, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, 'again')", taken)
				if err != nil && code(err) != e.code {
					t.Fatal(err)
				}
				return err == nil
			})
			r.applied()
			if n := one[int](t, r.admin, "SELECT count(*)::int FROM items"); n != taken+1 {
				t.Errorf("%d rows, %d were acknowledged", n, taken+1)
			}
		})
	}
}

// failingFS fails every sync once it is told to, or has it hang.
type failingFS struct {
	vfs.FS
	fails *atomic.Bool
	hangs *atomic.Pointer[chan struct{}] // until it is closed; nil: it does not
}

func (f failingFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(name) == "watermark" { // which is not a write's
		return file, err
	}
	return failingFile{file, f}, nil
}

type failingFile struct {
	vfs.File
	failingFS
}

var errDisk = errors.New("the disk fails")

func (f failingFile) Sync() error {
	if f.fails.Load() {
		return errDisk
	}
	return f.File.Sync()
}

func (f failingFile) Datasync() error {
	if f.fails.Load() {
		return errDisk
	}
	if f.hangs != nil {
		if until := f.hangs.Load(); until != nil {
			<-*until
		}
	}
	return f.File.Datasync()
}

// TestInDoubt: where the fsync of a write fails its session is told that nobody knows,
// and ends; the next write is refused, with nothing done.
func TestInDoubt(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.proxy = func(o *walproxy.Options) {
			o.Log.Engine, o.Log.FS = wal.EngineNative, failingFS{FS: vfs.OS(), fails: &fails}
		}
	})
	conn, other := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	for _, c := range []*pgx.Conn{conn, other} {
		do(t, c, "INSERT INTO items (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'y'")
	}
	fails.Store(true)
	_, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES (2, 'x')")
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "08007" || e.SeverityUnlocalized != "FATAL" || e.Hint == "" {
		t.Errorf("in doubt: %v", err)
	}
	eventually(t, "the session has ended", func() bool { return r.sessionCount() == 1 })
	if _, err := other.Exec(bounded(t), "INSERT INTO items (id, name) VALUES (3, 'x')"); code(err) != "57P03" {
		t.Errorf("behind it: %v", err)
	}
	do(t, other, "SELECT count(*) FROM other")
}

// TestDiskHangs: whose write the disk is at for longer than ack_timeout is told that nobody
// knows, and his session ends, whoever waits for the disk: he himself, as who writes
// alone does, or the log. When the disk is back so is everybody else.
func TestDiskHangs(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	var hangs atomic.Pointer[chan struct{}]
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.proxy = func(o *walproxy.Options) {
			o.Log.Engine, o.Log.FS = wal.EngineNative, failingFS{vfs.OS(), &fails, &hangs}
		}
		o.change = append(o.change, func(o *Options) { o.WriteBehind.AckTimeout = 2 * time.Second })
	})
	alone, second, third := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	const write = "INSERT INTO items (id, name) VALUES ($1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'y'"
	for _, c := range []*pgx.Conn{third, second, alone} {
		for range 20 {
			if _, err := c.Exec(bounded(t), write, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	until := make(chan struct{})
	hangs.Store(&until)
	var both sync.WaitGroup
	for i, c := range []*pgx.Conn{alone, second} {
		appended := r.proxy.Newest("items")
		both.Go(func() {
			_, err := c.Exec(bounded(t), write, 2+i)
			if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "08007" || e.SeverityUnlocalized != "FATAL" {
				t.Errorf("number %d of those who wait for the disk: %v", i, err)
			}
		})
		eventually(t, "it is written", func() bool { return r.proxy.Newest("items") > appended })
	}
	both.Wait()
	hangs.Store(nil)
	close(until)
	if _, err := third.Exec(bounded(t), write, 4); err != nil {
		t.Errorf("behind it: %v", err)
	}
	r.applied()
	if n := one[int](t, r.admin, "SELECT count(*)::int FROM items"); n != 4 {
		t.Errorf("%d rows", n)
	}
	eventually(t, "their sessions have ended", func() bool { return r.sessionCount() == 1 })
}

// TestAckApplied: with walproxy.ack = 'applied' a write that PostgreSQL refuses is
// answered with its error, one whose wait is cancelled with a warning, and both sessions
// go on.
func TestAckApplied(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; CREATE UNIQUE INDEX ON items (name)", items())
	config, err := pgx.ParseConfig(r.through)
	if err != nil {
		t.Fatal(err)
	}
	var warned atomic.Pointer[pgconn.Notice]
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { warned.Store(n) }
	conn, err := pgx.ConnectConfig(bounded(t), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	do(t, conn, "SET walproxy.ack = 'applied'", "INSERT INTO items (id, name) VALUES (1, 'a')")
	if n := one[int](t, r.admin, "SELECT count(*)::int FROM items"); n != 1 {
		t.Errorf("%d rows behind the ack", n)
	}
	if _, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES (2, 'a')"); code(err) != "23505" {
		t.Errorf("what PostgreSQL refuses: %v", err)
	}
	var n int
	if err := conn.QueryRow(bounded(t), "SELECT count(*)::int FROM items").Scan(&n); code(err) != "40003" {
		t.Errorf("a read that would not see it: %d, %v", n, err)
	}
	do(t, conn, "SET walproxy.read = 'any'", "SELECT count(*) FROM items", "RESET walproxy.read")
	letters, err := r.proxy.DeadLetters("main", 0, 10)
	if err != nil || len(letters) != 1 {
		t.Fatalf("%d dead letters, %v", len(letters), err)
	}
	if _, err := r.proxy.DiscardDeadLetters("main", []walproxy.LSN{letters[0].LSN}); err != nil {
		t.Fatal(err)
	}
	do(t, conn, "SELECT count(*) FROM items") // there is nothing to wait for any more
	release := r.hold("items")
	done := started(func() error {
		_, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES (3, 'c')")
		return err
	})
	r.waiting()
	if err := conn.PgConn().CancelRequest(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, "the write", done); err != nil {
		t.Errorf("cancelled while it waits to be applied, which takes nothing back: %v", err)
	}
	if w := warned.Load(); w == nil || w.Code != "01000" {
		t.Errorf("the client is not warned: %+v", w)
	}
	release()
	r.applied()
	if n := one[int](t, r.admin, "SELECT count(*)::int FROM items WHERE id = 3"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// TestDeadlock: two transactions at the gates of each other's tables are told apart by
// PostgreSQL: one is 40P01, the other one commits, and both gates are left.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, []Table{items()[0], table("other", items()[0].KeyType, "id")})
	a, b := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	do(t, a, "INSERT INTO items (id, name) VALUES (1, 'x')", "INSERT INTO other (id, v) VALUES (1, 'x')")
	do(t, a, "BEGIN", "UPDATE items SET n = 1")
	do(t, b, "BEGIN", "UPDATE other SET v = 'b'")
	first := started(func() error { _, err := a.Exec(bounded(t), "UPDATE other SET v = 'a'"); return err })
	_, err := b.Exec(bounded(t), "UPDATE items SET n = 2")
	errs := []error{err}
	for _, c := range []*pgx.Conn{b, a} {
		if c == a {
			errs = append(errs, ended(t, "the other one", first))
		}
		do(t, c, "COMMIT")
	}
	if got := code(errs[0]) + code(errs[1]); got != "40P01" {
		t.Errorf("%v", errs)
	}
	before := r.logged()
	do(t, a, "INSERT INTO items (id, name) VALUES (2, 'x')", "INSERT INTO other (id, v) VALUES (2, 'x')")
	if r.logged() != before+2 {
		t.Errorf("the gates were not left: %s", r.why())
	}
	r.applied()
}

// TestCopyAndListen: COPY in both directions stands in the order of a session's writes,
// and a session that writes behind gets its notifications.
func TestCopyAndListen(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) { o.linger = 100 * time.Millisecond })
	conn := r.connect(pgx.QueryExecModeExec)
	do(t, conn, "LISTEN news", "INSERT INTO items (id, name) VALUES (1, 'a')")
	before := r.logged()
	if before != 1 {
		t.Errorf("not written behind: %s", r.why())
	}
	var out strings.Builder
	if _, err := conn.PgConn().CopyTo(bounded(t), &out, "COPY (SELECT id, name FROM items) TO STDOUT"); err != nil || out.String() != "1\ta\n" {
		t.Errorf("COPY TO: %q, %v", out.String(), err)
	}
	do(t, conn, "INSERT INTO items (id, name) VALUES (2, 'b')")
	if _, err := conn.PgConn().CopyFrom(bounded(t), strings.NewReader("2\tagain\n"), "COPY items (id, name) FROM STDIN"); code(err) != "23505" {
		t.Errorf("COPY FROM does not see a write before it: %v", err)
	}
	if _, err := conn.PgConn().CopyFrom(bounded(t), strings.NewReader("3\tc\n"), "COPY items (id, name) FROM STDIN"); err != nil {
		t.Error(err)
	}
	do(t, conn, "INSERT INTO items (id, name) VALUES (3, 'd') ON CONFLICT (id) DO UPDATE SET name = 'd'")
	if r.logged() != before+2 {
		t.Errorf("behind a COPY: %s", r.why())
	}
	do(t, r.admin, "NOTIFY news, 'x'")
	if n, err := conn.WaitForNotification(bounded(t)); err != nil || n.Payload != "x" {
		t.Errorf("%+v, %v", n, err)
	}
	r.applied()
	if got := one[string](t, r.admin, "SELECT string_agg(id || name, ' ' ORDER BY id) FROM items"); got != "1a 2b 3d" {
		t.Errorf("%s", got)
	}
}
