package accept

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// addOne reads the store itself, under the key's lock, and logs what it computed.
func addOne(r *rig, key string) error {
	var p *Pending
	err := r.Hold(r.t.Context(), "c", mutation.String(key), func(ctx context.Context, h *Held) error {
		if applied := r.store.Applied(); applied < h.UpTo() {
			return fmt.Errorf("%d is applied, the key has %d", applied, h.UpTo())
		}
		doc, err := r.store.Read(ctx, "c", mutation.String(key))
		if err != nil && !errors.Is(err, mutation.ErrNotFound) {
			return err
		}
		m, err := plusOne(doc, time.Time{})
		if err != nil {
			return err
		}
		m.Collection, m.Key = "c", mutation.String(key)
		p, err = h.Submit(ctx, record(m))
		return err
	})
	if err != nil {
		return err
	}
	_, err = p.Wait(r.t.Context())
	return err
}

// Many hold a few keys and write what they computed from the store, while others
// increment them blindly and the store lags: nothing is lost.
func TestHoldIsOneStep(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = time.Minute })
	stop := make(chan struct{})
	var lag, writers sync.WaitGroup
	lag.Go(func() { lagging(r, rand.New(rand.NewPCG(3, 4)), stop) })
	const goroutines, writes, keys = 8, 40, 3
	for g := range goroutines {
		writers.Go(func() {
			for i := range writes {
				key := fmt.Sprint((g + i) % keys)
				var err error
				if i%4 == 0 {
					_, err = r.do(t.Context(), record(increment(key)))
				} else {
					err = addOne(r, key)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	lag.Wait()
	total := int64(0)
	for i := range keys {
		doc, err := r.Read(t.Context(), "c", mutation.String(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		total += doc.Fields["n"].GetInt64()
	}
	if total != goroutines*writes {
		t.Errorf("the sum is %d, want %d", total, goroutines*writes)
	}
}

// While the store is away a Hold ends in time, without having been called, and
// blind writes to its key go on meanwhile.
func TestHoldStoreAway(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = time.Minute })
	first := r.must(increment("k"))
	if err := r.store.Wait(t.Context(), first.LSN); err != nil {
		t.Fatal(err)
	}
	r.store.holdAt(first.LSN)
	last := r.must(increment("k"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Hold(ctx, "c", mutation.String("k"), func(context.Context, *Held) error {
			return errors.New("called")
		})
	}()
	for range 20 {
		last = r.must(increment("k"))
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("of a Hold that was called off: %v", err)
	}
	r.o.LookupTimeout = time.Millisecond // nothing else runs
	err := r.Hold(t.Context(), "c", mutation.String("k"), func(context.Context, *Held) error { return errors.New("called") })
	if !errors.Is(err, ErrVersionUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of a Hold whose key was not applied in time: %v", err)
	}
	r.o.LookupTimeout = time.Minute
	r.store.holdAt(0)
	held := wal.LSN(0)
	if err := r.Hold(t.Context(), "c", mutation.String("k"), func(_ context.Context, h *Held) error {
		held = h.UpTo()
		return nil
	}); err != nil || held != last.LSN {
		t.Errorf("held at %d, want %d: %v", held, last.LSN, err)
	}
	if err := r.See(t.Context(), "c", mutation.String("k"), func(context.Context) error { return mutation.ErrNotFound }); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("See hides f's error: %v", err)
	}
}

// A key with a dead letter is not held; another key's write is refused under the lock.
func TestHoldRefuses(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.must(set("k"))
	err := r.Hold(t.Context(), "c", mutation.String("k"), func(ctx context.Context, h *Held) error {
		_, err := h.Submit(ctx, record(set("other")))
		return err
	})
	if _, ok := errors.AsType[*mutation.InvalidError](err); !ok {
		t.Errorf("another key's write under the lock: %v", err)
	}
	r.store.parkedBy = 1
	err = r.Hold(t.Context(), "c", mutation.String("k"), func(context.Context, *Held) error { return errors.New("called") })
	if _, ok := errors.AsType[*ParkedError](err); !ok {
		t.Errorf("of a parked key: %v", err)
	}
}
