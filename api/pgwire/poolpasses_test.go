package pgwire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	dto "github.com/prometheus/client_model/go"

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
		// PostgreSQL ends in the middle of one, of which it has all that came, or takes no more: the
		// session, of which it had nothing, goes on.
		for _, takes := range []bool{true, false} {
			backend := pid(t, b)
			eventually(t, "the connection is free", func() bool { return s.pools.total().idle == 1 })
			data := appendFrame(nil, cCopyData, bytes.Repeat([]byte("y\n"), 500))
			if !takes { // more than the kernel keeps
				data = appendFrame(nil, cCopyData, bytes.Repeat([]byte("y\n"), 4<<20))
			}
			w.raw(slices.Concat(appendFrame(nil, cQuery, appendText(nil, "COPY t FROM STDIN")), appendFrame(nil, cCopyData, []byte("x\n")), data[:300]))
			if got := w.answer(); !strings.Contains(strings.Join(got, "\n"), "22P02") {
				t.Fatalf("a COPY of an x: %q", got)
			}
			rest := started(func() error { return nil })
			if !takes {
				signal(t, backend, syscall.SIGSTOP)
				defer func() { _ = syscall.Kill(backend, syscall.SIGCONT) }() // if it is there still
				rest = started(func() error { _, err := w.c.Write(data[300:]); return err })
				eventually(t, "it takes no more", func() bool { return s.stuck(t, w.c.LocalAddr()) })
			}
			signal(t, backend, syscall.SIGTERM)
			if !takes {
				signal(t, backend, syscall.SIGCONT)
			}
			eventually(t, "the connection is gone", func() bool { return s.pools.total().open == 0 })
			if takes {
				w.raw(data[300:])
			}
			if err := ended(t, "the client's frame", rest); err != nil {
				t.Fatal(err)
			}
			w.raw(appendFrame(nil, cCopyDone, nil))
			if got := w.ask(&pgproto3.Query{String: "SELECT 1"}); len(got) != 4 {
				t.Errorf("behind the end of its connection: %q", got)
			}
		}
	})
}

func signal(t *testing.T, pid int, what syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, what); err != nil {
		t.Fatal(err)
	}
}

// stuck reports that the loop has something for PostgreSQL of a session that it does not take.
// In goroutines that cannot be seen.
func (s *Server) stuck(t *testing.T, client net.Addr) bool {
	for _, x := range s.list() {
		if c, ok := x.carrier.(*looped); ok && x.from.String() == client.String() {
			told := make(chan bool, 1)
			if !c.l.post(func() { told <- len(c.ends[atUpstream].unsent) > 0 }) {
				t.Fatal("the loop has ended")
			}
			return <-told
		}
	}
	return true
}

// narrow has connections for which the kernel keeps little.
type narrow struct{ net.Listener }

func (l narrow) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := c.(*net.TCPConn)
	return c, errors.Join(t.SetReadBuffer(16<<10), t.SetWriteBuffer(16<<10))
}

// TestPoolUnread: of a client that reads nothing no more is taken than what can be answered in
// little memory, also where the endpoint answers itself. What it has asked for it gets.
func TestPoolUnread(t *testing.T) {
	bothWays(t, func(t *testing.T, way func(*Options)) {
		t.Parallel()
		s, dsn, _ := pooled(t, 1, way, func(o *Options) { o.Listener = narrow{o.Listener} })
		w := newWire(t, dsn)
		if err := errors.Join(w.c.(*net.TCPConn).SetReadBuffer(16<<10), w.c.(*net.TCPConn).SetWriteBuffer(16<<10)); err != nil {
			t.Fatal(err)
		}
		syncs, sent := bytes.Repeat(appendFrame(nil, cSync, nil), 1<<14), 0
		for range 32 { // 2.5 MiB
			_ = w.c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := w.c.Write(syncs[sent%headBytes:])
			if sent += n; err != nil {
				break
			}
		}
		if kept := s.unread(t); kept > 512<<10 {
			t.Errorf("%d bytes are kept for a client that has sent %d and reads nothing", kept, sent)
		}
		rest := started(func() error {
			_ = w.c.SetWriteDeadline(time.Now().Add(patience))
			_, err := w.c.Write(slices.Concat(syncs[sent%headBytes:headBytes], appendFrame(nil, cQuery, appendText(nil, "SELECT 1"))))
			return err
		})
		_ = w.c.SetReadDeadline(time.Now().Add(patience))
		answers := bytes.Repeat(appendFrame(nil, sReady, []byte{txIdle}), sent/headBytes+1)
		got := make([]byte, len(answers))
		if _, err := io.ReadFull(w.c, got); err != nil || !bytes.Equal(got, answers) {
			t.Fatalf("%d bytes sent are not answered as they should: %v", sent, err)
		}
		if got := w.answer(); len(got) != 4 {
			t.Errorf("behind all of that: %q", got)
		}
		if err := ended(t, "the rest", rest); err != nil {
			t.Error(err)
		}
	})
}

// unread is how much of its own answers the endpoint keeps for the sessions.
func (s *Server) unread(t *testing.T) (n int) {
	for _, x := range s.list() {
		l := x.link.Load()
		l.mu.Lock()
		n += cap(l.mu.say)
		l.mu.Unlock()
		if c, ok := x.carrier.(*looped); ok {
			told := make(chan int, 1)
			if !c.l.post(func() { told <- cap(c.ends[atClient].unsent) }) {
				t.Fatal("the loop has ended")
			}
			n += <-told
		}
	}
	return n
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

// TestLongPipeline: a query of any number of messages without a Sync costs no memory for those
// that are answered.
func TestLongPipeline(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"pool": pooling(1), "away": func(o *Options) { o.Away = &Away{} }} {
		s, dsn, _ := shared(t, change, relayed)
		w := newWire(t, dsn)
		passed := func() float64 {
			var m dto.Metric
			if err := s.metrics.up.Write(&m); err != nil {
				t.Fatal(err)
			}
			return m.GetCounter().GetValue()
		}
		w.ask(prepares("set", "SET work_mem = '5MB'")...)
		var some []pgproto3.FrontendMessage
		for range 100 {
			some = append(some, &pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Bind{PreparedStatement: "set"}, &pgproto3.Execute{})
		}
		some = append(some, &pgproto3.Flush{})
		for range 12 {
			w.send(some...)
			for done := 0; done < 200; {
				frame, err := w.m.next()
				if err != nil {
					t.Fatal(err)
				}
				if frame[0] == sCommandComplete {
					done++
				}
			}
		}
		l := s.list()[0].link.Load()
		l.mu.Lock()
		r := l.mu.held.current
		ops, effects := len(r.ops), len(r.effects)
		l.mu.Unlock()
		if ops > 2000 || effects > 2000 {
			t.Errorf("%s: it keeps %d messages, and %d settings", name, ops, effects)
		}
		w.ask(&pgproto3.Sync{})
		w.send(&pgproto3.Parse{Query: "SELEC"}, &pgproto3.Flush{})
		if frame, err := w.m.next(); err != nil || frame[0] != sError {
			t.Fatalf("%s: %q, %v", name, frame, err)
		}
		before := passed()
		w.send(some...) // all of which is skipped
		eventually(t, "it is passed on", func() bool { return passed() > before })
		each := passed() - before
		for range 12 {
			w.send(some...)
		}
		eventually(t, "all of it is", func() bool { return passed()-before >= 12*each })
		l.mu.Lock()
		if r = l.mu.held.current; r == nil || len(r.ops) > 2000 {
			t.Errorf("%s: behind an error it keeps messages, or none", name)
		}
		l.mu.Unlock()
		if got := strings.Join(w.ask(&pgproto3.Sync{}), ""); got != `Z "I"` {
			t.Errorf("%s: behind it: %s", name, got)
		}
		if got := strings.Join(w.ask(asks("SHOW work_mem")...), ""); !strings.Contains(got, "5MB") {
			t.Errorf("%s: behind it work_mem is %s", name, got)
		}
	}
}
