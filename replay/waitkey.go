package replay

import (
	"context"
	"slices"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// keyWaiter is a call of WaitKey.
type keyWaiter struct {
	lsn  wal.LSN
	done chan struct{} // closed when the lane has applied lsn
}

// serve wakes those whose wait is over. The pipeline's mu is held.
func (ln *lane) serve() {
	if len(ln.waiters) == 0 {
		return
	}
	applied := ln.applied()
	ln.waiters = slices.DeleteFunc(ln.waiters, func(w *keyWaiter) bool {
		if w.lsn > applied {
			return false
		}
		close(w.done)
		return true
	})
}

// AppliedKey is how far the lane of a key, canonical as in the log, is: every
// write to the key up to it is in the sink or in the dead letters. It is at least
// Applied was.
func (l *Loop) AppliedKey(collection string, key *walproxyv1.Key) wal.LSN {
	applied := l.Applied()
	ln := l.laneOf(collection, key)
	if ln == nil {
		return l.Applied()
	}
	ln.feed.mu.Lock()
	reached := ln.applied()
	ln.feed.mu.Unlock()
	if l.marks.isRetracted() {
		return 0
	}
	return max(applied, reached)
}

// WaitKey returns nil once AppliedKey >= lsn, errors as Wait. It does not wait
// for lanes of other classes, except while the lanes change after a start.
func (l *Loop) WaitKey(ctx context.Context, collection string, key *walproxyv1.Key, lsn wal.LSN) error {
	if l.Applied() >= lsn {
		return nil
	}
	// Applied by all lanes is applied by this one, and it has the errors.
	all, err := l.marks.enter(lsn, true)
	if all == nil {
		return err
	}
	select {
	case <-l.serving:
	case <-all.done:
		return all.err
	case <-ctx.Done():
		return l.marks.leave(all, context.Cause(ctx))
	}
	ln := l.laneOf(collection, key)
	if ln == nil {
		l.pipe.Load().hurry(lsn)
		select {
		case <-all.done:
			return all.err
		case <-ctx.Done():
			return l.marks.leave(all, context.Cause(ctx))
		}
	}
	w := ln.enter(lsn)
	select {
	case <-w.done:
		_ = l.marks.leave(all, nil) // ended or not: the lane is there
		return nil
	case <-all.done:
		ln.leave(w)
		return all.err
	case <-ctx.Done():
		ln.leave(w)
		return l.marks.leave(all, context.Cause(ctx))
	}
}

// enter waits for lsn, and cuts the lane's lingering.
func (ln *lane) enter(lsn wal.LSN) *keyWaiter {
	ln.feed.mu.Lock()
	defer ln.feed.mu.Unlock()
	w := &keyWaiter{lsn: lsn, done: make(chan struct{})}
	ln.waiters = append(ln.waiters, w)
	if len(ln.queue) > 0 && ln.queue[0].LSN <= lsn {
		signal(ln.wake)
	}
	ln.serve()
	return w
}

func (ln *lane) leave(w *keyWaiter) {
	ln.feed.mu.Lock()
	defer ln.feed.mu.Unlock()
	ln.waiters = slices.DeleteFunc(ln.waiters, func(o *keyWaiter) bool { return o == w })
}

// laneOf returns the lane of a key; nil while the lanes may change, and where only
// the log can tell: of a group's collection that was not met yet.
func (l *Loop) laneOf(collection string, key *walproxyv1.Key) *lane {
	select {
	case <-l.serving:
	default:
		return nil
	}
	p := l.pipe.Load()
	if l.marks.isRetracted() {
		return nil // what the lanes have reached means nothing any more
	}
	l.lanes.Lock()
	at, known := l.lanes.stored.Places[collection]
	if !known {
		var err error
		if at, err = l.sayLocked(collection); err != nil || at.Group != "" {
			l.lanes.Unlock()
			return nil
		}
	}
	l.lanes.Unlock()
	return p.lanes[p.by.placed(at).lane(mutation.Hash(collection, key))]
}
