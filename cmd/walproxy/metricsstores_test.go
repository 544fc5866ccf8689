package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/aeronodes"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/wal"
)

// running starts what a configuration says, and closes it when the test ends.
func running(t *testing.T, text string) (i *instance, base, admin, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	if !strings.HasPrefix(text, "api:") {
		text = "api: { listen: \"127.0.0.1:0\" }\n" + text
	}
	c, err := config.Parse("w.yaml", []byte("log: { min_free: -1 }\nadmin: { listen: \"127.0.0.1:0\" }\n"+
		"shutdown: { drain_timeout: 10s }\n"+text), []string{"WALPROXY_DATA_DIR=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	if i, err = start(t.Context(), c, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.close(); err != nil {
			t.Error(err)
		}
	})
	return i, urlOf(i.apiListener, false), urlOf(i.adminListener, false), dir
}

// put writes to the API and wants one status.
func put(t *testing.T, base, path, body string, want int, header ...string) {
	t.Helper()
	c := &tallies{requests: map[[2]string]int{}}
	if err := c.expect(want, http.DefaultClient, "PUT", base+path, body, 0, header...); err != nil {
		t.Fatal(err)
	}
}

// wire is a way to a server that counts what goes over it, and can be cut.
type wire struct {
	addr, to string
	up, down atomic.Int64 // bytes
	taken    atomic.Int64 // connections

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	joined   sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	w := &wire{addr: "127.0.0.1:0", to: to, conns: map[net.Conn]bool{}}
	w.mend(t)
	t.Cleanup(w.cut)
	return w
}

// mend listens, at the same address as before.
func (w *wire) mend(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.listener, w.addr = l, l.Addr().String()
	w.mu.Unlock()
	w.joined.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.taken.Add(1)
			server, err := net.Dial("tcp", w.to)
			if err != nil {
				_ = c.Close()
				continue
			}
			w.pass(c, server, &w.up)
			w.pass(server, c, &w.down)
		}
	})
}

func (w *wire) pass(from, to net.Conn, count *atomic.Int64) {
	w.mu.Lock()
	w.conns[from] = true
	w.mu.Unlock()
	w.joined.Go(func() {
		_, _ = io.Copy(to, io.TeeReader(from, counting{count})) // its end is the end
		_, _ = from.Close(), to.Close()
	})
}

// cut ends everything; who connects is refused.
func (w *wire) cut() {
	w.mu.Lock()
	_ = w.listener.Close()
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
	w.mu.Unlock()
	w.joined.Wait()
}

type counting struct{ n *atomic.Int64 }

func (c counting) Write(b []byte) (int, error) { c.n.Add(int64(len(b))); return len(b), nil }

// guests are the clients of a PostgreSQL endpoint, counted.
type guests struct {
	t      *testing.T
	dsn    string
	dialed atomic.Int64
}

func (g *guests) connect(password string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig(strings.Replace(g.dsn, "app@", "app:"+password+"@", 1))
	if err != nil {
		g.t.Fatal(err)
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		g.dialed.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c)
	if err == nil {
		g.t.Cleanup(func() { g.leave(conn) })
	}
	return conn, err
}

func (g *guests) in() *pgx.Conn {
	g.t.Helper()
	conn, err := g.connect("s3cret")
	if err != nil {
		g.t.Fatal(err)
	}
	return conn
}

func (g *guests) leave(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(g.t.Context()), 10*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

func (g *guests) do(conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	_, err := conn.Exec(ctx, sql)
	return err
}

func (g *guests) must(conn *pgx.Conn, statements ...string) {
	g.t.Helper()
	for _, sql := range statements {
		if err := g.do(conn, sql); err != nil {
			g.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// hosted is a PostgreSQL with the role app, whose password is s3cret, and the table items.
func hosted(t *testing.T) (*pgtest.Cluster, *pgx.Conn) {
	t.Helper()
	c := pgtest.New(t, pgtest.Options{HBA: "local all all trust\nhost all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"})
	admin := c.Connect(t, "postgres")
	if _, err := admin.Exec(t.Context(), `CREATE ROLE app LOGIN PASSWORD 's3cret';
		CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL); GRANT ALL ON items TO app`); err != nil {
		t.Fatal(err)
	}
	return c, admin
}

func number(t *testing.T, admin *pgx.Conn, query string) (n int) {
	t.Helper()
	if err := admin.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// sessionMetrics are those of sessions that write behind and stay while PostgreSQL is away.
func sessionMetrics(t *testing.T, j *judge) {
	c, admin := hosted(t)
	w := newWire(t, c.Addr())
	verifier := ""
	if err := admin.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").Scan(&verifier); err != nil {
		t.Fatal(err)
	}
	i, _, metrics, _ := running(t, `
pgwire: { listen: "127.0.0.1:0", upstream: "postgres://`+w.addr+`", away: { check_interval: 50ms }, users: { app: "`+verifier+`" }, sink: main, write_behind: { public.items: {} } }
sinks:
  main: { type: postgres, dsn: "`+c.DSN("postgres")+`", collections: { items: { table: public.items, key: [id], key_type: int64 } } }
`)
	addr := i.pgwireListener.Addr().String()
	g := &guests{t: t, dsn: pgtest.DSN(addr, "app", "postgres")}
	first, second := g.in(), g.in()
	const queries, writes = 5, 10
	asked := 0 // bytes
	for n := range queries {
		sql := fmt.Sprintf("SELECT %d, '%s'", n, strings.Repeat("x", 100))
		g.must(first, sql)
		asked += len(sql)
	}
	for n := range writes {
		g.must(first, fmt.Sprintf("INSERT INTO items VALUES (%d, 'a')", n))
	}
	if err := g.do(first, "INSERT INTO items VALUES (1000, NULL)"); err == nil {
		t.Fatal("NULL is taken")
	}
	s, err := scrapeOf(metrics)
	if err != nil {
		t.Fatal(err)
	}
	waits := int(s.sum("walproxy_pgwire_gate_seconds_count"))
	g.must(first, "UPDATE items SET name = 'b'") // of no key: passed through, behind what is pending
	if s, err = scrapeOf(metrics); err != nil {
		t.Fatal(err)
	}
	j.same(t, s, waits+1, "walproxy_pgwire_gate_seconds_count")
	// A query that is cancelled, and a request with a key that nobody has.
	sleeping := make(chan error, 1)
	go func() { sleeping <- g.do(second, "SELECT pg_sleep(50)") }()
	for number(t, admin, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(50)' AND state = 'active' AND usename = 'app'") == 0 {
		if t.Context().Err() != nil {
			t.Fatal("it does not sleep")
		}
	}
	if err := second.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-sleeping; err == nil {
		t.Error("it slept to the end")
	}
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	g.dialed.Add(1)
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 16), 80877102) // CancelRequest
	_, err = raw.Write(append(request, 1, 2, 3, 4, 5, 6, 7, 8))
	if _, readErr := io.ReadAll(raw); errors.Join(err, readErr, raw.Close()) != nil {
		t.Fatal(err, readErr)
	}
	if _, err := g.connect("wrong"); err == nil {
		t.Fatal("a wrong password is taken")
	}
	g.leave(second)

	s = awaitSum(t, metrics, 1, "walproxy_pgwire_sessions")
	j.same(t, s, 1, "walproxy_pgwire_sessions")
	j.same(t, s, int(g.dialed.Load()), "walproxy_pgwire_connections_total")
	s = awaitSum(t, metrics, int(g.dialed.Load())-3, "walproxy_pgwire_ended_total")
	j.same(t, s, int(g.dialed.Load())-3, "walproxy_pgwire_ended_total") // all but the first and two cancel requests
	j.same(t, s, queries+2, "walproxy_pgwire_requests_total")           // the update and pg_sleep
	j.same(t, s, writes, "walproxy_pgwire_behind_total")
	j.same(t, s, 1, "walproxy_pgwire_failed_total", `reason="refused"`)
	j.same(t, s, 1, "walproxy_pgwire_passed_total")
	j.same(t, s, 1, "walproxy_pgwire_cancels_total", `result="passed"`)
	j.same(t, s, 1, "walproxy_pgwire_cancels_total", `result="unknown"`)
	j.same(t, s, 2, "walproxy_pgwire_cancels_total")
	j.same(t, s, 0, "walproxy_pgwire_gates_yielded_total") // PostgreSQL did not hang
	j.within(t, s, float64(asked), float64(w.up.Load()), "walproxy_pgwire_bytes_total", `direction="up"`)
	j.within(t, s, float64(asked/2), float64(w.down.Load()), "walproxy_pgwire_bytes_total", `direction="down"`)
	taken := int(w.taken.Load())
	if s, err = scrapeOf(metrics); err != nil {
		t.Fatal(err)
	}
	j.within(t, s, 3, float64(max(taken, int(w.taken.Load()))), "walproxy_pgwire_upstream_connect_seconds_count") // three sessions

	// PostgreSQL goes away and comes back.
	w.cut()
	s = awaitSum(t, metrics, 1, "walproxy_pgwire_detached_total")
	j.same(t, s, 1, "walproxy_pgwire_detached_total")
	if err := g.do(first, "SELECT 1"); err == nil {
		t.Error("it was asked")
	}
	third := g.in()
	s = awaitSum(t, metrics, 1, "walproxy_pgwire_away_logins_total")
	j.same(t, s, 1, "walproxy_pgwire_away_logins_total")
	j.same(t, s, 1, "walproxy_pgwire_away_refused_total")
	j.same(t, s, 0, "walproxy_pgwire_attached_total")
	w.mend(t)
	for _, conn := range []*pgx.Conn{first, third} {
		for g.do(conn, "SELECT 1") != nil && t.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond) // it is looked for every 50 ms
		}
	}
	s = awaitSum(t, metrics, 2, "walproxy_pgwire_attached_total")
	j.same(t, s, 2, "walproxy_pgwire_attached_total")
}

// poolMetrics are those of a pool of two connections.
func poolMetrics(t *testing.T, j *judge) {
	c, _ := hosted(t)
	w := newWire(t, c.Addr())
	i, _, metrics, _ := running(t, `
pgwire: { listen: "127.0.0.1:0", upstream: "postgres://`+w.addr+`", pool: { mode: transaction, size: 2, wait_timeout: 2s } }
`)
	g := &guests{t: t, dsn: pgtest.DSN(i.pgwireListener.Addr().String(), pgtest.Superuser, "postgres")}
	first, second, third := g.in(), g.in(), g.in()
	if _, err := first.Prepare(t.Context(), "mine", "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	s := awaitSum(t, metrics, 0, "walproxy_pgwire_pool_waiting")
	j.within(t, s, 1, 2, "walproxy_pgwire_pool_open")
	j.same(t, s, int(s.sum("walproxy_pgwire_pool_open")), "walproxy_pgwire_pool_idle") // nobody does anything
	// Who has prepared it gets, while another one has its connection, the other connection.
	g.must(second, "BEGIN")
	if err := first.PgConn().ExecPrepared(t.Context(), "mine", nil, nil, nil).Read().Err; err != nil {
		t.Fatal(err)
	}
	g.must(first, "BEGIN")
	if err := g.do(third, "SELECT 1"); err == nil {
		t.Error("there was a third connection")
	}
	s = awaitSum(t, metrics, 2, "walproxy_pgwire_pool_open")
	j.same(t, s, 2, "walproxy_pgwire_pool_open")
	j.same(t, s, 0, "walproxy_pgwire_pool_idle")
	j.same(t, s, 0, "walproxy_pgwire_pool_waiting")
	j.same(t, s, 1, "walproxy_pgwire_pool_timeouts_total")
	j.same(t, s, 1, "walproxy_pgwire_pool_wait_seconds_count")
	j.same(t, s, 2, "walproxy_pgwire_pool_opened_total")
	if n := w.taken.Load(); n < 2 {
		t.Errorf("PostgreSQL saw %d connections", n)
	}
	j.within(t, s, 0, 1, "walproxy_pgwire_pool_prepared_total")
	waited := make(chan error, 1)
	go func() { waited <- g.do(third, "SELECT 1") }()
	s = awaitSum(t, metrics, 1, "walproxy_pgwire_pool_waiting")
	j.same(t, s, 1, "walproxy_pgwire_pool_waiting")
	<-waited
	g.must(second, "ROLLBACK")
	if err := first.PgConn().ExecPrepared(t.Context(), "mine", nil, nil, nil).Read().Err; err != nil {
		t.Fatal(err)
	}
	g.must(first, "ROLLBACK")
	s = awaitSum(t, metrics, 2, "walproxy_pgwire_pool_idle")
	j.same(t, s, 2, "walproxy_pgwire_pool_idle")
	j.same(t, s, 0, "walproxy_pgwire_pool_pinned")
	g.must(first, "CREATE TEMP TABLE mine ()") // it keeps its connection
	s = awaitSum(t, metrics, 1, "walproxy_pgwire_pool_pinned")
	j.same(t, s, 1, "walproxy_pgwire_pool_pinned")
	g.must(first, "DISCARD ALL")
	s = awaitSum(t, metrics, 0, "walproxy_pgwire_pool_pinned")
	j.same(t, s, 0, "walproxy_pgwire_pool_pinned")
}

// postgresMetrics are those of a sink, held against what PostgreSQL says of it.
func postgresMetrics(t *testing.T, j *judge) {
	c, admin := hosted(t)
	if _, err := admin.Exec(t.Context(), `CREATE TABLE orders (id text PRIMARY KEY, total numeric); CREATE SEQUENCE refused;
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.total < 0 THEN PERFORM nextval('refused'); RAISE EXCEPTION 'negative' USING ERRCODE = '23514'; END IF;
			RETURN NEW; END $$;
		CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION refuse()`); err != nil {
		t.Fatal(err)
	}
	_, base, metrics, dir := running(t, `
sinks:
  main:
    type: postgres
    dsn: "`+c.DSN("postgres")+`"
    lanes: 2
    pools: { apply: 3, read: 2 }
    auto_create: true
    expiry: { every: 50ms, margin: 1ms }
    collections:
      orders: { table: public.orders, key: [id] }
      items: { table: public.items, key: [id], key_type: int64 }
`)
	const rows = 30
	for n := range rows {
		put(t, base, fmt.Sprintf("/v1/items/%d", n), `{"name":"x"}`, 200)
	}
	put(t, base, "/v1/orders/a?ack=applied&timeout=1m", `{"total":1}`, 200)
	put(t, base, "/v1/orders/b?ack=applied&timeout=1m", `{"total":-1}`, 202) // a dead letter
	s := awaitSum(t, metrics, rows+1, "walproxy_postgres_batch_records_sum")
	j.same(t, s, rows+1, "walproxy_postgres_batch_records_sum")
	j.same(t, s, rows+1, "walproxy_sink_records_total")
	transactions := number(t, admin, "SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM items UNION ALL SELECT xmin FROM orders) w")
	transactions++ // in which the checkpoint passed the dead letter
	j.same(t, s, transactions, "walproxy_postgres_apply_seconds_count")
	j.same(t, s, transactions, "walproxy_postgres_batch_records_count")
	j.same(t, s, transactions, "walproxy_sink_batches_total")
	j.same(t, s, number(t, admin, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM refused"), "walproxy_postgres_errors_total", `class="23"`, `outcome="rejected"`)
	in, err := wal.Inspect(filepath.Join(dir, "log"), wal.InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bytes := 0
	for f, err := range in.Frames(1) {
		if err != nil {
			t.Fatal(err)
		}
		if f.LSN != rows+2 { // the dead letter
			bytes += len(f.Payload)
		}
	}
	j.same(t, s, bytes, "walproxy_postgres_applied_bytes_total")

	// Its connections.
	j.same(t, s, 3, "walproxy_postgres_pool_max", `pool="apply"`)
	j.same(t, s, 2, "walproxy_postgres_pool_max", `pool="read"`)
	connections := number(t, admin, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walproxy'")
	j.within(t, s, 1, float64(connections), "walproxy_postgres_pool_connections")
	lock, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), "LOCK TABLE orders"); err != nil {
		t.Fatal(err)
	}
	put(t, base, "/v1/orders/c", `{"total":1}`, 200)
	s = awaitSum(t, metrics, 1, "walproxy_postgres_pool_busy", `pool="apply"`)
	j.same(t, s, 1, "walproxy_postgres_pool_busy", `pool="apply"`)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = awaitSum(t, metrics, 0, "walproxy_postgres_pool_busy", `pool="apply"`)
	j.same(t, s, 0, "walproxy_postgres_pool_busy", `pool="apply"`)

	// Its lock.
	j.same(t, s, 1, "walproxy_postgres_owner")
	j.same(t, s, 0, "walproxy_postgres_lock_lost_total")
	if n := number(t, admin, "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'"); n != 1 {
		t.Errorf("%d hold an advisory lock", n)
	}
	s = awaitSum(t, metrics, 1, "walproxy_postgres_lock_lost_total")
	j.same(t, s, 1, "walproxy_postgres_lock_lost_total")
	s = awaitSum(t, metrics, 1, "walproxy_postgres_owner")
	j.same(t, s, 1, "walproxy_postgres_owner")

	// What expires.
	put(t, base, "/v1/others/a?ttl=10ms", `{"total":1}`, 200)
	put(t, base, "/v1/others/b?ttl=10ms", `{"total":1}`, 200)
	s = awaitSum(t, metrics, 2, "walproxy_postgres_expired_total")
	j.same(t, s, 2, "walproxy_postgres_expired_total")
	j.same(t, s, 0, "walproxy_postgres_expired_kept_total")

	// Its connections are cut: an apply that was under way may have been done.
	if _, err := admin.Exec(t.Context(), "BEGIN; LOCK TABLE orders"); err != nil {
		t.Fatal(err)
	}
	put(t, base, "/v1/orders/d", `{"total":1}`, 200)
	awaitSum(t, metrics, 1, "walproxy_postgres_pool_busy", `pool="apply"`)
	before := number(t, admin, "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE relation = 'orders'::regclass AND NOT granted")
	if _, err := admin.Exec(t.Context(), "ROLLBACK"); err != nil || before != 1 {
		t.Fatal(before, err)
	}
	s = awaitSum(t, metrics, 0, "walproxy_sink_lag_records")
	j.within(t, s, 1, 3, "walproxy_postgres_errors_total", `class="57"`)
	j.within(t, s, 1, 3, "walproxy_sink_retries_total")
	if n := number(t, admin, "SELECT count(*) FROM orders"); n != 3 {
		t.Errorf("%d orders, want 3", n)
	}
}

// aerospikeMetrics are those of a sink whose store is another walproxy's endpoint, behind a
// node that can be restarted.
func aerospikeMetrics(t *testing.T, j *judge) {
	store, _, _, _ := running(t, `aerowire: { listen: "127.0.0.1:0", namespaces: [test], sink: main }`)
	nodes, err := aeronodes.Start(store.aerowireListener.Addr().String(), 2, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Close)
	_, base, metrics, dir := running(t, `
sinks:
  main: { type: aerospike, hosts: ["`+nodes.Addrs()[0]+`"], namespace: test, lanes: 2, max_lag_bytes: 64MiB, cluster: { settle: 300ms } }
`)
	const rows = 20
	for n := range rows {
		put(t, base, fmt.Sprintf("/v1/orders/%d", n), `{"total":1,"note":"x"}`, 200)
	}
	s := awaitSum(t, metrics, rows, "walproxy_aerospike_batch_records_sum")
	j.same(t, s, rows, "walproxy_aerospike_batch_records_sum")
	j.same(t, s, rows, "walproxy_sink_records_total")
	j.same(t, s, int(s.sum("walproxy_sink_batches_total")), "walproxy_aerospike_batch_records_count")
	j.same(t, s, int(s.sum("walproxy_aerospike_batch_records_count")), "walproxy_aerospike_apply_seconds_count") // none has failed
	_, bytes := logged(t, filepath.Join(dir, "log"))
	j.same(t, s, bytes, "walproxy_aerospike_applied_bytes_total")
	j.same(t, s, 0, "walproxy_aerospike_read_before_write_total")
	j.same(t, s, 0, "walproxy_aerospike_errors_total")
	j.same(t, s, 64<<20, "walproxy_sink_max_lag_bytes")
	for _, name := range []string{"walproxy_aerospike_unsettled_records", "walproxy_sink_unsettled_records"} {
		written := 0
		for s = (scrape{}); s.sum(name) == 0 && t.Context().Err() == nil; written++ { // what was applied is not settled for a while
			put(t, base, "/v1/unsettled/1?ack=applied&timeout=1m", `{"total":1}`, 200)
			if s, err = scrapeOf(metrics); err != nil {
				t.Fatal(err)
			}
		}
		j.within(t, s, 1, float64(rows+2*written), name)
	}
	for _, name := range []string{"walproxy_aerospike_unsettled_records", "walproxy_sink_unsettled_records", "walproxy_aerospike_unsettled_seconds"} {
		s = awaitSum(t, metrics, 0, name) // each is read at a moment of its own
		j.same(t, s, 0, name)
	}

	// A precondition is read before; what can never be written is told by its code.
	put(t, base, "/v1/orders/new?ack=applied&timeout=1m", `{"total":1}`, 200, "If-None-Match", "*")
	s = awaitSum(t, metrics, 1, "walproxy_aerospike_read_before_write_total")
	j.same(t, s, 1, "walproxy_aerospike_read_before_write_total")
	answer, err := http.Post(base+"/v1/orders/1:increment?ack=applied&timeout=1m", "application/json", strings.NewReader(`{"note":1}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	s = awaitSum(t, metrics, 1, "walproxy_sink_dead_letters_made_total")
	j.within(t, s, 1, 3, "walproxy_aerospike_errors_total", `outcome="rejected"`)

	// A node is restarted: what it could have lost is applied again.
	j.same(t, s, 0, "walproxy_aerospike_rewinds_total")
	nodes.Kill(1)
	if err := nodes.Restart(1); err != nil {
		t.Fatal(err)
	}
	for s.sum("walproxy_aerospike_rewinds_total") == 0 && t.Context().Err() == nil {
		put(t, base, "/v1/orders/more", `{"total":1}`, 200)
		if s, err = scrapeOf(metrics); err != nil {
			t.Fatal(err)
		}
	}
	j.within(t, s, 1, 2, "walproxy_aerospike_rewinds_total")
	awaitSum(t, metrics, 0, "walproxy_sink_lag_records")
}
