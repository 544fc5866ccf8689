package pgdrivers

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Target is a server with the tables of DDL.
type Target struct {
	Addr, User, Password, Database string
	// RootCert is a file with the certificate that is asked for; "": no TLS.
	RootCert string
	// Walproxy: it is asked what only walproxy answers, too.
	Walproxy bool
	// Describe: psql describes a table, by queries that have the table's number in them.
	Describe bool
}

func (t Target) mode() string {
	if t.RootCert == "" {
		return "disable"
	}
	return "verify-full"
}

func (t Target) url() string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(t.User, t.Password), Host: t.Addr, Path: "/" + t.Database}
	q := url.Values{"sslmode": {t.mode()}}
	if t.RootCert != "" {
		q.Set("sslrootcert", t.RootCert)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// environ is libpq's, which the others take, too.
func (t Target) environ() []string {
	host, port, _ := net.SplitHostPort(t.Addr) // else there is no connection
	env := []string{"PGHOST=" + host, "PGPORT=" + port, "PGUSER=" + t.User, "PGPASSWORD=" + t.Password, "PGDATABASE=" + t.Database,
		"PGSSLMODE=" + t.mode(), "PGGSSENCMODE=disable", "PGCONNECT_TIMEOUT=30"}
	if t.RootCert != "" {
		env = append(env, "PGSSLROOTCERT="+t.RootCert)
	}
	if t.Walproxy {
		env = append(env, "WALPROXY=1")
	}
	return env
}

// Driver is one in one of its modes.
type Driver struct {
	Name string
	kind *kind
}

// kind is what runs the modes of one driver.
type kind struct {
	modes []string
	// missing says why it cannot run here; "": it can.
	missing func() string
	version func(context.Context) string
	run     func(ctx context.Context, mode string, at Target, to io.Writer) error
}

// Missing says why the driver cannot run here; "": it can.
func (d Driver) Missing() string { return d.kind.missing() }

// Version of the driver, as it says.
func (d Driver) Version(ctx context.Context) string { return strings.TrimSpace(d.kind.version(ctx)) }

// Run has the driver do the programme, and prints what it was told.
func (d Driver) Run(ctx context.Context, at Target, to io.Writer) error {
	if err := d.kind.run(ctx, d.Name, at, to); err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	return nil
}

// Drivers are all, whether or not they are installed.
func Drivers() (list []Driver) {
	for _, k := range all {
		for _, mode := range k.modes {
			list = append(list, Driver{Name: mode, kind: k})
		}
	}
	return list
}

//go:embed programme
var programme embed.FS

// Where scripts/install-drivers puts what npm has, and Debian its jar.
const jar = "/usr/share/java/postgresql.jar"

func nodeModules() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "walproxy", "node-postgres", "node_modules")
}

const install = "make install-drivers"

func needs(programs ...string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Sprintf("%s is not installed: %s", p, install)
		}
	}
	return ""
}

func needsFile(path string) string {
	if _, err := os.Stat(path); err != nil {
		return fmt.Sprintf("%s is not there: %s", path, install)
	}
	return ""
}

// python is the interpreter that Debian's packages are for.
const python = "/usr/bin/python3"

func needsPython(module string) func() string {
	return func() string {
		if err := exec.Command(python, "-c", "import "+module).Run(); err != nil {
			return fmt.Sprintf("%s has no %s: %s", python, module, install)
		}
		return ""
	}
}

func output(name string, args ...string) func(context.Context) string {
	return func(ctx context.Context) string {
		// The JDBC driver says its version and fails, for it is no program.
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed || len(out) == 0 {
			return "of an unknown version"
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return first
	}
}

func goModule(path string) func(context.Context) string {
	return output("go", "list", "-m", path)
}

var all = []*kind{
	{modes: []string{"pgx", "pgx-cache-describe", "pgx-describe-exec", "pgx-exec", "pgx-simple"}, missing: func() string { return "" },
		version: goModule("github.com/jackc/pgx/v5"), run: runPGX},
	{modes: []string{"pq", "pq-binary"}, missing: func() string { return "" }, version: goModule("github.com/lib/pq"), run: runPQ},
	{modes: []string{"pg", "pg-named"}, missing: needsNode("pg"), version: nodeVersion("pg"), run: runNode},
	{modes: []string{"postgres", "postgres-unprepared"}, missing: needsNode("postgres"), version: nodeVersion("postgres"), run: runNode},
	{modes: []string{"jdbc", "jdbc-simple", "jdbc-rewrite"}, missing: func() string { return needs("java") + needsFile(jar) },
		version: output("java", "-jar", jar), run: runJava},
	{modes: []string{"psycopg2", "psycopg2-autocommit"}, missing: needsPython("psycopg2"),
		version: output(python, "-c", "import psycopg2; print('psycopg2', psycopg2.__version__)"), run: runPython},
	{modes: []string{"psycopg3", "psycopg3-transactions", "psycopg3-binary", "psycopg3-client", "psycopg3-pipeline", "psycopg3-pipelines"}, missing: needsPython("psycopg"),
		version: output(python, "-c", "import psycopg; print('psycopg', psycopg.__version__, psycopg.pq.__impl__)"), run: runPython},
	{modes: []string{"psql"}, missing: func() string { return needs("psql") }, version: output("psql", "--version"), run: runPSQL},
	{modes: []string{"pgbench-simple", "pgbench-extended", "pgbench-prepared"}, missing: func() string { return needs("pgbench") },
		version: output("pgbench", "--version"), run: runPGBench},
}

func needsNode(module string) func() string {
	return func() string { return needs("node") + needsFile(filepath.Join(nodeModules(), module)) }
}

func nodeVersion(module string) func(context.Context) string {
	return output("node", "-p", fmt.Sprintf("'%s ' + require('%s/package.json').version", module, filepath.Join(nodeModules(), module)))
}

func runNode(ctx context.Context, mode string, at Target, to io.Writer) error {
	return script(ctx, mode, at, to, "node.js", nil, "node")
}

func runPython(ctx context.Context, mode string, at Target, to io.Writer) error {
	return script(ctx, mode, at, to, "python.py", nil, python)
}

func runJava(ctx context.Context, mode string, at Target, to io.Writer) error {
	return script(ctx, mode, at, to, "Programme.java", nil, "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", jar)
}

func runPSQL(ctx context.Context, mode string, at Target, to io.Writer) error {
	return script(ctx, mode, at, to, "steps.sql", map[string]string{"steps.sql": psqlScript(at)}, "psql", "-X", "-A", "-t", "-f")
}

func runPGBench(ctx context.Context, mode string, at Target, to io.Writer) error {
	files := map[string]string{"bench.sql": pgbenchScript}
	_, protocol, _ := strings.Cut(mode, "-")
	var out bytes.Buffer
	err := script(ctx, mode, at, &out, "bench.sql", files, "pgbench", "-n", "-t", "5", "--random-seed=1", "-M", protocol, "-f")
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "processed") || strings.Contains(line, "failed") {
			if _, err := io.WriteString(to, line); err != nil {
				return err
			}
		}
	}
	return err
}

// script runs a program with a file of the programme, or of files, as its last argument.
func script(ctx context.Context, mode string, at Target, to io.Writer, name string, files map[string]string, command ...string) (err error) {
	dir, err := os.MkdirTemp("", "walproxy-drivers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(dir, programme); err != nil {
		return err
	}
	in := filepath.Join(dir, "programme")
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(in, file), []byte(text), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, command[0], append(slices.Clone(command[1:]), name)...)
	cmd.Dir = in
	cmd.Env = append(append(os.Environ(), at.environ()...), "MODE="+mode, "STEPS="+filepath.Join(in, "steps.tsv"), "NODE_PATH="+nodeModules(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if _, failed := to.Write(out); failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
