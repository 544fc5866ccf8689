package accept

import (
	"context"
	"errors"
	"fmt"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// Held is a key that is held: its lock is taken and every write to it is applied.
// It must not be used once the function that got it has returned.
type Held struct {
	a      *Acceptor
	route  *route
	hashes []uint64
	upTo   wal.LSN
}

// UpTo is the highest LSN that a write to the key can have; those up to it are
// applied, and durable. 0: nothing was ever written to it.
func (h *Held) UpTo() wal.LSN { return h.upTo }

// See calls f once every write to the key that was acknowledged before the call is
// applied where the collection is read; again if a store that has lost what it had
// applied was resumed meanwhile. Nothing keeps others from writing meanwhile.
// *ParkedError if one of the writes is a dead letter.
func (a *Acceptor) See(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context) error) error {
	if err := a.enter(); err != nil {
		return err
	}
	defer a.leave()
	r, key, err := a.findKey(collection, key)
	if err != nil {
		return err
	}
	ctx, done := a.bound(ctx)
	defer done()
	lsn := a.buckets.get(mutation.Hash(collection, key))
	return a.whileApplied(ctx, r, collection, key, lsn, func() error { return f(ctx) })
}

// Hold calls f under the key's lock once every write to the key is applied where
// the collection is read: later ones wait until f returns. So what f does to the
// record in the store comes between the write before and the one after it. ctx
// bounds the wait and, with the acceptor's own end, f.
//
// Errors of Hold's own mean that f was not called: *ParkedError, ErrVersionUnknown
// if the writes were not applied in time, and those of Submit.
func (a *Acceptor) Hold(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, *Held) error) error {
	if err := a.enter(); err != nil {
		return err
	}
	defer a.leave()
	r, key, err := a.findKey(collection, key)
	if err != nil {
		return err
	}
	ctx, done := a.bound(ctx)
	defer done()
	h := &Held{a: a, route: r, hashes: []uint64{mutation.Hash(collection, key)}}
	until, waited := time.Now().Add(a.o.LookupTimeout), wal.LSN(0)
	// As in append: a store that is slow or away must not keep blind writes to the
	// key waiting, unless there are always new ones.
	for waits := 0; ; waits++ {
		if err := a.keys.lock(ctx, h.hashes); err != nil {
			return err
		}
		h.upTo = a.buckets.get(h.hashes[0])
		if h.upTo == waited || r.target.Loop.Applied() >= h.upTo || waits >= lookupsMax {
			defer a.keys.unlock(h.hashes)
			if err := a.await(ctx, r, collection, key, h.upTo, until); err != nil {
				return err
			}
			return f(ctx, h)
		}
		a.keys.unlock(h.hashes)
		if err := a.await(ctx, r, collection, key, h.upTo, until); err != nil {
			return err
		}
		waited = h.upTo
	}
}

// await is awaitKey until a time.
func (a *Acceptor) await(ctx context.Context, r *route, collection string, key *walproxyv1.Key, lsn wal.LSN, until time.Time) error {
	ctx, cancel := context.WithDeadlineCause(ctx, until,
		fmt.Errorf("%w: sink %s has not applied LSN %d within %v", context.DeadlineExceeded, r.reads, lsn, a.o.LookupTimeout))
	defer cancel()
	err := a.awaitKey(ctx, r, collection, key, lsn)
	_, parked := errors.AsType[*ParkedError](err)
	switch {
	case err == nil || parked:
		return err
	case a.closing.Err() != nil:
		return wal.ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrVersionUnknown, err)
}

// Submit is Acceptor.Submit for a write to the held key alone, without a
// precondition or a request id.
func (h *Held) Submit(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	w, err := h.a.prepare(rec, nil)
	if err != nil {
		return nil, err
	}
	if len(w.hashes) != 1 || w.hashes[0] != h.hashes[0] || mutation.RequestID(w.record) != "" || len(w.keys) != 1 ||
		rec.GetMutation().GetPrecondition() != nil || w.retry() {
		return nil, &mutation.InvalidError{Field: "record", Reason: "is not a plain write to the key that is held"}
	}
	if err := w.encode(); err != nil {
		return nil, err
	}
	defer w.free()
	if _, err := h.a.enqueue(ctx, w); err != nil {
		return nil, err
	}
	h.a.notePending(w)
	return &Pending{ticket: w.ticket, route: w.route, result: Result{LSN: w.ticket.LSN}}, nil
}

// findKey is findRead for who reads the store otherwise than through its Reader.
func (a *Acceptor) findKey(collection string, key *walproxyv1.Key) (*route, *walproxyv1.Key, error) {
	key, err := mutation.CanonicalKey(key, a.o.KeyTypes(collection))
	if err != nil {
		return nil, nil, err
	}
	r, err := a.router.find(collection)
	return r, key, err
}
