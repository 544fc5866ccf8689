package postgres

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.pem, _ = a.sign("authority", &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true})
	return a
}

// sign makes a certificate for a name, 127.0.0.1 and no other address; the first
// is the authority's own.
func (a *authority) sign(name string, template *x509.Certificate) (cert, key []byte) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if a.cert == nil {
		a.cert, a.key = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func (a *authority) server() (cert, key []byte) {
	return a.sign("db", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

func (a *authority) client(role string) (cert, key []byte) {
	return a.sign(role, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// connects reports what a sink with the DSN says to Identity.
func connects(t testing.TB, dsn string) error {
	t.Helper()
	s, err := Open(Options{DSN: dsn})
	if err != nil {
		return err
	}
	defer closeSink(t, s)
	_, err = s.Identity(bounded(t))
	return err
}

// TestTLS: every sslmode against a server with TLS, passwords and certificates of
// clients, and what the sink says when one side refuses the other; passfile and
// service file.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	cert, key := ours.server()
	c := pgtest.New(t, pgtest.Options{
		Settings: map[string]string{"ssl": "on", "ssl_cert_file": "'c.pem'", "ssl_key_file": "'k.pem'", "ssl_ca_file": "'ca.pem'", "password_encryption": "'scram-sha-256'"},
		Files:    map[string][]byte{"c.pem": cert, "k.pem": key, "ca.pem": ours.pem},
		HBA: "local all all trust\nhostssl all certified 127.0.0.1/32 cert\nhostssl all secret 127.0.0.1/32 scram-sha-256\nhostssl all all 127.0.0.1/32 trust\n" +
			"hostnossl all plain 127.0.0.1/32 trust\n",
	})
	admin := pgtest.Connect(t, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", c.Socket(), c.Port()))
	if _, err := admin.Exec(bounded(t), "CREATE ROLE plain LOGIN; CREATE ROLE certified LOGIN; CREATE ROLE secret LOGIN PASSWORD 'wal:proxy'"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, wrong := file("root.pem", string(ours.pem)), file("wrong.pem", string(theirs.pem))
	client := func(a *authority, role string) string {
		cert, key := a.client(role)
		return "&sslcert=" + file(role+".pem", string(cert)) + "&sslkey=" + file(role+".key", string(key))
	}
	verified := "postgres://certified@" + c.Addr() + "/postgres?sslmode=verify-full&sslrootcert=" + root
	certified, another, foreign := client(ours, "certified"), client(ours, "another"), client(theirs, "foreign")
	addr := c.Addr()
	service := file("service", fmt.Sprintf("[wal]\nhost=127.0.0.1\nport=%d\nuser=secret\ndbname=postgres\nsslmode=require\n", c.Port()))
	pass := file("pass", fmt.Sprintf("127.0.0.1:%d:postgres:secret:wal\\:proxy\n", c.Port()))
	for _, tc := range []struct {
		name, dsn string
		want      sinks.Outcome
		says      string
	}{
		{"disable", "postgres://postgres@" + addr + "/postgres?sslmode=disable", sinks.Halt, "28000"},
		{"disable where it may", "postgres://plain@" + addr + "/postgres?sslmode=disable", sinks.Applied, ""},
		{"allow", "postgres://postgres@" + addr + "/postgres?sslmode=allow", sinks.Applied, ""},
		{"prefer", "postgres://postgres@" + addr + "/postgres?sslmode=prefer", sinks.Applied, ""},
		{"require", "postgres://postgres@" + addr + "/postgres?sslmode=require", sinks.Applied, ""},
		{"verify-ca", "postgres://postgres@" + addr + "/postgres?sslmode=verify-ca&sslrootcert=" + root, sinks.Applied, ""},
		{"verify-ca, wrong", "postgres://postgres@" + addr + "/postgres?sslmode=verify-ca&sslrootcert=" + wrong, sinks.Halt, "(sslrootcert)"},
		{"verify-full", "postgres://postgres@" + addr + "/postgres?sslmode=verify-full&sslrootcert=" + root, sinks.Applied, ""},
		{"verify-full, other name", fmt.Sprintf("postgres://postgres@localhost:%d/postgres?sslmode=verify-full&sslrootcert=%s", c.Port(), root), sinks.Halt, "by the name that it has"},
		{"verify-full, wrong", "postgres://postgres@" + addr + "/postgres?sslmode=verify-full&sslrootcert=" + wrong, sinks.Halt, "(sslrootcert)"},
		{"verify-full, the system's authorities", "postgres://postgres@" + addr + "/postgres?sslmode=verify-full", sinks.Halt, "(sslrootcert)"},
		{"client certificate", verified + certified, sinks.Applied, ""},
		{"client certificate, required only", "postgres://certified@" + addr + "/postgres?sslmode=require" + certified, sinks.Applied, ""},
		{"client certificate of another", verified + another, sinks.Halt, "28000"},
		{"client certificate of another authority", verified + foreign, sinks.Halt, "(sslcert, sslkey)"},
		{"no client certificate", verified, sinks.Halt, "28000"},
		{"passfile", "postgres://secret@" + addr + "/postgres?sslmode=require&passfile=" + pass, sinks.Applied, ""},
		{"no password", "postgres://secret@" + addr + "/postgres?sslmode=require&passfile=/nonexistent", sinks.Halt, "28"},
		{"wrong password", "postgres://secret:hush@" + addr + "/postgres?sslmode=require", sinks.Halt, "28P01"},
		{"service", "service=wal servicefile=" + service + " passfile=" + pass, sinks.Applied, ""},
		{"no database", "postgres://postgres@" + addr + "/nowhere?sslmode=require", sinks.Halt, "3D000"},
		{"nobody there", "postgres://postgres@127.0.0.1:1/postgres", sinks.Retry, "refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := connects(t, tc.dsn)
			// In TLS 1.3 the server refuses a certificate when the client is through: a
			// reset may overtake the reason. That is a retry, and a later one tells.
			for range 100 {
				if tc.want != sinks.Halt || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					break
				}
				if got := sinks.OutcomeOf(err); got != sinks.Retry {
					t.Fatalf("outcome %v of a reset, want %v: %v", got, sinks.Retry, err)
				}
				err = connects(t, tc.dsn)
			}
			if got := sinks.OutcomeOf(err); got != tc.want {
				t.Fatalf("outcome %v, want %v: %v", got, tc.want, err)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hush")) {
				t.Errorf("%v: want it to say %q and no password", err, tc.says)
			}
			if err != nil && strings.Count(err.Error(), "sink postgres:") != 1 {
				t.Errorf("%v: want it to say whose error it is, once", err)
			}
		})
	}
}

// TestFailover: with several hosts and target_session_attrs the sink finds the
// primary, also after another was promoted. A standby alone is waited for.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t, pgtest.Options{Settings: map[string]string{"synchronous_standby_names": "''"}})
	admin := primary.Connect(t, "postgres")
	if _, err := admin.Exec(bounded(t), ledgerTable); err != nil {
		t.Fatal(err)
	}
	standby := pgtest.New(t, pgtest.Options{StandbyOf: primary})
	err := connects(t, standby.DSN("postgres"))
	if sinks.OutcomeOf(err) != sinks.Retry || !strings.Contains(err.Error(), "standby") {
		t.Fatalf("a standby alone: %v", err)
	}
	dsn := fmt.Sprintf("postgres://postgres@%s,%s/postgres?sslmode=disable&target_session_attrs=read-write", standby.Addr(), primary.Addr())
	l := openLedger(t, Options{DSN: dsn, Timeouts: hasty()}, 2)
	// Nothing that was reported applied may be lost: wait for the standby.
	if _, err := admin.Exec(bounded(t), "ALTER SYSTEM SET synchronous_standby_names = '*'"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(bounded(t), "SELECT pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby is synchronous", func() bool {
		var n int
		err := admin.QueryRow(bounded(t), "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").Scan(&n)
		return err == nil && n == 1
	})
	l.during(t, func() {
		l.progress(t, 5)
		primary.KillAll(t)
		standby.Promote(t)
		l.progress(t, 5)
	})
	l.check(t, standby.DSN("postgres"))
	if l.sink.owner.held.Load() != true {
		t.Error("the lock is not held on the new primary")
	}
}

// TestStandbyPaused: with a synchronous standby that does not answer nothing is
// reported applied, although the primary commits when it is told to give up
// waiting. When the standby answers again the batches are found applied.
func TestStandbyPaused(t *testing.T) {
	t.Parallel()
	primary := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_sender_timeout": "0"}})
	standby := pgtest.New(t, pgtest.Options{StandbyOf: primary})
	dsn := primary.DSN("postgres")
	admin := primary.Connect(t, "postgres")
	if _, err := admin.Exec(bounded(t), ledgerTable); err != nil {
		t.Fatal(err)
	}
	l := openLedger(t, Options{DSN: dsn, Timeouts: hasty()}, 2)
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		if _, err := admin.Exec(bounded(t), sql); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the standby is synchronous", func() bool {
		var n int
		err := admin.QueryRow(bounded(t), "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").Scan(&n)
		return err == nil && n == 1
	})
	l.timeout = 300 * time.Millisecond
	l.during(t, func() {
		l.progress(t, 3)
		standby.Pause(t)
		eventually(t, "a commit that was not replicated", func() bool {
			e := l.last.Load()
			return e != nil && errors.Is(*e, errNotReplicated) && sinks.OutcomeOf(*e) == sinks.Unknown
		})
		before, unknowns := l.total(), l.unknowns.Load()
		eventually(t, "more tries", func() bool { return l.unknowns.Load() > unknowns+5 })
		if n := l.total(); n > before {
			t.Errorf("%d records were reported applied without the standby", n-before)
		}
		standby.Continue(t)
		l.progress(t, 3)
	})
	l.check(t, dsn)
}

// TestWentBack: a database restored to an older state is not written to by the
// owner that was further: it stops and says why. A new claim continues from what
// the restored one holds.
func TestWentBack(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	dsn, _ := newDatabase(t, c)
	l := openLedger(t, Options{DSN: dsn, Timeouts: hasty()}, 1)
	run := func(batches int) error {
		for range batches {
			b := l.batch(0, l.cp.Lanes[0])
			if err := l.send(bounded(t), b); err != nil {
				return err
			}
			l.cp.Lanes[0] = b.Moves[0].To
		}
		return nil
	}
	if err := run(3); err != nil {
		t.Fatal(err)
	}
	old, at := c.Snapshot(t), l.cp.Lanes[0]
	if err := run(3); err != nil {
		t.Fatal(err)
	}
	c.Restore(t, old)
	err := run(1)
	if !errors.Is(err, sinks.ErrFenced) || !strings.Contains(err.Error(), "went back") {
		t.Fatalf("the owner that was further: %v", err)
	}
	stored, err := storedCheckpoint(t, l.sink)
	if err != nil || stored.Lanes[0] != at {
		t.Fatalf("the restored store: %v, %v; want %v", stored.Lanes, err, at)
	}
	cp, err := l.sink.Resume(bounded(t), sinks.Claim{Stream: stored.Stream, Lanes: 1})
	if err != nil || cp.Lanes[0] != at {
		t.Fatalf("resumed at %v (%v), want %v", cp.Lanes, err, at)
	}
	l.cp = cp
	if err := run(5); err != nil {
		t.Fatal(err)
	}
	checkLedger(t, dsn, 1, nil, nil)
}

// TestMinimalGrants: the sink works for a role that has no more than what
// InitSQL grants it and rights on the tables; without walproxy's schema it says
// what an administrator should do; a second init changes nothing.
func TestMinimalGrants(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	role := c.CreateRole(t)
	admin := pgtest.Connect(t, dsn)
	s := openSink(t, Options{DSN: pgtest.DSN(c.Addr(), role, database), planner: &ledgerPlanner{}})
	claim := claimOf(2)
	_, err := s.Resume(bounded(t), claim)
	if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), "sink init --print") {
		t.Fatalf("without the schema: %v", err)
	}
	for _, sql := range []string{
		InitSQL("", role), "GRANT INSERT ON ledger TO " + role, "GRANT USAGE ON SEQUENCE ledger_n_seq TO " + role,
	} {
		if _, err := admin.PgConn().Exec(bounded(t), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	cp, err := s.Resume(bounded(t), claim)
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(s, cp)
	l.during(t, func() { l.progress(t, 3) })
	l.check(t, dsn)
	// The SQL brings an older schema up to date, and changes nothing where it was run.
	for _, sql := range []string{
		InitSQL("", role), fmt.Sprintf("DROP TABLE walproxy.expiring; DELETE FROM walproxy.migration WHERE version = %d", schemaVersion), InitSQL("", role),
		"SELECT FROM walproxy.expiring",
	} {
		if _, err := admin.PgConn().Exec(bounded(t), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	if err := Init(bounded(t), Options{DSN: dsn}); err != nil {
		t.Fatal(err)
	}
	// A newer schema is left alone.
	if _, err := admin.Exec(bounded(t), "INSERT INTO walproxy.migration (version) VALUES ($1)", schemaVersion+1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(bounded(t), claim); sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), "newer walproxy") {
		t.Errorf("a newer schema: %v", err)
	}
}

// TestMigrateAtOnce: many processes that make the schema at the same time.
func TestMigrateAtOnce(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { errs <- Init(context.Background(), Options{DSN: dsn}) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	var n int
	if err := pgtest.Connect(t, dsn).QueryRow(bounded(t), "SELECT count(*) FROM walproxy.migration").Scan(&n); err != nil || n != schemaVersion {
		t.Errorf("%d migrations of %d (%v)", n, schemaVersion, err)
	}
}

// TestRowsDeleted: a checkpoint that somebody took away is missed, also by a
// fresh claim (F6).
func TestRowsDeleted(t *testing.T) {
	dsn, _ := newDatabase(t, pgtest.Shared(t))
	admin := pgtest.Connect(t, dsn)
	s := openSink(t, Options{DSN: dsn, planner: &ledgerPlanner{}})
	claim := claimOf(2)
	d := resumed(t, s, claim)
	for _, sql := range []string{"DELETE FROM walproxy.lane WHERE lane = 0", "DELETE FROM walproxy.lane", "DELETE FROM walproxy.store"} {
		if _, err := admin.Exec(bounded(t), sql); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resume(bounded(t), claim); !errors.Is(err, sinks.ErrNoCheckpoint) {
			t.Errorf("after %s: %v", sql, err)
		}
		if _, err := s.Apply(bounded(t), d.move(0, 9)); sinks.OutcomeOf(err) != sinks.Halt {
			t.Errorf("an Apply after %s: %v", sql, err)
		}
	}
}

// TestSession: what a session is set to, whatever the role's defaults say.
func TestSession(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	role := c.CreateRole(t)
	if _, err := pgtest.Connect(t, dsn).Exec(bounded(t), fmt.Sprintf(
		"ALTER ROLE %[1]s SET synchronous_commit = off; ALTER ROLE %[1]s SET statement_timeout = 0; ALTER ROLE %[1]s SET default_transaction_isolation = serializable", role)); err != nil {
		t.Fatal(err)
	}
	s := openSink(t, Options{DSN: pgtest.DSN(c.Addr(), role, database)})
	conn, err := s.acquire(bounded(t), s.applyPool)
	if err != nil {
		t.Fatal(err)
	}
	defer s.release(conn)
	for setting, want := range map[string]string{
		"synchronous_commit": "on", "statement_timeout": "30s", "lock_timeout": "5s",
		"idle_in_transaction_session_timeout": "10s", "application_name": "walproxy",
	} {
		var got string
		if err := conn.QueryRow(bounded(t), "SELECT current_setting($1)", setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", setting, got, err, want)
		}
	}
	if _, err := conn.Exec(bounded(t), begin); err != nil {
		t.Fatal(err)
	}
	var level string
	if err := conn.QueryRow(bounded(t), "SHOW transaction_isolation").Scan(&level); err != nil || level != "read committed" {
		t.Errorf("isolation %q, %v", level, err)
	}
}

// TestReadOnly: a primary that was made read-only halts the sink, with the
// remedy.
func TestReadOnly(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	role := c.CreateRole(t)
	admin := pgtest.Connect(t, dsn)
	for _, sql := range []string{InitSQL("", role), "ALTER ROLE " + role + " SET default_transaction_read_only = on"} {
		if _, err := admin.PgConn().Exec(bounded(t), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	s := openSink(t, Options{DSN: pgtest.DSN(c.Addr(), role, database)})
	_, err := s.Resume(bounded(t), claimOf(1))
	if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), "25006") || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("%v", err)
	}
}

// TestStoreReplaced: while the sink runs its database's name comes to mean a copy
// with the very same checkpoint. Nothing is written there.
func TestStoreReplaced(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	l := openLedger(t, Options{DSN: dsn, Timeouts: hasty()}, 1)
	b := l.batch(0, l.cp.Lanes[0])
	if err := l.send(bounded(t), b); err != nil {
		t.Fatal(err)
	}
	admin := c.Connect(t, "postgres")
	for _, sql := range []string{
		"ALTER DATABASE %[1]s ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%[1]s'",
		"CREATE DATABASE %[1]s_copy TEMPLATE %[1]s",
		"ALTER DATABASE %[1]s RENAME TO %[1]s_old", "ALTER DATABASE %[1]s_copy RENAME TO %[1]s",
	} {
		sql = fmt.Sprintf(sql, database)
		eventually(t, sql, func() bool { // sessions take a moment to end
			_, err := admin.Exec(bounded(t), sql)
			return err == nil
		})
	}
	t.Cleanup(func() {
		if err := c.DropDatabase(database + "_old"); err != nil {
			t.Error(err)
		}
	})
	err := l.send(bounded(t), l.batch(0, b.Moves[0].To))
	if sinks.OutcomeOf(errors.Unwrap(err)) != sinks.Halt || !strings.Contains(err.Error(), "another store") {
		t.Errorf("the copy was taken: %v", err)
	}
	l.check(t, dsn)
}

// TestIdleSessions: a server that ends idle sessions leaves the owner's alone.
func TestIdleSessions(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	role := c.CreateRole(t)
	admin := pgtest.Connect(t, dsn)
	if version := admin.PgConn().ParameterStatus("server_version"); strings.HasPrefix(version, "12.") || strings.HasPrefix(version, "13.") {
		t.Skipf("PostgreSQL %s ends no idle sessions", version)
	}
	for _, sql := range []string{InitSQL("", role), "ALTER ROLE " + role + " SET idle_session_timeout = '500ms'"} {
		if _, err := admin.PgConn().Exec(bounded(t), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	s := openSink(t, Options{DSN: pgtest.DSN(c.Addr(), role, database), planner: &ledgerPlanner{}})
	d := resumed(t, s, claimOf(1))
	pid := s.owner.pid.Load()
	pause(time.Second)
	d.apply(d.move(0, 1)) // over a new connection: the pool's were ended
	if !s.owner.holds() || s.owner.pid.Load() != pid {
		t.Error("the owner's session was ended")
	}
}

// TestPooler: a pooler of transactions is refused, whether it is busy or not; one
// of sessions works.
func TestPooler(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	through := func(mode string) string {
		return pgtest.DSN(c.NewPooler(t, mode), pgtest.Superuser, database)
	}
	refused := openSink(t, Options{DSN: through("transaction"), planner: &ledgerPlanner{}})
	for range 3 {
		_, err := refused.Resume(bounded(t), claimOf(1))
		if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), "pool_mode") {
			t.Fatalf("behind a pooler of transactions: %v", err)
		}
	}
	l := openLedger(t, Options{DSN: through("session")}, 2)
	l.during(t, func() { l.progress(t, 3) })
	l.check(t, dsn)
}
