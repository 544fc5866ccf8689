package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
)

var shared struct {
	sync.Mutex
	cluster *Cluster
	err     error
}

// Shared returns the process's common cluster, started on first use and ended by
// Main (or the watchdog). It runs with fsync off: only a test that ends the
// machine could tell, and such tests use New. Nobody may stop it or count on
// being alone: use Database.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.cluster, shared.err = newCluster(Options{Settings: map[string]string{
			"fsync": "off", "full_page_writes": "off", "max_connections": "300",
		}})
		if shared.err == nil {
			shared.err = shared.cluster.start()
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// Main runs a package's tests, ends the shared cluster and everything else this
// package started, and fails if goroutines are left.
func Main(m *testing.M, options ...goleak.Option) {
	goleak.VerifyTestMain(tests{m}, options...)
}

type tests struct{ m *testing.M }

func (t tests) Run() int {
	code := t.m.Run()
	if err := End(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// End is what Main does after the tests, for a TestMain that does more.
func End() error {
	shared.Lock()
	defer shared.Unlock()
	var err error
	if shared.cluster != nil {
		err = shared.cluster.destroy()
		shared.cluster = nil
	}
	return errors.Join(err, endRoot())
}

// Database makes an empty database with a name of its own and returns its DSN;
// it is dropped, with whoever is connected, when the test ends.
func (c *Cluster) Database(t testing.TB, more ...string) string {
	t.Helper()
	name, err := c.CreateDatabase()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !c.Running() {
			return // goes with the cluster
		}
		if err := c.DropDatabase(name); err != nil {
			t.Error(err)
		}
	})
	return c.DSN(name, more...)
}

// CreateDatabase is Database for who has no test; the caller drops it.
func (c *Cluster) CreateDatabase() (name string, err error) {
	name = "t" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16]
	return name, c.admin("CREATE DATABASE " + name + " TEMPLATE template0")
}

// DropDatabase ends the database's sessions and drops it.
func (c *Cluster) DropDatabase(name string) error {
	return c.session(func(ctx context.Context, conn *pgx.Conn) error {
		// What WITH (FORCE) does, which PostgreSQL 12 does not know.
		if _, err := conn.Exec(ctx, "UPDATE pg_database SET datallowconn = false WHERE datname = $1", name); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize())
		return err
	})
}

// CreateRole makes a role that may log in and nothing else; grants name it. The
// cluster keeps it.
func (c *Cluster) CreateRole(t testing.TB) string {
	t.Helper()
	name := "r" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16]
	if err := c.admin("CREATE ROLE " + name + " LOGIN"); err != nil {
		t.Fatal(err)
	}
	return name
}

// TerminateBackend ends one session as an administrator would; false: it was
// gone.
func (c *Cluster) TerminateBackend(t testing.TB, pid uint32) bool {
	t.Helper()
	var done bool
	err := c.session(func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_terminate_backend($1)", int(pid)).Scan(&done)
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// TerminateAll ends every client's session in a database and returns how many.
func (c *Cluster) TerminateAll(t testing.TB, database string) int {
	t.Helper()
	var n int
	err := c.session(func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()`, database).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// OpenTransactions counts the sessions in a database that are in a transaction,
// other than the one that asks.
func (c *Cluster) OpenTransactions(t testing.TB, database string) int {
	t.Helper()
	var n int
	err := c.session(func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = $1
			AND backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`, database).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (c *Cluster) admin(statement string) error {
	return c.session(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement)
		return err
	})
}

// session runs f on a superuser's connection through the socket.
func (c *Cluster) session(f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", c.socket, c.port, Superuser))
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer closeConn(conn)
	if err := f(ctx, conn); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// state is an error's SQLSTATE, "00000" if it has none.
func state(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && len(pgErr.Code) == 5 {
		return pgErr.Code
	}
	return "00000"
}
