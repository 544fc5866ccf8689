package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap/zaptest"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPGWire: a configured endpoint passes sessions to PostgreSQL, and ends them
// when the instance closes.
func TestPGWire(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	for _, upstream := range []string{
		"postgres://127.0.0.1:1," + c.Addr() + "/",
		fmt.Sprintf("postgres:///?host=%s&port=%d", c.Socket(), c.Port()),
	} {
		cfg, err := config.Parse("w.yaml", []byte(`
log: { min_free: -1 }
api: { listen: "127.0.0.1:0" }
admin: { listen: "127.0.0.1:0" }
pgwire: { listen: "127.0.0.1:0", upstream: "`+upstream+`" }
`), nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.DataDir = filepath.Join(t.TempDir(), "data")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		i, err := start(ctx, cfg, zaptest.NewLogger(t))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(ctx, pgtest.DSN(i.pgwireListener.Addr().String(), pgtest.Superuser, "postgres"))
		if err != nil {
			t.Error(err)
		} else if err := conn.Ping(ctx); err != nil {
			t.Error(err)
		}
		if err := i.close(); err != nil {
			t.Error(err)
		}
		if conn != nil && conn.Ping(ctx) == nil {
			t.Error("the session goes on")
		}
	}
}
