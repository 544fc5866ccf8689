package pgwire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestQueries: simple, extended and pipelined queries, errors in their middle,
// notices, ParameterStatus, a Bind with 65,535 parameters, a function call.
func TestQueries(t *testing.T) { bothWays(t, testQueries) }

func testQueries(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, _ := shared(t, way)
	conn := pgtest.Connect(t, through)
	do(t, conn, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b')")
	if n := one[int](t, conn, "SELECT count(*) FROM t WHERE id > $1", 0); n != 2 {
		t.Errorf("%d rows", n)
	}
	batch := &pgx.Batch{}
	for i := 10; i < 500; i++ {
		batch.Queue("INSERT INTO t VALUES ($1, $2)", i, strings.Repeat("x", i))
	}
	batch.Queue("INSERT INTO t VALUES (1, 'again')")
	batch.Queue("SELECT 1")
	if err := conn.SendBatch(bounded(t), batch).Close(); code(err) != "23505" {
		t.Errorf("a batch with a bad row: %v", err)
	}
	if n := one[int](t, conn, "SELECT count(*) FROM t"); n != 2 {
		t.Errorf("%d rows after a batch that failed", n)
	}
	do(t, conn, "SET application_name = 'changed'")
	if name := conn.PgConn().ParameterStatus("application_name"); name != "changed" {
		t.Errorf("application_name is %q", name)
	}
	args := make([]any, 65_535)
	values := make([]string, len(args))
	for i := range args {
		args[i], values[i] = i, fmt.Sprintf("($%d::int)", i+1)
	}
	if n := one[int](t, conn, "SELECT count(*) FROM (VALUES "+strings.Join(values, ",")+") v", args...); n != len(args) {
		t.Errorf("%d parameters", n)
	}
	if s.sessionCount() != 1 {
		t.Errorf("%d sessions", s.sessionCount())
	}
	callsFunctions(t, newWire(t, through))
	if pid := one[uint32](t, conn, "SELECT pg_backend_pid()"); pid != conn.PgConn().PID() {
		t.Errorf("the key names process %d, PostgreSQL %d", conn.PgConn().PID(), pid)
	}
}

// callsFunctions by FunctionCall messages, alone and amid others.
func callsFunctions(t *testing.T, w *wire) {
	t.Helper()
	call := func(oid uint32) *pgproto3.FunctionCall {
		return &pgproto3.FunctionCall{Function: oid, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("40"), []byte("2")}, ResultFormatCode: 0}
	}
	const int4pl, int4div = 177, 154
	if got := w.ask(call(int4pl)); !slices.Equal(got, []string{`V "\x00\x00\x00\x0242"`, `Z "I"`}) {
		t.Errorf("a function call is answered %q", got)
	}
	if got := w.ask(&pgproto3.FunctionCall{Function: int4div, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("1"), []byte("0")}}); len(got) != 2 || !strings.Contains(got[0], "22012") || got[1] != `Z "I"` {
		t.Errorf("one that fails is answered %q", got)
	}
	w.ask(&pgproto3.Query{String: "BEGIN"})
	if got := w.ask(call(int4pl)); len(got) != 2 || got[1] != `Z "T"` {
		t.Errorf("in a transaction it is answered %q", got)
	}
	if got := w.ask(&pgproto3.Query{String: "COMMIT"}); got[len(got)-1] != `Z "I"` {
		t.Errorf("behind it: %q", got)
	}
}

// TestPipeline has Syncs under way, an error between them, and answers in order.
func TestPipeline(t *testing.T) { bothWays(t, testPipeline) }

func testPipeline(t *testing.T, way func(*Options)) {
	t.Parallel()
	_, through, _ := shared(t, way)
	conn := pgtest.Connect(t, through).PgConn()
	p := conn.StartPipeline(bounded(t))
	for i := range 100 {
		query := "SELECT $1::int"
		if i%10 == 5 {
			query = "SELECT $1::int / 0"
		}
		p.SendQueryParams(query, [][]byte{fmt.Append(nil, i)}, nil, nil, nil)
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		results, err := p.GetResults()
		if err == nil {
			reader := results.(*pgconn.ResultReader)
			for reader.NextRow() {
				if got := string(reader.Values()[0]); got != fmt.Sprint(i) {
					t.Errorf("answer %d is %s", i, got)
				}
			}
			_, err = reader.Close()
		}
		if want := i%10 == 5; want != (code(err) == "22012") {
			t.Fatalf("%d: %v", i, err)
		}
		if i%10 != 5 {
			if _, err := p.GetResults(); err != nil {
				t.Fatal(err)
			}
		} else if sync, err := p.GetResults(); err != nil {
			t.Fatalf("%d: %v, %v", i, sync, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNotify(t *testing.T) { bothWays(t, testNotify) }

func testNotify(t *testing.T, way func(*Options)) {
	t.Parallel()
	_, through, direct := shared(t, way)
	listener, speaker := pgtest.Connect(t, through), pgtest.Connect(t, direct)
	do(t, listener, "LISTEN channel")
	do(t, speaker, "NOTIFY channel, 'hello'")
	n, err := listener.WaitForNotification(bounded(t))
	if err != nil || n.Payload != "hello" || n.PID != speaker.PgConn().PID() {
		t.Errorf("got %+v, %v", n, err)
	}
}

// zeros are n bytes of COPY's text rows.
func copyRows(n int) io.Reader {
	row := []byte(strings.Repeat("r", 1023) + "\n")
	return io.LimitReader(readerFunc(func(b []byte) (int, error) {
		filled := 0
		for filled+len(row) <= len(b) {
			filled += copy(b[filled:], row)
		}
		return filled, nil
	}), int64(n))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestCopy moves 100 MB each way through the endpoint, whose memory is bounded.
func TestCopy(t *testing.T) { // not in parallel: it looks at the process's memory
	t.Run("loop", func(t *testing.T) { testCopy(t, looping, 100<<20) })
	t.Run("relay", func(t *testing.T) { testCopy(t, relayed, 20<<20) })
}

func testCopy(t *testing.T, way func(*Options), size int) {
	_, through, _ := shared(t, way)
	conn := pgtest.Connect(t, through)
	do(t, conn, "CREATE UNLOGGED TABLE t (v text)")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tag, err := conn.PgConn().CopyFrom(bounded(t), copyRows(size), "COPY t FROM STDIN")
	if err != nil || tag.RowsAffected() != int64(size)/1024 {
		t.Fatalf("%v, %v", tag, err)
	}
	var counted counter
	if _, err := conn.PgConn().CopyTo(bounded(t), &counted, "COPY t TO STDOUT"); err != nil || int(counted) != size {
		t.Fatalf("%d bytes, %v", counted, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 16<<20 {
		t.Errorf("%d bytes are held after the copy", grown)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > uint64(2*size) { // pgx takes its share
		t.Errorf("%d bytes were allocated for %d", got, 2*size)
	}
	do(t, conn, "SELECT 1")
}

type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// TestCopyFails: an error in mid-copy, and a client that gives up.
func TestCopyFails(t *testing.T) { bothWays(t, testCopyFails) }

func testCopyFails(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, _ := shared(t, way)
	conn := pgtest.Connect(t, through)
	do(t, conn, "CREATE TABLE t (v int)")
	if _, err := conn.PgConn().CopyFrom(bounded(t), strings.NewReader("1\nx\n3\n"), "COPY t FROM STDIN"); code(err) != "22P02" {
		t.Errorf("a bad row: %v", err)
	}
	if _, err := conn.PgConn().CopyTo(bounded(t), io.Discard, "COPY (SELECT 1 / (500 - v) FROM generate_series(1, 1000) v) TO STDOUT"); code(err) != "22012" {
		t.Errorf("an error among what is copied out: %v", err)
	}
	gaveUp := errors.New("gave up")
	broken := io.MultiReader(bytes.NewReader([]byte("1\n")), readerFunc(func([]byte) (int, error) { return 0, gaveUp }))
	if _, err := conn.PgConn().CopyFrom(bounded(t), broken, "COPY t FROM STDIN"); err == nil {
		t.Error("a copy that was given up succeeds")
	}
	if n := one[int](t, conn, "SELECT count(*) FROM t"); n != 0 {
		t.Errorf("%d rows", n)
	}
	if turn := turnOf(t, s.list()[0]); !turn.exact || turn.pending() {
		t.Errorf("lost count: %+v", turn)
	}
}

// TestCancel: a statement under way is cancelled by its key, and only by it.
func TestCancel(t *testing.T) { bothWays(t, testCancel) }

func testCancel(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, direct := shared(t, way)
	conn, other := pgtest.Connect(t, through), pgtest.Connect(t, direct)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, "SELECT pg_sleep(600)")
		done <- err
	}()
	eventually(t, "the query runs", func() bool {
		return one[int](t, other, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'", conn.PgConn().PID()) == 1
	})
	// A wrong secret is taken for nobody's.
	key := bytes.Clone(s.list()[0].key)
	key[7] ^= 1
	if err := s.cancel(bounded(t), key); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		t.Fatalf("cancelled by a wrong key: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := conn.PgConn().CancelRequest(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; code(err) != "57014" {
		t.Errorf("got %v", err)
	}
	do(t, conn, "SELECT 1")
}

// TestBackendTerminated: what PostgreSQL says when it ends a session arrives, and
// a death without a word is said by the endpoint, at once.
func TestBackendTerminated(t *testing.T) { bothWays(t, testBackendTerminated) }

func testBackendTerminated(t *testing.T, way func(*Options)) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	s := start(t, c.Addr(), way)
	dsn := s.through(t, c.DSN("postgres"))
	conn := pgtest.Connect(t, dsn)
	if !c.TerminateBackend(t, conn.PgConn().PID()) {
		t.Fatal("no such backend")
	}
	if _, err := conn.Exec(bounded(t), "SELECT 1"); code(err) != "57P01" {
		t.Errorf("after pg_terminate_backend: %v", err)
	}
	conn = pgtest.Connect(t, dsn)
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(bounded(t), "SELECT pg_sleep(600)")
		ended <- err
	}()
	eventually(t, "the query runs", func() bool {
		return one[int](t, pgtest.Connect(t, c.DSN("postgres")), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(600)' AND pid <> pg_backend_pid()") == 1
	})
	c.KillAll(t)
	if err := <-ended; code(err) != "08006" {
		t.Errorf("after kill -9: %v", err)
	}
	began := time.Now()
	_, err := pgx.Connect(bounded(t), dsn)
	if code(err) != "57P03" || time.Since(began) > patience/2 {
		t.Errorf("a login while PostgreSQL is away: %v after %v", err, time.Since(began))
	}
	eventually(t, "no session is left", func() bool { return s.sessionCount() == 0 })
	c.Start(t)
	do(t, pgtest.Connect(t, dsn), "SELECT 1")
}

// TestSlowReader: a client that does not read holds up PostgreSQL, not memory.
func TestSlowReader(t *testing.T) { bothWays(t, testSlowReader) }

func testSlowReader(t *testing.T, way func(*Options)) {
	t.Parallel()
	_, through, direct := shared(t, way)
	conn := pgtest.Connect(t, through)
	other := pgtest.Connect(t, direct)
	reader := conn.PgConn().Exec(bounded(t), "SELECT repeat('x', 1000000) FROM generate_series(1, 30)")
	eventually(t, "PostgreSQL waits for the client", func() bool {
		return one[int](t, other, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientWrite'", conn.PgConn().PID()) == 1
	})
	rows := 0
	for reader.NextResult() {
		for reader.ResultReader().NextRow() {
			rows += len(reader.ResultReader().Values()[0])
		}
	}
	if err := reader.Close(); err != nil || rows != 30_000_000 {
		t.Errorf("%d bytes, %v", rows, err)
	}
}

// TestClientGone: a client that goes away takes its session along.
func TestClientGone(t *testing.T) { bothWays(t, testClientGone) }

func testClientGone(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, direct := shared(t, way)
	conn, other := pgtest.Connect(t, through), pgtest.Connect(t, direct)
	do(t, conn, "CREATE TABLE t (v int)", "BEGIN", "LOCK t")
	if err := conn.PgConn().Conn().Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session and its lock are gone", func() bool {
		return s.sessionCount() == 0 && one[int](t, other, "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass") == 0
	})
}
