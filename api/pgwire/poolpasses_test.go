package pgwire

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPoolPasses: what is not a query and its answer passes through a pool of one, too: it is
// its session's, and the connection is others' again behind it.
func TestPoolPasses(t *testing.T) {
	t.Parallel()
	s, dsn, direct := pooled(t, 1)
	do(t, direct, "CREATE TABLE t (v int)")
	a, b := pgtest.Connect(t, dsn), pgtest.Connect(t, dsn)
	free := func(what string) {
		t.Helper()
		eventually(t, what+": the connection is free", func() bool { return s.pools.total() == poolCounts{open: 1, idle: 1} })
		do(t, b, "SELECT 1")
	}
	sleeps := started(func() error { _, err := a.Exec(bounded(t), "SELECT pg_sleep(600)"); return err })
	eventually(t, "a statement runs", func() bool {
		return one[int](t, direct, "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%sleep(600)' AND state = 'active'") == 1
	})
	waits := started(func() error { _, err := b.Exec(bounded(t), "SELECT 1"); return err })
	eventually(t, "another one waits", func() bool { return s.pools.total().waiting == 1 })
	for _, c := range []struct {
		conn *pgx.Conn
		done <-chan error
	}{{b, waits}, {a, sleeps}} { // of the one that waits the other is no part
		if err := c.conn.PgConn().CancelRequest(bounded(t)); err != nil {
			t.Fatal(err)
		}
		if err := ended(t, "what was cancelled", c.done); code(err) != "57014" {
			t.Errorf("what was cancelled: %v", err)
		}
	}
	free("cancelled")
	if _, err := a.PgConn().CopyFrom(bounded(t), strings.NewReader("1\nx\n"), "COPY t FROM STDIN"); code(err) != "22P02" {
		t.Errorf("an error among what is copied in: %v", err)
	}
	free("COPY in")
	if _, err := a.PgConn().CopyTo(bounded(t), io.Discard, "COPY (SELECT 1 / (500 - v) FROM generate_series(1, 1000) v) TO STDOUT"); code(err) != "22012" {
		t.Errorf("an error among what is copied out: %v", err)
	}
	free("COPY out")
	if tag, err := a.PgConn().CopyFrom(bounded(t), strings.NewReader("1\n2\n"), "COPY t FROM STDIN"); err != nil || tag.RowsAffected() != 2 {
		t.Errorf("COPY: %v, %v", tag, err)
	}
	free("COPY")
	// What is prepared in SQL is the connection's, which the session keeps for it.
	do(t, a, "PREPARE p (int) AS SELECT $1 + 1")
	if got := one[int](t, a, "EXECUTE p (41)", pgx.QueryExecModeSimpleProtocol); got != 42 {
		t.Errorf("EXECUTE: %d", got)
	}
	late := started(func() error {
		_, err := b.Exec(bounded(t), "EXECUTE p (1)", pgx.QueryExecModeSimpleProtocol)
		return err
	})
	eventually(t, "it is kept", func() bool { return s.pools.total().waiting == 1 && s.pinned() == 1 })
	do(t, a, "DISCARD ALL")
	if err := ended(t, "another session's", late); code(err) != "26000" {
		t.Errorf("EXECUTE of another session's name: %v", err)
	}
	do(t, b, "DISCARD ALL") // whatever EXECUTE does keeps it
	w := newWire(t, dsn)
	callsFunctions(t, w)
	_ = w.c.Close() // it keeps the connection
	do(t, a, "LISTEN c")
	do(t, direct, "NOTIFY c, 'x'")
	if n, err := a.WaitForNotification(bounded(t)); err != nil || n.Payload != "x" {
		t.Errorf("%+v, %v", n, err)
	}
	do(t, a, "UNLISTEN *", "DISCARD ALL", "NOTIFY c, 'y'")
	free("NOTIFY")
}

// TestPoolHalfFrame: of a COPY that has failed a frame is still on its way, which PostgreSQL drops
// once it is whole: until then the connection is nobody else's.
func TestPoolHalfFrame(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*Options)) {
		t.Parallel()
		s, dsn, direct := pooled(t, 1, way)
		do(t, direct, "CREATE TABLE t (v int)")
		w, b := newWire(t, dsn), pgtest.Connect(t, dsn)
		for range 3 {
			data := appendFrame(nil, cCopyData, bytes.Repeat([]byte("y\n"), 500))
			w.raw(slices.Concat(appendFrame(nil, cQuery, appendText(nil, "COPY t FROM STDIN")), appendFrame(nil, cCopyData, []byte("x\n")), data[:300]))
			if got := w.answer(); !strings.Contains(strings.Join(got, "\n"), "22P02") {
				t.Fatalf("a COPY of an x: %q", got)
			}
			other := started(func() error { return b.QueryRow(bounded(t), "SELECT $1", "other").Scan(new(string)) })
			eventually(t, "another session waits", func() bool { return s.pools.total().waiting == 1 })
			w.raw(data[300:])
			if err := ended(t, "the other session's", other); err != nil {
				t.Fatal(err)
			}
			w.raw(slices.Concat(data, appendFrame(nil, cCopyDone, nil))) // dropped
		}
		if got := w.ask(&pgproto3.Query{String: "SELECT 1"}); len(got) != 4 {
			t.Errorf("behind all of that: %q", got)
		}
	})
}

// TestPoolEndsWaiting: a session that ends while it waits for a connection takes none with it,
// also where it is given one just then. It does not wait while the endpoint stops.
func TestPoolEndsWaiting(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*Options)) {
		t.Parallel()
		s, dsn, _ := pooled(t, 1, way)
		a := pgtest.Connect(t, dsn)
		carrierOf := func(conn *pgx.Conn) carrier {
			for _, x := range s.list() {
				if x.from.String() == conn.PgConn().Conn().LocalAddr().String() {
					return x.carrier
				}
			}
			return nil
		}
		for range 4 {
			b := pgtest.Connect(t, dsn)
			do(t, a, "BEGIN", "SELECT 1")
			waits := started(func() error { _, err := b.Exec(bounded(t), "SELECT 1"); return err })
			eventually(t, "another session waits", func() bool { return s.pools.total().waiting == 1 })
			going := make(chan struct{})
			ending := carrierOf(b)
			if l, ok := ending.(*looped); ok && l.l != carrierOf(a).(*looped).l {
				l.l.post(func() { <-going }) // so that both come before it looks
				ending.end(endIdle(time.Second))
			} else {
				go ending.end(endIdle(time.Second))
			}
			do(t, a, "COMMIT")
			close(going)
			if err := ended(t, "the session's", waits); err != nil && code(err) != "57P05" {
				t.Errorf("it ends with %v", err)
			}
			eventually(t, "no connection is in use", func() bool { n := s.pools.total(); return n.open == n.idle && n.waiting == 0 })
		}
		b := pgtest.Connect(t, dsn)
		do(t, a, "BEGIN", "SELECT 1")
		waits := started(func() error { _, err := b.Exec(bounded(t), "SELECT 1"); return err })
		eventually(t, "another session waits", func() bool { return s.pools.total().waiting == 1 })
		stopped := started(func() error { return s.Close(bounded(t)) })
		if err := ended(t, "its wait, as the endpoint stops,", waits); code(err) != "57P01" && code(err) != "57P03" {
			t.Errorf("its wait ends with %v", err)
		}
		do(t, a, "COMMIT")
		if err := ended(t, "stopping", stopped); err != nil {
			t.Error(err)
		}
	})
}
