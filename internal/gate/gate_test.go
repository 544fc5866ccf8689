package gate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errClosed  = errors.New("closed")
	errTooLong = errors.New("too long")
)

// TestWait: calls that came before Shut, and what they left running, are waited
// for, whichever ends last; those behind it get the error.
func TestWait(t *testing.T) {
	for _, callIsLast := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := New(errClosed)
			_, leave, err := g.Enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rest := make(chan struct{})
			g.Go(func() { <-rest })
			ends := []func(){leave, func() { close(rest) }}
			if callIsLast {
				slices.Reverse(ends)
			}
			g.Shut()
			if _, _, err := g.Enter(t.Context()); !errors.Is(err, errClosed) {
				t.Errorf("a call behind Shut: %v", err)
			}
			waited := false
			go func() { g.Wait(); waited = true }()
			for _, end := range ends {
				if synctest.Wait(); waited {
					t.Errorf("nobody waited; the call is last: %t", callIsLast)
				}
				end()
			}
			if synctest.Wait(); !waited || g.IsCut() {
				t.Errorf("waited: %t, cut: %t", waited, g.IsCut())
			}
		})
	}
}

// TestCut: calls end with their own context, or for the cause given.
func TestCut(t *testing.T) {
	g := New(errClosed)
	own, cancel := context.WithCancelCause(t.Context())
	first, leave, err := g.Enter(own)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	second, leave, err := g.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	cancel(errTooLong)
	<-first.Done()
	if err := context.Cause(first); !errors.Is(err, errTooLong) || errors.Is(err, errClosed) {
		t.Errorf("ended by its caller: %v", err)
	}
	if second.Err() != nil || g.IsCut() {
		t.Fatal("another's context ended a call")
	}
	g.Cut(errTooLong)
	<-second.Done()
	if err := context.Cause(second); !errors.Is(err, errClosed) || !errors.Is(err, errTooLong) || !g.IsCut() {
		t.Errorf("cut off: %v", err)
	}
}

// TestRaces: calls that race with Shut are either refused or waited for.
func TestRaces(t *testing.T) {
	for range 200 {
		g := New(errClosed)
		var all sync.WaitGroup
		ended := false // read by calls; the detector sees a Wait that did not wait
		for range 8 {
			all.Go(func() {
				_, leave, err := g.Enter(context.Background())
				if err != nil {
					return
				}
				if ended {
					t.Error("a call is in behind Wait")
				}
				leave()
			})
		}
		g.Shut()
		g.Wait()
		ended = true
		all.Wait()
	}
}
