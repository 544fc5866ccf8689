package pgwire

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/mutation"
)

// TestKeyIsNotPassedThrough: a write under an idempotency key is never done by
// PostgreSQL, which would do its repeat again. It waits for who writes directly, and
// what cannot be logged is refused; the session goes on.
func TestKeyIsNotPassedThrough(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.change = append(o.change, func(o *Options) { o.WriteBehind.GateTimeout = time.Second })
	})
	a, b := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	do(t, a, "BEGIN", "INSERT INTO items (id, name) VALUES (1, 'x')")
	do(t, b, "SET walproxy.idempotency_key = 'k'")
	const insert = "INSERT INTO items VALUES (2, 'b', 1, '2026-01-01 00:00Z')"
	if _, err := b.Exec(bounded(t), insert); code(err) != "55P03" {
		t.Errorf("while another session writes directly: %v", err)
	}
	done := started(func() error { _, err := b.Exec(bounded(t), insert); return err })
	r.waiting()
	do(t, a, "COMMIT")
	if err := ended(t, "the write", done); err != nil || r.logged() != 1 {
		t.Errorf("behind it: %v, %s", err, r.why())
	}
	do(t, b, "SET walproxy.idempotency_key = 'k'", insert) // the same
	if r.logged() != 2 || one[string](t, b, "SHOW walproxy.idempotency_key") != "" {
		t.Errorf("the repeat: %s", r.why())
	}
	do(t, b, "SET walproxy.idempotency_key = 'l'")
	for _, sql := range []string{"INSERT INTO items VALUES (3, 'c') RETURNING id", "UPDATE items SET n = 2", "INSERT INTO other VALUES (1, 'x')", "INSERT INTO items SELECT 4, 'd'"} {
		_, err := b.Exec(bounded(t), sql)
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "0A000" || e.Detail == "" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	do(t, b, "SELECT 1", "BEGIN")
	if _, err := b.Exec(bounded(t), "UPDATE items SET n = 2"); code(err) != "0A000" {
		t.Errorf("in a transaction: %v", err)
	}
	do(t, b, "ROLLBACK", "RESET walproxy.idempotency_key", "UPDATE items SET n = 2 WHERE id = 2")
	r.applied()
	if n := one[int](t, r.admin, "SELECT count(*)::int FROM items"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// TestKeyInAnotherMode: a repeat is the same write in whatever form the driver sends it;
// one with another value is not.
func TestKeyInAnotherMode(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; ALTER TABLE items ADD price numeric, ADD seen bool, ALTER at DROP DEFAULT", items())
	const insert = "INSERT INTO items (id, name, n, price, seen, at) VALUES ($1, $2, $3, $4, $5, $6)"
	at := time.Date(2026, 11, 22, 1, 2, 3, 250_000_000, time.UTC)
	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec}
	for i, first := range modes {
		for j, then := range modes {
			id := 10*i + j
			for n, mode := range []pgx.QueryExecMode{first, then} {
				conn := r.connect(mode)
				do(t, conn, fmt.Sprintf("SET walproxy.idempotency_key = 'k%d'", id))
				if _, err := conn.Exec(bounded(t), insert, id, "x", 5, 12.50, true, at); err != nil {
					t.Errorf("%v, then %v, attempt %d: %v: %s", first, then, n+1, err, r.why())
				}
				do(t, conn, fmt.Sprintf("SET walproxy.idempotency_key = 'k%d'", id))
				if _, err := conn.Exec(bounded(t), insert, id, "x", 5, 12.51, true, at); code(err) != "22023" {
					t.Errorf("%v, then %v: another value: %v", first, then, err)
				}
				_ = conn.Close(bounded(t))
			}
		}
	}
	r.applied()
	if n := one[int](t, r.admin, "SELECT count(*)::int FROM items"); n != len(modes)*len(modes) {
		t.Errorf("%d rows", n)
	}
}

// TestOthersWaitAtTheGate: a write that comes by another way than SQL waits, too, while
// its table is written directly, and is applied behind that.
func TestOthersWaitAtTheGate(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items())
	conn := r.connect(pgx.QueryExecModeExec)
	do(t, conn, "INSERT INTO items (id, name, n) VALUES (1, 'x', 1)", "BEGIN", "UPDATE items SET n = 2 WHERE id = 1")
	at := r.proxy.Newest("items")
	later, err := mutation.Merge("items", mutation.Int64(1), map[string]any{"n": 3})
	if err != nil {
		t.Fatal(err)
	}
	done := started(func() error {
		_, err := r.proxy.Append(bounded(t), later)
		return err
	})
	select {
	case err := <-done:
		t.Fatalf("it was accepted under the gate: %v", err)
	case <-time.After(50 * time.Millisecond): // an accepted one shows below, too
	}
	do(t, conn, "UPDATE items SET n = n + 5 WHERE id = 1")
	if now := r.proxy.Newest("items"); now != at {
		t.Errorf("LSN %d was given out under the gate", now)
	}
	do(t, conn, "COMMIT")
	if err := ended(t, "the write", done); err != nil {
		t.Fatal(err)
	}
	r.applied()
	if n := one[int](t, r.admin, "SELECT n::int FROM items"); n != 3 {
		t.Errorf("n is %d, want the later write's 3", n)
	}
}

// TestReadBehindARepeat: a session that repeats an old write under its key still sees what it
// has written since.
func TestReadBehindARepeat(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items())
	conn := r.connect(pgx.QueryExecModeExec)
	const insert = "INSERT INTO items (id, name, at) VALUES (1, 'x', '2026-01-01 00:00Z')"
	do(t, conn, "SET walproxy.idempotency_key = 'k'", insert)
	r.applied()
	do(t, r.admin, "BEGIN", "LOCK TABLE items IN SHARE MODE") // which reads pass
	do(t, conn, "INSERT INTO items (id, name) VALUES (2, 'x')", "SET walproxy.idempotency_key = 'k'", insert)
	if n := r.logged(); n != 3 {
		t.Errorf("%d of 3 writes were logged: %s", n, r.why())
	}
	read := make(chan int, 1)
	done := started(func() error {
		var n int
		err := conn.QueryRow(bounded(t), "SELECT count(*)::int FROM items").Scan(&n)
		read <- n
		return err
	})
	r.waiting()
	do(t, r.admin, "COMMIT")
	if err := ended(t, "the read", done); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n != 2 {
		t.Errorf("it sees %d of its 2 rows", n)
	}
}

// TestNameTaken: a statement whose name another one has is not taken for it, whatever else
// was prepared beside it.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.change = append(o.change, func(o *Options) { o.WriteBehind.LogTransactions = true })
	})
	w := newWire(t, r.through)
	text := func(name string) string { return "INSERT INTO items (id, name) VALUES ($1, '" + name + "')" }
	w.ask(prepares("s", text("old"))...)
	parse := func(name, sql string) pgproto3.FrontendMessage { return &pgproto3.Parse{Name: name, Query: sql} }
	for i, messages := range [][]pgproto3.FrontendMessage{
		{&pgproto3.Sync{}},
		{parse("", "SELECT 1"), parse("s", text("new")), &pgproto3.Sync{}},
		{parse("a", "SELECT 1"), parse("s", text("new")), &pgproto3.Sync{}},
		{parse("b", "SELECT 1"), &pgproto3.Flush{}, parse("s", text("new")), &pgproto3.Flush{}, &pgproto3.Sync{}},
		{parse("", "SELECT 1"), &pgproto3.Flush{}, parse("s", text("new")), &pgproto3.Sync{}},
	} {
		w.ask(messages...)
		w.ask(executes("s", fmt.Sprint(i))...)
		w.ask(asks("BEGIN")...)
		w.ask(messages...)
		w.ask(asks("ROLLBACK")...)
		w.ask(executes("s", fmt.Sprint(10+i))...)
	}
	w.ask(asks("BEGIN")...)
	w.ask(parse("", text("new")), parse("s", text("new")), &pgproto3.Sync{})
	w.ask(asks("ROLLBACK")...)
	w.ask(executes("s", "20")...)
	r.applied()
	if n := one[int](t, r.admin, "SELECT count(*)::int FROM items WHERE name = 'old'"); n != 11 || one[int](t, r.admin, "SELECT count(*)::int FROM items") != n {
		t.Errorf("%d rows are of the statement that has the name", n)
	}
	if n := r.logged(); n == 0 {
		t.Errorf("%d writes behind: %s", n, r.why())
	}
}
