package accept

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// budget is a Lag of so many records.
type budget struct {
	left    atomic.Int64
	admits  atomic.Int64
	added   atomic.Int64
	refusal *BehindError
}

func (b *budget) Admit(int) error {
	b.admits.Add(1)
	if b.left.Load() <= 0 {
		return b.refusal
	}
	return nil
}

func (b *budget) Added(wal.LSN, int) {
	b.left.Add(-1)
	b.added.Add(1)
}

// However many writers have passed the first look at a sink's lag, no more get an
// LSN than it allows: it is looked at again where the LSN is given.
func TestLagIsJudgedWithTheLSN(t *testing.T) {
	const writers, allowed = 32, 5
	lag := &budget{refusal: &BehindError{Sink: "main", LagBytes: 7, MaxLagBytes: 8}}
	lag.left.Store(allowed)
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.opts.Targets["main"] = Target{Loop: r.store, Reader: r.store, Lag: lag}
	})
	if err := r.order.lock.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var accepted atomic.Int64
	for i := range writers {
		wg.Go(func() {
			_, err := r.do(t.Context(), record(set(string(rune('a'+i)))))
			switch {
			case err == nil:
				accepted.Add(1)
			case !errors.Is(err, ErrBehind):
				t.Errorf("got %v, want ErrBehind", err)
			}
		})
	}
	for r.order.lock.waiters.Load() < writers { // all have passed the first look
		if t.Context().Err() != nil {
			t.Fatal("they do not come")
		}
	}
	r.order.lock.unlock()
	wg.Wait()
	if accepted.Load() != allowed || lag.added.Load() != allowed {
		t.Errorf("%d accepted, %d counted, want %d", accepted.Load(), lag.added.Load(), allowed)
	}

	// Refused before the store is asked, which may be what is behind.
	r.store.mu.Lock()
	reads := r.store.mu.reads
	r.store.mu.Unlock()
	if _, err := r.do(t.Context(), record(set("z", mutation.IfAbsent()))); !errors.Is(err, ErrBehind) {
		t.Errorf("a conditional write: %v, want ErrBehind", err)
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	if r.store.mu.reads != reads {
		t.Error("the store was asked for a write that was refused")
	}
}

// A retry of a dead letter is let through, and counted.
func TestLagLetsRetriesThrough(t *testing.T) {
	lag := &budget{refusal: &BehindError{Sink: "main"}}
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.opts.Targets["main"] = Target{Loop: r.store, Reader: r.store, Lag: lag}
	})
	rec := record(set("a"))
	rec.Format, rec.Routes = mutation.Format, []string{"main"}
	payload, err := mutation.Encode(nil, rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Retry(t.Context(), &state.DeadLetter{Sink: "main", LSN: 1, Payload: payload}, nil); err != nil {
		t.Fatalf("Retry = %v", err)
	}
	if lag.added.Load() != 1 {
		t.Error("it was not counted")
	}
	if _, err := r.do(t.Context(), record(set("b"))); !errors.Is(err, ErrBehind) {
		t.Errorf("another write: %v, want ErrBehind", err)
	}
}
