package replay

import (
	"context"
	"sync"
	"time"
)

// throttleSlack is how far the feeds may run ahead of their rate before they wait,
// and how much of it they may catch up with: a wait per record would cost more
// than it slows down.
const throttleSlack = 10 * time.Millisecond

// throttle spreads the records of all feeds of a loop over time.
type throttle struct {
	every time.Duration // per record; 0: no limit

	mu  sync.Mutex
	due time.Time // of the next record
}

func newThrottle(rate float64) *throttle {
	t := &throttle{}
	if rate > 0 {
		const most = 1 << 62 // of what a Duration holds; more is none
		t.every = max(time.Duration(min(float64(time.Second)/rate, most)), 1)
	}
	return t
}

// take counts one record and returns how long to wait before it.
func (t *throttle) take(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if oldest := now.Add(-throttleSlack); t.due.Before(oldest) {
		t.due = oldest
	}
	wait := t.due.Sub(now)
	t.due = t.due.Add(t.every)
	if wait < throttleSlack && t.every < throttleSlack {
		return 0
	}
	return max(wait, 0)
}

// slow keeps to Options.Rate. What was read before goes to the lanes meanwhile;
// false: stop.
func (f *feed) slow(stop context.Context) bool {
	if f.loop.throttle.every == 0 {
		return true
	}
	wait := f.loop.throttle.take(time.Now())
	return wait == 0 || f.deliver(stop) && pause(stop, wait)
}
