package crashtest_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// memoryMost is what the server may hold, whatever its backlog.
const memoryMost = 300 * mib

// TestBacklogMemory lets a paused sink pile up a backlog, and starts with it. A start
// with it takes less memory than the backlog has bytes, in the short form, too.
func TestBacklogMemory(t *testing.T) {
	t.Parallel()
	backlog := int64(times(160*mib, 10*1024*mib))
	ctx := timeout(t, 4*time.Minute, time.Hour)
	s := newServer(t, t.TempDir(), "WALPROXY_LOG__SEGMENT_BYTES=16MiB")
	s.start(ctx, paused)
	for s.logBytes(ctx) < backlog {
		s.fill(ctx, 400, 100_000)
	}
	s.memory("with the sink paused", memoryMost)
	s.process.Kill()
	began := time.Now()
	s.start(ctx, paused)
	t.Logf("the start with %d MiB of backlog took %s", s.logBytes(ctx)/mib, time.Since(began).Round(time.Millisecond))
	s.memory("after a start", min(memoryMost, backlog-20*mib))
	s.process.Kill()
	s.start(ctx)
	must(t, s.client.WaitDrained(ctx))
	s.memory("after the drain", memoryMost)
	s.check(ctx)
	s.stop()
}

func (s *server) logBytes(ctx context.Context) int64 {
	s.Helper()
	status, err := s.client.Status(ctx)
	must(s.T, err)
	return status.Log.Bytes
}

// memory compares the most the server ever held with what it may, in bytes.
func (s *server) memory(when string, most int64) {
	s.Helper()
	held, ok := peak(s.process.PID())
	if !ok {
		s.Skip("NOT TESTED: the kernel does not tell a process's memory")
	}
	s.Logf("%s: at most %d MiB", when, held/mib)
	if held > most {
		s.Errorf("%s: %d MiB, want at most %d", when, held/mib, most/mib)
	}
}

// peak is the most that a process ever held, in bytes; false: it is gone, or the
// kernel does not tell.
func peak(pid int) (int64, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, found := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, scanErr := fmt.Sscan(rest, &kib); err != nil || !found || scanErr != nil {
		return 0, false
	}
	return kib << 10, true
}
