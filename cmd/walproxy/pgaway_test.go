package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap/zaptest"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPGAway: a session goes on over a restart of PostgreSQL, and a client logs in
// while it is away, also to a walproxy that was started meanwhile.
func TestPGAway(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{HBA: "local all all trust\nhost all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := c.Connect(t, "postgres").Exec(ctx, "CREATE ROLE app LOGIN PASSWORD 's3cret'"); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "userlist.txt")
	if err := os.WriteFile(list, []byte(`"app" "s3cret"`), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	run := func() (i *instance, dsn string) {
		cfg, err := config.Parse("w.yaml", []byte(fmt.Sprintf(`
log: { min_free: -1 }
api: { listen: "127.0.0.1:0" }
admin: { listen: "127.0.0.1:0" }
pgwire:
  listen: "127.0.0.1:0"
  upstream: "postgres://%s/"
  auth_file: %s
  away: { keep_logins: true, check_interval: 50ms }
`, c.Addr(), list)), nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.DataDir = data
		if i, err = start(ctx, cfg, zaptest.NewLogger(t)); err != nil {
			t.Fatal(err)
		}
		return i, "postgres://app:s3cret@" + i.pgwireListener.Addr().String() + "/postgres"
	}
	use := func(dsn string) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "SELECT 1")
		_ = conn.Close(ctx)
		return err
	}
	i, dsn := run()
	if err := use(dsn); err != nil {
		t.Error(err)
	}
	c.Stop(t)
	if err := i.close(); err != nil {
		t.Error(err)
	}
	i, dsn = run()
	if err := use(dsn); err == nil || !strings.Contains(err.Error(), "PostgreSQL is away") {
		t.Errorf("while PostgreSQL is away: %v", err)
	}
	c.Start(t)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err := use(dsn); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if err := i.close(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(data, loginsName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// What is wrong with a secret is said with its place.
	if err := os.WriteFile(list, []byte(`"app" "md5`+strings.Repeat("0", 32)+`"`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := pgwireUsers(&config.PGWire{AuthFile: list})
	if err == nil || !strings.Contains(err.Error(), "line 1") || !strings.Contains(err.Error(), list) {
		t.Error(err)
	}
}
