package crashtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/ledger"
)

const mib = 1 << 20

// TestDiskFullFloor fills a small file system up to the floor of free space:
// writes are refused, to be sent again, and the server lives.
func TestDiskFullFloor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		mount func(t *testing.T) string
	}{
		{"tmpfs", func(t *testing.T) string { return newTmpfs(t, 128*mib) }},
		{"ext4", func(t *testing.T) string {
			return newExt4(t, filepath.Join(t.TempDir(), "image"), 128*mib, "^has_journal")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := timeout(t, time.Minute, 5*time.Minute)
			dir := c.mount(t)
			ballast := filepath.Join(dir, "ballast")
			must(t, os.WriteFile(ballast, make([]byte, 80*mib), 0o644))
			s := newServer(t, filepath.Join(dir, "data"), "WALPROXY_LOG__MIN_FREE=16MiB")
			s.pad = 16_000
			s.start(ctx, paused)
			stop := s.load(ctx)
			refusal := s.waitRefused(ctx)
			if refusal.Code != "log_full" || refusal.Status != 507 || !refusal.Retryable {
				t.Errorf("the full log answered %v, want 507 log_full, retryable", refusal)
			}
			status, err := s.client.Status(ctx)
			must(t, err)
			if status.Log.Error != "" {
				t.Errorf("the log is poisoned: %s", status.Log.Error)
			}
			// With space again the same server goes on.
			must(t, os.Remove(ballast))
			s.waitAcked(ctx, 500)
			s.process.Kill()
			stop()
			s.start(ctx)
			s.check(ctx)
			s.stop()
		})
	}
}

// waitRefused sends single writes of its own until one is refused, and notes
// them in the ledger.
func (s *server) waitRefused(ctx context.Context) *ledger.APIError {
	s.Helper()
	for n := 0; ; n++ {
		w := ledger.Write{Kind: ledger.Event, Key: "probe", Token: "probe-" + time.Now().String(), Pad: 10_000}
		s.ledger.Attempt(w)
		answers, errs := s.client.Send(ctx, ledger.Single, []ledger.Write{w})
		if errs[0] == nil {
			s.ledger.Ack(w.Token, answers[0].LSN, answers[0].Repeat)
			continue
		}
		if ledger.Refused(errs[0]) {
			s.ledger.Refuse(w.Token)
		}
		var refusal *ledger.APIError
		if errors.As(errs[0], &refusal) {
			return refusal
		}
		s.Fatalf("write %d: %v, want a refusal", n, errs[0])
	}
}

// TestDiskFullWithoutFloor lets ENOSPC slip through to the log: it is poisoned,
// the server ends with an error, nothing that was acked is lost.
func TestDiskFullWithoutFloor(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, 5*time.Minute)
	dir := newTmpfs(t, 24*mib)
	s := newServer(t, filepath.Join(dir, "data"), "WALPROXY_LOG__MIN_FREE=-1")
	s.pad = 16_000
	s.start(ctx, paused)
	stop := s.load(ctx)
	code := s.waitEnded(ctx)
	stop()
	if code != exitFailed || !strings.Contains(s.process.Tail(), "no space left") {
		t.Errorf("exit code %d, want %d and the cause\n%s", code, exitFailed, s.process.Tail())
	}
	if s.ledger.Acked() == 0 {
		t.Fatal("nothing was acked")
	}
	resizeTmpfs(t, dir, 128*mib)
	s.start(ctx)
	s.check(ctx)
	stop = s.load(ctx)
	s.waitAcked(ctx, 500)
	stop()
	s.check(ctx)
	s.stop()
}

// exitFailed is serve's exit code after a failure while running.
const exitFailed = 3

// TestFailingSync makes fsyncs of the log fail, each time others: the server ends
// with an error, never tries one again, and has not lost what it acked.
func TestFailingSync(t *testing.T) {
	t.Parallel()
	needs(t, "strace")
	ctx, r := timeout(t, time.Minute, 20*time.Minute), rng(t)
	s := newServer(t, t.TempDir())
	for range times(3, 30) {
		s.start(ctx, paused) // only the log syncs
		stop := s.load(ctx)
		s.waitAcked(ctx, 100)
		trace := s.failSyncs(ctx, 1+r.IntN(40))
		code := s.waitEnded(ctx)
		stop()
		if code != exitFailed || !strings.Contains(s.process.Tail(), "input/output error") {
			t.Errorf("exit code %d, want %d and the cause\n%s", code, exitFailed, s.process.Tail())
		}
		noSecondSync(t, trace)
		s.start(ctx)
		s.check(ctx)
		s.process.Kill()
	}
}

// failSyncs makes every thread's n-th fsync fail from now on, and returns the
// file that will hold the trace.
func (s *server) failSyncs(ctx context.Context, n int) (trace string) {
	s.Helper()
	trace = filepath.Join(s.TempDir(), "trace")
	tracer := exec.CommandContext(ctx, "strace", "-f", "-y", "-p", strconv.Itoa(s.process.PID()), "-o", trace,
		"-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:error=EIO:when=%d", n))
	out, err := tracer.StderrPipe()
	must(s.T, err, tracer.Start())
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(said, "attached") {
		_ = tracer.Wait()
		s.Skipf("NOT TESTED: strace cannot trace here: %q, %v", said, err)
	}
	s.Cleanup(func() { _ = tracer.Wait() }) // ends with the server
	return trace
}

var syncCall = regexp.MustCompile(`f(?:data)?sync\(\d+<(.*)>\) *= (-?\d+)`)

// noSecondSync fails if a file was synced again after a failure.
func noSecondSync(t *testing.T, trace string) {
	t.Helper()
	text, err := os.ReadFile(trace)
	must(t, err)
	failed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		call := syncCall.FindStringSubmatch(line)
		if call == nil {
			continue
		}
		if failed[call[1]] {
			t.Errorf("synced again after a failure: %s", line)
		}
		failed[call[1]] = call[2] != "0"
	}
	if len(failed) == 0 {
		t.Errorf("the trace shows no fsync:\n%s", text)
	}
}

// TestRealFailedSync lets a real fsync fail: an ext4 without journal in a sparse
// image on a tmpfs that fills up. The page cache keeps what never reached the
// disk; it is dropped before the restart.
func TestRealFailedSync(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, 5*time.Minute)
	backing := newTmpfs(t, 24*mib)
	image := filepath.Join(backing, "image")
	dir := newExt4(t, image, 256*mib, "^has_journal")
	limitRequests(t, image)
	s := newServer(t, filepath.Join(dir, "data"))
	s.pad = 2000
	s.start(ctx, paused)
	stop := s.load(ctx)
	code := s.waitEnded(ctx)
	stop()
	// The state store is on that disk, too, and may be the first to fail.
	if code <= 0 || !strings.Contains(s.process.Tail(), "no space left") && !strings.Contains(s.process.Tail(), "input/output error") {
		t.Errorf("exit code %d, want an error and the cause\n%s", code, s.process.Tail())
	}
	if strings.Contains(s.process.Tail(), "panic: ") {
		t.Errorf("the full disk ended in a panic\n%s", s.process.Tail())
	}
	if s.ledger.Acked() == 0 {
		t.Fatal("nothing was acked")
	}
	resizeTmpfs(t, backing, 256*mib)
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Skipf("NOT TESTED: the page cache cannot be dropped: %v", err)
	}
	s.start(ctx)
	s.check(ctx)
	stop = s.load(ctx)
	s.waitAcked(ctx, 500)
	stop()
	s.check(ctx)
	s.stop()
}
