package pgsuite

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/walproxy/walproxy/api/pgwire"
	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// suite is one driver's.
type suite struct {
	module   string
	packages []string
	// setup is SQL for the superuser; database is made before.
	database, setup string
	// environ says where the server is.
	environ func(addr, database string) []string
}

const password = "pgxsecret"

var suites = map[string]suite{
	"pgx": {
		module:   "github.com/jackc/pgx/v5",
		packages: []string{".", "./pgconn/...", "./pgxpool/...", "./stdlib/...", "./pgtype/..."},
		database: "pgx_test",
		setup: `CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE DOMAIN uint64 AS numeric(20,0);
			SET password_encryption = md5; CREATE USER pgx_md5 SUPERUSER PASSWORD '` + password + `';
			SET password_encryption = 'scram-sha-256'; CREATE USER pgx_pw SUPERUSER PASSWORD '` + password + `';
			CREATE USER pgx_scram SUPERUSER PASSWORD '` + password + `';
			CREATE USER " tricky, ' } "" \ test user " SUPERUSER PASSWORD '` + password + `';`,
		environ: func(addr, database string) []string {
			dsn := func(user string) string {
				return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, addr, database)
			}
			return []string{
				"PGX_TEST_DATABASE=" + dsn("postgres"), "PGX_TEST_TCP_CONN_STRING=" + dsn("postgres"),
				"PGX_TEST_MD5_PASSWORD_CONN_STRING=" + dsn("pgx_md5"), "PGX_TEST_PLAIN_PASSWORD_CONN_STRING=" + dsn("pgx_pw"),
				"PGX_TEST_SCRAM_PASSWORD_CONN_STRING=" + dsn("pgx_scram"),
			}
		},
	},
	"pq": {
		module:   "github.com/lib/pq",
		packages: []string{"."},
		database: "pqgo",
		setup: `CREATE USER pqgo SUPERUSER PASSWORD 'unused'; CREATE EXTENSION hstore;
			CREATE USER pqgomd5 SUPERUSER PASSWORD 'wordpass'; CREATE USER pqgoscram SUPERUSER PASSWORD 'wordpass';
			CREATE USER pqgopassword SUPERUSER PASSWORD 'wordpass'; CREATE USER pqgounknown SUPERUSER PASSWORD 'wordpass'`,
		environ: func(addr, database string) []string {
			host, port, _ := net.SplitHostPort(addr)
			return []string{"PGHOST=" + host, "PGPORT=" + port, "PGUSER=pqgo", "PGDATABASE=" + database, "PGSSLMODE=disable", "PGPASSFILE=/nonexistent"}
		},
	},
}

const hba = `local all all trust
host all pgx_md5 127.0.0.1/32 md5
host all pgx_pw 127.0.0.1/32 password
host all pgx_scram 127.0.0.1/32 scram-sha-256
host all pqgomd5 127.0.0.1/32 md5
host all pqgopassword 127.0.0.1/32 password
host all pqgoscram 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
`

// TestSuites: the suites of pgx and lib/pq have the same outcome, test by test,
// through the endpoint as directly.
func TestSuites(t *testing.T) {
	if os.Getenv("WALPROXY_LONG") == "" {
		t.Skip("takes minutes: make pgsuites")
	}
	for name, s := range suites {
		t.Run(name, func(t *testing.T) { s.run(t) })
	}
}

func (s *suite) run(t *testing.T) {
	// Long enough for a suite that leaks connections.
	c := pgtest.New(t, pgtest.Options{HBA: hba, Settings: map[string]string{"max_connections": "300", "fsync": "off", "wal_level": "logical"}})
	source := s.source(t)
	endpoint := through(t, c)
	s.prepare(t, c)
	direct := s.outcomes(t, source, c.Addr(), "")
	through := s.outcomes(t, source, endpoint, "")
	t.Logf("directly:    %s", tally(direct))
	t.Logf("through us:  %s", tally(through))
	if len(direct) < 100 {
		t.Errorf("only %d tests ran", len(direct))
	}
	for _, name := range differences(direct, through) {
		s.again(t, source, c.Addr(), endpoint, name, direct[name], through[name])
	}
}

// through is the address of an endpoint in front of a server.
func through(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := pgwire.Start(pgwire.Options{
		Listener: listener, Logger: zaptest.NewLogger(t),
		Upstream: pgwire.Upstream{Addresses: []pgwire.Address{{Network: "tcp", Address: c.Addr()}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// again looks whether a test's outcome depends on the way or on luck.
func (s *suite) again(t *testing.T, source, direct, through, name, was, is string) {
	pkg, test, _ := strings.Cut(name, " ")
	top, _, _ := strings.Cut(test, "/")
	var ways [2][]string
	for range 3 {
		for i, addr := range []string{direct, through} {
			ways[i] = append(ways[i], s.outcomes(t, source, addr, "^"+top+"$", "./"+pkg)[name])
		}
	}
	text := fmt.Sprintf("%s: %q directly, %q through us; again %q and %q", name, was, is, ways[0], ways[1])
	if slices.Contains(ways[0], "pass") && !slices.Contains(ways[1], "pass") {
		t.Error(text)
	} else {
		t.Log("by luck: " + text)
	}
}

func (s *suite) prepare(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dsn := func(database string) string {
		return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s", c.Socket(), c.Port(), database)
	}
	if _, err := pgtest.Connect(t, dsn("postgres")).Exec(ctx, "CREATE DATABASE "+s.database); err != nil {
		t.Fatal(err)
	}
	if _, err := pgtest.Connect(t, dsn(s.database)).Exec(ctx, s.setup); err != nil {
		t.Fatal(err)
	}
}

// source copies the module: the cache is read only, and a module of its own.
func (s *suite) source(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", s.module).Output()
	if err != nil {
		t.Fatalf("where is %s: %v", s.module, err)
	}
	dir := filepath.Join(t.TempDir(), "source")
	if err := os.CopyFS(dir, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(path, info.Mode()|0o200)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// outcomes runs tests, all or those that match, and returns how each ended by
// package and name.
func (s *suite) outcomes(t *testing.T, source, addr, match string, packages ...string) map[string]string {
	t.Helper()
	if len(packages) == 0 {
		packages = s.packages
	}
	args := append([]string{"test", "-mod=mod", "-json", "-count=1", "-p=1", "-timeout=10m", "-run=" + match}, packages...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = source
	cmd.Env = append(append(os.Environ(), "GOWORK=off", "GOFLAGS="), s.environ(addr, s.database)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if _, failed := err.(*exec.ExitError); err != nil && !failed {
		t.Fatal(err)
	}
	ended := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var event struct{ Action, Package, Test string }
		if json.Unmarshal(lines.Bytes(), &event) != nil || event.Test == "" {
			continue
		}
		switch event.Action {
		case "pass", "fail", "skip":
			pkg := strings.Trim(strings.TrimPrefix(event.Package, s.module), "/")
			ended[pkg+" "+chance.ReplaceAllString(event.Test, "N")] = event.Action
		}
	}
	if len(ended) == 0 {
		t.Fatalf("no test ran: %v\n%s\n%.2000s", err, errs.String(), out)
	}
	return ended
}

// chance is what differs in names from run to run: temporary directories, ports.
var chance = regexp.MustCompile(`\d{4,}`)

func tally(outcomes map[string]string) string {
	counts := map[string]int{}
	for _, o := range outcomes {
		counts[o]++
	}
	return fmt.Sprintf("%d pass, %d fail, %d skip", counts["pass"], counts["fail"], counts["skip"])
}

func differences(a, b map[string]string) (names []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for name := range all {
		if a[name] != b[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
