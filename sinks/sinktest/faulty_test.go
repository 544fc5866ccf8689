package sinktest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// faulted is a rig on Memory behind a Faulty.
func faulted(t *testing.T) (*Faulty, *rig) {
	t.Helper()
	m := NewMemory()
	r := newRig(t, Harness{New: func() (Store, error) { return &memoryHarness{m}, nil }})
	r.claim.Lanes = 2
	r.fresh()
	t.Cleanup(r.remove)
	return NewFaulty(r.sink), r
}

// stored is how often "a" was incremented.
func stored(t *testing.T, f *Faulty) int64 {
	t.Helper()
	d, err := f.Read(t.Context(), collection, key("a"))
	if errors.Is(err, mutation.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return d.Fields["n"].GetInt64()
}

func TestFaultyRules(t *testing.T) {
	why := errors.New("why")
	for _, c := range []struct {
		name    string
		rule    Rule
		outcome sinks.Outcome
		applied int64
	}{
		{"retry", Rule{Do: FailBefore(sinks.Retry, why)}, sinks.Retry, 0},
		{"never arrived", Rule{Do: FailBefore(sinks.Unknown, why)}, sinks.Unknown, 0},
		{"halt", Rule{Do: Halt(why)}, sinks.Halt, 0},
		{"lost answer", Rule{Do: LoseAnswer(why)}, sinks.Unknown, 1},
		{"refused", Rule{Do: Refuse(sinks.ErrFenced)}, sinks.Halt, 0},
		{"rejected", Rule{Do: Reject(why, 1)}, sinks.Rejected, 0},
		{"another record rejected", Rule{Do: Reject(why, 99)}, sinks.Applied, 1},
		{"another lane", Rule{When: Lane(1), Do: Halt(why)}, sinks.Applied, 1},
		{"this lane", Rule{When: Lane(0), Do: Halt(why)}, sinks.Halt, 0},
		{"another call", Rule{When: CallNumber(2), Do: Halt(why)}, sinks.Applied, 1},
		{"this record", Rule{When: LSN(7, 1), Do: Halt(why)}, sinks.Halt, 0},
		{"both", Rule{When: All(NotEmpty, Relane), Do: Halt(why)}, sinks.Applied, 1},
		{"delay", Rule{Do: Delay(time.Millisecond)}, sinks.Applied, 1},
		{"nothing", Rule{}, sinks.Applied, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, r := faulted(t)
			f.Add(c.rule)
			b := r.batch(0, r.record(add("a")))
			results, err := f.Apply(t.Context(), b)
			if got := outcomes(b, results, err)[0]; got != c.outcome {
				t.Errorf("outcome %v (%v), want %v", got, err, c.outcome)
			}
			if got := stored(t, f); got != c.applied {
				t.Errorf("applied %d times, want %d", got, c.applied)
			}
			calls := f.Calls()
			if len(calls) != 1 || !calls[0].Returned || !slices.Equal(calls[0].LSNs, []sinks.LSN{1}) || calls[0].Epoch != b.Epoch {
				t.Errorf("calls %+v", calls)
			}
			if c.rule.Do.name == "reject" || c.rule.When != nil {
				return // may have turns left
			}
			if _, err := f.Apply(t.Context(), b); err != nil {
				t.Errorf("the second call, with the rule used up: %v", err)
			}
			if got := stored(t, f); got != 1 {
				t.Errorf("applied %d times after the retry, want 1", got)
			}
		})
	}
}

func TestFaultyTimes(t *testing.T) {
	f, r := faulted(t)
	f.Add(Rule{Do: FailBefore(sinks.Retry, ErrAway), Times: 2}, Rule{When: LSN(1), Do: Reject(ErrAway, 1), Times: Always})
	b := r.batch(0, r.record(add("a")), r.record(add("a")))
	for i, want := range []sinks.Outcome{sinks.Retry, sinks.Retry, sinks.Rejected, sinks.Rejected} {
		results, err := f.Apply(t.Context(), b)
		if got := outcomes(b, results, err); got[0] != want || got[1] != sinks.Retry {
			t.Errorf("call %d: %v, want %v and retry", i+1, got, want)
		}
	}
	f.Clear()
	if _, err := f.Apply(t.Context(), b); err != nil {
		t.Errorf("after Clear: %v", err)
	}
	if calls := f.Calls(); calls[0].Fault != "fail before: retry" || calls[4].Fault != "" {
		t.Errorf("faults recorded: %q, %q", calls[0].Fault, calls[4].Fault)
	}
}

func TestFaultyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := faulted(t)
		before, after := make(chan struct{}), make(chan struct{})
		f.Add(Rule{Do: HoldBefore(before)}, Rule{Do: HoldAfter(after)})
		one := r.batch(0, r.record(add("a")))
		two := r.batch(1, r.record(add("b")))
		done := make(chan error, 2)
		apply := func(ctx context.Context, b *sinks.Batch) { _, err := f.Apply(ctx, b); done <- err }
		go apply(t.Context(), one)
		synctest.Wait()
		if len(done) != 0 || stored(t, f) != 0 || f.Calls()[0].Returned {
			t.Fatal("HoldBefore did not hold")
		}
		close(before)
		if err := <-done; err != nil || stored(t, f) != 1 {
			t.Fatalf("after the release: %v, applied %d", err, stored(t, f))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go apply(ctx, two)
		synctest.Wait()
		if _, err := f.Read(t.Context(), collection, key("b")); err != nil || len(done) != 0 {
			t.Fatalf("HoldAfter has to apply and hold: %v", err)
		}
		cancel()
		if err := <-done; sinks.OutcomeOf(err) != sinks.Unknown || !errors.Is(err, context.Canceled) {
			t.Fatalf("HoldAfter with its context ended: %v", err)
		}

		waited := make(chan error, 1)
		go func() { waited <- f.Await(t.Context(), func() bool { return f.Closes() == 1 }) }()
		synctest.Wait()
		if len(waited) != 0 {
			t.Fatal("Await returned before its condition held")
		}
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		gone, stop := context.WithCancel(t.Context())
		stop()
		if err := f.Await(gone, func() bool { return false }); !errors.Is(err, context.Canceled) {
			t.Fatalf("Await with its context ended: %v", err)
		}
	})
}

func TestFaultyResumeAndReads(t *testing.T) {
	f, r := faulted(t)
	ctx, claim := t.Context(), r.claim
	f.FailResume(2, ErrAway)
	for i := range 3 {
		if _, err := f.Resume(ctx, claim); (i < 2) != errors.Is(err, ErrAway) {
			t.Errorf("resume %d: %v", i, err)
		}
	}
	f.LoseCheckpoint()
	if _, err := f.Resume(ctx, claim); !errors.Is(err, sinks.ErrNoCheckpoint) {
		t.Errorf("Resume with the checkpoint lost: %v", err)
	}
	claim.Fresh = true
	if _, err := f.Resume(ctx, claim); err != nil {
		t.Errorf("Resume with Fresh: %v", err)
	}
	if n := len(f.Resumes()); n != 5 {
		t.Errorf("%d claims recorded, want 5", n)
	}
	release := make(chan struct{})
	f.HoldResume(release)
	gone, stop := context.WithCancel(ctx)
	stop()
	if _, err := f.Resume(gone, claim); !errors.Is(err, context.Canceled) {
		t.Errorf("Resume that is held: %v", err)
	}
	f.FailReads(1, ErrAway)
	if _, err := f.Read(ctx, collection, key("a")); !errors.Is(err, ErrAway) {
		t.Errorf("Read: %v", err)
	}
	if _, err := f.ReadEvents(ctx, collection, key("a"), 1, 1); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("ReadEvents: %v", err)
	}
	f.HoldReads(release)
	if _, err := f.Read(gone, collection, key("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Read that is held: %v", err)
	}
	own, err := f.Identity(ctx)
	if _, perr := uuid.Parse(own); err != nil || perr != nil {
		t.Errorf("Identity: %q, %v", own, err)
	}
	f.SetIdentity("other")
	if id, _ := f.Identity(ctx); id != "other" {
		t.Errorf("Identity: %q", id)
	}
	bare := NewFaulty(struct{ sinks.Sink }{f.Inner()})
	if _, err := bare.Read(ctx, collection, key("a")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Read of a sink that has none: %v", err)
	}
}
