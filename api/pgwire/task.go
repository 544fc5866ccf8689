package pgwire

import (
	"context"
	"sync"
	"time"
)

// task is what a session has the client wait for, one time after the other: a context
// that is made again only when it was ended, for making one costs as much as
// everything else about an acknowledgement. For the same reason the timer of a round that
// is over is left as it is: when it looks it goes on for the round under way, if there is one.
type task struct {
	parent  context.Context // whose end ends it, too; nil: none
	mu      sync.Mutex
	stopped error  // no round goes on any more; nil: they do
	round   uint64 // of uses, from 1; what is about an earlier one does nothing
	busy    bool
	ctx     context.Context
	cancel  context.CancelCauseFunc
	until   time.Time // then the round ends with late
	late    error
	timer   *time.Timer        // looks for that; nil: it was never set
	looks   time.Time          // when it does; zero: it is not set
	expired func(round uint64) // is called when one was ended because it was late; nil: nothing is
}

// begin begins a round.
func (k *task) begin(limit time.Duration, late error) (ctx context.Context, round uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = true
	if k.ctx == nil || k.ctx.Err() != nil {
		parent := k.parent
		if parent == nil {
			parent = context.Background()
		}
		if k.ctx, k.cancel = context.WithCancelCause(parent); k.stopped != nil {
			k.cancel(k.stopped)
		}
	}
	k.round++
	now := time.Now()
	k.late, k.until = late, now.Add(limit)
	if k.looks.IsZero() || k.looks.After(k.until) {
		k.lookLocked(now)
	}
	return k.ctx, k.round
}

func (k *task) expire() {
	if round, ok := k.endLate(); ok && k.expired != nil {
		k.expired(round)
	}
}

// lookLocked has the timer look at the end of the round.
func (k *task) lookLocked(now time.Time) {
	k.looks = k.until
	if k.timer == nil {
		k.timer = time.AfterFunc(k.until.Sub(now), k.expire)
	} else {
		k.timer.Reset(k.until.Sub(now))
	}
}

// endLate ends the round if its time is up.
func (k *task) endLate() (round uint64, late bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	switch {
	case !k.busy:
		k.looks = time.Time{}
	case now.Before(k.until): // it was set for an earlier one
		k.lookLocked(now)
	default:
		k.looks = time.Time{}
		k.cancel(k.late)
		return k.round, true
	}
	return k.round, false
}

// endNow ends the context of the round under way, if one is.
func (k *task) endNow(cause error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy {
		k.cancel(cause)
	}
}

// end ends a round's context, unless the round is over.
func (k *task) end(round uint64, cause error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy && k.round == round {
		k.cancel(cause)
	}
}

// stop ends the round, and all that come. With a parent it must be called.
func (k *task) stop(cause error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped = cause; k.cancel != nil {
		k.cancel(cause)
	}
	k.quitLocked()
}

// quit is called when no more rounds are to come: the timer, if it is still set, would keep
// what belongs to them.
func (k *task) quit() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.quitLocked()
}

func (k *task) quitLocked() {
	if k.timer != nil {
		k.timer.Stop()
		k.looks = time.Time{}
	}
}

// finish is called when the round is over.
func (k *task) finish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = false
}
