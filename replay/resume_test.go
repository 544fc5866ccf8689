package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// refusedWith checks a typed refusal: the sentinel, what to do next, nothing applied.
func refusedWith(t *testing.T, run *running, want error) {
	t.Helper()
	err := run.ended()
	refused, ok := errors.AsType[*ResumeError](err)
	if !ok || !errors.Is(err, want) {
		t.Fatalf("Run: %v, want a *ResumeError of %v", err, want)
	}
	if refused.Sink != "main" || refused.Found == "" || refused.Next == "" {
		t.Errorf("says too little: %+v", refused)
	}
	s := run.Status()
	if s.State != Halted || !errors.Is(s.Err, want) || s.Records != 0 || s.Batches != 0 {
		t.Errorf("%+v, want halted with nothing applied", s)
	}
	if err := run.Wait(context.Background(), 1<<60); !errors.Is(err, want) {
		t.Errorf("Wait: %v, want %v", err, want)
	}
}

// drainOnce applies all there is.
func drainOnce(t *testing.T, r *rig, sink sinks.Sink) {
	t.Helper()
	run := r.start(sink, fast())
	run.await(r.log.Durable())
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
}

func TestStoreAwayAtStart(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.FailResume(sinktest.Always, sinktest.ErrAway)
	run := r.start(f, fast())
	eventually(t, "trying", func() bool {
		s := run.Status()
		return s.State == Starting && errors.Is(s.Err, sinktest.ErrAway) && len(f.Resumes()) > 3
	})
	last := r.write(bumps(100, 9)...) // acks go on
	f.FailResume(0, nil)
	run.await(last)
	r.check(f)
	if s := run.Status(); s.State != Running || s.Err != nil {
		t.Errorf("%+v, want running", s)
	}
}

func TestStopWhileStoreIsAway(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	hang := make(chan struct{})
	for i, away := range []func(){
		func() { f.FailResume(sinktest.Always, sinktest.ErrAway) },
		func() { f.HoldResume(hang) },
	} {
		away()
		run := r.start(f, fast())
		eventually(t, "asked", func() bool { return len(f.Resumes()) > i })
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		if s := run.Status(); s.State != Stopped {
			t.Errorf("%+v, want stopped", s)
		}
	}
}

// TestOlderLog is the directory of the log put back from an older copy and
// written past the sink's checkpoint: the LSNs are there, but they are others.
func TestOlderLog(t *testing.T) {
	r := newRig(t)
	store := openPebble(t, filepath.Join(r.dir, "store"))
	r.write(bumps(100, 9)...)
	drainOnce(t, r, store)
	copyDir(t, filepath.Join(r.dir, "log"), filepath.Join(r.dir, "older"))
	r.write(bumps(100, 9)...)
	drainOnce(t, r, store)
	before := r.model
	r.close()
	if err := os.RemoveAll(filepath.Join(r.dir, "log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(r.dir, "older"), filepath.Join(r.dir, "log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.dir, "log", "LOCK")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	r.open()
	r.model = map[string]*modelRow{}
	if last := r.write(bumps(300, 9)...); last < 300 {
		t.Fatalf("last LSN %d: not past the checkpoint", last)
	}
	refusedWith(t, r.start(store, fast()), ErrDiverged)
	r.model = before
	r.check(store)
}

func TestCheckpointDeleted(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	r.write(bumps(10, 3)...)
	drainOnce(t, r, f)
	f.LoseCheckpoint()
	r.write(bumps(10, 3)...)
	refusedWith(t, r.start(f, fast()), ErrCheckpointMissing)
	// The store itself is gone.
	refusedWith(t, r.start(noIdentity{sinktest.NewMemory()}, fast()), ErrWrongStore)
}

// noIdentity hides which store a sink is.
type noIdentity struct{ sinks.Sink }

func TestStoreReplacedByAnEmptyOne(t *testing.T) {
	r := newRig(t)
	r.write(bumps(10, 3)...)
	drainOnce(t, r, noIdentity{sinktest.NewMemory()})
	empty := sinktest.NewMemory()
	refusedWith(t, r.start(noIdentity{empty}, fast()), ErrCheckpointMissing)
	if _, err := empty.Resume(context.Background(), sinks.Claim{Stream: r.log.Stream()}); !errors.Is(err, sinks.ErrNoCheckpoint) {
		t.Errorf("a refused start left a checkpoint: %v", err)
	}
}

func TestWrongStore(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	f := sinktest.NewFaulty(memory)
	r.write(bumps(10, 3)...)
	drainOnce(t, r, f)
	f.SetIdentity("staging")
	resumes := len(f.Resumes())
	r.write(bumps(10, 3)...)
	refusedWith(t, r.start(f, fast()), ErrWrongStore)
	if len(f.Resumes()) != resumes {
		t.Error("the wrong store was claimed")
	}
	f.SetIdentity("")
	drainOnce(t, r, f)
	r.check(f)
}

func TestForeignStream(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	if _, err := memory.Resume(context.Background(), sinks.Claim{Stream: uuid.New(), Lanes: 1, Fresh: true}); err != nil {
		t.Fatal(err)
	}
	r.write(bumps(10, 3)...)
	refusedWith(t, r.start(memory, fast()), ErrForeignStream)
	// A sink that does not look itself.
	refusedWith(t, r.start(wrongStream{sinktest.NewMemory()}, fast()), ErrForeignStream)
}

type wrongStream struct{ sinks.Sink }

func (w wrongStream) Resume(ctx context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	at, err := w.Sink.Resume(ctx, c)
	at.Stream = uuid.New()
	return at, err
}

// TestBelowFirst: a fresh sink on a log whose first records are freed, and an old
// backup of a store.
func TestBelowFirst(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir(), model: map[string]*modelRow{}, seg: 4096}
	r.open()
	t.Cleanup(r.close)
	memory := sinktest.NewMemory()
	r.write(bumps(10, 3)...)
	drainOnce(t, r, memory)
	for range 50 { // a group is never split over segments
		r.write(bumps(10, 3)...)
	}
	r.log.Release(400)
	eventually(t, "space is freed", func() bool { return r.log.First() > 11 })
	refusedWith(t, r.start(memory, fast()), ErrBelowFirst)
	o := fast()
	o.Name = "new"
	err := r.start(sinktest.NewMemory(), o).ended()
	if refused, ok := errors.AsType[*ResumeError](err); !ok || !errors.Is(err, ErrBelowFirst) || refused.Sink != "new" {
		t.Fatalf("a fresh sink: %v, want ErrBelowFirst", err)
	}
}

func TestSecondOwnerFences(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	r.write(bumps(10, 3)...)
	first := r.start(memory, fast())
	first.await(10)
	second := r.start(memory.Reopen(), fast())
	eventually(t, "second resumed", func() bool { return second.Status().State == Running })
	last := r.write(bumps(10, 3)...)
	second.await(last)
	err := first.ended()
	if !errors.Is(err, ErrFenced) {
		t.Fatalf("first owner: %v, want ErrFenced", err)
	}
	r.check(memory)
}

// TestClaimWindows crashes between the steps of the first claim: each start after
// it goes on, and from the settled claim on an absent checkpoint is refused.
func TestClaimWindows(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, r *rig, m *sinktest.Memory)
	}{
		{"claim written", func(t *testing.T, r *rig, _ *sinktest.Memory) {
			if err := r.state.PutClaim(state.Claim{Sink: "main"}); err != nil {
				t.Fatal(err)
			}
		}},
		{"checkpoint created", func(t *testing.T, r *rig, m *sinktest.Memory) {
			if err := r.state.PutClaim(state.Claim{Sink: "main"}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Resume(context.Background(), sinks.Claim{Stream: r.log.Stream(), Lanes: 4, Fresh: true}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			memory := sinktest.NewMemory()
			last := r.write(bumps(20, 3)...)
			c.prepare(t, r, memory)
			r.close()
			r.open()
			f := sinktest.NewFaulty(memory)
			run := r.start(f, fast())
			run.await(last)
			if err := run.stop(); err != nil {
				t.Fatal(err)
			}
			r.check(memory)
			if claims := f.Resumes(); len(claims) != 1 || !claims[0].Fresh {
				t.Errorf("claims %+v, want one that may create the checkpoint", claims)
			}
		})
	}
}

// TestClaimOrder looks at the state store from inside the sink: what is durable
// there when each step happens.
func TestClaimOrder(t *testing.T) {
	r := newRig(t)
	r.write(bumps(20, 3)...)
	w := &watcher{Memory: sinktest.NewMemory(), t: t, r: r}
	drainOnce(t, r, w)
	if w.resumes != 1 || w.applies.Load() == 0 {
		t.Fatalf("%d resumes, %d applies", w.resumes, w.applies.Load())
	}
	c, ok, err := r.state.Claim("main")
	id, _ := w.Identity(context.Background())
	if !ok || err != nil || !c.Settled || c.Identity != id {
		t.Errorf("claim %+v, %t, %v", c, ok, err)
	}
	f := sinktest.NewFaulty(w.Memory.Reopen())
	drainOnce(t, r, f)
	if claims := f.Resumes(); len(claims) != 1 || claims[0].Fresh {
		t.Errorf("claims after settling: %+v", claims)
	}
}

type watcher struct {
	*sinktest.Memory
	t       *testing.T
	r       *rig
	resumes int
	applies atomic.Int64
}

func (w *watcher) Resume(ctx context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	w.resumes++
	if c, ok, err := w.r.state.Claim("main"); !ok || err != nil || c.Settled {
		w.t.Errorf("at Resume: claim %+v, %t, %v; want it stored and unsettled", c, ok, err)
	}
	return w.Memory.Resume(ctx, claim)
}

func (w *watcher) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if c, ok, err := w.r.state.Claim("main"); !ok || err != nil || !c.Settled {
		w.t.Errorf("at Apply: claim %+v, %t, %v; want it settled", c, ok, err)
	}
	w.applies.Add(1)
	return w.Memory.Apply(ctx, b)
}

func TestResumePanicHalts(t *testing.T) {
	r := newRig(t)
	err := r.start(panickingResume{sinktest.NewMemory()}, fast()).ended()
	if _, ok := errors.AsType[*PanicError](err); !ok {
		t.Fatalf("%v, want a *PanicError", err)
	}
}

type panickingResume struct{ sinks.Sink }

func (panickingResume) Resume(context.Context, sinks.Claim) (sinks.Checkpoint, error) { panic("boom") }

// TestCorruptLog: damage below the durable LSN is an error with its place.
func TestCorruptLog(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir(), model: map[string]*modelRow{}, seg: 4096}
	r.open()
	t.Cleanup(r.close)
	for range 40 {
		r.write(bumps(10, 9)...)
	}
	r.close()
	segments, err := filepath.Glob(filepath.Join(r.dir, "log", "segments", "*", "*"))
	if err != nil || len(segments) < 4 {
		t.Fatal(segments, err)
	}
	data, err := os.ReadFile(segments[1])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(segments[1], data, 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	memory := sinktest.NewMemory()
	run := r.start(memory, fast())
	if err := run.ended(); !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("%v, want wal.ErrCorrupt", err)
	}
	if a := run.Applied(); a >= 400 {
		t.Errorf("applied %d: past the damage", a)
	}
}

// TestStartCancelLoops is F6: 200 starts and stops with a resume each, in the
// real store; the checkpoint stays, the claim is free at once.
func TestStartCancelLoops(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dir, "store")
	for i := range 200 {
		store, err := pebble.Open(dir, pebble.Options{})
		if err != nil {
			t.Fatalf("loop %d: the store is not free: %v", i, err)
		}
		r.write(bumps(3, 2)...)
		o := fast()
		o.Lanes = 1 + i%3
		run := r.start(store, o)
		if i%2 == 0 {
			eventually(t, fmt.Sprintf("loop %d applies", i), func() bool { return run.Applied() > 0 })
		}
		if i%5 == 0 {
			run.await(r.log.Durable())
		}
		begun := time.Now()
		if err := run.stop(); err != nil {
			t.Fatalf("loop %d: %v", i, err)
		}
		if err := store.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("loop %d: stop took %v", i, took)
		}
	}
	store := openPebble(t, dir)
	drainOnce(t, r, store)
	r.check(store)
}
