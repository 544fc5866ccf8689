package wal

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestTimings: an fsync that takes 50 ms, a record that came with it and one that came
// 10 ms later and waited for it.
func TestTimings(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		o, hook := hooked(testOptions())
		l := mustOpen(t, dir, o)
		hold, held := make(chan struct{}), make(chan struct{}, 10)
		hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
		first, err := l.Enqueue(context.Background(), []byte("a"))
		if err != nil {
			t.Fatal(err)
		}
		<-held
		time.Sleep(10 * time.Millisecond) // of the bubble's clock
		second, err := l.Enqueue(context.Background(), []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Timings(); got.Ack.Count() != 0 || got.Group.Count() != 0 {
			t.Errorf("%d records count before their fsync has ended", got.Ack.Count())
		}
		time.Sleep(40 * time.Millisecond)
		close(hold)
		for _, ticket := range []Ticket{first, second} {
			if err := ticket.Wait(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		got := l.Timings() // whoever was acknowledged is counted
		if got.Ack.Count() != 2 || time.Duration(got.Ack.Sum()) != 90*time.Millisecond {
			t.Errorf("%d acks took %v, want 2, 90ms", got.Ack.Count(), time.Duration(got.Ack.Sum()))
		}
		if got.Sync.Count() != 2 || time.Duration(got.Sync.Sum()) != 50*time.Millisecond {
			t.Errorf("%d fsyncs took %v, want 2, 50ms", got.Sync.Count(), time.Duration(got.Sync.Sum()))
		}
		if got.Group.Count() != 2 || got.Group.Sum() != 2 {
			t.Errorf("%d groups have %d records, want 2, 2", got.Group.Count(), got.Group.Sum())
		}
		mustClose(t, l)
	})
}

// TestTimingsOfFailures: what is not durable is no ack.
func TestTimingsOfFailures(t *testing.T) {
	o, hook := hooked(testOptions())
	l := mustOpen(t, t.TempDir(), o)
	hook.arm(func(h *hookEngine) { h.failSync = hook.syncs.Load() + 1 })
	if _, err := l.Append(testContext(t), []byte("a")); err == nil {
		t.Fatal("acknowledged")
	}
	if got := l.Timings(); got.Ack.Count()+got.Sync.Count()+got.Group.Count() != 0 {
		t.Errorf("counted: %d", got.Ack.Count())
	}
	_ = l.Close() // poisoned
}
