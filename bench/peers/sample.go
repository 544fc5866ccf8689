package peers

import (
	"slices"
	"sync"
	"time"
)

// sample is what was measured of a target in one turn, or in all of them.
type sample struct {
	records   float64
	took      time.Duration
	latencies []uint32 // tenths of a microsecond
}

func (s *sample) add(o sample) {
	s.records += o.records
	s.took += o.took
	s.latencies = append(s.latencies, o.latencies...)
}

func (s *sample) rate() float64 {
	if s.took == 0 {
		return 0
	}
	return s.records / s.took.Seconds()
}

// percentiles sorts the latencies; microseconds.
func (s *sample) percentiles(at ...float64) []float64 {
	slices.Sort(s.latencies)
	out := make([]float64, len(at))
	for i, p := range at {
		if n := len(s.latencies); n > 0 {
			out[i] = float64(s.latencies[min(int(p*float64(n)), n-1)]) / 10
		}
	}
	return out
}

func tenths(d time.Duration) uint32 {
	return uint32(min(d.Microseconds()*10+(d.Nanoseconds()%1000)/100, 1<<31))
}

// closedLoop lets every writer write its next record as soon as the one before is
// durable.
func closedLoop(r *running, writers int, payload []byte, d time.Duration) (sample, error) {
	began := time.Now()
	return spread(r, writers, began, func(time.Time) (due time.Time, more bool) {
		now := time.Now()
		return now, now.Sub(began) < d
	}, payload)
}

// steady offers rate records per second. The latency of a record counts from when it
// was due if all writers were busy then.
func steady(r *running, writers int, payload []byte, rate float64, d time.Duration) (sample, error) {
	var mu sync.Mutex
	n := 0
	began := time.Now()
	return spread(r, writers, began, func(time.Time) (time.Time, bool) {
		mu.Lock()
		due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		n++
		mu.Unlock()
		if due.Sub(began) >= d {
			return due, false
		}
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
			return time.Now(), true
		}
		return due, true
	}, payload)
}

func spread(r *running, writers int, began time.Time, next func(time.Time) (time.Time, bool), payload []byte) (s sample, err error) {
	var mu sync.Mutex
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			var own []uint32
			for {
				due, more := next(began)
				if !more {
					break
				}
				if e := r.write(i, payload); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
					return
				}
				own = append(own, tenths(time.Since(due)))
			}
			mu.Lock()
			s.records += float64(len(own))
			s.latencies = append(s.latencies, own...)
			mu.Unlock()
		})
	}
	writing.Wait()
	s.took = time.Since(began)
	return s, err
}
