package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Superuser of every cluster. Connections are trusted unless Options.HBA says
// otherwise.
const Superuser = "postgres"

// patience bounds every wait of this package for a server.
const patience = 60 * time.Second

// Options of New.
type Options struct {
	// Settings for postgresql.conf, as {"max_connections": "20"}. Without
	// others the server is durable: fsync, full_page_writes and
	// synchronous_commit are on.
	Settings map[string]string
	// HBA replaces pg_hba.conf, which trusts everybody on loopback and socket.
	HBA string
	// Files are put into the data directory, mode 0600: certificates, say.
	Files map[string][]byte
	// DiskBytes puts the data on a file system of that size, for Fill. Only root
	// can; at least 128 MiB are needed.
	DiskBytes int64
	// StandbyOf makes a streaming standby of a running cluster.
	StandbyOf *Cluster
	// Stopped leaves it to the test to call Start.
	Stopped bool
}

// Cluster is a PostgreSQL server with its data. Methods may be called
// concurrently, but one of Start, Stop, Kill, Snapshot and Restore at a time.
type Cluster struct {
	options Options
	root    *root
	dir     string // the data directory, the working directory of its processes
	socket  string // directory of the Unix socket
	port    int
	mounted bool

	mu     sync.Mutex
	server *server // nil: not running
}

// New makes a cluster and starts it. It is stopped and removed when the test
// ends, whatever state the test left it in.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	c, err := newCluster(o)
	if c != nil {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the end of the log of PostgreSQL on port %d:\n%s", c.port, c.LogTail())
			}
			if err := c.destroy(); err != nil {
				t.Error(err)
			}
		})
	}
	if err == nil && !o.Stopped {
		err = c.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newCluster returns a cluster to be destroyed also with some errors.
func newCluster(o Options) (*Cluster, error) {
	r, err := theRoot()
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: o, root: r}
	if c.dir, err = r.newDir("d"); err != nil {
		return nil, err
	}
	if c.socket, err = r.newDir("s"); err != nil {
		return c, err
	}
	if o.DiskBytes > 0 {
		if err := c.mount(); err != nil {
			return c, err
		}
	}
	if err := os.Chmod(c.dir, 0o700); err != nil {
		return c, err
	}
	if c.port, err = FreePort(); err != nil {
		return c, err
	}
	if o.StandbyOf != nil {
		err = c.fromPrimary(o.StandbyOf)
	} else {
		err = c.fromTemplate()
	}
	if err != nil {
		return c, err
	}
	return c, c.configure()
}

func (c *Cluster) fromTemplate() error {
	from, err := template()
	if err != nil {
		return err
	}
	return copyTree(from, c.dir)
}

// template is a data directory fresh from initdb, made once per process.
var template = sync.OnceValues(func() (string, error) {
	r, err := theRoot()
	if err != nil {
		return "", err
	}
	dir, err := r.newDir("t")
	if err != nil {
		return "", err
	}
	return dir, run("initdb", "-D", dir, "-U", Superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
})

// defaults keep a server small; they do not touch its durability.
var defaults = map[string]string{
	"listen_addresses":     "'127.0.0.1'",
	"max_connections":      "100",
	"shared_buffers":       "'32MB'",
	"max_wal_size":         "'128MB'",
	"min_wal_size":         "'32MB'",
	"max_worker_processes": "4",
	"autovacuum_naptime":   "'10s'",
	"log_line_prefix":      "'%m [%p] %d '",
	"fsync":                "on",
	"full_page_writes":     "on",
	"synchronous_commit":   "on",
	// In the data directory: what a killed server leaves in /dev/shm stays there.
	"dynamic_shared_memory_type": "mmap",
}

// configure writes what differs from the template.
func (c *Cluster) configure() error {
	settings := maps.Clone(defaults)
	maps.Copy(settings, c.options.Settings)
	settings["port"] = fmt.Sprint(c.port)
	settings["unix_socket_directories"] = "'" + c.socket + "'"
	var conf strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = %s\n", key, settings[key])
	}
	files := maps.Clone(c.options.Files)
	if files == nil {
		files = map[string][]byte{}
	}
	files["postgresql.conf"] = []byte(conf.String())
	if c.options.HBA != "" {
		files["pg_hba.conf"] = []byte(c.options.HBA)
	}
	for name, data := range files {
		path := filepath.Join(c.dir, name)
		if err := errors.Join(os.WriteFile(path, data, 0o600), give(path)); err != nil {
			return err
		}
	}
	return nil
}

// Ports of servers lie below those that systems give to outgoing connections: a
// server that is started again wants its port back.
const (
	portLow  = 12_000
	portHigh = 32_000
)

// FreePort returns a loopback port that nobody listens on, for a server that comes back
// to it. Others may choose at the same time, so it is one of many.
func FreePort() (port int, err error) {
	for range 100 {
		port = portLow + rand.IntN(portHigh-portLow)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// DSN of the superuser for a database, over loopback TCP; more are parameters as
// "sslmode=require".
func (c *Cluster) DSN(database string, more ...string) string {
	return DSN(c.Addr(), Superuser, database, more...)
}

// DSN for an address (a Proxy's, say) and a role.
func DSN(addr, role, database string, more ...string) string {
	dsn := fmt.Sprintf("postgres://%s@%s/%s", role, addr, database)
	if !slices.ContainsFunc(more, func(p string) bool { return strings.HasPrefix(p, "sslmode=") }) {
		more = append(more, "sslmode=disable")
	}
	return dsn + "?" + strings.Join(more, "&")
}

// Addr is the server's loopback address.
func (c *Cluster) Addr() string { return fmt.Sprintf("127.0.0.1:%d", c.port) }

// Port of the server.
func (c *Cluster) Port() int { return c.port }

// Dir is the data directory.
func (c *Cluster) Dir() string { return c.dir }

// Socket is the directory of the server's Unix socket, a host for DSNs.
func (c *Cluster) Socket() string { return c.socket }

// Connect opens a superuser's connection, closed when the test ends.
func (c *Cluster) Connect(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	return Connect(t, c.DSN(database))
}

// Connect opens a connection, closed when the test ends.
func Connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(conn) })
	return conn
}

// closeConn closes without a say: the server may be gone.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// LogTail is the end of the server's log.
func (c *Cluster) LogTail() string {
	data, err := os.ReadFile(c.logPath())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-2<<10):])
}

func (c *Cluster) logPath() string { return filepath.Join(c.socket, "log") }

// destroy ends the server and removes all of it.
func (c *Cluster) destroy() error {
	err := c.end()
	if c.mounted {
		err = errors.Join(err, c.unmount())
	}
	return errors.Join(err, os.RemoveAll(c.dir), os.RemoveAll(c.socket))
}
