package pgwire

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	dto "github.com/prometheus/client_model/go"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// guarded is a server that wants SCRAM of "app", whose verifier is returned, and
// trusts everybody else.
func guarded(t *testing.T, settings map[string]string, files map[string][]byte) (*pgtest.Cluster, Secret) {
	t.Helper()
	c := pgtest.New(t, pgtest.Options{Settings: settings, Files: files,
		HBA: "local all all trust\nhost all app,reader 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"})
	admin := c.Connect(t, "postgres")
	do(t, admin, "CREATE ROLE app LOGIN PASSWORD 's3cret'", "CREATE ROLE reader LOGIN PASSWORD 's3cret' SUPERUSER", "CREATE TABLE t (v int)", "GRANT ALL ON t TO app")
	secret, err := ParseSecret(one[string](t, admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"))
	if err != nil {
		t.Fatal(err)
	}
	return c, secret
}

// quick is an Away whose time-outs suit tests.
func quick(secrets map[string]Secret) func(*Options) {
	return func(o *Options) {
		o.ConnectTimeout = time.Second
		o.Users, o.Away = secrets, &Away{CheckInterval: 50 * time.Millisecond}
	}
}

// isAway waits until the endpoint knows that PostgreSQL is away, or is not.
func (s *Server) isAway(t testing.TB, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("away is %v", want), func() bool {
		_, away := s.presence.away()
		return (away != nil) == want
	})
}

func (s *Server) dsn(user, password string, more ...string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/postgres?%s", user, password, s.addr(), strings.Join(append(more, "connect_timeout=30"), "&"))
}

// TestAwayLogins: with each client, with TLS and without: who was let in before is
// let in while PostgreSQL is away, by the same password alone, and when it is back
// the session has a connection of its user.
func TestAwayLogins(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	c, secret := guarded(t, map[string]string{"ssl": "on", "ssl_cert_file": "'c.pem'", "ssl_key_file": "'k.pem'"},
		map[string][]byte{"c.pem": cert.pem, "k.pem": cert.key})
	secrets := map[string]Secret{"app": secret}
	type way struct {
		s    *Server
		mode string
	}
	secure := "sslmode=verify-full&sslrootcert=" + cert.path
	ways := map[string]way{
		"plain": {start(t, c.Addr(), quick(secrets)), "sslmode=disable"},
		"tls":   {start(t, c.Addr(), quick(secrets), func(o *Options) { o.TLS = cert.server() }), secure},
		"both": {start(t, c.Addr(), quick(secrets), func(o *Options) {
			o.TLS, o.Upstream.TLS = cert.server(), &tls.Config{RootCAs: cert.pool()}
		}), secure},
	}
	clients := drivers
	if _, err := exec.LookPath("psql"); err != nil {
		clients = drivers[:2]
	}
	before := map[string]*pgx.Conn{}
	for name, w := range ways {
		for _, d := range clients {
			if who, err := d.who(t, w.s.dsn("app", "s3cret", w.mode)); err != nil || who != "app" {
				t.Fatalf("%s, %s: %q, %v", name, d.name, who, err)
			}
		}
		before[name] = pgtest.Connect(t, w.s.dsn("app", "s3cret", w.mode))
	}
	c.Stop(t)
	inside := map[string]*pgx.Conn{}
	for name, w := range ways {
		w.s.isAway(t, true)
		for _, d := range clients {
			if _, err := d.who(t, w.s.dsn("app", "s3cret", w.mode)); err == nil || !strings.Contains(err.Error(), "PostgreSQL is away") {
				t.Errorf("%s, %s: a statement that needs PostgreSQL: %v", name, d.name, err)
			}
			if _, err := d.who(t, w.s.dsn("app", "wrong", w.mode)); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
				t.Errorf("%s, %s: a wrong password: %v", name, d.name, err)
			}
		}
		if _, err := pgx.Connect(bounded(t), w.s.dsn("reader", "s3cret", w.mode)); code(err) != "57P03" {
			t.Errorf("%s: who was never let in: %v", name, err)
		}
		if _, err := pgx.Connect(bounded(t), w.s.dsn("app", "s3cret", w.mode, "timezone=Asia/Tokyo")); code(err) != "57P03" {
			t.Errorf("%s: what PostgreSQL would answer is not known: %v", name, err)
		}
		inside[name] = pgtest.Connect(t, w.s.dsn("app", "s3cret", w.mode))
		if v := inside[name].PgConn().ParameterStatus("server_version"); v == "" || v != before[name].PgConn().ParameterStatus("server_version") {
			t.Errorf("%s: version %q", name, v)
		}
	}
	c.Start(t)
	for name, w := range ways {
		w.s.isAway(t, false)
		for when, conn := range map[string]*pgx.Conn{"before": before[name], "while away": inside[name]} {
			if who := one[string](t, conn, "SELECT current_user"); who != "app" {
				t.Errorf("%s: who logged in %s is %q", name, when, who)
			}
			do(t, conn, "INSERT INTO t VALUES (1)")
		}
	}
}

// TestTrustedAway: whom PostgreSQL asked for nothing is asked for nothing.
func TestTrustedAway(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	s := start(t, c.Addr(), quick(nil))
	do(t, pgtest.Connect(t, s.dsn("postgres", "")), "SELECT 1")
	c.KillAll(t)
	s.isAway(t, true)
	conn := pgtest.Connect(t, s.dsn("postgres", ""))
	if _, err := conn.Exec(bounded(t), "SELECT 1"); code(err) != "57P03" {
		t.Errorf("got %v", err)
	}
	c.Start(t)
	s.isAway(t, false)
	do(t, conn, "SELECT 1")
}

// TestSessionsStay: what a session has set and prepared is there again behind a
// restart, whatever end PostgreSQL came to; statements in between are refused.
func TestSessionsStay(t *testing.T) {
	t.Parallel()
	c, secret := guarded(t, nil, nil)
	s := start(t, c.Addr(), quick(map[string]Secret{"app": secret}))
	conn := pgtest.Connect(t, s.dsn("app", "s3cret"))
	do(t, conn, "SET search_path = public, pg_catalog", "SET TIME ZONE 'Asia/Tokyo'; SET work_mem TO '5MB'", "BEGIN", "SET walproxy.x = 'it''s'", "COMMIT",
		"BEGIN", "SET statement_timeout = 1", "ROLLBACK", "SET lock_timeout = 7", "RESET lock_timeout")
	prepared := func() int { return one[int](t, conn, "SELECT $1::int + 1", 1) }
	if n := prepared(); n != 2 {
		t.Fatal(n)
	}
	ends := map[string]func(testing.TB){"fast": c.Stop, "kill -9 of all": c.KillAll, "kill -9 of the postmaster": c.Kill}
	for name, end := range ends {
		end(t)
		s.isAway(t, true)
		for range 2 {
			if _, err := conn.Exec(bounded(t), "SELECT 1"); code(err) != "57P03" {
				t.Fatalf("%s: simple: %v", name, err)
			}
			if err := conn.QueryRow(bounded(t), "SELECT $1::int + 1", 1).Scan(new(int)); code(err) != "57P03" {
				t.Fatalf("%s: extended: %v", name, err)
			}
		}
		if err := conn.PgConn().CancelRequest(bounded(t)); err != nil {
			t.Errorf("%s: cancel: %v", name, err)
		}
		c.Start(t)
		s.isAway(t, false)
		if n := prepared(); n != 2 {
			t.Errorf("%s: %d", name, n)
		}
		for setting, want := range map[string]string{"search_path": "public, pg_catalog", "TimeZone": "Asia/Tokyo", "work_mem": "5MB",
			"walproxy.x": "it's", "statement_timeout": "0", "lock_timeout": "0", "application_name": ""} {
			if got := one[string](t, conn, "SELECT current_setting($1)", setting); got != want {
				t.Errorf("%s: %s is %q", name, setting, got)
			}
		}
	}
}

// TestGoodbyeIsNoLoss: PostgreSQL ends a session when it is told good-bye, whether or not
// the client has closed its end by then.
func TestGoodbyeIsNoLoss(t *testing.T) {
	t.Parallel()
	c, secret := guarded(t, nil, nil)
	s := start(t, c.Addr(), quick(map[string]Secret{"app": secret}))
	conn := pgtest.Connect(t, s.dsn("app", "s3cret"))
	do(t, conn, "SELECT 1")
	hijacked, err := conn.PgConn().Hijack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hijacked.Conn.Write(appendFrame(nil, cTerminate, nil)); err != nil {
		t.Fatal(err)
	}
	if err := hijacked.Conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := hijacked.Conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes and %v behind the end", n, err)
	}
	if err := hijacked.Conn.Close(); err != nil {
		t.Error(err)
	}
	var m dto.Metric
	if err := s.metrics.detached.Write(&m); err != nil || m.GetCounter().GetValue() != 0 {
		t.Errorf("%v sessions lost PostgreSQL, %v", m.GetCounter().GetValue(), err)
	}
}

// TestSessionsEnd: a session that holds something ends with PostgreSQL, as ever.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	c, secret := guarded(t, nil, nil)
	s := start(t, c.Addr(), quick(map[string]Secret{"app": secret}))
	holding := map[string]*pgx.Conn{}
	for name, statements := range map[string][]string{
		"a transaction":        {"BEGIN", "SELECT 1"},
		"a failed one":         {"BEGIN"},
		"LISTEN":               {"LISTEN c"},
		"a temporary table":    {"CREATE TEMPORARY TABLE x (v int)"},
		"SELECT INTO":          {"SELECT 1 INTO TEMP x"},
		"an advisory lock":     {"SELECT pg_advisory_lock(1)"},
		"a cursor":             {"BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"},
		"set_config":           {"SELECT set_config('work_mem', '5MB', false)"},
		"PREPARE":              {"PREPARE p AS SELECT 1"},
		"DO":                   {"DO $$ BEGIN PERFORM pg_advisory_lock(2); END $$"},
		"set and rolled back":  {"BEGIN", "SET work_mem = '5MB'", "SAVEPOINT s", "SET lock_timeout = 5", "ROLLBACK TO s", "COMMIT"},
		"discarded, all of it": {"LISTEN c", "CREATE TEMP TABLE x (v int)", "DISCARD ALL"},
	} {
		holding[name] = pgtest.Connect(t, s.dsn("app", "s3cret"))
		do(t, holding[name], statements...)
	}
	if _, err := holding["a failed one"].Exec(bounded(t), "SELECT 1/0"); err == nil {
		t.Fatal("no error")
	}
	c.Stop(t)
	s.isAway(t, true)
	eventually(t, "only one session is left", func() bool { return s.sessionCount() == 1 })
	c.Start(t)
	s.isAway(t, false)
	for name, conn := range holding {
		_, err := conn.Exec(bounded(t), "SELECT 1")
		if stays := name == "discarded, all of it"; stays != (err == nil) {
			t.Errorf("%s: %v", name, err)
		} else if !stays && code(err) != "57P01" {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
}

// TestPaused: a PostgreSQL that takes connections and says nothing is away, too.
func TestPaused(t *testing.T) {
	t.Parallel()
	c, secret := guarded(t, nil, nil)
	s := start(t, c.Addr(), quick(map[string]Secret{"app": secret}), func(o *Options) { o.Away.AnswerTimeout = 2 * time.Second })
	idle, busy := pgtest.Connect(t, s.dsn("app", "s3cret")), pgtest.Connect(t, s.dsn("app", "s3cret"))
	ended := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.Background(), "SELECT pg_sleep(600)")
		ended <- err
	}()
	admin := c.Connect(t, "postgres")
	eventually(t, "the query runs", func() bool {
		return one[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(600)' AND pid <> pg_backend_pid()") == 1
	})
	c.Pause(t)
	resumed := false
	defer func() {
		if !resumed {
			c.Continue(t)
		}
	}()
	s.isAway(t, true)
	if _, err := idle.Exec(bounded(t), "SELECT 1"); code(err) != "57P03" {
		t.Errorf("a statement: %v", err)
	}
	late := pgtest.Connect(t, s.dsn("app", "s3cret"))
	if _, err := late.Exec(bounded(t), "SELECT 1"); code(err) != "57P03" {
		t.Errorf("of a session that logged in meanwhile: %v", err)
	}
	if err := <-ended; code(err) != "08006" {
		t.Errorf("what was under way: %v", err)
	}
	c.Continue(t)
	resumed = true
	s.isAway(t, false)
	do(t, idle, "SELECT 1")
	do(t, late, "SELECT 1")
}

// TestAuthQuery: verifiers are asked of PostgreSQL, follow a change of password,
// and are kept on disk if that is wanted, for a walproxy that starts while
// PostgreSQL is away.
func TestAuthQuery(t *testing.T) {
	t.Parallel()
	c, _ := guarded(t, nil, nil)
	file := filepath.Join(t.TempDir(), "logins.json")
	asking := func(o *Options) {
		quick(nil)(o)
		o.Away.File = file
		o.AuthQuery = &AuthQuery{User: "reader", Password: "s3cret", Every: 100 * time.Millisecond}
	}
	s := start(t, c.Addr(), asking)
	conn := pgtest.Connect(t, s.dsn("app", "s3cret"))
	known := func(s *Server, password string) func() bool {
		return func() bool {
			secret, ok := s.presence.roster.secret("app")
			if !ok {
				return false
			}
			text := secret.verifierText()
			return strings.Contains(one[string](t, c.Connect(t, "postgres"), "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"), text)
		}
	}
	eventually(t, "the verifier is known", known(s, "s3cret"))
	do(t, c.Connect(t, "postgres"), "ALTER ROLE app PASSWORD 'other'")
	eventually(t, "the new verifier is known", known(s, "other"))
	c.Stop(t)
	s.isAway(t, true)
	if err := s.Close(bounded(t)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(bounded(t))
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	s = start(t, c.Addr(), asking)
	s.isAway(t, true)
	if _, err := pgx.Connect(bounded(t), s.dsn("app", "s3cret")); code(err) != "28P01" {
		t.Errorf("the old password: %v", err)
	}
	conn = pgtest.Connect(t, s.dsn("app", "other"))
	c.Start(t)
	s.isAway(t, false)
	if who := one[string](t, conn, "SELECT current_user"); who != "app" {
		t.Error(who)
	}
	do(t, c.Connect(t, "postgres"), "REVOKE ALL ON t FROM app", "DROP ROLE app")
	eventually(t, "the role is forgotten", func() bool { _, ok := s.presence.roster.secret("app"); return !ok })
}

// TestPasswordSetAgain: a session whose password is not the user's any more cannot
// be carried on, and ends with PostgreSQL's word.
func TestPasswordSetAgain(t *testing.T) {
	t.Parallel()
	c, secret := guarded(t, nil, nil)
	s := start(t, c.Addr(), quick(map[string]Secret{"app": secret}))
	conn := pgtest.Connect(t, s.dsn("app", "s3cret"))
	do(t, c.Connect(t, "postgres"), "ALTER ROLE app PASSWORD 'other'")
	c.Restart(t)
	s.isAway(t, false)
	eventually(t, "the session has lost its backend", func() bool {
		list := s.list()
		if len(list) != 1 {
			return true
		}
		l := list[0].link.Load()
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mu.behind == nil
	})
	if err := lastWordOf(sendQuery(t, conn, "SELECT 1")); code(err) != "08006" {
		t.Errorf("got %v", err)
	}
}

// TestUserlist reads what pgbouncer reads, and names what it does not take.
func TestUserlist(t *testing.T) {
	t.Parallel()
	secret, err := newSecret("pass")
	if err != nil {
		t.Fatal(err)
	}
	list, err := ReadUserlist(strings.NewReader("; comment\n\n\"a\" \"plain\"\n  \"b\"\"c\"   \"" + secret.verifierText() + "\" rest\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list["a"].password != "plain" || list[`b"c`].verifierText() != secret.verifierText() {
		t.Errorf("read %v", maps.Keys(list))
	}
	for text, want := range map[string]string{
		"a b\n": "line 1", "\"a\" \"x\"\n\"b\n": "line 2",
		`"a" "md5` + strings.Repeat("0", 32) + `"`: "MD5",
		`"a" ""`:                       "empty",
		`"a" "SCRAM-SHA-256$4096:x$y"`: "no verifier",
		`"a" "SCRAM-SHA-256$0:` + strings.SplitN(secret.verifierText(), ":", 2)[1] + `"`: "no verifier",
	} {
		if _, err := ReadUserlist(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// sendQuery sends a query whose answer the caller reads.
func sendQuery(t *testing.T, conn *pgx.Conn, sql string) *pgconn.PgConn {
	t.Helper()
	c := conn.PgConn()
	c.Frontend().Send(&pgproto3.Query{String: sql})
	if err := c.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}
