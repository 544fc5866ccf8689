package pgwire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

// hang is a way in which PostgreSQL is there and does nothing. begin has it do so, and
// returns what ends that.
type hang struct {
	name  string
	begin func(t *testing.T, r *behindRig, c *pgtest.Cluster, p *pgtest.Proxy) (end func())
}

func hangs() []hang {
	run := func(t *testing.T, r *behindRig, begin, end []string) func() {
		conn := pgtest.Connect(t, r.direct)
		do(t, conn, begin...)
		return func() { do(t, conn, end...) }
	}
	return []hang{
		{"commits", func(t *testing.T, r *behindRig, _ *pgtest.Cluster, _ *pgtest.Proxy) func() {
			end := run(t, r, []string{"ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"},
				[]string{"ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"})
			watch, probe := pgtest.Connect(t, r.direct), pgtest.Connect(t, r.direct)
			var hung atomic.Bool
			probed := started(func() error {
				for !hung.Load() { // PostgreSQL does not say when it has taken a setting
					if _, err := probe.Exec(context.Background(), "INSERT INTO other (id) SELECT count(*) FROM other"); err != nil {
						return err
					}
				}
				return nil
			})
			eventually(t, "a commit hangs", func() bool {
				hung.Store(one[bool](t, watch, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"))
				return hung.Load()
			})
			return func() {
				end()
				if err := ended(t, "the commit that hung", probed); err != nil {
					t.Error(err)
				}
			}
		}},
		{"catalogue", func(t *testing.T, r *behindRig, _ *pgtest.Cluster, _ *pgtest.Proxy) func() {
			return run(t, r, []string{"BEGIN", "LOCK TABLE pg_catalog.pg_class, pg_catalog.pg_attribute IN ACCESS EXCLUSIVE MODE"}, []string{"ROLLBACK"})
		}},
		{"table", func(t *testing.T, r *behindRig, _ *pgtest.Cluster, _ *pgtest.Proxy) func() {
			return run(t, r, []string{"BEGIN", "LOCK TABLE items IN ACCESS EXCLUSIVE MODE"}, []string{"ROLLBACK"})
		}},
		{"backends", func(t *testing.T, r *behindRig, c *pgtest.Cluster, _ *pgtest.Proxy) func() {
			conn := pgtest.Connect(t, r.direct)
			rows, err := conn.Query(bounded(t), "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			if err != nil {
				t.Fatal(err)
			}
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				c.SignalBackend(t, pid, syscall.SIGSTOP)
			}
			return func() {
				for _, pid := range pids {
					c.SignalBackend(t, pid, syscall.SIGCONT)
				}
			}
		}},
		{"cluster", func(t *testing.T, _ *behindRig, c *pgtest.Cluster, _ *pgtest.Proxy) func() {
			c.Pause(t)
			return func() { c.Continue(t) }
		}},
		{"network", func(_ *testing.T, _ *behindRig, _ *pgtest.Cluster, p *pgtest.Proxy) func() {
			p.Hold()
			return p.Release
		}},
	}
}

// TestHangs: while PostgreSQL is there and hangs, in whatever way, writes are acknowledged
// from the log, as while it is away: also beside a direct write that hangs with it, in
// sessions that wrote before and in those that have said nothing yet. What was logged
// behind the direct write comes behind it.
func TestHangs(t *testing.T) {
	t.Parallel()
	for _, h := range hangs() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			testHang(t, h)
		})
	}
}

func testHang(t *testing.T, h hang) {
	c := pgtest.New(t, pgtest.Options{})
	p := pgtest.NewProxy(t, c.Addr())
	number := table("numbered", mutation.KeyInt64)
	r := newBehindRig(t, itemsDDL+"; CREATE TABLE numbered (id bigserial PRIMARY KEY, v text)", []Table{assumed(), number}, func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), func(o *Options) {
			o.Upstream.Addresses = []Address{{"tcp", p.Addr()}}
			o.ConnectTimeout, o.Away.CheckInterval = patience, time.Hour // nobody finds out that it is away
			o.WriteBehind.SequenceBlock = 8
		})
	})
	const upsert = "INSERT INTO items (id, name, n) VALUES ($1, $2, 1) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, n = EXCLUDED.n"
	var conns []*pgx.Conn
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		conn := r.connect(mode)
		for range 2 { // the second one knows its statement
			if _, err := conn.Exec(bounded(t), upsert, 1, "before"); err != nil {
				t.Fatal(err)
			}
		}
		conns = append(conns, conn)
	}
	do(t, conns[2], "INSERT INTO numbered (v) VALUES ('before')")
	conns = append(conns, r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeSimpleProtocol)) // have said nothing
	single, inside := r.connect(pgx.QueryExecModeSimpleProtocol), r.connect(pgx.QueryExecModeSimpleProtocol)
	do(t, single, "SELECT 1")
	do(t, inside, "SELECT 1")
	r.applied()
	commits := h.name == "commits"
	if commits { // of a transaction, too: what is to come is its end
		do(t, inside, "BEGIN", "UPDATE items SET n = n + 10 WHERE id = 1")
	}
	end := sync.OnceFunc(h.begin(t, r, c, p))
	defer end()
	var direct []<-chan error
	begin := func(conn *pgx.Conn, sql string) {
		n := len(direct)
		direct = append(direct, started(func() error { _, err := conn.Exec(context.Background(), sql); return err }))
		eventually(t, "direct writes are under way", func() bool {
			count := 0
			for _, x := range r.list() {
				if y, ok := x.carrier.(*attended); ok {
					y.mu.Lock()
					if (len(y.guarded.ends.direct) > 0 || y.guarded.ends.yielded) && y.mu.turn.pending() {
						count++
					}
					y.mu.Unlock()
				}
			}
			return count > n
		})
	}
	if commits {
		begin(inside, "COMMIT")
	} else {
		begin(single, "UPDATE items SET n = n + 10 WHERE id = 1")
	}
	for i, conn := range conns {
		before := r.logged()
		for range 3 {
			if _, err := conn.Exec(bounded(t), upsert, 1, "meanwhile"); err != nil {
				t.Fatalf("session %d: %v: %s", i, err, r.why())
			}
		}
		if n := r.logged() - before; n != 3 {
			t.Errorf("session %d: %d writes of 3 are acknowledged from the log: %s", i, n, r.why())
		}
	}
	before := r.logged()
	do(t, conns[2], "INSERT INTO numbered (v) VALUES ('meanwhile')") // as far as the block reaches
	do(t, conns[2], "SET walproxy.idempotency_key = 'k'", "INSERT INTO items (id, name) VALUES (2, 'k')")
	if n := r.logged() - before; n != 2 {
		t.Errorf("%d writes of 2 are acknowledged from the log: %s", n, r.why())
	}
	for i := range direct {
		select {
		case err := <-direct[i]:
			t.Errorf("a direct write has ended while PostgreSQL hangs: %v", err)
		default:
		}
	}
	end()
	for _, d := range direct {
		if err := ended(t, "a direct write", d); err != nil {
			t.Errorf("a direct write that hung: %v", err)
		}
	}
	r.applied()
	check := pgtest.Connect(t, r.direct)
	var got string
	if err := check.QueryRow(bounded(t), "SELECT string_agg(format('%s %s %s', id, name, n), ', ' ORDER BY id) FROM items").Scan(&got); err != nil {
		t.Fatal(err)
	}
	// An UPDATE that hung before it was done may have come behind the others: nobody was told.
	if want := "1 meanwhile 1, 2 k "; got != want && (commits || got != "1 meanwhile 11, 2 k ") {
		t.Errorf("the rows are %q, want %q", got, want)
	}
	// The gates are free, and what the sessions ask is answered to them.
	for i, conn := range append(conns, single, inside) {
		do(t, conn, "UPDATE items SET n = 1 WHERE id = 1", fmt.Sprintf("UPDATE items SET n = n + %d", i))
	}
}

// TestYieldedGateIsEnteredAgain: a transaction whose gate was left while PostgreSQL was
// away comes behind what was logged meanwhile.
func TestYieldedGateIsEnteredAgain(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL, []Table{assumed()}, func(o *behindOptions) { o.cluster, o.change = c, append(o.change, quick(nil)) })
	a, b := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	do(t, b, "INSERT INTO items (id, name, n) VALUES (1, 'x', 1)", "INSERT INTO items (id, name, n) VALUES (2, 'x', 1)")
	do(t, a, "BEGIN", "UPDATE items SET n = n + 1 WHERE id = 1")
	other := pgtest.Connect(t, r.direct)
	do(t, other, "BEGIN", "SELECT FROM items WHERE id = 2 FOR UPDATE")
	c.Pause(t)
	resume := sync.OnceFunc(func() { c.Continue(t) })
	defer resume()
	r.isAway(t, true)
	before := r.logged()
	do(t, b, "UPDATE items SET n = 50 WHERE id = 2")
	if r.logged() != before+1 {
		t.Errorf("a transaction's gate keeps others out of the log while PostgreSQL is away: %s", r.why())
	}
	resume()
	r.isAway(t, false)
	again := started(func() error {
		_, err := a.Exec(bounded(t), "UPDATE items SET n = n + 2 WHERE id = 2")
		return err
	})
	r.waiting()
	do(t, other, "COMMIT")
	if err := ended(t, "the transaction's next write", again); err != nil {
		t.Error(err)
	}
	do(t, a, "COMMIT")
	r.applied()
	if n := one[int](t, pgtest.Connect(t, r.direct), "SELECT n::int FROM items WHERE id = 2"); n != 52 {
		t.Errorf("n is %d, want 52: what was acknowledged first comes first", n)
	}
}

// TestAckAppliedAway: with walproxy.ack = 'applied' a write is answered as soon as it is known
// that PostgreSQL is away, as logged and not applied, and the same goes for later ones.
func TestAckAppliedAway(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), func(o *Options) { o.WriteBehind.AckTimeout = time.Hour })
	})
	var mu sync.Mutex
	var notices []*pgconn.Notice
	config, err := pgx.ParseConfig(r.through)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		notices = append(notices, n)
	}
	conn, err := pgx.ConnectConfig(bounded(t), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	do(t, conn, "SET walproxy.ack = 'applied'", "INSERT INTO items (id, name) VALUES (1, 'before')")
	_ = r.admin.Close(bounded(t))
	r.hold("items")
	write := started(func() error {
		_, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES (2, 'x')")
		return err
	})
	r.waiting()
	c.KillAll(t)
	if err := ended(t, "the write", write); err != nil {
		t.Errorf("a write that is logged: %v", err)
	}
	r.isAway(t, true)
	do(t, conn, "INSERT INTO items (id, name) VALUES (3, 'x')")
	mu.Lock()
	told := notices
	mu.Unlock()
	if len(told) != 2 {
		t.Fatalf("%d warnings, want 2", len(told))
	}
	for _, n := range told {
		if n.Code != "57P03" || n.Severity != "WARNING" || !strings.Contains(n.Message, "logged") || !strings.Contains(n.Message, "not applied") {
			t.Errorf("%+v", n)
		}
	}
	c.Start(t)
	r.isAway(t, false)
	do(t, conn, "INSERT INTO items (id, name) VALUES (4, 'x')")
	if n := one[int](t, conn, "SELECT count(*)::int FROM items"); n != 4 || len(notices) != 2 {
		t.Errorf("%d rows, %d warnings", n, len(notices))
	}
}

// TestOutlastUntilAway: a session was cut off amid a direct write, and the endpoint asks for
// its backend: when it gets known that PostgreSQL is away that question ends, and the gates
// are left; when it is back the write is cancelled.
func TestOutlastUntilAway(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	asked, hangs := make(chan struct{}, 1), make(chan struct{})
	r := newBehindRig(t, itemsDDL, []Table{assumed()}, func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), func(o *Options) {
			o.Away.CheckInterval, o.WriteBehind.Interval = time.Hour, time.Hour
			query := o.WriteBehind.Query
			o.WriteBehind.Query = func(ctx context.Context, sql string) ([][]string, error) {
				if !strings.Contains(sql, "backend_start") {
					return query(ctx, sql)
				}
				select {
				case <-hangs:
					return query(ctx, sql)
				case asked <- struct{}{}:
				default:
				}
				<-ctx.Done() // as from a server that is stopped
				return nil, ctx.Err()
			}
		})
	})
	a, b := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeExec)
	do(t, b, "INSERT INTO items (id, name, n) VALUES (1, 'x', 1)")
	r.applied()
	do(t, r.admin, "SELECT pg_advisory_lock(1)")
	direct := started(func() error {
		_, err := a.Exec(bounded(t), "BEGIN; WITH w AS (SELECT pg_advisory_lock(1)) UPDATE items SET n = 9 FROM w; COMMIT", pgx.QueryExecModeSimpleProtocol)
		return err
	})
	under := func() int {
		return one[int](t, r.admin, "SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE 'BEGIN; WITH w AS%' AND wait_event = 'advisory'")
	}
	eventually(t, "a direct write is under way", func() bool { return under() == 1 })
	c.Pause(t) // so that it cannot be cancelled
	resume := sync.OnceFunc(func() { c.Continue(t) })
	defer resume()
	for _, x := range r.list() {
		if turn := turnOf(t, x); turn.pending() {
			x.cut(endStopping())
		}
	}
	if err := ended(t, "the session", direct); err == nil {
		t.Error("a session that was cut off has an answer")
	}
	<-asked
	r.presence.lost(errors.New("it hangs"))
	began := time.Now()
	eventually(t, "the gate is left", func() bool { in, _, _ := r.tables.gates.look(); return len(in) == 0 })
	if took := time.Since(began); took > refreshTimeout/2 {
		t.Errorf("the gate was left after %v", took)
	}
	do(t, b, "UPDATE items SET n = 5 WHERE id = 1")
	if r.logged() != 2 {
		t.Errorf("not acknowledged from the log: %s", r.why())
	}
	resume()
	close(hangs)
	r.presence.check(bounded(t))
	eventually(t, "the direct write is cancelled", func() bool { return under() == 0 })
	do(t, r.admin, "SELECT pg_advisory_unlock(1)")
	r.applied()
	if n := one[int](t, r.admin, "SELECT n::int FROM items WHERE id = 1"); n != 5 {
		t.Errorf("n is %d, want 5, which was written last", n)
	}
}

// TestHangsEnd: PostgreSQL stops, and nobody knows yet: what is asked of it meanwhile waits
// until that is known, and for answer_timeout, and no longer, whatever it is that waits;
// with nothing but one wait for PostgreSQL in it, a session has its answer and goes on.
func TestHangsEnd(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"own": func(*Options) {}, "pool": func(o *Options) { o.Pool = &Pool{Size: 30} }} {
		t.Run(name, func(t *testing.T) { t.Parallel(); testHangsEnd(t, change) })
	}
}

func testHangsEnd(t *testing.T, change func(*Options)) {
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL+"; CREATE TABLE numbered (id bigserial PRIMARY KEY, v text)", []Table{assumed(), table("numbered", mutation.KeyInt64)}, logging, func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), change, func(o *Options) {
			o.Away.AnswerTimeout, o.WriteBehind.SequenceBlock = time.Second, 1
		})
	})
	type asked struct {
		what string
		conn *pgx.Conn
		mode pgx.QueryExecMode
		sql  []string // the last of them is asked while PostgreSQL is stopped
	}
	var list []asked
	for what, statements := range map[string][]string{
		"a read":                          {"SELECT count(*) FROM items"},
		"a read behind a write":           {"INSERT INTO items (id, name) VALUES (5, 'x') ON CONFLICT (id) DO NOTHING", "SELECT count(*) FROM items"},
		"a direct write":                  {"UPDATE items SET n = n + 1"},
		"a sequence that is used up":      {"INSERT INTO numbered (v) VALUES ('a'), ('b'), ('c'), ('d'), ('e'), ('f')"},
		"BEGIN of what passes":            {"BEGIN; SELECT 1"},
		"a read in a transaction":         {"BEGIN", "SELECT count(*) FROM items", "SELECT count(*) FROM items"},
		"a write in a transaction":        {"BEGIN", "SELECT count(*) FROM items", "INSERT INTO items (id, name) VALUES (6, 'x')"},
		"what a held transaction becomes": {"BEGIN", "INSERT INTO items (id, name) VALUES (7, 'x')", "SELECT count(*) FROM items"},
		"a setting":                       {"SET work_mem = '5MB'"},
		"a write behind a setting":        {"SET search_path = public", "INSERT INTO items (id, name) VALUES (8, 'x')"},
		"dead letters behind a setting":   {"SET search_path = public", "SELECT * FROM walproxy.dead_letter"},
		"a change of the schema":          {"CREATE TABLE more (v int)"},
	} {
		list = append(list, asked{what, r.connect(), pgx.QueryExecModeSimpleProtocol, statements})
	}
	const named = "INSERT INTO items (id, name) VALUES (9, $1)"
	prepares, within, unnamed := r.connect(), r.connect(), r.connect()
	do(t, within, "BEGIN", "INSERT INTO items (id, name) VALUES (10, 'x')")
	for _, a := range list {
		do(t, a.conn, "SELECT 1")
		do(t, a.conn, a.sql[:len(a.sql)-1]...)
	}
	do(t, prepares, "SELECT 1")
	if _, err := unnamed.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, 'x')", pgx.QueryExecModeExec, 11); err != nil {
		t.Fatal(err)
	}
	c.Pause(t)
	resume := sync.OnceFunc(func() { c.Continue(t) })
	defer resume()
	began := time.Now()
	answers := map[string]<-chan error{}
	ask := func(what string, f func() error) { answers[what] = started(f) }
	for _, a := range list {
		ask(a.what, func() error { _, err := a.conn.Exec(context.Background(), a.sql[len(a.sql)-1], a.mode); return err })
	}
	ask("a named Parse", func() error { _, err := prepares.Prepare(context.Background(), "s", named); return err })
	ask("a named Parse in a transaction that is held", func() error { _, err := within.Prepare(context.Background(), "s", named); return err })
	for what, answer := range answers {
		switch err := ended(t, what, answer); code(err) {
		case "57P03", "08006", "25P02":
		case "":
			if err != nil || !strings.Contains(what, "write behind") && !strings.Contains(what, "dead letters") && !strings.Contains(what, "Parse") {
				t.Errorf("%s: %v", what, err)
			}
		default:
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Logf("all had an answer after %v", time.Since(began))
	resume()
	r.isAway(t, false)
	r.applied()
}
