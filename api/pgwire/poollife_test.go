package pgwire

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// holdCancels passes connections on to PostgreSQL, those of cancel requests only when they
// are let through.
type holdCancels struct {
	l       net.Listener
	to      string
	came    chan struct{} // a cancel request is held
	through chan struct{} // closed: it goes on
	wg      sync.WaitGroup
}

func newHoldCancels(t *testing.T, to string) *holdCancels {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &holdCancels{l: l, to: to, came: make(chan struct{}, 100), through: make(chan struct{})}
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { h.pass(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); h.wg.Wait() })
	return h
}

func (h *holdCancels) pass(from net.Conn) {
	defer func() { _ = from.Close() }()
	head := make([]byte, 8)
	if _, err := io.ReadFull(from, head); err != nil {
		return
	}
	if binary.BigEndian.Uint32(head[4:]) == codeCancel {
		h.came <- struct{}{}
		<-h.through
	}
	to, err := net.Dial("tcp4", h.to)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	if _, err := to.Write(head); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(from, to); _ = from.Close() }) // either end ends both
	_, _ = io.Copy(to, from)
	_ = to.Close()
	back.Wait()
}

// TestPoolLateCancel: a cancel request that reaches PostgreSQL late, when the query is over,
// cancels nothing of the session that has the connection next.
func TestPoolLateCancel(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	h := newHoldCancels(t, c.Addr())
	s := start(t, h.l.Addr().String(), pooling(1))
	direct := c.Database(t)
	dsn := s.through(t, direct)
	owner := pgtest.Connect(t, direct)
	a, b := pgtest.Connect(t, dsn), pgtest.Connect(t, dsn)
	do(t, owner, "CREATE TABLE t (v int)", "BEGIN", "LOCK TABLE t")
	waits := func() bool {
		var n int
		if err := owner.QueryRow(bounded(t), "SELECT count(*) FROM pg_locks l WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	reads := func(conn *pgx.Conn) <-chan error {
		return started(func() error { _, err := conn.Exec(bounded(t), "SELECT count(*) FROM t"); return err })
	}
	first := reads(a)
	eventually(t, "the query waits", waits)
	cancelled := started(func() error { return a.PgConn().CancelRequest(bounded(t)) })
	<-h.came
	do(t, owner, "COMMIT")
	if err := <-first; err != nil {
		t.Fatalf("the query that was over before its cancel request came: %v", err)
	}
	do(t, owner, "BEGIN", "LOCK TABLE t")
	second := reads(b)
	eventually(t, "the other session waits", func() bool { return s.pools.total().waiting == 1 || waits() })
	close(h.through)
	if err := <-cancelled; err != nil {
		t.Error(err)
	}
	eventually(t, "the other session's query waits", waits)
	do(t, owner, "COMMIT")
	if err := <-second; err != nil {
		t.Errorf("another session's query: %v", err)
	}
	eventually(t, "the connection is idle", func() bool { n := s.pools.total(); return n.open == 1 && n.idle == 1 })
}

// TestPoolDead: a connection that PostgreSQL has ended is found so when it is to be used.
func TestPoolDead(t *testing.T) {
	t.Parallel()
	s, dsn, direct := pooled(t, 1)
	a, b := pgtest.Connect(t, dsn), pgtest.Connect(t, dsn)
	for i := range 10 {
		n := pid(t, a)
		do(t, b, "SELECT 1")
		if !one[bool](t, direct, "SELECT pg_terminate_backend($1)", n) {
			t.Fatal("nothing was terminated")
		}
		eventually(t, "the process is gone", func() bool { return syscall.Kill(n, 0) == syscall.ESRCH })
		if got := one[int](t, a, "SELECT $1::int", i); got != i {
			t.Errorf("%d instead of %d", got, i)
		}
	}
	if n := s.pools.total(); n.open != 1 {
		t.Errorf("the pool has %+v", n)
	}
}

// TestPoolAges: connections are closed that nobody uses, and those that are old, with no
// session noticing.
func TestPoolAges(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*Pool){
		"idle": func(p *Pool) { p.IdleTimeout = 50 * time.Millisecond },
		"old":  func(p *Pool) { p.MaxLifetime = 50 * time.Millisecond },
	} {
		s, dsn, _ := pooled(t, 2, func(o *Options) { set(o.Pool) })
		conn := pgtest.Connect(t, dsn)
		tx, err := conn.Begin(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		before := pid(t, conn)
		time.Sleep(100 * time.Millisecond) // older than the bounds, in use
		if got := pid(t, conn); got != before {
			t.Errorf("%s: a transaction has moved from process %d to %d", name, before, got)
		}
		if err := tx.Commit(bounded(t)); err != nil {
			t.Error(err)
		}
		eventually(t, name+": it is closed", func() bool { return s.pools.total().open == 0 })
		if got := pid(t, conn); got == before {
			t.Errorf("%s: process %d is still there", name, got)
		}
	}
}

// TestPoolSizes: as many connections as min_size says are there for who has a session,
// whether they are used or not; those of the reserve only for who has waited.
func TestPoolSizes(t *testing.T) {
	t.Parallel()
	s, dsn, _ := pooled(t, 2, func(o *Options) {
		o.Pool.MinSize, o.Pool.Reserve, o.Pool.ReserveTimeout = 2, 1, 50*time.Millisecond
	})
	var conns []*pgx.Conn
	for range 4 {
		conns = append(conns, pgtest.Connect(t, dsn))
	}
	has := func(what string, want poolCounts) {
		t.Helper()
		eventually(t, what, func() bool { return s.pools.total() == want })
	}
	has("the pool is filled", poolCounts{open: 2, idle: 2})
	do(t, conns[0], "BEGIN")
	do(t, conns[1], "BEGIN")
	began := time.Now()
	do(t, conns[2], "BEGIN")
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the reserve was used after %v", took)
	}
	fourth := started(func() error { _, err := conns[3].Exec(bounded(t), "SELECT 1"); return err })
	has("the reserve is used up", poolCounts{open: 3, waiting: 1})
	do(t, conns[2], "COMMIT")
	if err := ended(t, "who waited", fourth); err != nil {
		t.Error(err)
	}
	has("the reserve is given back", poolCounts{open: 2})
	for i := range 2 {
		do(t, conns[i], "COMMIT")
	}
	kept := map[int]bool{pid(t, conns[0]): true, pid(t, conns[1]): true}
	has("the pool is full", poolCounts{open: 2, idle: 2})
	later := time.Now().Add(30 * time.Minute) // longer than they may be idle
	s.pools.sweep(later, s.pools.makers())
	if !kept[pid(t, conns[0])] {
		t.Error("a connection was closed that min_size keeps")
	}
	for _, conn := range conns {
		_ = conn.Close(bounded(t))
	}
	eventually(t, "nobody is there", func() bool { return s.sessionCount() == 0 })
	s.pools.sweep(later, s.pools.makers())
	has("nothing is kept for nobody", poolCounts{})
}

// TestPoolShown: the console and the metrics have what the pool has.
func TestPoolShown(t *testing.T) {
	t.Parallel()
	s, dsn, _ := pooled(t, 2)
	kept := pgtest.Connect(t, dsn)
	eventually(t, "its connection is idle", func() bool { n := s.pools.total(); return n.open == 1 && n.idle == 1 })
	inside, third := pgtest.Connect(t, dsn), pgtest.Connect(t, dsn)
	pools := func() [9]string {
		rows := s.showPools()
		if len(rows) != 1 {
			t.Fatalf("SHOW POOLS: %q", rows)
		}
		return [9]string(rows[0][2:]) // sessions active idle in_transaction without_server servers servers_idle waiting pinned
	}
	eventually(t, "all is idle", func() bool { return pools() == [9]string{"3", "0", "3", "0", "3", "1", "1", "0", "0"} })
	do(t, kept, "LISTEN c")
	do(t, inside, "BEGIN")
	eventually(t, "both are in use", func() bool { return pools() == [9]string{"3", "0", "2", "1", "1", "2", "0", "0", "1"} })
	last := started(func() error { _, err := third.Exec(bounded(t), "SELECT 1"); return err })
	eventually(t, "one waits", func() bool { return pools()[7] == "1" })
	if n := s.pools.total(); n != (poolCounts{open: 2, waiting: 1}) {
		t.Errorf("the metrics have %+v", n)
	}
	held := 0
	for _, row := range s.showClients() {
		if row[8] == "LISTEN" {
			held++
		}
	}
	if held != 1 {
		t.Errorf("SHOW CLIENTS: %q", s.showClients())
	}
	if row := s.showServers()[0]; row[4] != "2" || row[5] != "0" {
		t.Errorf("SHOW SERVERS: %q", row)
	}
	do(t, inside, "COMMIT")
	if err := <-last; err != nil {
		t.Error(err)
	}
	eventually(t, "one is idle again", func() bool { return pools() == [9]string{"3", "0", "3", "0", "2", "2", "1", "0", "1"} })
	// What a statement leaves that cannot be read is not known; the end of the session lets go of it.
	if _, err := third.Exec(bounded(t), "SELECT 'a", pgx.QueryExecModeSimpleProtocol); code(err) != "42601" {
		t.Errorf("a text without an end: %v", err)
	}
	eventually(t, "another one is kept", func() bool { return pools()[8] == "2" && s.pinned() == 2 })
	_ = third.Close(bounded(t))
	do(t, kept, "DISCARD ALL")
	eventually(t, "none is kept", func() bool { return pools()[8] == "0" && s.pinned() == 0 })
	do(t, inside, "SELECT 1")
}
