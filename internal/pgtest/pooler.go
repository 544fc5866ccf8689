package pgtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// NewPooler runs pgbouncer in front of the cluster, in pool_mode "session" or
// "transaction", and returns its address. Every client is the superuser. Without
// pgbouncer on the machine the test is skipped.
func (c *Cluster) NewPooler(t testing.TB, mode string) (addr string) {
	t.Helper()
	return c.StartPooler(t, PoolerOptions{Mode: mode}).Addr
}

// PoolerOptions of StartPooler.
type PoolerOptions struct {
	Mode        string // session, transaction
	Connections int    // of clients, and to the server. 200 and 20
	Socket      bool   // reach the server by its Unix socket
}

// Pooler is a running pgbouncer.
type Pooler struct {
	Addr string
	PID  int
}

// StartPooler is NewPooler with more to choose.
func (c *Cluster) StartPooler(t testing.TB, o PoolerOptions) Pooler {
	t.Helper()
	clients, servers, host := 200, 20, "127.0.0.1"
	if o.Connections > 0 {
		clients, servers = o.Connections, o.Connections
	}
	if o.Socket {
		host = c.socket
	}
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program = "/usr/sbin/pgbouncer"; !executable(program) {
			t.Skip("NOT TESTED: needs pgbouncer")
		}
	}
	who, err := account()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := c.root.newDir("b")
	if err != nil {
		t.Fatal(err)
	}
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "ini")
	text := fmt.Sprintf(`[databases]
* = host=%s port=%d user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
max_client_conn = %d
default_pool_size = %d
`, host, c.port, Superuser, port, o.Mode, clients, servers)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, config)
	// In the directory that the watchdog knows.
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	s, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(s.pid, syscall.SIGKILL)
		<-s.ended
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp4", addr)
		if err == nil {
			_ = conn.Close()
			return Pooler{Addr: addr, PID: s.pid}
		}
		select {
		case <-s.ended:
			t.Fatalf("pgtest: pgbouncer ended: %v", s.err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("pgtest: pgbouncer: %v", err)
		}
	}
}
