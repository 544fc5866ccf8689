package accept

import (
	"context"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/mutation"
)

// Submit gives w its LSN. w has Mutation, Group, ... and principal set; accepted
// time and routes are filled in here, in a copy. Errors mean that nothing was
// logged, and are *mutation.InvalidError, *ConflictError, ErrRequestMismatch,
// ErrUnroutable, ErrVersionUnknown, ErrNoReader, ErrDirect, *BehindError, wal.ErrFull, wal.ErrClosed,
// wal.ErrPoisoned, wal.ErrTooLarge, ctx's cause or the state store's.
func (a *Acceptor) Submit(ctx context.Context, w *walproxyv1.Record) (*Pending, error) {
	return a.submitRouted(ctx, w, nil, true)
}

// SubmitNow is Submit, but does not wait while a collection of w's is written past
// the log: that is ErrDirect at once. And it is for who calls Wait behind it at once,
// which may then be what makes the write durable, and lasts as long as the disk does,
// whatever becomes of its context.
func (a *Acceptor) SubmitNow(ctx context.Context, w *walproxyv1.Record) (*Pending, error) {
	return a.submitRouted(ctx, w, nil, false)
}

// submitRouted is Submit; to is where w goes, nil: the routes tell. wait: for who
// writes past the log.
func (a *Acceptor) submitRouted(ctx context.Context, w *walproxyv1.Record, to *route, wait bool) (*Pending, error) {
	if err := a.enter(); err != nil {
		return nil, err
	}
	defer a.leave()
	if a.tracer == nil {
		return a.submitEntered(ctx, w, to, wait)
	}
	ctx, span := a.startSpan(ctx, w)
	p, err := a.submitEntered(ctx, w, to, wait)
	a.follow(span, p, err)
	return p, err
}

func (a *Acceptor) submitEntered(ctx context.Context, w *walproxyv1.Record, to *route, wait bool) (*Pending, error) {
	p, err := a.prepare(w, to)
	if err != nil {
		return nil, err
	}
	p.toLead = !wait
	a.trace(ctx, p)
	if a.newest.tracks() {
		if only := a.passOne(p); only != nil {
			defer only.leaveLog()
		} else {
			leave, err := a.pass(ctx, p.collections(), wait)
			if err != nil {
				return nil, err
			}
			defer leave()
		}
	}
	if mutation.RequestID(p.record) == "" || p.retry() {
		return a.submit(ctx, p)
	}
	return a.submitOnce(ctx, p)
}

// submitOnce is submit for a write with a request id.
func (a *Acceptor) submitOnce(ctx context.Context, w *write) (*Pending, error) {
	hash, err := w.hash()
	if err != nil {
		return nil, err
	}
	defer w.free()
	id := requestKey{w.record.GetPrincipal(), mutation.RequestID(w.record)}
	r, original, err := a.requests.begin(ctx, id, hash)
	if err != nil {
		return nil, err
	}
	if original != nil {
		original.result.EventCount = eventCountAfter(w.record.GetMutation())
		return original, nil
	}
	w.request = r
	p, err := a.submit(ctx, w)
	if err != nil {
		a.requests.abort(r)
	}
	return p, err
}

// submit locks w's keys, checks its preconditions and appends it.
func (a *Acceptor) submit(ctx context.Context, w *write) (*Pending, error) {
	if w.buffer == nil {
		if err := w.encode(); err != nil {
			return nil, err
		}
		defer w.free()
	}
	// Before the store is asked about preconditions, which takes its time if the
	// store is what is behind; and again when the write gets its LSN.
	if err := w.admit(len(w.payload)); err != nil {
		return nil, err
	}
	if err := a.append(ctx, w); err != nil {
		return nil, a.settled(ctx, err)
	}
	return &Pending{
		ticket: w.ticket,
		route:  w.route,
		result: Result{LSN: w.ticket.LSN, EventCount: eventCountAfter(w.record.GetMutation())},
	}, nil
}

// lookupsMax is how often a precondition asks the store without holding its
// key's lock, while writes to the key keep coming in between.
const lookupsMax = 4

// append gives w its LSN under its keys' locks. It asks the store without them,
// for a store that is slow or away must not keep blind writes to the keys
// waiting; what it said counts if nothing was written to the key meanwhile. If
// something always is, the store is fast enough to be asked under the lock.
func (a *Acceptor) append(ctx context.Context, w *write) error {
	for lookups := 0; ; lookups++ {
		missing, err := a.tryAppend(ctx, w, lookups >= lookupsMax)
		if err != nil || missing == nil {
			return err
		}
		if err := a.look(ctx, w, missing, false); err != nil {
			return err
		}
	}
}

// tryAppend is append, but for a key that has to be looked up: that is returned,
// or looked up here if stay is set.
func (a *Acceptor) tryAppend(ctx context.Context, w *write, stay bool) (missing *keyWrites, err error) {
	if err := a.keys.lock(ctx, w.hashes); err != nil {
		return nil, err
	}
	defer a.keys.unlock(w.hashes)
	a.event(ctx, tracing.Locked)
	for {
		missing, err := a.checkPreconditions(w)
		switch {
		case err != nil:
			return nil, err
		case missing != nil && !stay:
			return missing, nil
		case missing != nil:
			if err := a.look(ctx, w, missing, true); err != nil {
				return nil, err
			}
			continue
		}
		if ok, err := a.enqueue(ctx, w); err != nil {
			return nil, err
		} else if ok {
			a.notePending(w)
			a.event(ctx, tracing.Appended)
			return nil, nil
		} // a record that a precondition found expired meanwhile: judge again
	}
}

// notePending enters w into the pending table, under its keys' locks.
func (a *Acceptor) notePending(w *write) {
	lsn := w.ticket.LSN
	applied := w.route.target.Loop.Applied()
	for i := range w.keys {
		k := &w.keys[i]
		a.buckets.raise(k.hash, lsn)
		a.newest.note(k.collection, lsn)
		a.images.forget(k.hash, k.encoded)
		now := k.prior
		if w.retry() {
			// Its place is in its keys' queues, not behind their last writes.
			a.exact.put(k.hash, k.encoded, exactEntry{known{}, lsn})
			continue
		}
		if now.exists == unsure {
			e, _ := a.exact.get(k.hash, k.encoded, applied)
			now = e.known
		}
		for _, m := range k.mutations {
			if m == nil {
				now = known{}
				continue
			}
			now = now.after(m, lsn, unixTime(w.accepted))
		}
		a.exact.put(k.hash, k.encoded, exactEntry{now, lsn})
	}
}
