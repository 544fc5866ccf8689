package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// server is a running postmaster.
type server struct {
	pid   int
	ended chan struct{} // closed when it is gone and err is set
	err   error
}

// launch starts a postmaster and stays with it on one thread: the kernel sends
// the death signal when the thread that forked ends.
func launch(cmd *exec.Cmd) (*server, error) {
	s := &server{ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		s.pid = cmd.Process.Pid
		started <- nil
		s.err = cmd.Wait()
		close(s.ended)
	}()
	return s, <-started
}

// Start starts a cluster that is not running and waits until it takes
// connections.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if err := c.start(); err != nil {
		t.Fatalf("%v\n%s", err, c.LogTail())
	}
}

func (c *Cluster) start() error {
	cmd, err := command("postgres", "-D", c.dir)
	if err != nil {
		return err
	}
	// A panic on a full disk must not fill it with the server's memory.
	cmd.Args = append([]string{"sh", "-c", `ulimit -c 0; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	s, err := launch(cmd)
	if err != nil {
		return fmt.Errorf("pgtest: start postgres: %w", err)
	}
	c.mu.Lock()
	c.server = s
	c.mu.Unlock()
	return c.ready(s)
}

// ready waits until the server answers.
func (c *Cluster) ready(s *server) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := c.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("pgtest: postgres ended: %w\n%s", s.err, c.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("pgtest: postgres is not ready after %v: %w\n%s", patience, err, c.LogTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ping connects through the socket, where HBA of tests rarely stands in the way;
// a server that refuses the user is ready, too.
func (c *Cluster) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", c.socket, c.port, Superuser))
	if err != nil {
		if state(err)[:2] == "28" {
			return nil
		}
		return err
	}
	return conn.Close(ctx)
}

// Running reports whether the postmaster lives.
func (c *Cluster) Running() bool { return c.running() != nil }

func (c *Cluster) running() *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return nil
	}
	select {
	case <-c.server.ended:
		return nil
	default:
		return c.server
	}
}

// Stop shuts the server down as an operator would ("fast": sessions are ended).
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	if err := c.stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// Restart stops and starts.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.Stop(t)
	c.Start(t)
}

// Kill sends SIGKILL to the postmaster alone: its backends notice by themselves,
// after they have ended what they are doing. It returns when all are gone.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if err := c.stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// KillAll sends SIGKILL to every process of the cluster, as a dying machine does.
func (c *Cluster) KillAll(t testing.TB) {
	t.Helper()
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) stop(sig syscall.Signal) error {
	s := c.running()
	if s == nil {
		return nil
	}
	if err := syscall.Kill(s.pid, sig); err != nil {
		return fmt.Errorf("pgtest: %v to postgres: %w", sig, err)
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-s.ended:
	case <-limit.C:
		return errors.Join(fmt.Errorf("pgtest: postgres did not end within %v of %v", patience, sig), c.end())
	}
	return c.gone(5 * time.Second)
}

// end kills whatever is left, stopped or not, and waits until it is gone.
func (c *Cluster) end() error {
	for _, pid := range c.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // just gone: fine
	}
	if s := c.running(); s != nil {
		_ = syscall.Kill(s.pid, syscall.SIGKILL)
		<-s.ended
	}
	return c.gone(0)
}

// gone waits until no process of the cluster is left, and after some time kills
// those that are.
func (c *Cluster) gone(grace time.Duration) error {
	began := time.Now()
	for {
		left := c.processes()
		if len(left) == 0 {
			break
		}
		if time.Since(began) > grace {
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if time.Since(began) > patience {
			return fmt.Errorf("pgtest: processes %v do not end", left)
		}
		time.Sleep(2 * time.Millisecond)
	}
	// A dead postmaster's lock file names a pid that may soon be somebody's.
	err := os.Remove(filepath.Join(c.dir, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// processes are the cluster's: those whose working directory is its data.
func (c *Cluster) processes() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd") // the pattern is valid
	var pids []int
	for _, link := range links {
		if where, err := os.Readlink(link); err != nil || where != c.dir {
			continue // gone meanwhile, or another's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Pause stops every process of the cluster with SIGSTOP: connections stay open
// and nothing answers. New connections are taken by the kernel and hang, too.
func (c *Cluster) Pause(t testing.TB) {
	t.Helper()
	if s := c.running(); s == nil {
		t.Fatal("pgtest: pause: not running")
	} else if err := syscall.Kill(s.pid, syscall.SIGSTOP); err != nil { // first: no new children
		t.Fatal(err)
	}
	for _, pid := range c.processes() {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
}

// Continue ends a Pause.
func (c *Cluster) Continue(t testing.TB) {
	t.Helper()
	for _, pid := range c.processes() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

// SignalBackend sends a signal to one backend, as SIGSTOP or SIGKILL; the latter
// makes the postmaster restart all of them.
func (c *Cluster) SignalBackend(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// Snapshot stops the server, copies its data, starts it again and returns the
// copy's directory, for Restore.
func (c *Cluster) Snapshot(t testing.TB) string {
	t.Helper()
	was := c.Running()
	c.Stop(t)
	to, err := c.root.newDir("c")
	if err == nil {
		err = copyTree(c.dir, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(to); err != nil {
			t.Error(err)
		}
	})
	if was {
		c.Start(t)
	}
	return to
}

// Restore ends the server, puts a Snapshot's data in the place of its own, and
// starts it.
func (c *Cluster) Restore(t testing.TB, snapshot string) {
	t.Helper()
	c.KillAll(t)
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(c.dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(copyTree(snapshot, c.dir), c.configure()); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
}

// Promote makes a standby a primary and waits until it takes writes.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	conn := c.Connect(t, "postgres")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, $1)", int(patience.Seconds())).Scan(&done); err != nil || !done {
		t.Fatalf("pgtest: promote: %v, %v", done, err)
	}
}
