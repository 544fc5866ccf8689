package pgsuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestNodePostgres: the suite of node-postgres has the same outcome through the endpoint as directly,
// file by file.
func TestNodePostgres(t *testing.T) {
	if os.Getenv("WALPROXY_LONG") == "" {
		t.Skip("takes minutes: make pgsuites")
	}
	checkout := os.Getenv("WALPROXY_NODE_POSTGRES")
	if checkout == "" {
		t.Skip("its suite is in no package: make pgsuites NODE_POSTGRES=a checkout of github.com/brianc/node-postgres")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(checkout, "packages", "pg"))); err != nil {
		t.Fatal(err)
	}
	install := func(in string, packages ...string) {
		args := append([]string{"install", "--no-save", "--omit=dev", "--omit=optional", "--omit=peer", "--no-audit", "--no-fund", "--silent"}, packages...)
		npm := exec.CommandContext(t.Context(), "npm", args...)
		npm.Dir = in
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	install(dir)
	// What its tests need of what is for developers, beside it: Node.js looks there, too.
	if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "package.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	install(filepath.Dir(dir), "async@2.6.4", "bluebird@3.7.2", "co@4.6.0", "pg-copy-streams@0.3.0")
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_connections": "300", "fsync": "off"}})
	endpoint := through(t, c)
	files, err := filepath.Glob(filepath.Join(dir, "test", "integration", "*", "*-tests.js"))
	above, aboveErr := filepath.Glob(filepath.Join(dir, "test", "integration", "*-tests.js"))
	files = append(files, above...)
	if err := errors.Join(err, aboveErr); err != nil || len(files) < 50 {
		t.Fatalf("%d test files: %v", len(files), err)
	}
	direct, by := map[string]string{}, map[string]string{}
	for _, file := range files {
		name := strings.TrimPrefix(file, dir+"/test/integration/")
		direct[name] = node(t, dir, file, c.Addr())
		by[name] = node(t, dir, file, endpoint)
		for try := 0; try < 2 && direct[name] == "pass" && by[name] != "pass"; try++ { // or is it luck?
			direct[name], by[name] = node(t, dir, file, c.Addr()), node(t, dir, file, endpoint)
		}
	}
	t.Logf("directly:    %s", tally(direct))
	t.Logf("through us:  %s", tally(by))
	passed := 0
	for _, ended := range direct {
		if ended == "pass" {
			passed++
		}
	}
	if passed < len(files)*3/4 {
		t.Errorf("only %d of %d files pass directly", passed, len(files))
	}
	for _, name := range differences(direct, by) {
		t.Errorf("%s: %q directly, %q through us", name, direct[name], by[name])
	}
}

// node runs one file of tests.
func node(t *testing.T, dir, file, addr string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", file, fmt.Sprintf("postgres://postgres:x@%s/postgres", addr))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER=postgres", "PGPASSWORD=x", "PGDATABASE=postgres")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s at %s: %v\n%.1000s", filepath.Base(file), addr, err, out)
		return "fail"
	}
	return "pass"
}
