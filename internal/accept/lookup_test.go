package accept

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// F12: a store that does not answer, or answers with an error, is an error,
// never "absent" and never version 0; nothing is logged, and the key is free.
func TestUnknownIsNotAbsent(t *testing.T) {
	broken := errors.New("broken")
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = 30 * time.Millisecond })
	base := r.must(set("k")).LSN
	if err := r.store.Wait(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	mine := errors.New("my deadline")
	canceled, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, mine)
	defer cancel()
	for _, c := range []struct {
		name  string
		ctx   context.Context
		prep  func()
		cause error
	}{
		{"the store hangs", t.Context(), func() { r.store.mu.hang = true }, context.DeadlineExceeded},
		{"the caller gives up", canceled, func() { r.store.mu.hang = true }, mine},
		{"the store fails", t.Context(), func() { r.store.mu.readErr = broken }, broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.store.set(c.prep)
			defer r.store.set(func() { r.store.mu.hang, r.store.mu.readErr = false, nil })
			for name, m := range map[string]*walproxyv1.Mutation{
				"if_absent":        set("k", mutation.IfAbsent()),
				"if_version 0":     set("k", mutation.IfVersion(0)),
				"if_version":       set("k", mutation.IfVersion(base)),
				"if_event_count":   set("k", mutation.IfEventCount(0)),
				"of an absent key": set("never", mutation.IfAbsent()),
			} {
				before := r.log.Appended()
				_, err := r.do(c.ctx, record(m))
				if !errors.Is(err, ErrVersionUnknown) || !errors.Is(err, c.cause) || errors.Is(err, ErrConflict) {
					t.Errorf("%s: got %v, want ErrVersionUnknown for %v", name, err, c.cause)
				}
				if r.log.Appended() != before {
					t.Errorf("%s: something was logged", name)
				}
			}
			if _, err := r.Read(withTimeout(t, 30*time.Millisecond), "c", mutation.String("k")); err == nil || errors.Is(err, mutation.ErrNotFound) {
				t.Errorf("Read: %v", err)
			}
		})
	}
	r.o.LookupTimeout = time.Minute
	if _, err := r.do(t.Context(), record(set("k", mutation.IfVersion(base)))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// What is pending but not known waits for the store; a store that lags beyond
// the time-out, or halted, is an error.
func TestPreconditionWaitsForApplied(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = 50 * time.Millisecond })
	first := r.must(set("k")).LSN
	if err := r.store.Wait(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	r.store.holdAt(first)
	touched := r.must(mutation.Touch("c", mutation.String("k"))).LSN // of what may be absent, as far as we know
	next := set("k", mutation.IfVersion(touched))
	if _, err := r.do(t.Context(), record(next)); !errors.Is(err, ErrVersionUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v while the touch is not applied", err)
	}
	// Others are not kept waiting.
	if _, err := r.do(t.Context(), record(increment("k"))); err != nil {
		t.Fatal(err)
	}
	r.o.LookupTimeout = time.Minute
	r.store.holdAt(0)
	if _, err := r.do(t.Context(), record(set("k", mutation.IfVersion(touched+1)))); err != nil {
		t.Fatal(err)
	}
	halted := errors.New("halted")
	if err := r.store.Wait(t.Context(), r.log.Appended()); err != nil {
		t.Fatal(err)
	}
	r.store.holdAt(r.log.Appended())
	r.must(mutation.Touch("c", mutation.String("k")))
	r.store.set(func() { r.store.mu.err = halted })
	if _, err := r.do(t.Context(), record(next)); !errors.Is(err, ErrVersionUnknown) || !errors.Is(err, halted) {
		t.Fatalf("got %v of a halted sink", err)
	}
}

// TestStatementIsPending: a statement is a write to its key as a mutation is, in
// whatever form it names the key. What it does nobody here knows: a condition on the
// record waits until it is applied.
func TestStatementIsPending(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = 50 * time.Millisecond })
	first := r.must(set("42")).LSN
	if err := r.store.Wait(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	r.store.holdAt(first)
	statement := func(id string) *walproxyv1.Record {
		return &walproxyv1.Record{Body: &walproxyv1.Record_Statement{Statement: &walproxyv1.Statement{Text: "UPDATE", Collection: "c", Key: mutation.Int64(42), RequestId: id}}}
	}
	written, err := r.do(t.Context(), statement("r"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.do(t.Context(), statement("r")); err != nil || !again.Repeat || again.LSN != written.LSN {
		t.Fatalf("a repeat: %+v, %v", again, err)
	}
	conditional := record(set("42", mutation.IfVersion(first)))
	if _, err := r.do(t.Context(), conditional); !errors.Is(err, ErrVersionUnknown) {
		t.Fatalf("got %v while the statement is not applied", err)
	}
	r.store.holdAt(0)
	if err := r.store.Wait(t.Context(), written.LSN); err != nil {
		t.Fatal(err)
	}
	r.o.LookupTimeout = time.Minute
	var conflict *ConflictError
	if _, err := r.do(t.Context(), conditional); !errors.As(err, &conflict) || conflict.Version != written.LSN {
		t.Fatalf("got %v, want a conflict with version %d", err, written.LSN)
	}
}

// A precondition that waits for the store keeps no blind write to its key
// waiting, and takes notice of it.
func TestLookupHoldsNoLock(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = time.Minute })
	base := r.must(set("k")).LSN
	if err := r.store.Wait(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	late, end := make(chan struct{}), make(chan struct{})
	r.store.set(func() { r.store.mu.late, r.store.mu.end = late, end })
	done := make(chan error, 1)
	go func() {
		_, err := r.Submit(t.Context(), record(set("k", mutation.IfVersion(base))))
		done <- err
	}()
	eventually(t, "the store is asked", func() bool {
		r.store.mu.Lock()
		defer r.store.mu.Unlock()
		return r.store.mu.reads == 1
	})
	second := r.must(increment("k")).LSN // its expiry is not known: the store has to be asked again
	if err := r.store.Wait(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	r.store.set(func() { r.store.mu.end = nil })
	close(end)
	var conflict *ConflictError
	if err := <-done; !errors.As(err, &conflict) || conflict.Version != second {
		t.Fatalf("got %v, want a conflict with version %d", err, second)
	}
}

// Blind writes to the key, one in every lookup, do not starve a precondition:
// the last lookup shuts them out.
func TestLookupUnderBlindWrites(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = time.Minute })
	writes := 0
	r.store.set(func() {
		r.store.mu.onRead = func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := r.do(ctx, record(increment("k"))); err == nil {
				writes++
			}
		}
	})
	_, err := r.Submit(t.Context(), record(set("k", mutation.IfVersion(1<<40))))
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Version != wal.LSN(writes) || writes != lookupsMax {
		t.Errorf("got %v after %d writes, want a conflict after %d", err, writes, lookupsMax)
	}
}

// The exact map is bounded; beyond it preconditions wait for the store, and are
// as right.
func TestBeyondExactMap(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.PendingExact, r.opts.LookupTimeout = 64, time.Minute })
	first := r.must(set("k0")).LSN
	r.store.holdAt(first)
	for i := 1; i <= 1000; i++ {
		if _, err := r.Submit(t.Context(), record(set(fmt.Sprint("k", i)))); err != nil {
			t.Fatal(err)
		}
	}
	entries := 0
	for i := range r.exact.shards {
		entries += len(r.exact.shards[i].entries)
	}
	if entries == 0 || entries > 64 {
		t.Fatalf("%d entries, at most 64", entries)
	}
	done := make(chan error, 1)
	go func() {
		for i := 1; i <= 1000; i++ {
			if _, err := r.Submit(t.Context(), record(increment(fmt.Sprint("k", i), mutation.IfVersion(first+wal.LSN(i))))); err != nil {
				done <- fmt.Errorf("k%d: %w", i, err)
				return
			}
		}
		done <- nil
	}()
	r.store.holdAt(0)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Right after a start nothing is known: a read waits for the end of the log.
func TestReadAfterRestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.must(set("other"))
	last := r.must(set("k")).LSN
	r.close()
	r = newRig(t, dir, func(r *rig) { r.store.mu.hold = last - 1 }) // its store is empty
	if _, err := r.Read(withTimeout(t, 50*time.Millisecond), "c", mutation.String("k")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v before the log's end is applied", err)
	}
	r.store.holdAt(0)
	doc, err := r.Read(t.Context(), "c", mutation.String("k"))
	if err != nil || doc.Version != last {
		t.Fatalf("%+v, %v", doc, err)
	}
}

// Reads see every write that was acked before them; not found is one sentinel.
func TestRead(t *testing.T) {
	clock := &steps{now: noon}
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.Now = clock.read })
	event := &walproxyv1.Event{Fields: one}
	for i := range 200 {
		key := fmt.Sprint("k", i%3)
		lsn := r.must(mutation.New("c", mutation.String(key), []*walproxyv1.Op{mutation.IncrementOp(one), mutation.AppendEventOp(event)})).LSN
		doc, err := r.Read(t.Context(), "c", mutation.String(key))
		if err != nil || doc.Version != lsn || doc.Fields["n"].GetInt64() != int64(i/3+1) {
			t.Fatalf("%+v, %v; want version %d", doc, err, lsn)
		}
		events, err := r.ReadEvents(t.Context(), "c", mutation.String(key), uint64(i/3+1), 10)
		if err != nil || len(events) != 1 || events[0].LSN != lsn || events[0].Number != uint64(i/3+1) {
			t.Fatalf("%+v, %v", events, err)
		}
	}
	if _, err := r.Read(t.Context(), "c", mutation.String("never")); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("Read: %v", err)
	}
	if _, err := r.ReadEvents(t.Context(), "c", mutation.String("never"), 1, 1); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("ReadEvents: %v", err)
	}
	r.must(set("short", mutation.ExpiresAt(noon.Add(time.Second))))
	if _, err := r.Read(t.Context(), "c", mutation.String("short")); err != nil {
		t.Errorf("before its end: %v", err)
	}
	clock.then(noon.Add(time.Second))
	if _, err := r.Read(t.Context(), "c", mutation.String("short")); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("after its end: %v", err)
	}
}

// A sink that cannot read says so.
func TestNoReader(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.Targets["main"] = Target{Loop: r.store} })
	if _, err := r.Read(t.Context(), "c", mutation.String("k")); !errors.Is(err, ErrNoReader) {
		t.Errorf("Read: %v", err)
	}
	if _, err := r.ReadEvents(t.Context(), "c", mutation.String("k"), 1, 1); !errors.Is(err, ErrNoReader) {
		t.Errorf("ReadEvents: %v", err)
	}
	if _, err := r.do(t.Context(), record(set("k", mutation.IfAbsent()))); !errors.Is(err, ErrNoReader) || !errors.Is(err, ErrVersionUnknown) {
		t.Errorf("if_absent: %v", err)
	}
}

// F13: judging a version costs the same whatever the record's history.
func BenchmarkPrecondition(b *testing.B) {
	for _, writes := range []int{10, 1_000, 100_000} {
		for _, from := range []string{"store", "pending"} {
			b.Run(fmt.Sprintf("writes=%d/from=%s", writes, from), func(b *testing.B) {
				r := newRig(b, b.TempDir(), nil)
				event := &walproxyv1.Event{Fields: one}
				m := mutation.New("c", mutation.String("k"), []*walproxyv1.Op{mutation.SetOp(one), mutation.AppendEventOp(event)})
				var p *Pending
				for range writes {
					var err error
					if p, err = r.Submit(b.Context(), record(m)); err != nil {
						b.Fatal(err)
					}
				}
				if err := r.store.Wait(b.Context(), p.LSN()); err != nil {
					b.Fatal(err)
				}
				if from == "pending" {
					r.store.holdAt(p.LSN())
					p, _ = r.Submit(b.Context(), record(m))
					if _, err := p.Wait(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				stale := record(set("k", mutation.IfVersion(1)))
				b.ReportAllocs()
				for b.Loop() {
					var conflict *ConflictError
					if _, err := r.Submit(b.Context(), stale); !errors.As(err, &conflict) || conflict.Version != p.LSN() {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// The same as a test: one read of the store per judgement at most.
func TestPreconditionReadsOnce(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	var last wal.LSN
	for range 1000 {
		last = r.must(mutation.New("c", mutation.String("k"), []*walproxyv1.Op{mutation.AppendEventOp(&walproxyv1.Event{})})).LSN
	}
	if err := r.store.Wait(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := r.Submit(t.Context(), record(set("k", mutation.IfVersion(1)))); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
		if r.store.mu.reads != i+1 {
			t.Fatalf("%d reads for %d judgements", r.store.mu.reads, i+1)
		}
	}
}

// BenchmarkSubmit is the whole way into the log's queue.
func BenchmarkSubmit(b *testing.B) {
	for _, kind := range []string{"blind", "request id"} {
		b.Run("kind="+kind, func(b *testing.B) {
			r := newRig(b, b.TempDir(), nil)
			r.store.holdAt(1) // its work is not measured
			b.ReportAllocs()
			var last *Pending
			i := 0
			for b.Loop() {
				m := set(fmt.Sprint("k", i%1000))
				if i++; kind != "blind" {
					m.RequestId = fmt.Sprint(i)
				}
				p, err := r.Submit(b.Context(), record(m))
				if err != nil {
					b.Fatal(err)
				}
				last = p
			}
			if _, err := last.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
