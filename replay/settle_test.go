package replay

import (
	"context"
	"errors"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// TestSettledFreesTheLog: the checkpoint is what is settled, not what is applied, and
// it rises when the sink says so although nothing is applied any more.
func TestSettledFreesTheLog(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewForgetful().SettleEvery(0)
	o := fast()
	checkpoints := make(chan wal.LSN, 10)
	o.OnCheckpoint = func(l wal.LSN) { checkpoints <- l }
	run := r.start(f, o)
	last := r.write(bumps(50, 5)...)
	run.await(last)
	if at, needs := run.Checkpoint(), run.Needs(); at != 0 || needs != 1 {
		t.Errorf("nothing is settled: Checkpoint %d, Needs %d; want 0 and 1", at, needs)
	}
	eventually(t, "every lane has passed the last record", func() bool {
		for _, at := range run.Status().Lanes {
			if at < last {
				return false
			}
		}
		return true
	})
	f.Settle()
	eventually(t, "what is settled is the checkpoint", func() bool { return run.Checkpoint() == last })
	if at := <-checkpoints; at != last || run.Needs() != last+1 {
		t.Errorf("OnCheckpoint(%d), Needs %d; want %d and %d", at, run.Needs(), last, last+1)
	}
}

// TestRewind: the loop ends when the store has lost what was applied, with nothing
// to apply as well, and takes back what it said was applied. The next one applies
// again what was lost and nothing that was not.
func TestRewind(t *testing.T) {
	for _, busy := range []bool{false, true} {
		r := newRig(t)
		f := sinktest.NewForgetful().SettleEvery(3)
		run := r.start(f, fast())
		last := r.write(bumps(200, 20)...)
		run.await(last)
		if busy {
			r.write(bumps(1000, 20)...)
		}
		f.Restart(nil)
		err := run.ended()
		if !errors.Is(err, sinks.ErrRewound) {
			t.Fatalf("Run: %v, want ErrRewound", err)
		}
		if _, again := run.RetryAfter(err); !again {
			t.Error("RetryAfter says that somebody has to act first")
		}
		if at := run.Applied(); at != 0 {
			t.Errorf("Applied() = %d after the store has lost some of it", at)
		}
		if err := run.Wait(context.Background(), last); !errors.Is(err, sinks.ErrRewound) {
			t.Errorf("Wait: %v, want ErrRewound", err)
		}
		again := r.start(f, fast())
		again.await(r.log.Durable())
		r.check(f)
	}
}

// TestRewindKeepsDecisions: a dead letter is not offered to the store again, which
// would take it for applied because its key was written since; a retry that comes
// again is applied again.
func TestRewindKeepsDecisions(t *testing.T) {
	r := newRig(t)
	r.skip = true
	f := sinktest.NewForgetful().SettleEvery(0)
	o := fast()
	o.OnReject = func(string) Policy { return Skip }
	run := r.start(f, o)
	bad := r.write(text("k"), []*walproxyv1.Mutation{bump("k")})
	r.write(number("k"), []*walproxyv1.Mutation{bump("k")})
	r.retry(bad, []*walproxyv1.Mutation{bump("k")})
	worse := r.write(text("k"), []*walproxyv1.Mutation{bump("k")})
	last := r.write(number("k"))
	run.await(last)
	r.check(f)
	r.checkLetters(run.Loop)
	for _, forget := range []func(){func() {}, func() { f.Restart(nil) }} {
		forget()
		_ = run.stop()
		run = r.start(f, o)
		run.await(last)
		r.check(f)
		r.checkLetters(run.Loop)
		if fate, err := run.Fate(bad); fate != Applied || err != nil {
			t.Errorf("Fate of what was retried: %v, %v; want applied", fate, err)
		}
		if fate, err := run.Fate(worse); fate != Dead || err != nil {
			t.Errorf("Fate of the dead letter: %v, %v; want dead", fate, err)
		}
	}
}
