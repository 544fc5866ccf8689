package crashtest_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/ledger"
)

const paused = "WALPROXY_SINKS__MAIN__PAUSED=true"

// fill writes n records, all acked, and returns.
func (s *server) fill(ctx context.Context, n, pad int) {
	s.Helper()
	s.runs++
	load := ledger.Load{Client: s.client, Ledger: s.ledger, Clients: clients, Records: n, Keys: 10,
		Batch: 1 + 100_000/(1000+pad), Pad: pad, Name: "fill" + strconv.Itoa(s.runs)}
	if err := load.Run(ctx); err != nil {
		s.Fatal(err)
	}
}

// TestTerminateWithFullQueue ends the server by SIGTERM, and by SIGKILL, with
// 10,000 records queued: they are in the store after the restart, each once.
func TestTerminateWithFullQueue(t *testing.T) {
	t.Parallel()
	endWithFullQueue(t, func(t *testing.T, env string) *server { return newServer(t, t.TempDir(), env) })
}

func endWithFullQueue(t *testing.T, newServer func(t *testing.T, env string) *server) {
	for _, c := range []struct {
		name string
		env  string // of the run that is ended
		end  func(s *server)
	}{
		{"SIGTERM, time enough to drain", "WALPROXY_SHUTDOWN__DRAIN_TIMEOUT=30s", func(s *server) {
			s.terminate(0, "everything acknowledged is applied")
		}},
		{"SIGTERM, sink paused", paused, func(s *server) { s.terminate(exitRemaining, "10000 records stay in the log") }},
		{"SIGKILL", "WALPROXY_SHUTDOWN__DRAIN_TIMEOUT=30s", func(s *server) { s.process.Kill() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := timeout(t, time.Minute, time.Minute)
			s := newServer(t, "WALPROXY_LOG__SEGMENT_BYTES=1MiB")
			s.start(ctx, paused)
			s.fill(ctx, 10_000, 0)
			s.process.Kill()
			s.start(ctx, c.env)
			c.end(s)
			s.start(ctx)
			s.check(ctx)
			s.stop()
		})
	}
}

// exitRemaining is serve's exit code when records stay in the log.
const exitRemaining = 2

// terminate ends the server and looks at its exit code and last words.
func (s *server) terminate(want int, words string) {
	s.Helper()
	code, err := s.process.Terminate(readyTimeout)
	if said := s.output.String(); err != nil || code != want || !strings.Contains(said, words) {
		s.Errorf("exit code %d, want %d, saying %q: %v\n%s%s", code, want, words, err, said, s.process.Tail())
	}
}

// TestSecondProcess starts a second server on the directory: refused, with the
// first one's pid; and the first one goes on.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, time.Minute)
	s := newServer(t, t.TempDir())
	s.start(ctx)
	second := newServer(t, s.dir)
	err := second.tryStart(ctx)
	if err == nil {
		t.Fatal("two servers on one directory")
	}
	if pid := strconv.Itoa(s.process.PID()); !strings.Contains(err.Error(), "exit code 4") || !strings.Contains(err.Error(), pid) {
		t.Errorf("refused with %v, want exit code 4 and pid %s", err, pid)
	}
	s.fill(ctx, 100, 0)
	s.check(ctx)
	// The lock goes with its process, however that ends.
	s.process.Kill()
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// copyLog copies the log and the state store of a server that does not run.
func (s *server) copyLog() (dir string) {
	s.Helper()
	dir = s.TempDir()
	for _, part := range []string{"log", "state"} {
		must(s.T, os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(s.dir, part))))
	}
	return dir
}

// putBack replaces log and state store by a copy.
func (s *server) putBack(dir string) {
	s.Helper()
	for _, part := range []string{"log", "state"} {
		must(s.T, os.RemoveAll(filepath.Join(s.dir, part)),
			os.CopyFS(filepath.Join(s.dir, part), os.DirFS(filepath.Join(dir, part))))
	}
}

// TestOldCopy puts an older copy of log and state back, writes past the sink's
// checkpoint, and lets the sink return: diverged, and nothing reaches it.
func TestOldCopy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(s *server) // before the copy
	}{
		{"of a clean stop", func(s *server) { s.stop() }},
		{"of a crash", func(s *server) { s.process.Kill() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := timeout(t, time.Minute, time.Minute)
			s := newServer(t, t.TempDir(), "WALPROXY_SHUTDOWN__DRAIN_TIMEOUT=1s")
			s.start(ctx)
			s.fill(ctx, 100, 0)
			must(t, s.client.WaitDrained(ctx))
			c.end(s)
			older := s.copyLog()
			s.start(ctx)
			s.fill(ctx, 100, 0)
			s.check(ctx)
			s.stop()
			s.putBack(older)
			s.start(ctx, paused)
			behind := newServer(t, s.dir) // its ledger knows only what is written now
			behind.client.SetAddr(s.process.Addr("api"))
			behind.runs = 100
			behind.fill(ctx, 300, 0)
			s.process.Kill()
			s.start(ctx)
			s.halts(ctx, "diverged")
		})
	}
}

// halts waits until the sink has halted for the reason.
func (s *server) halts(ctx context.Context, reason string) {
	s.Helper()
	err := s.client.WaitDrained(ctx)
	if err == nil || !strings.Contains(err.Error(), "has halted") || !strings.Contains(err.Error(), reason) {
		s.Fatalf("the sink went on: %v, want it halted: %s", err, reason)
	}
	status, err := s.client.Status(ctx)
	must(s.T, err)
	if status.Sinks[0].Applied != 0 && status.Sinks[0].Lag == 0 {
		s.Errorf("the halted sink counts as up to date: %+v", status.Sinks[0])
	}
}
