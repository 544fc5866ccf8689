package pebble

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// TestGate: who waits for whom. synctest.Wait returns when every goroutine is
// blocked, so "still waiting" is a fact and no race.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ctx, stop := newGate(), t.Context(), make(chan struct{})
		take := func(get func() (func(), error)) (got chan error, release func()) {
			got = make(chan error, 1)
			let := make(chan struct{})
			go func() {
				free, err := get()
				got <- err
				if err == nil {
					<-let
					free()
				}
			}()
			return got, func() { close(let); synctest.Wait() }
		}
		lanes := func(ids ...int) (chan error, func()) {
			return take(func() (func(), error) { return g.lanes(ctx, stop, ids) })
		}
		all := func() (chan error, func()) { return take(func() (func(), error) { return g.all(ctx, stop) }) }
		state := func(what string, got chan error, want bool) {
			t.Helper()
			synctest.Wait()
			if (len(got) == 1) != want {
				t.Fatalf("%s: has it %v, want %v", what, len(got) == 1, want)
			}
		}

		a, freeA := lanes(0)
		b, freeB := lanes(1, 2)
		state("lane 0", a, true)
		state("lanes 1, 2 beside it", b, true)
		c, freeC := lanes(2, 3)
		state("lanes 2, 3 while 2 is taken", c, false)
		freeB()
		state("lanes 2, 3 after it", c, true)
		whole, freeWhole := all()
		state("all while 0, 2, 3 are taken", whole, false)
		d, freeD := lanes(7)
		state("lane 7 behind the one that wants all", d, false)
		freeA()
		state("all while 2, 3 are taken", whole, false)
		freeC()
		state("all", whole, true)
		state("lane 7 while all are taken", d, false)
		freeWhole()
		state("lane 7 at last", d, true)

		gone, cancel := context.WithCancelCause(ctx)
		why := errors.New("gave up")
		e, _ := take(func() (func(), error) { return g.all(gone, stop) })
		state("all, with a context", e, false)
		cancel(why)
		synctest.Wait()
		if err := <-e; !errors.Is(err, why) {
			t.Fatalf("all with a context that ended: %v", err)
		}
		f, freeF := lanes(8)
		state("lane 8: nobody wants all any more", f, true)
		h, _ := lanes(8)
		close(stop)
		synctest.Wait()
		if err := <-h; !errors.Is(err, errStopped) {
			t.Fatalf("lane 8 after stop: %v", err)
		}
		freeD()
		freeF()
	})
}
