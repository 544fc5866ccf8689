package pgwire

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPoolLogins: with passwords and TLS on both sides: who is known logs in without
// PostgreSQL, by the right password alone; who is not brings a connection, and shares it
// with others who did, as long as there is one.
func TestPoolLogins(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	c, secret := guarded(t, map[string]string{"ssl": "on", "ssl_cert_file": "'c.pem'", "ssl_key_file": "'k.pem'", "log_connections": "on"},
		map[string][]byte{"c.pem": cert.pem, "k.pem": cert.key})
	s := start(t, c.Addr(), pooling(2), quick(map[string]Secret{"app": secret}), func(o *Options) {
		o.TLS, o.Upstream.TLS = cert.server(), &tls.Config{RootCAs: cert.pool()}
		o.Pool.WaitTimeout = time.Second
	})
	dsn := s.dsn("app", "s3cret", "sslmode=verify-full", "sslrootcert="+cert.path)
	for i := range 6 {
		conn := pgtest.Connect(t, dsn)
		if got := one[string](t, conn, "SELECT current_user || $1::text", fmt.Sprint(i)); got != fmt.Sprint("app", i) {
			t.Error(got)
		}
		do(t, conn, "INSERT INTO t VALUES (1)")
	}
	if _, err := pgx.Connect(bounded(t), s.dsn("app", "wrong", "sslmode=require")); code(err) != "28P01" {
		t.Errorf("a wrong password: %v", err)
	}
	if n := s.pools.total(); n.open != 1 || n.idle != 1 { // they came one after the other
		t.Errorf("the pool has %+v", n)
	}
	reader := s.dsn("reader", "s3cret", "sslmode=require")
	var strangers []*pgx.Conn
	for range 4 {
		strangers = append(strangers, pgtest.Connect(t, reader))
	}
	if _, err := pgx.Connect(bounded(t), s.dsn("reader", "wrong", "sslmode=require")); code(err) != "28P01" {
		t.Errorf("a wrong password: %v", err)
	}
	for i := range 3 * len(strangers) {
		if got := one[int](t, strangers[i%len(strangers)], "SELECT $1::int", i); got != i {
			t.Errorf("%d instead of %d", got, i)
		}
	}
	do(t, strangers[0], "BEGIN")
	if _, err := pgx.Connect(bounded(t), s.dsn("reader", "wrong", "sslmode=require")); code(err) != "53300" && code(err) != "28P01" {
		t.Errorf("a wrong password: %v", err)
	}
	strangers = append(strangers, pgtest.Connect(t, reader))
	do(t, strangers[1], "BEGIN")
	if _, err := strangers[2].Exec(bounded(t), "SELECT 1"); code(err) != "53300" {
		t.Errorf("with all connections in use: %v", err)
	}
	do(t, strangers[1], "COMMIT")
	do(t, strangers[0], "COMMIT")
	do(t, strangers[2], "SELECT 1")
	eventually(t, "the connections are given back", func() bool { n := s.pools.counts()[poolKey{"reader", "postgres"}]; return n.open == 2 && n.idle == 2 })
	s.pools.sweep(time.Now().Add(24*time.Hour), nil)
	if n := s.pools.total(); n != (poolCounts{open: 2, idle: 2}) { // those that could be made again are closed
		t.Errorf("a day later the pools have %+v", n)
	}
	do(t, c.Connect(t, "postgres"), "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'reader'")
	if _, err := strangers[0].Exec(bounded(t), "SELECT 1"); code(err) != "08006" {
		t.Errorf("no connection is left: %v", err)
	}
	strangers = append(strangers, pgtest.Connect(t, reader))
	do(t, strangers[1], "SELECT 1") // there is one again
	for _, conn := range strangers {
		_ = conn.Close(bounded(t))
	}
	eventually(t, "nothing is bound", func() bool {
		s.pools.mu.Lock()
		defer s.pools.mu.Unlock()
		return len(s.pools.by[poolKey{"reader", "postgres"}].bound) == 0
	})
	poolBeginsTLS(t, c, cert, secret)
}

// poolBeginsTLS: when PostgreSQL begins to ask for TLS, a session in a loop ends that would need
// a connection with it. One that has a connection goes on, and new sessions do.
func poolBeginsTLS(t *testing.T, c *pgtest.Cluster, cert *certificate, secret Secret) {
	asks := func(want string) {
		t.Helper()
		do(t, c.Connect(t, "postgres"), "ALTER SYSTEM SET ssl = "+want, "SELECT pg_reload_conf()")
		eventually(t, "ssl is "+want, func() bool { return one[string](t, c.Connect(t, "postgres"), "SHOW ssl") == want })
	}
	asks("off")
	s := start(t, c.Addr(), looping, pooling(2), quick(map[string]Secret{"app": secret}), func(o *Options) {
		o.Upstream.TLS, o.Upstream.TLSOptional = &tls.Config{RootCAs: cert.pool()}, true
	})
	dsn := s.dsn("app", "s3cret", "sslmode=disable")
	a := pgtest.Connect(t, dsn)
	do(t, a, "BEGIN", "SELECT 1")
	b := pgtest.Connect(t, dsn) // now that the first login is known: it brings no connection
	asks("on")
	if _, err := b.Exec(bounded(t), "SELECT 1"); code(err) != "08006" {
		t.Errorf("a session in a loop is given a connection with TLS: %v", err)
	}
	do(t, a, "INSERT INTO t VALUES (2)", "COMMIT")
	later := pgtest.Connect(t, dsn)
	do(t, a, "BEGIN")
	do(t, later, "BEGIN", "INSERT INTO t VALUES (2)", "COMMIT")
	do(t, a, "COMMIT")
}

// TestPoolStatements: prepared statements are their session's, by whatever names, on
// whichever connection; few of them are kept there.
func TestPoolStatements(t *testing.T) {
	t.Parallel()
	s, dsn, _ := pooled(t, 2, func(o *Options) { o.Pool.MaxStatements = 5 })
	wires := []*wire{newWire(t, dsn), newWire(t, dsn), newWire(t, dsn)}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var has [3]map[string]int
	for i, w := range wires {
		has[i] = map[string]int{}
		w.ask(&pgproto3.Query{String: "SET application_name = ''"}) // all alike
	}
	for n := range 200 {
		i := r.IntN(len(wires))
		name := fmt.Sprint(r.IntN(8))
		value, known := has[i][name]
		var messages []pgproto3.FrontendMessage
		want := []string{fmt.Sprintf("%d", value)}
		switch {
		case !known:
			value = r.IntN(12)
			has[i][name], want = value, []string{fmt.Sprint(value)}
			messages = append(messages, &pgproto3.Parse{Name: name, Query: fmt.Sprintf("SELECT %d", value)})
		case r.IntN(4) == 0:
			delete(has[i], name)
			messages, want = append(messages, &pgproto3.Close{ObjectType: 'S', Name: name}), []string{"does not exist", `"` + name + `"`}
		case r.IntN(6) == 0:
			messages, want = append(messages, &pgproto3.Parse{Name: name, Query: "SELECT 99"}), []string{"42P05", `"` + name + `" already exists`}
		case r.IntN(6) == 0:
			messages = append(messages, &pgproto3.Bind{PreparedStatement: name, Parameters: [][]byte{[]byte("1")}})
			want = []string{"08P01", `"` + name + `" requires 0`}
		}
		messages = append(messages, &pgproto3.Bind{PreparedStatement: name}, &pgproto3.Describe{ObjectType: 'S', Name: name}, &pgproto3.Execute{}, &pgproto3.Sync{})
		got := strings.ReplaceAll(strings.Join(wires[i].ask(messages...), "\n"), `\"`, `"`)
		if len(want) == 1 {
			want = []string{"SELECT 1"}
			if !strings.Contains(got, fmt.Sprintf("%q", fmt.Sprint(value))) && !strings.Contains(got, fmt.Sprint(value)) {
				t.Fatalf("%d: session %d, statement %s: %s; want %d", n, i, name, got, value)
			}
		}
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Fatalf("%d: session %d, statement %s: %s; want %q", n, i, name, got, part)
			}
		}
		if strings.Contains(got, ourName) {
			t.Fatalf("%d: the session is told our name: %s", n, got)
		}
	}
	s.pools.mu.Lock()
	defer s.pools.mu.Unlock()
	for key, q := range s.pools.by {
		for _, b := range q.idle {
			if n := len(b.stock.has); n > 5+2 {
				t.Errorf("%v: %d statements are kept", key, n)
			}
		}
	}
}

// TestPoolUnnamed: the unnamed statement lasts from one query to the next, and no longer
// than it would.
func TestPoolUnnamed(t *testing.T) {
	t.Parallel()
	_, dsn, _ := pooled(t, 1)
	a, b := newWire(t, dsn), newWire(t, dsn)
	parse := func(q string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: q}, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Sync{}}
	}
	run := []pgproto3.FrontendMessage{&pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}
	contains := func(w *wire, want string, messages ...pgproto3.FrontendMessage) {
		t.Helper()
		if got := w.ask(messages...); !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%q; want %q", got, want)
		}
	}
	a.ask(parse("SELECT 'of a'")...)
	b.ask(parse("SELECT 'of b'")...)
	for range 2 {
		contains(a, "of a", run...)
		contains(b, "of b", run...)
	}
	a.ask(&pgproto3.Query{String: "SELECT 1"})
	contains(a, "26000", run...)
	contains(b, "of b", run...)
	b.ask(asks("SET work_mem = '5MB'")...)
	a.ask(parse("SELECT 'of a'")...)
	b.ask(prepares("named", "SELECT 1")...) // what is set for it first drops the unnamed one
	contains(a, "of a", run...)
	contains(b, "42601", parse("SELEC")...)
	contains(b, "26000", run...)
}

// TestPoolNewColumns: what a statement yields has changed: each session is told so once,
// and can prepare it again.
func TestPoolNewColumns(t *testing.T) {
	t.Parallel()
	_, dsn, direct := pooled(t, 1)
	do(t, direct, "CREATE TABLE t (v int)", "INSERT INTO t VALUES (1)")
	for round := range 2 {
		conn := pgtest.Connect(t, dsn)
		const query = "SELECT * FROM t"
		read := func() error {
			rows, err := conn.Query(bounded(t), query)
			if err != nil {
				return err
			}
			rows.Close()
			return rows.Err()
		}
		if err := read(); err != nil {
			t.Fatal(err)
		}
		do(t, direct, fmt.Sprintf("ALTER TABLE t ADD COLUMN n%d text DEFAULT 'x'", round))
		if err := read(); code(err) != "0A000" {
			t.Errorf("round %d: after the change: %v", round, err)
		}
		if err := read(); err != nil {
			t.Errorf("round %d: prepared again: %v", round, err)
		}
	}
}

// TestPoolPipelines: answers in pipelines are those of PostgreSQL, with errors in them.
func TestPoolPipelines(t *testing.T) {
	t.Parallel()
	_, dsn, direct := pooled(t, 2)
	do(t, direct, "CREATE TABLE t (v int)")
	through := []*wire{newWire(t, dsn), newWire(t, dsn), newWire(t, dsn)}
	other := newWire(t, direct.Config().ConnString())
	author := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	texts := []string{"SELECT 1", "SELECT 1/0", "INSERT INTO t VALUES (1)", "SELECT * FROM nothing", "BEGIN", "COMMIT", "ROLLBACK", "SET LOCAL work_mem = '5MB'", "SHOW work_mem", ""}
	var past []string
	for n := range 150 {
		var messages []pgproto3.FrontendMessage
		syncs := 1 + author.IntN(3)
		for range syncs {
			for range author.IntN(4) {
				name := []string{"", "a", "b"}[author.IntN(3)]
				switch author.IntN(5) {
				case 0, 1:
					messages = append(messages, &pgproto3.Parse{Name: name, Query: texts[author.IntN(len(texts))]})
				case 2:
					messages = append(messages, &pgproto3.Close{ObjectType: 'S', Name: name})
				default:
					messages = append(messages, &pgproto3.Bind{PreparedStatement: name}, &pgproto3.Execute{})
				}
			}
			messages = append(messages, &pgproto3.Sync{})
		}
		past = append(past, said(messages))
		want := answersTo(other, syncs, messages)
		for i, w := range through {
			if got := answersTo(w, syncs, messages); !slices.Equal(got, want) {
				t.Fatalf("%d, session %d:\n%s\ngot  %q\nwant %q", n, i, strings.Join(past[max(0, len(past)-8):], "\n"), got, want)
			}
			w.ask(&pgproto3.Query{String: "ROLLBACK"}) // two connections, three sessions
		}
		other.ask(&pgproto3.Query{String: "ROLLBACK"})
	}
}

func answersTo(w *wire, syncs int, messages []pgproto3.FrontendMessage) (lines []string) {
	w.send(messages...)
	for range syncs {
		lines = append(lines, w.answer()...)
	}
	return lines
}
