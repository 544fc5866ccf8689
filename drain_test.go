package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestDrain: with 32 writers at work, nothing gets an LSN after Drain has returned;
// what did is in the store when the lag is 0; Undrain takes writes again.
func TestDrain(t *testing.T) {
	store := sinktest.NewMemory()
	dir := t.TempDir()
	p := open(t, options(dir, store))
	var acked atomic.Int64
	var writers sync.WaitGroup
	for i := range 32 {
		writers.Go(func() {
			for {
				if _, err := p.Append(t.Context(), increment(fmt.Sprint("k", i%5))); err != nil {
					if !errors.Is(err, walproxy.ErrDraining) {
						t.Errorf("Append: %v", err)
					}
					return
				}
				acked.Add(1)
			}
		})
	}
	until(t, "there are writes", func() bool { return acked.Load() > 200 })
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	appended := p.Status().Log.Appended
	writers.Wait()
	if st := p.Status(); st.Log.Appended != appended || !st.Draining || acked.Load() != int64(appended) {
		t.Errorf("LSN %d when drained, then %d; %d acked; draining: %v", appended, st.Log.Appended, acked.Load(), st.Draining)
	}
	until(t, "the sink is level", func() bool { return p.Status().Sinks[0].Lag == 0 })
	if got := incremented(t, store, 5); got != acked.Load() {
		t.Errorf("%d in the store, %d acked", got, acked.Load())
	}
	if was, err := p.Undrain(); !was || err != nil {
		t.Errorf("Undrain: %v, %v", was, err)
	}
	if was, err := p.Undrain(); was || err != nil {
		t.Errorf("second Undrain: %v, %v", was, err)
	}
	appendOne(t, p, increment("k0"))
	if err := p.Drain(t.Context()); err != nil { // and over a restart
		t.Fatal(err)
	}
	closeProxy(t, p)
	p = open(t, options(dir, store))
	if _, err := p.Append(t.Context(), increment("k0")); !errors.Is(err, walproxy.ErrDraining) || !p.Status().Draining {
		t.Errorf("after a restart: %v, %+v", err, p.Status().Draining)
	}
	if was, err := p.Undrain(); !was || err != nil {
		t.Errorf("Undrain: %v, %v", was, err)
	}
	closeProxy(t, p)
	p = open(t, options(dir, store))
	appendOne(t, p, increment("k0"))
	closeProxy(t, p)
	if err := p.Drain(context.Background()); !errors.Is(err, walproxy.ErrClosed) {
		t.Errorf("Drain after Close: %v", err)
	}
}

// TestDrainWaitsForWritesUnderWay: a write that has not got its LSN yet, because its
// precondition waits for the store, keeps Drain waiting, and is acknowledged.
func TestDrainWaitsForWritesUnderWay(t *testing.T) {
	store := sinktest.NewFaulty(sinktest.NewMemory())
	release := make(chan struct{})
	store.HoldReads(release)
	p := open(t, options(t.TempDir(), store))
	done := make(chan error, 1)
	go func() {
		err := walproxy.ErrDraining
		for errors.Is(err, walproxy.ErrDraining) { // it may be refused before it is in
			_, err = p.Append(t.Context(), set("a", 1, mutation.IfAbsent()))
		}
		done <- err
	}()
	until(t, "the write is under way", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := p.Drain(ctx)
		if err == nil { // too early: let it in
			_, err := p.Undrain()
			if err != nil {
				t.Fatal(err)
			}
			return false
		}
		return errors.Is(err, context.DeadlineExceeded)
	})
	select {
	case err := <-done:
		t.Fatalf("the write ended before the store answered: %v", err)
	default:
	}
	if _, err := p.Append(t.Context(), set("b", 1)); !errors.Is(err, walproxy.ErrDraining) {
		t.Errorf("a write after it: %v", err)
	}
	close(release)
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := p.Status(); st.Log.Appended != 1 {
		t.Errorf("LSN %d when drained, want 1", st.Log.Appended)
	}
	if err := <-done; err != nil {
		t.Errorf("the write under way: %v", err)
	}
}
