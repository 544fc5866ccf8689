package accept

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMutexExcludes(t *testing.T) {
	var m mutex
	m.init()
	count, ended := 0, atomic.Int64{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(50))*time.Microsecond)
				if err := m.lock(ctx); err != nil {
					ended.Add(1)
				} else {
					count++ // the race detector looks
					m.unlock()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if got := count + int(ended.Load()); got != 16*2000 {
		t.Errorf("%d of %d calls returned", got, 16*2000)
	}
	if err := m.lock(t.Context()); err != nil { // and it is free
		t.Error(err)
	}
}

// A waiter that gives up takes nobody's wake-up with it, and returns the cause.
func TestMutexGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mutex
		m.init()
		if err := m.lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		results := make(chan error, 2)
		go func() { results <- m.lock(ctx) }()
		synctest.Wait()
		go func() { results <- m.lock(t.Context()) }()
		synctest.Wait()
		cancel(cause)
		m.unlock()
		a, b := <-results, <-results
		if !errors.Is(a, cause) && !errors.Is(b, cause) && (a != nil || b != nil) {
			t.Fatalf("got %v and %v", a, b)
		}
		if a != nil && b != nil {
			t.Fatalf("nobody got it: %v and %v", a, b)
		}
	})
}

// Overlapping sets of keys: no deadlock, each exclusive, nothing left behind.
func TestKeyLocksOverlap(t *testing.T) {
	var l keyLocks
	l.init()
	var held [8]atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 1000 {
				var hashes []uint64
				for h := range uint64(len(held)) {
					if rand.IntN(3) == 0 {
						hashes = append(hashes, h*256) // one shard, as hashes may be
					}
				}
				slices.Sort(hashes)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(200))*time.Microsecond)
				if err := l.lock(ctx, hashes); err == nil {
					for _, h := range hashes {
						if held[h/256].Add(1) != 1 {
							t.Error("two hold one key")
						}
					}
					for _, h := range hashes {
						held[h/256].Add(-1)
					}
					l.unlock(hashes)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	for i := range l.shards {
		if n := len(l.shards[i].locks); n != 0 {
			t.Errorf("shard %d keeps %d locks", i, n)
		}
	}
}
