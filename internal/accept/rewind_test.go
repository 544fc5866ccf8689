package accept

import (
	"errors"
	"testing"

	"github.com/walproxy/walproxy/mutation"
)

// TestReadMeetsRewind: what was applied when the read began is lost by the store
// before it looks: what it finds is no answer.
func TestReadMeetsRewind(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	if err := r.store.Wait(t.Context(), r.must(set("k")).LSN); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("the store has lost what it applied")
	r.store.set(func() {
		r.store.mu.onRead = func() { r.store.set(func() { r.store.mu.applied, r.store.mu.err = 0, lost }) }
	})
	if doc, err := r.Read(t.Context(), "c", mutation.String("k")); !errors.Is(err, lost) {
		t.Errorf("Read: %v, %v; want %v", doc, err, lost)
	}
}
