package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPostgresScripts runs testdata/postgres, each script with a database of its own,
// which postgres.yaml has as the store of sink main. Beside the commands of TestScripts:
//
//	sql STATEMENT    runs it there
func TestPostgresScripts(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	p := scripts(t, "testdata/postgres")
	p.Cmds["sql"] = sqlCmd
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		dsn := c.Database(t)
		env.Values[dsnKey{}] = dsn
		text := fmt.Sprintf("log: { min_free: -1 }\nsinks:\n  main: { type: postgres, dsn: %q, lanes: 1 }\n", dsn)
		return errors.Join(setup(env), os.WriteFile(filepath.Join(env.WorkDir, "postgres.yaml"), []byte(text), 0o600))
	}
	testscript.Run(t, p)
}

type dsnKey struct{}

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
