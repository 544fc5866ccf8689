package crashtest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/ledger"
)

// TestKillServerHeld kills the server at random instants, and while it copies
// records out of the log, with two sinks of which one is down for long: its
// records are held, the log is freed; when it is back it is killed on, and has
// each write once and in order.
func TestKillServerHeld(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	r := rng(t)
	s := newServer(t, t.TempDir(), "WALPROXY_SINKS__MAIN__TYPE=pebble", "WALPROXY_SINKS__RARE__TYPE=pebble", "WALPROXY_SINKS__RARE__HOLD_AFTER=1MiB",
		fmt.Sprintf(`WALPROXY_ROUTES=[{collections: [%q], sinks: [rare]}, {collections: ["*"], sinks: [main]}]`, ledger.Increment.Collection()))
	s.pad = 4000 // of sets and events, so that the counters are a small share
	const down = "WALPROXY_SINKS__RARE__PAUSED=true"
	s.start(ctx, down)
	for round := range times(4, 60) {
		stop := s.load(ctx)
		s.waitAcked(ctx, 1000)
		if round%2 == 0 {
			s.waitHeld(ctx)
		}
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond)))) // a random instant, not a condition
		s.process.Kill()
		stop()
		if round%2 == 0 {
			s.start(ctx, down)
			continue
		}
		s.start(ctx, down, fmt.Sprintf("WALPROXY_FAILPOINTS=hold-after-copy=%d", 1+r.IntN(2)))
		stop = s.load(ctx)
		if code := s.waitEnded(ctx); code != -1 {
			t.Fatalf("ended with exit code %d\n%s", code, s.process.Tail())
		}
		stop()
		s.start(ctx, down)
	}
	for range times(2, 20) {
		s.process.Kill()
		s.start(ctx)
		stop := s.load(ctx)
		s.waitAcked(ctx, 1+r.IntN(300))
		s.process.Kill()
		stop()
		s.start(ctx)
	}
	s.check(ctx)
	s.stop()
}

// waitHeld waits until records of the second sink are held and the log was freed.
func (s *server) waitHeld(ctx context.Context) {
	s.Helper()
	for {
		status, err := s.client.Status(ctx)
		must(s.T, err)
		if held := status.Sinks[1].HeldRecords; held > 0 && status.Log.First > 1 && status.Sinks[1].Applied < status.Log.First {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("nothing is held: %+v", status)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
