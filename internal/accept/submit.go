package accept

import (
	"context"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// Submit gives w its LSN. w has Mutation, Group, ... and principal set; accepted
// time and routes are filled in here, in a copy. Errors mean that nothing was
// logged, and are *mutation.InvalidError, *ConflictError, ErrRequestMismatch,
// ErrUnroutable, ErrVersionUnknown, ErrNoReader, wal.ErrFull, wal.ErrClosed,
// wal.ErrPoisoned, wal.ErrTooLarge, ctx's cause or the state store's.
func (a *Acceptor) Submit(ctx context.Context, w *walproxyv1.Record) (*Pending, error) {
	if err := a.enter(); err != nil {
		return nil, err
	}
	defer a.leave()
	p, err := a.prepare(w)
	if err != nil {
		return nil, err
	}
	if mutation.RequestID(p.record) == "" {
		return a.submit(ctx, p)
	}
	return a.submitOnce(ctx, p)
}

// submitOnce is submit for a write with a request id.
func (a *Acceptor) submitOnce(ctx context.Context, w *write) (*Pending, error) {
	hash, err := hashPayload(w.record)
	if err != nil {
		return nil, err
	}
	id := requestKey{w.record.GetPrincipal(), mutation.RequestID(w.record)}
	waiting, done := a.bound(ctx)
	defer done()
	r, original, err := a.requests.begin(waiting, id, hash)
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
	if err := w.encode(); err != nil {
		return nil, err
	}
	defer w.free()
	if err := a.append(ctx, w); err != nil {
		return nil, a.settled(ctx, err)
	}
	return &Pending{
		ticket: w.ticket,
		result: Result{LSN: w.ticket.LSN, EventCount: eventCountAfter(w.record.GetMutation())},
	}, nil
}

// append holds the key locks.
func (a *Acceptor) append(ctx context.Context, w *write) error {
	if err := a.keys.lock(ctx, w.hashes); err != nil {
		return err
	}
	defer a.keys.unlock(w.hashes)
	for {
		if err := a.checkPreconditions(ctx, w); err != nil {
			return err
		}
		ok, err := a.enqueue(ctx, w)
		if err != nil {
			return err
		}
		if ok {
			break
		} // a record that a precondition found expired meanwhile: look again
	}
	a.notePending(w)
	return nil
}

// notePending enters w into the pending table, under its keys' locks.
func (a *Acceptor) notePending(w *write) {
	lsn := w.ticket.LSN
	applied := w.route.target.Loop.Applied()
	for i := range w.keys {
		k := &w.keys[i]
		a.buckets.raise(k.hash, lsn)
		now := k.found
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
