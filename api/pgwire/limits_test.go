package pgwire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestIdleInTransaction: a client that goes silent while it holds locks is ended,
// in each of the states in which PostgreSQL waits for it; others are not.
func TestIdleInTransaction(t *testing.T) { bothWays(t, testIdleInTransaction) }

func testIdleInTransaction(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, direct := shared(t, way, func(o *Options) { o.IdleInTransactionTimeout = 500 * time.Millisecond })
	other := pgtest.Connect(t, direct)
	do(t, other, "CREATE TABLE t (v int)", "INSERT INTO t VALUES (1)")
	idle := pgtest.Connect(t, through)
	for name, silence := range map[string]func(f *pgproto3.Frontend){
		"for update": func(f *pgproto3.Frontend) {
			f.Send(&pgproto3.Query{String: "BEGIN; SELECT * FROM t FOR UPDATE"})
		},
		"failed transaction": func(f *pgproto3.Frontend) {
			f.Send(&pgproto3.Query{String: "BEGIN"})
			f.Send(&pgproto3.Query{String: "LOCK t"})
			f.Send(&pgproto3.Query{String: "SAVEPOINT s; SELECT 1/0"})
		},
		"no sync": func(f *pgproto3.Frontend) {
			f.SendParse(&pgproto3.Parse{Query: "SELECT * FROM t FOR UPDATE"})
			f.SendBind(&pgproto3.Bind{})
			f.SendExecute(&pgproto3.Execute{})
			f.Send(&pgproto3.Flush{})
		},
		"copy": func(f *pgproto3.Frontend) {
			f.Send(&pgproto3.Query{String: "BEGIN; LOCK t; COPY t FROM STDIN"})
			f.Send(&pgproto3.CopyData{Data: []byte("2\n")})
		},
		"copy, extended": func(f *pgproto3.Frontend) {
			f.SendParse(&pgproto3.Parse{Query: "COPY t FROM STDIN"})
			f.SendBind(&pgproto3.Bind{})
			f.SendExecute(&pgproto3.Execute{})
			f.SendSync(&pgproto3.Sync{})
		},
	} {
		conn := pgtest.Connect(t, through).PgConn()
		silence(conn.Frontend())
		if err := conn.Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
		if err := lastWordOf(conn); code(err) != "25P03" {
			t.Errorf("%s: %v", name, err)
		}
		do(t, other, "SELECT * FROM t FOR UPDATE") // once nobody holds it
	}
	// What takes its time, and who is idle, may stay.
	do(t, idle, "SELECT pg_sleep(1.5)", "BEGIN", "SELECT pg_sleep(1.5)", "COMMIT")
	if n := s.sessionCount(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// lastWordOf reads what a connection says up to its end.
func lastWordOf(conn *pgconn.PgConn) error {
	_ = conn.Conn().SetReadDeadline(time.Now().Add(patience))
	var last error
	for {
		m, err := conn.Frontend().Receive()
		if err != nil {
			return errors.Join(last, err)
		}
		if e, ok := m.(*pgproto3.ErrorResponse); ok && e.Severity == "FATAL" {
			last = pgconn.ErrorResponseToPgError(e)
		}
	}
}

// TestIdle ends a session in no transaction only if asked to.
func TestIdle(t *testing.T) { bothWays(t, testIdle) }

func testIdle(t *testing.T, way func(*Options)) {
	t.Parallel()
	_, through, _ := shared(t, way, func(o *Options) { o.IdleTimeout = 300 * time.Millisecond })
	conn := pgtest.Connect(t, through)
	do(t, conn, "SELECT pg_sleep(1)", "BEGIN", "SELECT 1")
	time.Sleep(600 * time.Millisecond) // in a transaction it is not idle
	do(t, conn, "COMMIT")
	if err := lastWordOf(conn.PgConn()); code(err) != "57P05" {
		t.Errorf("got %v", err)
	}
}

// TestStalled ends a session whose client takes nothing.
func TestStalled(t *testing.T) { bothWays(t, testStalled) }

func testStalled(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, _ := shared(t, way, func(o *Options) { o.StallTimeout = 500 * time.Millisecond })
	conn := pgtest.Connect(t, through).PgConn()
	conn.Frontend().Send(&pgproto3.Query{String: "SELECT repeat('x', 1000000) FROM generate_series(1, 100)"})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session is ended", func() bool { return s.sessionCount() == 0 })
}

// TestLoginTimeout: a client that says nothing, half of something, or has no
// password for PostgreSQL; and a PostgreSQL that does not answer.
func TestLoginTimeout(t *testing.T) {
	t.Parallel()
	c, _ := secured(t)
	s := start(t, c.Addr(), func(o *Options) { o.LoginTimeout = 500 * time.Millisecond })
	hello := packet(version3, "user\x00scram\x00database\x00postgres\x00\x00")
	for name, send := range map[string][]byte{"nothing": nil, "half": hello[:7], "no password": hello} {
		conn := dialRaw(t, s)
		if _, err := conn.Write(send); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("57014")) {
			t.Errorf("%s: %q, %v", name, answer, err)
		}
	}
	c.Pause(t)
	defer c.Continue(t)
	if _, err := pgx.Connect(bounded(t), pgtest.DSN(s.addr(), "trusted", "postgres")); code(err) != "57014" {
		t.Errorf("PostgreSQL hangs: %v", err)
	}
}

// TestTooMany: each bound refuses with what it is, lets in who waited once a place
// is free, and does not hinder a cancel request.
func TestTooMany(t *testing.T) {
	t.Parallel()
	for name, bound := range map[string]func(*Options){
		"all":      func(o *Options) { o.MaxConnections = 2 },
		"user":     func(o *Options) { o.MaxUserConnections = 2 },
		"database": func(o *Options) { o.MaxDatabaseConnections = 2 },
	} {
		s, through, _ := shared(t, bound, func(o *Options) { o.QueryWait = 300 * time.Millisecond })
		first := pgtest.Connect(t, through)
		pgtest.Connect(t, through)
		if _, err := pgx.Connect(bounded(t), through); code(err) != "53300" {
			t.Errorf("%s: the third: %v", name, err)
		}
		if err := first.PgConn().CancelRequest(bounded(t)); err != nil {
			t.Errorf("%s: cancel: %v", name, err)
		}
		if err := first.Close(bounded(t)); err != nil {
			t.Error(err)
		}
		eventually(t, "the place is free", func() bool { return s.sessionCount() == 1 })
		do(t, pgtest.Connect(t, through), "SELECT 1")
	}
	t.Run("waiting", testWaiting)
}

// testWaiting: who waits long enough gets in, and not too many wait.
func testWaiting(t *testing.T) {
	_, through, _ := shared(t, func(o *Options) { o.MaxConnections, o.QueryWait = 1, patience })
	first := pgtest.Connect(t, through)
	waited := make(chan error, 1)
	go func() {
		conn, err := pgx.Connect(context.Background(), through)
		if err == nil {
			err = conn.Close(context.Background())
		}
		waited <- err
	}()
	select {
	case err := <-waited:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	crowd := make(chan error, 2*waitersMax)
	for range cap(crowd) {
		go func() {
			conn, err := pgx.Connect(context.Background(), through)
			if err == nil {
				err = conn.Close(context.Background())
			}
			crowd <- err
		}()
	}
	for range waitersMax { // those who find no place even to wait
		if err := <-crowd; code(err) != "53300" {
			t.Errorf("in a crowd: %v", err)
		}
	}
	if err := first.PgConn().CancelRequest(bounded(t)); err != nil {
		t.Errorf("cancel: %v", err)
	}
	if err := first.Close(bounded(t)); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("after a wait: %v", err)
	}
	refused := 0
	for range waitersMax {
		if err := <-crowd; err != nil {
			refused++
		}
	}
	if refused != 1 { // the first of those who wait is another
		t.Errorf("%d of those who wait were refused", refused)
	}
}

// TestMessageTooLarge is refused by its head, before any of it is taken.
func TestMessageTooLarge(t *testing.T) { bothWays(t, testMessageTooLarge) }

func testMessageTooLarge(t *testing.T, way func(*Options)) {
	t.Parallel()
	_, through, _ := shared(t, way, func(o *Options) { o.MaxMessageBytes = 1 << 20 })
	conn := pgtest.Connect(t, through)
	do(t, conn, "SELECT '"+strings.Repeat("x", 1<<20-100)+"'")
	if _, err := conn.Exec(bounded(t), "SELECT '"+strings.Repeat("x", 1<<20)+"'"); code(err) != "54000" {
		t.Errorf("got %v", err)
	}
	conn = pgtest.Connect(t, through)
	if _, err := conn.PgConn().Conn().Write([]byte{cQuery, 0, 0, 0, 3}); err != nil {
		t.Fatal(err)
	}
	if err := lastWordOf(conn.PgConn()); code(err) != "08P01" {
		t.Errorf("an impossible length: %v", err)
	}
}

// TestClose ends who is idle at once, waits for transactions and cuts off those
// that do not end; logins are told.
func TestClose(t *testing.T) { bothWays(t, testClose) }

func testClose(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, _ := shared(t, way)
	idle, busy, stuck := pgtest.Connect(t, through), pgtest.Connect(t, through), pgtest.Connect(t, through)
	do(t, busy, "CREATE TABLE t (v int)", "BEGIN", "INSERT INTO t VALUES (1)")
	do(t, stuck, "BEGIN")
	login := dialRaw(t, s)
	eventually(t, "the login is under way", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.mu.conns) == 4 })
	ctx, cancel := context.WithCancel(bounded(t))
	closed := make(chan error, 2)
	for range 2 {
		go func() { closed <- s.Close(ctx) }()
	}
	if err := lastWordOf(idle.PgConn()); code(err) != "57P01" {
		t.Errorf("idle: %v", err)
	}
	if answer, err := io.ReadAll(login); err != nil || !bytes.Contains(answer, []byte("57P01")) {
		t.Errorf("login: %q, %v", answer, err)
	}
	if _, err := net.Dial("tcp4", s.addr()); err == nil {
		t.Error("still listening")
	}
	do(t, busy, "INSERT INTO t VALUES (2)", "COMMIT")
	if err := lastWordOf(busy.PgConn()); code(err) != "57P01" {
		t.Errorf("busy: %v", err)
	}
	select {
	case err := <-closed:
		t.Fatalf("closed while a transaction is open: %v", err)
	default:
	}
	cancel()
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	if err := stuck.Ping(bounded(t)); err == nil {
		t.Error("the session that did not end goes on")
	}
	if n := s.sessionCount(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}
