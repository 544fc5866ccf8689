package accept

import (
	"context"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/tracing"
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
	return a.at(ctx, collection, key, func(ctx context.Context, p place) error {
		return a.whileApplied(ctx, p, a.buckets.get(p.hash()), func() error { return f(ctx) })
	})
}

// Hold calls f under the key's lock once every write to the key is applied where
// the collection is read: later ones wait until f returns. So what f does to the
// record in the store comes between the write before and the one after it. ctx
// bounds the wait and, with the acceptor's own end, f.
//
// Errors of Hold's own mean that f was not called: *ParkedError, ErrVersionUnknown
// if the writes were not applied in time, and those of Submit.
func (a *Acceptor) Hold(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, *Held) error) error {
	return a.at(ctx, collection, key, func(ctx context.Context, p place) error { return a.hold(ctx, p, f) })
}

func (a *Acceptor) hold(ctx context.Context, p place, f func(context.Context, *Held) error) error {
	h := &Held{a: a, route: p.route, hashes: []uint64{p.hash()}}
	until, waited := time.Now().Add(a.o.LookupTimeout), wal.LSN(0)
	// As in append: a store that is slow or away must not keep blind writes to the
	// key waiting, unless there are always new ones.
	for waits := 0; ; waits++ {
		if err := a.keys.lock(ctx, h.hashes); err != nil {
			return err
		}
		h.upTo = a.buckets.get(h.hashes[0])
		if h.upTo == waited || p.target.Loop.Applied() >= h.upTo || waits >= lookupsMax {
			defer a.keys.unlock(h.hashes)
			if err := a.awaitUntil(ctx, p, h.upTo, until); err != nil {
				return err
			}
			return f(ctx, h)
		}
		a.keys.unlock(h.hashes)
		if err := a.awaitUntil(ctx, p, h.upTo, until); err != nil {
			return err
		}
		waited = h.upTo
	}
}

// Submit is Acceptor.Submit for a write to the held key alone, without a
// precondition or a request id.
func (h *Held) Submit(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	if h.a.tracer == nil {
		return h.submit(ctx, rec)
	}
	ctx, span := h.a.startSpan(ctx, rec)
	p, err := h.submit(ctx, rec)
	h.a.follow(span, p, err)
	return p, err
}

func (h *Held) submit(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	w, err := h.a.prepare(rec, nil)
	if err != nil {
		return nil, err
	}
	h.a.trace(ctx, w)
	if len(w.hashes) != 1 || w.hashes[0] != h.hashes[0] || mutation.RequestID(w.record) != "" || len(w.keys) != 1 ||
		rec.GetMutation().GetPrecondition() != nil || w.retry() {
		return nil, &mutation.InvalidError{Field: "record", Reason: "is not a plain write to the key that is held"}
	}
	if err := w.encode(); err != nil {
		return nil, err
	}
	defer w.free()
	leave, err := h.a.pass(ctx, w.collections(), false) // others wait for the key
	if err != nil {
		return nil, err
	}
	defer leave()
	if _, err := h.a.enqueue(ctx, w); err != nil {
		return nil, err
	}
	h.a.notePending(w)
	h.a.event(ctx, tracing.Appended)
	return &Pending{ticket: w.ticket, route: w.route, result: Result{LSN: w.ticket.LSN}}, nil
}
