package crashtest_test

import (
	"fmt"
	"testing"
	"time"
)

// TestAerospikeSinkKillsAtFailpoints lets walproxy kill itself before a batch, and
// between its records and their checkpoint.
func TestAerospikeSinkKillsAtFailpoints(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	s, r := onAerospike(t, newAeroStore(ctx, t, 1)), rng(t)
	for range times(1, 20) {
		for _, point := range []string{"sink-before-commit", "sink-after-commit", "replay-mid-apply"} {
			s.dieAt(ctx, fmt.Sprintf("%s=%d", point, 1+r.IntN(20)))
		}
	}
}

// TestAerospikeSinkFullQueue ends walproxy by SIGTERM, and by SIGKILL, with 10,000
// records queued for Aerospike: they are there after the restart, each once.
func TestAerospikeSinkFullQueue(t *testing.T) {
	t.Parallel()
	a := newAeroStore(timeout(t, time.Minute, time.Minute), t, 1)
	endWithFullQueue(t, func(t *testing.T, env string) *server { return onAerospike(t, a, env) })
}

// TestAerospikeRestartWhileStopped: the node loses what walproxy has applied last while
// walproxy does not run; it is there again after the next start.
func TestAerospikeRestartWhileStopped(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	a := newAeroStore(ctx, t, 1)
	a.killable()
	a.forgets = a.node != nil
	s := onAerospike(t, a)
	for round := range times(2, 20) {
		s.start(ctx)
		s.fill(ctx, 200, 0)
		s.check(ctx)
		a.kill(ctx, 0) // it loses what comes from here on
		a.start(ctx, 0)
		s.fill(ctx, 500, 0)
		s.check(ctx) // applied, as far as anybody can tell
		if round%2 == 0 {
			s.stop()
		} else {
			s.process.Kill()
		}
		a.kill(ctx, 0)
		a.start(ctx, 0)
		s.start(ctx)
		s.check(ctx)
		s.stop()
	}
}
