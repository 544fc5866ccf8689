package accept

import (
	"testing"

	"github.com/walproxy/walproxy/mutation"
)

// TestNewest: what was written before a collection is tracked counts, other
// collections' writes do not, and a write counts once Submit has returned.
func TestNewest(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	first := r.must(set("a"))
	r.Track("c")
	if got := r.Newest("c"); got < first.LSN {
		t.Fatalf("newest %d, want at least %d, which was there before", got, first.LSN)
	}
	r.Track("c") // again changes nothing
	r.must(mutation.New("other", mutation.String("a"), set("a").GetOps()))
	before := r.Newest("c")
	pending, err := r.Submit(t.Context(), group("", set("b"), mutation.New("other", mutation.String("b"), set("b").GetOps())))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Newest("c"); before >= pending.LSN() || got != pending.LSN() {
		t.Errorf("newest %d and then %d, want %d then", before, got, pending.LSN())
	}
	if got := r.Newest("other"); got != 0 {
		t.Errorf("newest %d of what is not tracked", got)
	}
}
