// Package tally counts values in buckets, a quarter of a power of two wide, so that
// quantiles are right to about an eighth at whatever size.
package tally

import (
	"math"
	"math/bits"
)

const (
	perOctave = 4
	octaves   = 40 // up to 2^40: as nanoseconds 18 minutes
	buckets   = perOctave * octaves
)

// Histogram of values from 0 to 2^40; larger ones count as that. The zero value is
// empty. It may be copied; calls are not concurrent.
type Histogram struct {
	counts [buckets]uint64
	count  uint64
	sum    uint64
}

// bucket i holds the values in (lower(i), lower(i+1)].
func bucket(value uint64) int {
	if value = max(value, 1) - 1; value < perOctave {
		return int(value)
	}
	octave := bits.Len64(value) - 1 // from 2 on
	quarter := value >> (octave - 2) & (perOctave - 1)
	return min(perOctave*(octave-1)+int(quarter), buckets-1)
}

func lower(i int) uint64 {
	if i < perOctave {
		return uint64(i)
	}
	octave := i/perOctave + 1
	return uint64(perOctave+i%perOctave) << (octave - 2)
}

// Add counts value.
func (h *Histogram) Add(value uint64) {
	h.counts[bucket(value)]++
	h.count++
	h.sum += value
}

// Count is how many values there are, and Sum what they add up to.
func (h *Histogram) Count() uint64 { return h.count }

// Sum is what the values add up to.
func (h *Histogram) Sum() uint64 { return h.sum }

// Since is what h has more than earlier, an older copy of it.
func (h *Histogram) Since(earlier *Histogram) (out Histogram) {
	for i := range h.counts {
		out.counts[i] = h.counts[i] - earlier.counts[i]
	}
	out.count, out.sum = h.count-earlier.count, h.sum-earlier.sum
	return out
}

// Quantile is what a share q of the values, between 0 and 1, is not above; 0 if there
// are none.
func (h *Histogram) Quantile(q float64) float64 {
	if h.count == 0 {
		return 0
	}
	rank := min(max(q*float64(h.count), 1), float64(h.count))
	var below uint64
	for i, n := range h.counts {
		if float64(below+n) < rank {
			below += n
			continue
		}
		from, to := float64(lower(i)), float64(lower(i+1))
		return from + (to-from)*(rank-float64(below))/float64(n)
	}
	return float64(lower(buckets)) // not reached: the ranks end at count
}

// Cumulative is how many values are at most 2^k, for k from lowest to highest, by
// 2^k / unit: what a Prometheus histogram has.
func (h *Histogram) Cumulative(lowest, highest int, unit float64) map[float64]uint64 {
	out := make(map[float64]uint64, highest-lowest+1)
	var below uint64
	i := 0
	for k := lowest; k <= highest; k++ {
		for ; i < buckets && lower(i) < 1<<k; i++ {
			below += h.counts[i]
		}
		out[math.Ldexp(1, k)/unit] = below
	}
	return out
}
