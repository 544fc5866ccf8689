package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPostgresScripts runs testdata/postgres, each script with a database of its own,
// which postgres.yaml has as the store of sink main; with behind.yaml its table items is
// written behind. Beside the commands of TestScripts:
//
//	sql STATEMENT          runs it there
//	pgwire STATEMENT ...   runs them through the endpoint of serve, in a session; what the
//	                       last is told, its value or the error, is in file resp
func TestPostgresScripts(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	p := scripts(t, "testdata/postgres")
	p.Cmds["sql"], p.Cmds["pgwire"] = sqlCmd, pgwireCmd
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		dsn := c.Database(t)
		env.Values[dsnKey{}] = dsn
		text := fmt.Sprintf("log: { min_free: -1 }\nsinks:\n  main: { type: postgres, dsn: %q, lanes: 1 }\n", dsn)
		behind := fmt.Sprintf(behindYAML, c.Addr(), dsn)
		return errors.Join(setup(env), os.WriteFile(filepath.Join(env.WorkDir, "postgres.yaml"), []byte(text), 0o600),
			os.WriteFile(filepath.Join(env.WorkDir, "behind.yaml"), []byte(behind), 0o600))
	}
	testscript.Run(t, p)
}

const behindYAML = `log: { min_free: -1 }
pgwire: { listen: "127.0.0.1:0", upstream: "postgres://%s", sink: main, write_behind: { public.items: { safe: true, assume_rows: true } }, transactions: log }
sinks:
  main:
    type: postgres
    dsn: %q
    collections:
      items: { table: public.items, key: [id], key_type: int64 }
`

type dsnKey struct{}

func pgwireCmd(ts *testscript.TestScript, neg bool, args []string) {
	_, addr, ok := strings.Cut(ts.ReadFile("serve.err"), " pgwire=")
	if addr, _, _ = strings.Cut(addr, "\n"); len(args) == 0 || !ok {
		ts.Fatalf("usage: pgwire STATEMENT ..., while serve listens")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig(ts.Value(dsnKey{}).(string))
	ts.Check(err)
	conn, err := pgx.Connect(ctx, pgtest.DSN(addr, config.User, config.Database))
	ts.Check(err)
	defer func() { _ = conn.Close(ctx) }()
	said := ""
	for i, statement := range args {
		var results []*pgconn.Result
		if results, err = conn.PgConn().Exec(ctx, statement).ReadAll(); err != nil && i < len(args)-1 {
			ts.Fatalf("%s: %v", statement, err)
		}
		said = fmt.Sprintln(err)
		if err == nil {
			last := results[len(results)-1]
			said = fmt.Sprintf("%s %s\n", last.CommandTag, bytes.Join(slices.Concat(last.Rows...), []byte(", ")))
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs("resp"), []byte(said), 0o600))
	ts.Logf("%s", said)
	if (err != nil) != neg {
		ts.Fatalf("%q: %v", args, err)
	}
}

func sqlCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: sql STATEMENT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, ts.Value(dsnKey{}).(string))
	ts.Check(err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, args[0])
	ts.Check(err)
}
