package replay

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// useAfterClose fails the test if the sink is used by anybody after Run returned.
type useAfterClose struct {
	sinks.Sink
	done <-chan struct{}
	t    *testing.T
}

func (u *useAfterClose) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	select {
	case <-u.done:
		u.t.Error("Apply after Run returned")
	default:
	}
	results, err := u.Sink.Apply(ctx, b)
	select {
	case <-u.done:
		u.t.Error("Run returned during Apply")
	default:
	}
	return results, err
}

// TestStopDuringApply is F2: 200 times stopped in the middle of an apply; the
// store is closed as soon as Run returns and counted at the end.
func TestStopDuringApply(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dir, "store")
	for i := range 200 {
		r.write(bumps(8, 5)...)
		store, err := pebble.Open(dir, pebble.Options{})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		f := sinktest.NewFaulty(&useAfterClose{Sink: store, done: done, t: t})
		o := fast()
		o.Batch.Records, o.Batch.Linger = 2, -1
		l := r.loop(f, o)
		ctx, cancel := context.WithCancel(context.Background())
		var runErr error
		go func() {
			runErr = l.Run(ctx)
			close(done)
		}()
		awaitCall(t, f, "an apply", func(c sinktest.Call) bool { return len(c.LSNs) > 0 })
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("Run did not end")
		}
		if runErr != nil {
			t.Fatal(runErr)
		}
		for _, c := range f.Calls() {
			if !c.Returned || c.Err != nil {
				t.Errorf("loop %d: an apply in flight was not finished: %+v", i, c)
			}
		}
		if err := store.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	store := openPebble(t, dir)
	drainOnce(t, r, store)
	r.check(store)
}

// TestHungStore is F5: the loop ends StopTimeout after the order, the number
// of records that stay is exact, and the next run applies exactly those.
func TestHungStore(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	f := sinktest.NewFaulty(memory)
	last := r.write(bumps(100, 9)...)
	hang := make(chan struct{})
	defer close(hang)
	const from = 41
	f.Add(sinktest.Rule{When: func(_ int, b *sinks.Batch) bool {
		return len(b.Records) > 0 && b.Records[len(b.Records)-1].LSN >= from
	}, Do: sinktest.HoldBefore(hang), Times: sinktest.Always})
	o := fast()
	// Full batches only, so that one begins at from.
	o.Lanes, o.Batch.Records, o.Batch.Linger, o.StopTimeout = 1, 10, time.Hour, 50*time.Millisecond
	run := r.start(f, o)
	awaitCall(t, f, "the store hangs", func(c sinktest.Call) bool { return len(c.LSNs) > 0 && c.LSNs[0] >= from })
	begun := time.Now()
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the end took %v with a StopTimeout of %v", took, o.StopTimeout)
	}
	remaining := r.log.Durable() - run.Applied()
	if remaining != last-from+1 {
		t.Errorf("%d records remain, want %d", remaining, last-from+1)
	}
	again := sinktest.NewFaulty(memory.Reopen())
	next := r.start(again, o)
	next.await(last)
	if err := next.stop(); err != nil {
		t.Fatal(err)
	}
	sent := map[wal.LSN]bool{}
	for _, c := range again.Calls() {
		for _, lsn := range c.LSNs {
			sent[lsn] = true
		}
	}
	if len(sent) != int(remaining) || !sent[from] || !sent[last] || next.Status().Records != uint64(remaining) {
		t.Errorf("the next run applied %d records, want the %d that remained", len(sent), remaining)
	}
	r.check(memory)
}

// TestApplyTimeout: a request that gets no answer in time is unknown, and sent again.
func TestApplyTimeout(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	hang := make(chan struct{})
	defer close(hang)
	f.Add(
		sinktest.Rule{When: sinktest.CallNumber(1), Do: sinktest.HoldBefore(hang)},
		sinktest.Rule{When: sinktest.CallNumber(2), Do: sinktest.HoldAfter(hang)},
	)
	o := fast()
	o.ApplyTimeout = 20 * time.Millisecond
	last := r.write(bumps(50, 9)...)
	run := r.start(f, o)
	run.await(last)
	r.check(f)
	if !errors.Is(f.Calls()[0].Err, errTimeout) {
		t.Errorf("first call ended with %v", f.Calls()[0].Err)
	}
}

// TestStopWhileRetrying does not wait for the store to come back.
func TestStopWhileRetrying(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	o := fast()
	o.RetryMin, o.RetryMax = time.Hour, time.Hour
	r.write(bumps(50, 9)...)
	run := r.start(f, o)
	eventually(t, "backing off", func() bool { return run.Status().State == Retrying })
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if s := run.Status(); s.State != Stopped || s.Applied != 0 {
		t.Errorf("%+v, want stopped with nothing applied", s)
	}
}

// TestHaltEndsOtherLanes: applies in flight are finished, none is begun, a hung
// one is cut off.
func TestHaltEndsOtherLanes(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	f := sinktest.NewFaulty(memory)
	hang := make(chan struct{})
	defer close(hang)
	wrong := errors.New("read-only")
	f.Add(
		sinktest.Rule{When: sinktest.Lane(1), Do: sinktest.HoldAfter(hang), Times: sinktest.Always},
		sinktest.Rule{When: sinktest.All(sinktest.Lane(2), sinktest.NotEmpty), Do: sinktest.Halt(wrong), Times: sinktest.Always},
	)
	o := fast()
	o.StopTimeout = 50 * time.Millisecond
	last := r.write(bumps(100, 30)...)
	run := r.start(f, o)
	if err := run.ended(); !errors.Is(err, wrong) {
		t.Fatal(err)
	}
	again := r.start(memory.Reopen(), o)
	again.await(last)
	r.check(memory)
}
