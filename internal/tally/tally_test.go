package tally

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestModel compares with the values themselves, in order.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Uint64Range(0, 1<<uint(rapid.IntRange(0, 39).Draw(t, "bits"))), 1, 200).Draw(t, "values")
		var h Histogram
		var sum uint64
		for _, v := range values {
			h.Add(v)
			sum += v
		}
		if h.Count() != uint64(len(values)) || h.Sum() != sum {
			t.Fatalf("count %d, sum %d of %d values, %d", h.Count(), h.Sum(), len(values), sum)
		}
		slices.Sort(values)
		for le, n := range h.Cumulative(0, 39, 1) {
			want := uint64(len(values))
			if i := slices.IndexFunc(values, func(v uint64) bool { return float64(v) > le }); i >= 0 {
				want = uint64(i)
			}
			if n != want {
				t.Errorf("%d are at most %v, want %d of %d", n, le, want, values)
			}
		}
		for _, q := range []float64{0, 0.5, 0.9, 1} {
			at := min(max(int(q*float64(len(values))+0.999999), 1), len(values))
			truth := float64(values[at-1])
			if got := h.Quantile(q); got < 0.75*truth-1 || got > 1.25*truth+1 {
				t.Errorf("quantile %v is %v, want about %v", q, got, truth)
			}
		}
	})
}

func TestSince(t *testing.T) {
	var h Histogram
	h.Add(100)
	before := h
	h.Add(5000)
	since := h.Since(&before)
	if q := since.Quantile(0.5); since.Count() != 1 || since.Sum() != 5000 || q < 4000 || q > 6000 {
		t.Errorf("count %d, sum %d, median %v", since.Count(), since.Sum(), q)
	}
	var none Histogram
	if none.Quantile(0.5) != 0 {
		t.Error("no values have a median")
	}
	h.Add(1 << 50) // counts as the largest
	if h.Count() != 3 || h.Cumulative(39, 39, 1)[1<<39] != 2 {
		t.Errorf("beyond the largest: %v", h.Cumulative(39, 39, 1))
	}
}
