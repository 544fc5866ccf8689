package replay

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/walproxy/walproxy/wal"
)

func contains(err error, part string) bool { return strings.Contains(err.Error(), part) }

func newMarks() *watermarks { return &watermarks{rose: make(chan struct{}, 1)} }

func TestWaitersWakeInTime(t *testing.T) {
	m := newMarks()
	var waiters []*waiter
	for _, i := range rand.Perm(1000) {
		w, err := m.enter(wal.LSN(i+1), true)
		if w == nil || err != nil {
			t.Fatal("served too early")
		}
		waiters = append(waiters, w)
	}
	for _, applied := range []wal.LSN{0, 1, 2, 500, 499, 999, 1000} {
		m.raise(applied, 0)
		for _, w := range waiters {
			select {
			case <-w.done:
				if w.lsn > m.appliedNow() || w.err != nil {
					t.Fatalf("applied %d: waiter of %d woke with %v", applied, w.lsn, w.err)
				}
			default:
				if w.lsn <= m.appliedNow() {
					t.Fatalf("applied %d: waiter of %d still sleeps", applied, w.lsn)
				}
			}
		}
	}
	if m.wanted.Load() != 0 {
		t.Error("nobody waits, but something is wanted")
	}
	if w, err := m.enter(1000, true); w != nil || err != nil {
		t.Error("what is applied has to be waited for")
	}
}

func TestWaiterLeaves(t *testing.T) {
	m := newMarks()
	cause := errors.New("cause")
	first, _ := m.enter(5, true)
	second, _ := m.enter(3, true)
	if err := m.leave(first, cause); !errors.Is(err, cause) {
		t.Errorf("left with %v, want the cause", err)
	}
	m.raise(4, 0)
	if err := m.leave(second, cause); err != nil {
		t.Errorf("a waiter that was served left with %v", err)
	}
	third, _ := m.enter(9, true)
	m.end(ErrClosed)
	if err := m.leave(third, cause); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v, want ErrClosed", err)
	}
	if _, err := m.enter(9, true); !errors.Is(err, ErrClosed) {
		t.Errorf("entered after the end: %v, want ErrClosed", err)
	}
	if w, err := m.enter(4, true); w != nil || err != nil {
		t.Errorf("what was applied before the end: %v, want nil", err)
	}
}

// TestNotify: rising values, one at a time, and the last one for sure.
func TestNotify(t *testing.T) {
	m := newMarks()
	stop := make(chan struct{})
	var seen []wal.LSN
	var wg sync.WaitGroup
	wg.Go(func() { m.notify(stop, func(l wal.LSN) { seen = append(seen, l) }) })
	for i := range 1000 {
		m.raise(0, wal.LSN(i))
	}
	close(stop)
	wg.Wait()
	for i := range seen {
		if i > 0 && seen[i] <= seen[i-1] {
			t.Fatalf("%d after %d", seen[i], seen[i-1])
		}
	}
	if len(seen) == 0 || seen[len(seen)-1] != 999 {
		t.Fatalf("the last of %d calls is not 999", len(seen))
	}
}

// BenchmarkWaiters: an advance costs nothing for those it does not serve.
func BenchmarkWaiters(b *testing.B) {
	m := newMarks()
	for i := range 100_000 {
		_, _ = m.enter(wal.LSN(1<<40+i), true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for i := range b.N {
		w, _ := m.enter(wal.LSN(i+1), true)
		m.raise(wal.LSN(i+1), wal.LSN(i))
		_ = m.leave(w, ctx.Err())
	}
}
