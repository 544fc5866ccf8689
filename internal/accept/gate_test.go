package accept

import (
	"context"
	"errors"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// TestDirect: who writes a collection past the log waits until everything is applied;
// while he is at it every way into the log waits, or is refused, and goes on behind it.
// Other collections are not concerned.
func TestDirect(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.Track("c")
	r.store.holdAt(1)
	first := r.must(set("a"))
	entered := make(chan func(), 1)
	go func() {
		leave, err := r.Direct(t.Context(), "c", r.store.Wait)
		if err != nil {
			t.Error(err)
		}
		if at := r.store.Applied(); at < first.LSN {
			t.Errorf("it was let in at LSN %d, %d was not applied", at, first.LSN)
		}
		entered <- leave
	}()
	r.store.holdAt(0)
	leave := <-entered
	if leave == nil {
		t.FailNow()
	}
	if _, err := r.SubmitNow(t.Context(), record(set("a"))); !errors.Is(err, ErrDirect) {
		t.Errorf("a write that does not wait: %v", err)
	}
	if err := r.Hold(t.Context(), "c", mutation.String("a"), func(ctx context.Context, h *Held) error {
		_, err := h.Submit(ctx, record(set("a")))
		return err
	}); !errors.Is(err, ErrDirect) {
		t.Errorf("a write to a key that is held: %v", err)
	}
	r.must(mutation.New("other", mutation.String("a"), set("a").GetOps()))
	at := r.log.Appended()
	waiting, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Submit(waiting, record(set("a"))); !errors.Is(err, ErrDirect) || !errors.Is(err, context.Canceled) {
		t.Errorf("a write that waits for too long: %v", err)
	}
	results := make(chan error, 3)
	go func() {
		_, err := r.do(t.Context(), group("", set("b"), mutation.New("other", mutation.String("b"), set("b").GetOps())))
		results <- err
	}()
	go func() {
		_, err := r.do(t.Context(), record(increment("n")))
		results <- err
	}()
	go func() {
		p, err := r.Modify(t.Context(), "c", mutation.String("m"), func(*mutation.Document, time.Time) (*walproxyv1.Mutation, error) { return set("m"), nil })
		if err == nil {
			_, err = p.Wait(t.Context())
		}
		results <- err
	}()
	gate := &r.newest.find("c").gate
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		gate.mu.Lock()
		waits := gate.direct.none != nil
		gate.mu.Unlock()
		if waits {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody waits for the gate")
		}
	}
	if now := r.log.Appended(); now != at {
		t.Errorf("LSN %d was given out meanwhile", now)
	}
	leave()
	leave() // twice counts once
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if _, err := r.SubmitNow(t.Context(), record(set("a"))); err != nil {
		t.Errorf("behind it: %v", err)
	}
}

// TestDirectGivesUp: who may not write past the log after all holds up nobody, and the
// end of the acceptor ends waits.
func TestDirectGivesUp(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	if _, err := r.Direct(t.Context(), "c", r.store.Wait); err == nil {
		t.Error("a collection that is not tracked was let in")
	}
	r.Track("c")
	away := errors.New("away")
	calls := 0
	for fails := range 2 { // before its gate, and behind it
		calls = 0
		if leave, err := r.Direct(t.Context(), "c", func(context.Context, wal.LSN) error {
			if calls++; calls > fails {
				return away
			}
			return nil
		}); !errors.Is(err, away) || leave != nil {
			t.Errorf("%d: %v", fails, err)
		}
	}
	r.must(set("a"))
	leave, err := r.Direct(t.Context(), "c", r.store.Wait)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.Submit(context.Background(), record(set("a")))
		ended <- err
	}()
	r.close()
	if err := <-ended; !errors.Is(err, wal.ErrClosed) {
		t.Errorf("a write that waited when all ended: %v", err)
	}
	leave()
}

// TestDirectLetsOthersIn: where what was logged just before a gate was entered is not
// applied in time, because the store hangs, others go on logging, and who waits at the gate
// waits on.
func TestDirectLetsOthersIn(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.Track("c")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls, hangs := 0, make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := r.Direct(ctx, "c", func(ctx context.Context, _ wal.LSN) error {
			if calls++; calls == 1 {
				r.must(set("a")) // behind what it waited for, and before the gate
				return nil
			}
			if calls == 2 {
				close(hangs)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		done <- err
	}()
	<-hangs
	if _, err := r.SubmitNow(t.Context(), record(set("b"))); !errors.Is(err, ErrDirect) {
		t.Errorf("at a gate that was entered just now: %v", err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := r.SubmitNow(t.Context(), record(set("b"))); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("others are kept out: %v", err)
		}
	}
	select {
	case err := <-done:
		t.Errorf("who waits at the gate is told %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
