package accept

import (
	"errors"
	"fmt"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// TestFilter: an id of the window is never taken for new, few others are not, and those of
// two generations ago are forgotten.
func TestFilter(t *testing.T) {
	f := &filter{seed: newFilter(1).seed, size: 1000}
	id := func(n int) requestKey { return requestKey{fmt.Sprint(n % 3), fmt.Sprint("id", n)} }
	if !f.may(id(0)) {
		t.Error("before anything is known")
	}
	for n := range 1000 {
		f.addOld(id(-1 - n))
	}
	f.known.Store(true)
	for n := range 3500 {
		f.add(id(n))
		for _, back := range []int{n, n - 1, n - 500, n - 999} {
			if back >= -1000 && !f.may(id(back)) {
				t.Fatalf("%d is new behind %d", back, n)
			}
		}
	}
	wrong := 0
	for n := range 10_000 {
		if f.may(id(100_000 + n)) {
			wrong++
		}
		if n < 1000 && f.may(id(-1-n)) {
			wrong++
		}
	}
	if wrong > 200 {
		t.Errorf("of 11,000 ids that are not there %d may be", wrong)
	}
	if newFilter(1_000_000) == nil || newFilter(1<<30) != nil {
		t.Error("the usual window has no filter, or an enormous one has one")
	}
	var none *filter
	if !none.may(id(0)) {
		t.Error("without a filter")
	}
}

// TestFilterOverRestart: ids of earlier starts are known once they were scanned, page by
// page, and until then; those that could not be stored at first are, too.
func TestFilterOverRestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	write := func(i int) *walproxyv1.Record {
		return record(set(fmt.Sprint("k", i), mutation.WithRequestID(fmt.Sprint("r", i))))
	}
	const n = 50
	for i := range n {
		if _, err := r.do(t.Context(), write(i)); err != nil {
			t.Fatal(err)
		}
	}
	r.close()
	r = newRig(t, dir, nil)
	if res, err := r.do(t.Context(), write(7)); err != nil || !res.Repeat {
		t.Fatalf("before the scan: %+v, %v", res, err)
	}
	if _, err := r.do(t.Context(), write(n)); err != nil { // and the background stores something
		t.Fatal(err)
	}
	eventually(t, "the stored ids are scanned", func() bool { return r.requests.filter.known.Load() })
	eventually(t, "stored ids leave memory", func() bool { return r.open() == 0 })
	for i := range n + 1 {
		if res, err := r.do(t.Context(), write(i)); err != nil || !res.Repeat {
			t.Fatalf("id %d: %+v, %v", i, res, err)
		}
	}
	if _, err := r.do(t.Context(), record(set("other", mutation.WithRequestID("r3")))); !errors.Is(err, ErrRequestMismatch) {
		t.Errorf("another write under a stored id: %v", err)
	}
	if res, err := r.do(t.Context(), write(n+1)); err != nil || res.Repeat {
		t.Errorf("a new id: %+v, %v", res, err)
	}
	eventually(t, "it leaves memory", func() bool { return r.open() == 0 })
	if res, err := r.do(t.Context(), write(n+1)); err != nil || !res.Repeat {
		t.Errorf("the id that was new: %+v, %v", res, err)
	}
	next, seen := "", 0
	for more := true; more; {
		var err error
		before := next
		if next, more, err = r.state.Requests(next, 7, func(_, id string) { seen++ }); err != nil || next <= before && more {
			t.Fatalf("%q behind %q, %v", next, before, err)
		}
	}
	if seen < n+1 {
		t.Errorf("%d ids page by page, want %d", seen, n+1)
	}
}
