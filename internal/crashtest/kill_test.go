package crashtest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestKillServer kills the real server at random instants while clients write
// over the network, and compares after each restart.
func TestKillServer(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	s, r := newServer(t, t.TempDir()), rng(t)
	s.start(ctx)
	for range times(12, 250) {
		stop := s.load(ctx)
		s.waitAcked(ctx, 1+r.IntN(500))
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond)))) // a random instant, not a condition
		s.process.Kill()
		stop()
		s.start(ctx)
		s.check(ctx)
	}
	s.stop()
}

// TestKillServerAtFailpoints lets the server kill itself at each named place.
func TestKillServerAtFailpoints(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 4*time.Minute, time.Hour)
	s, r := newServer(t, t.TempDir()), rng(t)
	for range times(1, 20) {
		for _, point := range failpoints {
			n := 1
			if r.IntN(2) > 0 {
				n += r.IntN(point.most)
			}
			s.dieAt(ctx, fmt.Sprintf("%s=%d", point.name, n))
		}
	}
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// dieAt runs the server until it dies at the failpoint, then checks.
func (s *server) dieAt(ctx context.Context, point string) {
	s.Helper()
	if s.process == nil { // wal-mid-recovery needs something to recover
		s.start(ctx)
		stop := s.load(ctx)
		s.waitAcked(ctx, 200)
		s.process.Kill()
		stop()
	}
	err := s.tryStart(ctx, "WALPROXY_FAILPOINTS="+point)
	if err == nil {
		stop := s.load(ctx)
		code := s.waitEnded(ctx)
		stop()
		if code != -1 {
			s.Fatalf("%s: ended with exit code %d\n%s", point, code, s.process.Tail())
		}
	} else if !strings.Contains(err.Error(), "exit code -1\n") { // else it died while starting
		s.Fatalf("%s: %v", point, err)
	}
	s.start(ctx)
	s.check(ctx)
	s.process.Kill() // not clean: the next start recovers
}

// failpoints are the named places with the most hits to wait for.
var failpoints = []struct {
	name string
	most int
}{
	{"wal-before-write", 200},
	{"wal-after-write", 200},
	{"wal-before-sync", 200},
	{"wal-after-sync", 200},
	{"wal-mid-roll", 10},
	{"wal-after-activate", 10},
	{"wal-mid-trash", 10},
	{"wal-mid-recovery", 1},
	{"wal-watermark", 3},
	{"replay-mid-apply", 50},
	{"replay-before-checkpoint-release", 3},
	{"sink-before-commit", 50},
	{"sink-after-commit", 50},
	{"state-before-sync", 2},
	{"accept-after-enqueue", 1000},
}
