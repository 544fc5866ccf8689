package slots

import (
	"testing"
	"testing/synctest"
)

// TestResize: a larger number lets those who wait in, a smaller one nobody until enough
// have gone.
func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(1)
		stop, entered := make(chan struct{}), make(chan bool, 3)
		if !p.TryTake() || p.TryTake() {
			t.Fatal("not one")
		}
		for range 3 {
			go func() { entered <- p.Take(stop) }()
		}
		expect := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if len(entered) != want {
				t.Fatalf("%s: %d entered, want %d", when, len(entered), want)
			}
		}
		expect("full", 0)
		p.Resize(2)
		expect("resized", 1)
		p.Resize(1)
		p.Free()
		expect("still one too many", 1)
		p.Free()
		expect("one has gone", 2)
		close(stop)
		expect("stopped", 3)
		if a, b, c := <-entered, <-entered, <-entered; !a || !b || c {
			t.Error(a, b, c)
		}
	})
}
