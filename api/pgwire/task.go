package pgwire

import (
	"context"
	"sync"
	"time"
)

// task is what a session has the client wait for, one time after the other: a context
// that is made again only when it was ended, for making one costs as much as
// everything else about an acknowledgement.
type task struct {
	parent  context.Context // whose end ends it, too; nil: none
	mu      sync.Mutex
	stopped error  // no round goes on any more; nil: they do
	round   uint64 // of uses, from 1; what is about an earlier one does nothing
	busy    bool
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer // ends the round with late, at until
	until   time.Time
	late    error
	expires uint64             // the round that the timer is for
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
	k.expires, k.late, k.until = k.round, late, time.Now().Add(limit)
	if k.timer == nil {
		k.timer = time.AfterFunc(limit, k.expire)
	} else {
		k.timer.Reset(limit)
	}
	return k.ctx, k.round
}

func (k *task) expire() {
	if round, ok := k.endLate(); ok && k.expired != nil {
		k.expired(round)
	}
}

// endLate ends the round if its time is up: else the timer was stopped too late.
func (k *task) endLate() (round uint64, late bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	late = k.busy && k.expires == k.round && !time.Now().Before(k.until)
	if late {
		k.cancel(k.late)
	}
	return k.round, late
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
}

// finish is called when the round is over.
func (k *task) finish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = false
	k.timer.Stop()
}
