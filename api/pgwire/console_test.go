package pgwire

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestConsole: every command, with the protocols of several clients, for who may
// and nobody else.
func TestConsole(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	secret, err := newSecret("s3cret")
	if err != nil {
		t.Fatal(err)
	}
	users := func(o *Options) { o.Users = map[string]Secret{"ops": secret, "app": secret} }
	open := start(t, c.Addr(), users)
	named := start(t, c.Addr(), users, func(o *Options) { o.ConsoleUsers = []string{"ops"} })
	for _, tc := range []struct {
		s              *Server
		user, password string
		code           string
	}{
		{open, "ops", "s3cret", ""}, {open, "app", "s3cret", ""}, {open, "app", "wrong", "28P01"}, {open, "postgres", "", "28000"},
		{named, "ops", "s3cret", ""}, {named, "app", "s3cret", "28000"},
	} {
		conn, err := pgx.Connect(bounded(t), strings.Replace(tc.s.dsn(tc.user, tc.password, "sslmode=disable"), "/postgres?", "/walproxy?", 1))
		if code(err) != tc.code || tc.code == "" && err != nil {
			t.Errorf("%s, %s: %v", tc.user, tc.password, err)
		}
		if conn != nil {
			_ = conn.Close(bounded(t))
		}
	}
	session := pgtest.Connect(t, open.through(t, c.DSN("postgres"))+"&application_name=me")
	do(t, session, "BEGIN")
	dsn := strings.Replace(open.dsn("ops", "s3cret", "sslmode=disable"), "/postgres?", "/walproxy?", 1)
	conn := pgtest.Connect(t, dsn)
	for _, v := range consoleList() {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
			rows, err := conn.Query(bounded(t), "show "+strings.ToUpper(v.name)+" ;", mode)
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			n := 0
			for ; rows.Next(); n++ {
				if got := len(rows.RawValues()); got != len(v.columns) || len(rows.FieldDescriptions()) != got {
					t.Errorf("%s: %d values for %d columns", v.name, got, len(v.columns))
				}
			}
			if rows.Err() != nil || (n == 0) != (v.name == "tables" || v.name == "lag") || rows.CommandTag().String() != "SHOW" {
				t.Errorf("%s: %d rows, %v, %s", v.name, n, rows.Err(), rows.CommandTag())
			}
		}
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
		if _, err := conn.Exec(bounded(t), "SELECT 1", mode); code(err) != "42601" {
			t.Errorf("what it does not know: %v", err)
		}
	}
	do(t, conn, "", "SET extra_float_digits = 3")
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("NOT TESTED: needs psql")
	}
	out, err := exec.CommandContext(bounded(t), "psql", "-XAtw", "-c", "SHOW CLIENTS", "-c", "SHOW POOLS", "-c", "SHOW SERVERS", dsn).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "|me||in transaction|") || !strings.Contains(string(out), "postgres|postgres|1|0|0|1|0") ||
		!strings.Contains(string(out), c.Addr()+"|there") {
		t.Errorf("psql: %s, %v", out, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- open.Close(bounded(t)) }()
	do(t, session, "COMMIT")
	if err := lastWordOf(conn.PgConn()); code(err) != "57P01" {
		t.Errorf("at the end: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestConsoleFromAfar: without names only this machine's.
func TestConsoleFromAfar(t *testing.T) {
	t.Parallel()
	addr := elsewhere(t)
	secret, err := newSecret("s3cret")
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{nil, {"ops"}} {
		listener, err := net.Listen("tcp4", addr+":0")
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, pgtest.Shared(t).Addr(), func(o *Options) {
			_ = o.Listener.Close()
			o.Listener, o.Users, o.ConsoleUsers = listener, map[string]Secret{"ops": secret}, names
		})
		conn, err := pgx.Connect(bounded(t), strings.Replace(s.dsn("ops", "s3cret"), "/postgres?", "/walproxy?", 1))
		if names == nil && code(err) != "28000" || names != nil && err != nil {
			t.Errorf("%v: %v", names, err)
		}
		if conn != nil {
			_ = conn.Close(bounded(t))
		}
	}
}
