package horizon

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

func TestHorizon(t *testing.T) {
	start := time.Unix(1_600_000_000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	var h Horizon
	for _, step := range []struct {
		name string
		s    Sample
		low  sinks.LSN
		want time.Time
		wake bool
	}{
		{"a lane ahead of the others", Sample{10, at(100)}, 0, time.Time{}, false},
		{"another one, behind it", Sample{5, at(50)}, 0, time.Time{}, false},
		{"all have passed 5", Sample{}, 5, at(50), true},
		{"and 9", Sample{}, 9, at(50), false},
		{"and 10", Sample{}, 10, at(100), true},
		{"a little later", Sample{11, at(100).Add(time.Millisecond)}, 11, at(100).Add(time.Millisecond), false},
		{"and a second", Sample{12, at(101)}, 12, at(101), true},
	} {
		wake := h.Observe(step.s, step.low)
		if !h.at.Equal(step.want) || wake != step.wake {
			t.Fatalf("%s: horizon %v, wake %v; want %v, %v", step.name, h.at, wake, step.want, step.wake)
		}
	}
	for i := range 1000 { // a lane that never moves must not fill the memory
		h.Observe(Sample{sinks.LSN(100 + i), at(200 + i)}, 50)
	}
	if n := len(h.pending); n > maxSamples || !slices.IsSortedFunc(h.pending, func(a, b Sample) int { return cmp.Compare(a.LSN, b.LSN) }) {
		t.Errorf("%d samples kept, want at most %d, by LSN", n, maxSamples)
	}
	if h.Observe(Sample{}, 600); h.at.Before(at(200)) || h.at.After(at(700)) {
		t.Errorf("horizon %v after the lane moved to the sample of %v", h.at, at(700))
	}
	if h.Observe(Sample{}, 5000); !h.at.Equal(at(200+999)) || len(h.pending) != 0 {
		t.Errorf("horizon %v, %d pending after the lane moved past everything", h.at, len(h.pending))
	}
}
