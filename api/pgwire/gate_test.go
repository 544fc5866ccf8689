package pgwire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// hold keeps the sink from applying anything to the table until the returned function
// is called: somebody who writes past the proxy has locked it. To prepare a write takes the lock, too.
func (r *behindRig) hold(table string) (release func()) {
	r.t.Helper()
	conn := pgtest.Connect(r.t, r.direct)
	do(r.t, conn, "BEGIN", "LOCK TABLE "+table+" IN SHARE ROW EXCLUSIVE MODE")
	return func() { do(r.t, conn, "COMMIT") }
}

// started runs f and returns a channel of its error.
func started(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func ended(t testing.TB, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

// waiting waits until a session of the endpoint waits for what is pending.
func (r *behindRig) waiting() {
	r.t.Helper()
	eventually(r.t, "a session waits", func() bool {
		for _, x := range r.list() {
			if x.waiting.Load() != nil {
				return true
			}
		}
		return false
	})
}

const insertItem = "INSERT INTO items (id, name, n) VALUES ($1, $2, $3)"

// TestGate: a direct write, of whatever kind, waits for everybody's pending writes to its table, and
// so an old write from the log never overwrites it.
func TestGate(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; CREATE FUNCTION touch() RETURNS int LANGUAGE plpgsql AS $$ BEGIN UPDATE items SET n = 9; RETURN 1; END $$", []Table{assumed()})
	writer, other := r.connect(pgx.QueryExecModeExec), r.connect()
	for i, sql := range []string{"UPDATE items SET n = n * 0 + 9", "SELECT touch()", "BEGIN; UPDATE items SET n = 9; COMMIT",
		"WITH w AS (UPDATE items SET n = 9 RETURNING 1) SELECT * FROM w", "DO $$ BEGIN EXECUTE 'UPDATE items SET n = 9'; END $$"} {
		release := r.hold("items")
		before := r.logged()
		if _, err := writer.Exec(bounded(t), "INSERT INTO items (id, name, n) VALUES ($1, 'x', 1) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n", i%2); err != nil {
			t.Fatal(err)
		}
		if r.logged() != before+1 {
			t.Fatalf("not acknowledged from the log: %s", r.why())
		}
		done := started(func() error {
			_, err := other.Exec(bounded(t), sql, pgx.QueryExecModeSimpleProtocol)
			return err
		})
		r.waiting()
		release()
		if err := ended(t, sql, done); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		r.applied()
		if got := one[int](t, r.admin, "SELECT n::int FROM items WHERE id = $1", i%2); got != 9 {
			t.Errorf("%s: n is %d, the older write's: want 9", sql, got)
		}
	}
}

func assumed() Table {
	t := items()[0]
	t.AssumeRows = true
	return t
}

// TestGateIsHeld: while a transaction that has written a table directly is open,
// nothing is acknowledged from the log for it: others write directly, too, and wait for its locks.
func TestGateIsHeld(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, []Table{assumed()})
	a, b := r.connect(), r.connect()
	do(t, a, "INSERT INTO items (id, name, n) VALUES (1, 'x', 1)")
	do(t, a, "BEGIN", "UPDATE items SET n = n + 1 WHERE id = 1")
	before := r.logged()
	done := started(func() error {
		_, err := b.Exec(bounded(t), "UPDATE items SET n = 100 WHERE id = 1")
		return err
	})
	eventually(t, "the other waits in PostgreSQL", func() bool {
		return one[bool](t, r.admin, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE items SET n = 100%')")
	})
	do(t, a, "UPDATE items SET n = n + 1 WHERE id = 1", "COMMIT")
	if err := ended(t, "the other's write", done); err != nil {
		t.Fatal(err)
	}
	if r.logged() != before {
		t.Error("a write was acknowledged from the log under an open transaction's gate")
	}
	if got := one[int](t, r.admin, "SELECT n::int FROM items"); got != 100 {
		t.Errorf("n is %d, want 100", got)
	}
	do(t, b, "UPDATE items SET n = 5 WHERE id = 1")
	if r.logged() != before+1 {
		t.Errorf("the gate was not left: %s", r.why())
	}
	r.applied()
}

// TestGateTimeout: the wait is bounded, its end is an error that fails the
// transaction, and cancel requests end it, too.
func TestGateTimeout(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.change = append(o.change, func(o *Options) { o.WriteBehind.GateTimeout = 300 * time.Millisecond })
	})
	a, b := r.connect(pgx.QueryExecModeExec), r.connect()
	release := r.hold("items")
	defer release()
	do(t, a, "INSERT INTO items (id, name) VALUES (1, 'x')")
	if r.logged() != 1 {
		t.Fatalf("not acknowledged from the log: %s", r.why())
	}
	if _, err := b.Exec(bounded(t), "UPDATE items SET n = 1"); code(err) != "55P03" {
		t.Errorf("got %v, want 55P03", err)
	}
	do(t, b, "SELECT 1", "BEGIN")
	if _, err := b.Exec(bounded(t), "UPDATE items SET n = 1"); code(err) != "55P03" {
		t.Errorf("in a transaction: got %v, want 55P03", err)
	}
	if _, err := b.Exec(bounded(t), "SELECT 1"); code(err) != "25P02" {
		t.Errorf("behind it: got %v, want 25P02", err)
	}
	do(t, b, "ROLLBACK", "SELECT 1")
}

// TestReads: a read waits for its session's writes to what it touches, for nobody else's, and its wait can be cancelled.
func TestReads(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; CREATE VIEW seen AS SELECT * FROM items", items())
	a, b := r.connect(pgx.QueryExecModeExec), r.connect()
	release := r.hold("items")
	if _, err := a.Exec(bounded(t), insertItem, 1, "x", 1); err != nil || r.logged() != 1 {
		t.Fatalf("%v: %s", err, r.why())
	}
	if got := one[int](t, b, "SELECT count(*)::int FROM items"); got != 0 {
		t.Errorf("another session sees %d rows", got)
	}
	if got := one[int](t, a, "SELECT count(*)::int FROM other"); got != 0 {
		t.Errorf("%d rows of another table", got)
	}
	for _, sql := range []string{"SELECT count(*)::int FROM items", "SELECT count(*)::int FROM seen", "BEGIN"} {
		ctx, cancel := context.WithCancel(bounded(t))
		done := started(func() error { return a.PgConn().Exec(ctx, sql).Close() })
		r.waiting()
		if err := a.PgConn().CancelRequest(bounded(t)); err != nil {
			t.Fatal(err)
		}
		if err := ended(t, sql, done); code(err) != "57014" {
			t.Errorf("%s: got %v, want 57014", sql, err)
		}
		cancel()
	}
	done := started(func() error {
		var n int
		err := a.QueryRow(bounded(t), "SELECT count(*)::int FROM seen").Scan(&n)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows, want its own", n)
		}
		return err
	})
	r.waiting()
	release()
	if err := ended(t, "the read", done); err != nil {
		t.Error(err)
	}
}

// TestSnapshotOfAll: with read = 'all' the first read in a transaction waits for every
// table, for those that come later see no more than it did; a Parse makes the snapshot, too.
func TestSnapshotOfAll(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items())
	a, b, c := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	release := r.hold("items")
	for _, session := range []*pgx.Conn{b, c} {
		do(t, session, "SET walproxy.read = 'all'", "SET walproxy.ack = 'off'", "BEGIN ISOLATION LEVEL REPEATABLE READ")
	}
	if _, err := a.Exec(bounded(t), insertItem, 1, "x", 1); err != nil || r.logged() != 1 {
		t.Fatalf("%v: %s", err, r.why())
	}
	read := started(func() error { _, err := b.Exec(bounded(t), "SELECT FROM other"); return err })
	parse := started(func() error { _, err := c.Prepare(bounded(t), "s", "SELECT FROM other"); return err })
	eventually(t, "both wait", func() bool {
		n := 0
		for _, x := range r.list() {
			if x.waiting.Load() != nil {
				n++
			}
		}
		return n == 2
	})
	release()
	if err := errors.Join(ended(t, "the read", read), ended(t, "the Parse", parse)); err != nil {
		t.Fatal(err)
	}
	for _, session := range []*pgx.Conn{b, c} {
		if got := one[int](t, session, "SELECT count(*)::int FROM items"); got != 1 {
			t.Errorf("its snapshot has %d rows, want 1", got)
		}
	}
}

// TestGateOutlivesSession: a session is cut off in the middle of a direct write, which
// cancelling does not end: nothing is logged for its tables until it is over.
func TestGateOutlivesSession(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+`; CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  BEGIN
    PERFORM pg_sleep(300);
  EXCEPTION WHEN query_canceled THEN
    LOOP
      BEGIN
        PERFORM pg_advisory_xact_lock(1);
        EXIT;
      EXCEPTION WHEN query_canceled THEN
      END;
    END LOOP;
    UPDATE items SET n = 9;
  END;
END $$`, []Table{assumed()})
	a, b := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	do(t, b, "INSERT INTO items (id, name, n) VALUES (1, 'x', 1)")
	r.applied()
	do(t, r.admin, "SELECT pg_advisory_lock(1)")
	at := func(event string) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Log(one[string](t, r.admin, "SELECT string_agg(concat_ws(' ', pid, state, wait_event, query), '; ') FROM pg_stat_activity"))
			}
		}()
		eventually(t, event, func() bool {
			return one[bool](t, r.admin, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT stubborn%' AND wait_event = $1)", event)
		})
	}
	done := started(func() error { _, err := a.Exec(bounded(t), "SELECT stubborn()"); return err })
	at("PgSleep")
	for _, x := range r.list() {
		if turn := turnOf(t, x); turn.pending() {
			x.cut(endStopping())
		}
	}
	if err := ended(t, "the session", done); err == nil {
		t.Error("a session that was cut off has an answer")
	}
	at("advisory")
	eventually(t, "the session is over", func() bool { return r.sessionCount() == 1 })
	before := r.logged()
	do(t, b, "INSERT INTO items (id, name, n) VALUES (2, 'x', 1)")
	if r.logged() != before {
		t.Error("a write was logged while a direct one was under way")
	}
	do(t, r.admin, "SELECT pg_advisory_unlock(1)")
	eventually(t, "the gate is left", func() bool {
		do(t, b, "UPDATE items SET n = 5 WHERE id = 1")
		return r.logged() > before
	})
	r.applied()
	if n := one[int](t, r.admin, "SELECT n::int FROM items WHERE id = 1"); n != 5 {
		t.Errorf("n is %d, want 5, which was written last", n)
	}
}

// TestGateOfThoseAway: a session is cut off in the middle of a direct write while
// PostgreSQL hangs: others are acknowledged, and when PostgreSQL comes back the write that
// was given up is cancelled.
func TestGateOfThoseAway(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL, []Table{assumed()}, func(o *behindOptions) { o.cluster, o.change = c, append(o.change, quick(nil)) })
	a, b := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	do(t, b, "INSERT INTO items (id, name, n) VALUES (1, 'x', 1)")
	r.applied()
	do(t, r.admin, "SELECT pg_advisory_lock(1)") // what it waits for is not to be had
	direct := started(func() error {
		_, err := a.Exec(bounded(t), "WITH w AS (SELECT pg_advisory_lock(1)) UPDATE items SET n = 9 FROM w")
		return err
	})
	under := func() int {
		return one[int](t, r.admin, "SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE 'WITH w AS%'  AND wait_event = 'advisory'")
	}
	eventually(t, "a direct write is under way", func() bool { return under() == 1 })
	c.Pause(t)
	resume := sync.OnceFunc(func() { c.Continue(t) })
	defer resume()
	r.isAway(t, true)
	for _, x := range r.list() {
		if turn := turnOf(t, x); turn.pending() {
			x.cut(endStopping())
		}
	}
	if err := ended(t, "the session", direct); err == nil {
		t.Error("a session that was cut off has an answer")
	}
	eventually(t, "the gate is left", func() bool {
		_, err := b.Exec(bounded(t), "UPDATE items SET n = 5 WHERE id = 1")
		return err == nil
	})
	resume()
	eventually(t, "the direct write is cancelled", func() bool { return under() == 0 })
	do(t, r.admin, "SELECT pg_advisory_unlock(1)")
	r.applied()
	if n := one[int](t, r.admin, "SELECT n::int FROM items WHERE id = 1"); n != 5 {
		t.Errorf("n is %d, want 5, which was written last", n)
	}
}
