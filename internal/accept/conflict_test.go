package accept

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// F11: of 50 writers with one expected version exactly one wins; the others
// learn the winner's version, which is durable by then.
func TestOneWinnerPerVersion(t *testing.T) {
	for _, held := range []bool{true, false} { // from the pending table, from the store
		r := newRig(t, t.TempDir(), nil)
		for round := range 20 {
			base := r.must(set("k"))
			if held {
				r.store.holdAt(base.LSN - 1)
			} else if err := r.store.Wait(t.Context(), base.LSN); err != nil {
				t.Fatal(err)
			}
			var wins atomic.Int64
			var winner atomic.Uint64
			var mu sync.Mutex
			var conflicts []wal.LSN
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					res, err := r.do(t.Context(), record(increment("k", mutation.IfVersion(base.LSN))))
					var conflict *ConflictError
					switch {
					case err == nil:
						wins.Add(1)
						winner.Store(uint64(res.LSN))
					case errors.As(err, &conflict):
						if !errors.Is(err, ErrConflict) {
							t.Error("no ErrConflict")
						}
						if conflict.Version > r.log.Durable() {
							t.Errorf("version %d is told but not durable", conflict.Version)
						}
						mu.Lock()
						conflicts = append(conflicts, conflict.Version)
						mu.Unlock()
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if wins.Load() != 1 || len(conflicts) != 49 {
				t.Fatalf("round %d: %d winners, %d conflicts", round, wins.Load(), len(conflicts))
			}
			for _, v := range conflicts {
				if uint64(v) != winner.Load() {
					t.Fatalf("a conflict names version %d, the winner has %d", v, winner.Load())
				}
			}
			r.store.holdAt(0)
		}
	}
}

// Every kind of precondition, judged while the writes are pending and again from
// the store.
func TestPreconditions(t *testing.T) {
	for _, pending := range []bool{true, false} {
		r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = time.Minute })
		event := &walproxyv1.Event{}
		appendEvents := func(key string, options ...mutation.Option) *walproxyv1.Mutation {
			return mutation.New("c", mutation.String(key), []*walproxyv1.Op{mutation.AppendEventOp(event, event)}, options...)
		}
		try := func(m *walproxyv1.Mutation, want *ConflictError) Result {
			t.Helper()
			if !pending {
				if err := r.store.Wait(t.Context(), r.log.Appended()); err != nil {
					t.Fatal(err)
				}
			}
			res, err := r.do(t.Context(), record(m))
			var conflict *ConflictError
			switch {
			case want == nil && err != nil:
				t.Fatalf("pending %v: %v: %v", pending, m, err)
			case want != nil && (!errors.As(err, &conflict) || *conflict != *want):
				t.Fatalf("pending %v: %v: got %v, want %+v", pending, m, err, want)
			}
			return res
		}
		deleted := r.must(mutation.Delete("c", mutation.String("k"))) // now it is known to be absent
		if pending {
			r.store.holdAt(deleted.LSN - 1)
			if deleted.LSN == 1 {
				r.store.holdAt(deleted.LSN) // 0 would be everything
				deleted = r.must(mutation.Delete("c", mutation.String("k")))
			}
		}
		try(set("k", mutation.IfVersion(99)), &ConflictError{})
		try(appendEvents("k", mutation.IfEventCount(1)), &ConflictError{})
		first := try(set("k", mutation.IfAbsent()), nil)
		try(set("k", mutation.IfAbsent()), &ConflictError{Version: first.LSN})
		try(set("k", mutation.IfVersion(0)), &ConflictError{Version: first.LSN})
		second := try(increment("k", mutation.IfVersion(first.LSN)), nil)
		if second.EventCount != 0 {
			t.Errorf("an increment counts %d events", second.EventCount)
		}
		try(mutation.Touch("c", mutation.String("k"), mutation.IfVersion(first.LSN)), &ConflictError{Version: second.LSN})
		third := try(appendEvents("k", mutation.IfEventCount(0)), nil)
		if third.EventCount != 2 {
			t.Errorf("event count %d, want 2", third.EventCount)
		}
		try(appendEvents("k", mutation.IfEventCount(0)), &ConflictError{Version: third.LSN, EventCount: 2})
		if res := try(appendEvents("k", mutation.IfEventCount(2)), nil); res.EventCount != 4 {
			t.Errorf("event count %d, want 4", res.EventCount)
		}
		try(mutation.Delete("c", mutation.String("k"), mutation.IfAbsent()), &ConflictError{Version: third.LSN + 1})
		try(mutation.Delete("c", mutation.String("k"), mutation.IfVersion(third.LSN+1)), nil)
		last := try(set("k", mutation.IfVersion(0)), nil)
		if pending && r.store.mu.reads != 0 {
			t.Errorf("%d reads of the store while everything was pending", r.store.mu.reads)
		}
		r.store.holdAt(0)
		doc, err := r.Read(t.Context(), "c", mutation.String("k"))
		if err != nil || doc.Version != last.LSN { // the sink judged every precondition the same
			t.Fatalf("the store has %+v, %v; want version %d", doc, err, last.LSN)
		}
	}
}

// A record that somebody else wrote to the store exists, and has no version: version 0,
// which is that it must not exist, is not its own. The sink would reject it.
func TestForeignRecord(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	id := string(mutation.AppendKey(nil, "c", mutation.String("k")))
	r.store.set(func() { r.store.mu.docs[id] = &mutation.Document{} })
	for _, p := range []mutation.Option{mutation.IfVersion(0), mutation.IfAbsent(), mutation.IfVersion(1)} {
		if res, err := r.do(t.Context(), record(set("k", p))); !errors.Is(err, ErrConflict) {
			t.Errorf("%v: %v, %v", set("k", p).GetPrecondition(), res, err)
		}
	}
	first := r.must(set("k"))
	r.must(set("k", mutation.IfVersion(first.LSN)))
}

// A conflict is not told before the version it names is durable.
func TestConflictWaitsForDurable(t *testing.T) {
	gate := &gateFS{FS: vfs.OS()}
	r := newRig(t, t.TempDir(), func(r *rig) { r.wal.FS, r.wal.SegmentBytes = gate, 1 }) // every group in a new segment
	base := r.must(set("k"))
	gate.shut()
	t.Cleanup(gate.release)
	for stuck := false; !stuck; { // segments are made ahead
		p, err := r.Submit(t.Context(), record(set("filler")))
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
		case <-time.After(50 * time.Millisecond):
			stuck = true
		}
	}
	winner, err := r.Submit(t.Context(), record(set("k", mutation.IfVersion(base.LSN))))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Submit(ctx, record(set("k", mutation.IfVersion(base.LSN)))); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v before the winner was durable", err)
	}
	gate.release()
	_, err = r.Submit(t.Context(), record(set("k", mutation.IfVersion(base.LSN))))
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Version != winner.LSN() {
		t.Fatalf("got %v, want a conflict with version %d", err, winner.LSN())
	}
}

// A record that expires between its precondition and its place in the log is
// judged again, so that the sink never finds otherwise.
func TestExpiryBetweenCheckAndAppend(t *testing.T) {
	for _, pending := range []bool{true, false} {
		clock := &steps{now: noon}
		r := newRig(t, t.TempDir(), func(r *rig) { r.opts.Now = clock.read })
		expires := noon.Add(time.Minute)
		first := r.must(set("filler")).LSN
		if pending {
			r.store.holdAt(first)
		}
		version := r.must(set("k", mutation.ExpiresAt(expires))).LSN
		// The precondition looks at the clock, and looks again if it had to ask
		// the store; then the write gets its time, when the record has ended.
		if pending {
			clock.then(expires.Add(-1), expires)
		} else {
			if err := r.store.Wait(t.Context(), version); err != nil {
				t.Fatal(err)
			}
			clock.then(expires.Add(-1), expires.Add(-1), expires)
		}
		res, err := r.do(t.Context(), record(increment("k", mutation.IfVersion(version))))
		var conflict *ConflictError
		if !errors.As(err, &conflict) || conflict.Version != 0 {
			t.Fatalf("pending %v: got %v, %v; want a conflict with an absent record", pending, res, err)
		}
		if _, err := r.do(t.Context(), record(set("k", mutation.IfAbsent()))); err != nil {
			t.Fatal(err)
		}
		r.store.holdAt(0)
		if err := r.store.Wait(t.Context(), r.log.Appended()); err != nil {
			t.Fatal(err) // a precondition that failed at apply would end it
		}
	}
}
