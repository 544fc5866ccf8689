package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPGWireBehind: a configured table is written behind, also while PostgreSQL is
// away; what was acknowledged arrives after a restart of both, each once.
func TestPGWireBehind(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	if _, err := c.Connect(t, "postgres").Exec(t.Context(), "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("w.yaml", []byte(`
log: { min_free: -1 }
api: { listen: "127.0.0.1:0" }
admin: { listen: "127.0.0.1:0" }
shutdown: { drain_timeout: 100ms }
pgwire: { listen: "127.0.0.1:0", upstream: "postgres://`+c.Addr()+`", away: {}, sink: main, write_behind: { public.items: {} }, transactions: log }
sinks:
  main:
    type: postgres
    dsn: "`+c.DSN("postgres")+`"
    collections:
      items: { table: public.items, key: [id], key_type: int64 }
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	i, err := start(ctx, cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	client, err := pgx.ParseConfig(pgtest.DSN(i.pgwireListener.Addr().String(), pgtest.Superuser, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	client.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	insert := func(id int) {
		t.Helper()
		if tag, err := conn.Exec(ctx, "INSERT INTO items VALUES ($1, 'x')", id); err != nil || tag.String() != "INSERT 0 1" {
			t.Fatalf("%d: %v %v", id, tag, err)
		}
	}
	insert(1)
	if got := i.proxy.Newest("items"); got != 1 {
		t.Fatalf("LSN %d, want 1: it was not written behind", got)
	}
	c.Stop(t)
	insert(2)
	for _, sql := range []string{"BEGIN", "INSERT INTO items VALUES (3, 'x'), (4, 'y')", "INSERT INTO items VALUES (5, 'x')", "COMMIT"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if got := i.proxy.Newest("items"); got != 3 {
		t.Errorf("LSN %d, want 3: a transaction is one record", got)
	}
	if err := i.close(); err == nil {
		t.Error("nothing stayed in the log")
	}
	c.Start(t)
	if i, err = start(ctx, cfg, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := i.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := i.proxy.WaitSink(ctx, "main", i.proxy.Newest("items")); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := c.Connect(t, "postgres").QueryRow(ctx, "SELECT count(*)::int FROM items").Scan(&n); err != nil || n != 5 {
		t.Errorf("%d rows, %v; want 5", n, err)
	}
}
