package pgsuite

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestRegress: PostgreSQL's own regression tests have the same outcome through the
// endpoint as directly, and those that fail both ways fail alike.
func TestRegress(t *testing.T) {
	if os.Getenv("WALPROXY_LONG") == "" {
		t.Skip("takes minutes: make pgsuites")
	}
	source := regressSource(t)
	psql, err := pgtest.Program("psql")
	if err != nil {
		t.Skip(err)
	}
	// The settings that shape plans are PostgreSQL's defaults.
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"fsync": "off", "max_worker_processes": "8", "shared_buffers": "'128MB'", "max_wal_size": "'1GB'"}})
	dir := open(t)
	if err := os.CopyFS(filepath.Join(dir, "in"), os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "in", "pg_regress"), 0o755); err != nil {
		t.Fatal(err)
	}
	direct := regress(t, dir, "direct", c.Addr(), filepath.Dir(psql))
	endpoint := regress(t, dir, "through", through(t, c), filepath.Dir(psql))
	t.Logf("directly:    %s", tally(direct))
	t.Logf("through us:  %s", tally(endpoint))
	if len(direct) < 100 {
		t.Errorf("only %d tests ran", len(direct))
	}
	for _, name := range differences(direct, endpoint) {
		diff, _ := os.ReadFile(filepath.Join(dir, "through", "regression.diffs")) // pg_regress writes it for those that fail
		t.Errorf("%s: %q directly, %q through us\n%.4000s", name, direct[name], endpoint[name], diff)
	}
	for name, ended := range direct {
		if ended == "fail" && endpoint[name] == "fail" && !bytes.Equal(printed(t, dir, "direct", name), printed(t, dir, "through", name)) {
			t.Errorf("%s fails both ways, but otherwise", name)
		}
	}
}

// regressSource is where make install-drivers built the tests of the server's version.
func regressSource(t *testing.T) string {
	t.Helper()
	postgres, err := pgtest.Program("postgres")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), postgres, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`\d+\.\d+`).FindString(string(out))
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(cache, "walproxy", "pgregress", version)
	if _, err := os.Stat(filepath.Join(dir, "pg_regress")); err != nil {
		t.Skipf("no regression tests of PostgreSQL %s: make install-drivers", version)
	}
	return dir
}

// open makes a directory that the server's user can read and write.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgregress-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"", "direct", "direct/results", "through", "through/results"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// regressLine says how a test ended.
var regressLine = regexp.MustCompile(`(?m)^(?:test| )\s*([\w.]+)\s+\.\.\. (ok|FAILED|failed)`)

func regress(t *testing.T, dir, way, addr, programs string) map[string]string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	in, to := filepath.Join(dir, "in"), filepath.Join(dir, way)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(in, "pg_regress"), "--host="+host, "--port="+port, "--user="+pgtest.Superuser, "--dbname=regression",
		"--bindir="+programs, "--inputdir="+in, "--outputdir="+to, "--dlpath="+in, "--schedule="+filepath.Join(in, "parallel_schedule"), "--max-connections=8")
	cmd.Dir = in
	out, err := cmd.CombinedOutput()
	ended := map[string]string{}
	for _, m := range regressLine.FindAllStringSubmatch(string(out), -1) {
		ended[m[1]] = "pass"
		if m[2] != "ok" {
			ended[m[1]] = "fail"
		}
	}
	if len(ended) == 0 {
		t.Fatalf("no test ran: %v\n%.4000s", err, out)
	}
	return ended
}

func printed(t *testing.T, dir, way, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, way, "results", name+".out"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b, []byte(filepath.Join(dir, way)), nil)
}
