// Package horizon says up to which time a store may remove expired records
// without anybody seeing it.
//
// An expired record is absent for reads (by the clock) and for writes (by the
// time they were accepted, mutation.Apply), so removing it is only about space,
// and must not be seen: a write accepted before the record ended may still wait in
// the log, and has to find it. What may be removed is what ended before the
// horizon: the accept time of a record that every lane has passed. Accept times
// never go back from one LSN to the next, so whatever is applied later was
// accepted at or after it.
package horizon

import (
	"cmp"
	"slices"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

// Step is how far the horizon moves, in logged time, before it is worth looking
// for records to remove.
const Step = time.Second

// Sample says that nothing above LSN was accepted before Accepted: the last record
// of a batch does.
type Sample struct {
	LSN      sinks.LSN
	Accepted time.Time
}

// SampleOf returns b's sample; it is zero if b has no records.
func SampleOf(b *sinks.Batch) Sample {
	if len(b.Records) == 0 {
		return Sample{}
	}
	last := b.Records[len(b.Records)-1]
	return Sample{LSN: last.LSN, Accepted: last.Accepted}
}

// Horizon is the time before which no unapplied record was accepted. The zero
// value is the one that is not known yet. Calls must not be concurrent.
type Horizon struct {
	at      time.Time
	woken   time.Time // at, when Observe said last that it is worth looking
	pending []Sample  // above the low-water mark, by LSN, at most maxSamples
}

// maxSamples bounds what is kept while a lane lags.
const maxSamples = 64

// At is the horizon; zero: not known yet.
func (h *Horizon) At() time.Time { return h.at }

// Observe takes the last record of an applied batch and the LSN that every lane
// has reached. It reports whether it is worth looking for records to remove.
func (h *Horizon) Observe(s Sample, low sinks.LSN) bool {
	if !s.Accepted.IsZero() {
		i, _ := slices.BinarySearchFunc(h.pending, s, func(a, b Sample) int { return cmp.Compare(a.LSN, b.LSN) })
		h.pending = slices.Insert(h.pending, i, s)
		if len(h.pending) > maxSamples { // keep the oldest and the last
			h.pending = slices.Delete(h.pending, maxSamples-1, maxSamples)
		}
	}
	passed := 0
	for _, p := range h.pending {
		if p.LSN > low {
			break
		}
		if p.Accepted.After(h.at) {
			h.at = p.Accepted
		}
		passed++
	}
	h.pending = slices.Delete(h.pending, 0, passed)
	if h.at.Sub(h.woken) < Step {
		return false
	}
	h.woken = h.at
	return true
}
