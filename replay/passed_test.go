package replay

import (
	"context"
	"errors"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestPassed: whatever becomes of the sink's own records (applied in batches and
// alone, taken apart, dead, parked, retried, covered by a lane's checkpoint), each
// is counted once, and others' are not.
func TestPassed(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	group := []*walproxyv1.Mutation{bump("k0"), bump("k1"), bump("k2")}
	one := func(k string) []*walproxyv1.Mutation { return []*walproxyv1.Mutation{bump(k)} }
	mixed := func() (own uint64) { // 40 + 1 + 6 records of the sink, among others' 20
		r.write(bumps(20, 7)...)
		r.writeTo([]string{"other"}, bumps(20, 3)...)
		r.write(group)
		r.write(text("a"), one("a"), one("a"), one("b"), text("z"), one("z"))
		r.write(bumps(20, 7)...)
		return 47
	}
	for round, lanes := range []int{4, 2, 3} {
		o := fast()
		o.Lanes, o.Batch.Records = lanes, 5
		before := mixed()
		run := r.start(memory, o)
		since := mixed()
		run.await(r.log.Durable())
		b, s := run.Passed()
		if b.Records != before || s.Records != since {
			t.Errorf("round %d: passed %d and %d, want %d and %d", round, b.Records, s.Records, before, since)
		}
		if least := int64(before) * 20; b.Bytes < least || s.Bytes < least {
			t.Errorf("round %d: passed %d and %d bytes", round, b.Bytes, s.Bytes)
		}
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPassedStopsWithTheCheckpoint: after a stop in the middle, the records that
// were not counted are those that come again.
func TestPassedStopsWithTheCheckpoint(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	f := sinktest.NewFaulty(memory)
	f.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always,
		When: func(_ int, b *sinks.Batch) bool { n := len(b.Records); return n > 0 && b.Records[n-1].LSN > 50 }})
	o := fast()
	o.Lanes, o.Batch.Records = 3, 4
	r.write(bumps(100, 9)...)
	run := r.start(f, o)
	awaitCall(t, f, "a failed apply", func(c sinktest.Call) bool { return errors.Is(c.Err, sinktest.ErrAway) })
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	first, _ := run.Passed()
	run = r.start(memory, o)
	run.await(100)
	second, _ := run.Passed()
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	// Each pass counts its own lanes' records that the checkpoint covered already.
	applied := run.Status().Records
	if first.Records+applied != 100 || second.Records < applied {
		t.Errorf("passed %d, then applied %d and passed %d, of 100", first.Records, applied, second.Records)
	}
	r.check(memory)
}

// TestResumeEndsPause: a Pause that waits for a hung apply is ended by Resume.
func TestResumeEndsPause(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	release := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release)})
	last := r.write(bumps(1, 1)...)
	run := r.start(f, fast())
	awaitCall(t, f, "an apply", func(c sinktest.Call) bool { return len(c.LSNs) > 0 })
	paused := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { paused <- run.Pause(ctx) }()
	eventually(t, "the pause", func() bool { return run.Status().State == Paused })
	run.Resume()
	select {
	case err := <-paused:
		if err != nil {
			t.Errorf("Pause: %v", err)
		}
	case <-time.After(patience):
		t.Error("Pause goes on waiting")
	}
	close(release)
	run.await(last)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
}
