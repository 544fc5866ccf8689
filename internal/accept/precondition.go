package accept

import (
	"context"
	"errors"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// unsettledConflict is a conflict with a version that may not be durable yet.
type unsettledConflict struct {
	conflict ConflictError
	lsn      wal.LSN // of the write that made it so; 0: durable
}

func (e *unsettledConflict) Error() string { return e.conflict.Error() }

// settled returns a conflict once what it tells is durable: a client must not
// learn of a version that a crash takes back. It runs without the keys' locks.
func (a *Acceptor) settled(ctx context.Context, err error) error {
	conflict, ok := errors.AsType[*unsettledConflict](err)
	if !ok {
		return err
	}
	if conflict.lsn > a.log.Durable() {
		ctx, done := a.bound(ctx)
		defer done()
		if err := a.log.WaitDurable(ctx, conflict.lsn); err != nil {
			return err
		}
	}
	return &conflict.conflict
}

// checkPreconditions judges what w demands of its keys, whose locks are held.
func (a *Acceptor) checkPreconditions(ctx context.Context, w *write) error {
	w.notBefore, w.until = 0, 0
	for i := range w.keys {
		p := w.keys[i].mutations[0].GetPrecondition() // validated: only the first has one
		if p == nil {
			continue
		}
		if err := a.checkPrecondition(ctx, w, &w.keys[i], p); err != nil {
			return err
		}
	}
	return nil
}

func (a *Acceptor) checkPrecondition(ctx context.Context, w *write, k *keyWrites, p *walproxyv1.Precondition) error {
	now := a.clock()
	entry, _ := a.exact.get(k.hash, k.encoded, w.route.target.Loop.Applied())
	j := entry.known.judge(p, now)
	if !j.decided {
		doc, err := a.current(ctx, w.route, k)
		if err != nil {
			return err
		}
		// The clock again: what the store calls expired is so at accept as well.
		now, entry.lsn = a.clock(), 0
		k.found = knownOf(doc)
		j = k.found.judge(p, now)
	}
	if !j.holds {
		conflict := ConflictError{Version: j.found.version}
		if _, ok := p.GetKind().(*walproxyv1.Precondition_IfEventCount); ok {
			conflict.EventCount = j.found.events
		}
		return &unsettledConflict{conflict, entry.lsn}
	}
	w.notBefore = max(w.notBefore, now.UnixNano())
	if j.found.exists == exists && !j.found.expires.IsZero() {
		// A far expiry lies beyond what int64 nanoseconds can tell, and so
		// beyond any accepted time.
		if ends := j.found.expires; ends.Before(unixTime(1<<63 - 1)) {
			if nanos := ends.UnixNano(); w.until == 0 || nanos < w.until {
				w.until = nanos
			}
		}
	}
	return nil
}

// current reads a key's record from the store, as of all writes so far: it waits
// until the key's bucket is applied. nil: absent. Whatever goes wrong is
// ErrVersionUnknown, never "absent".
func (a *Acceptor) current(ctx context.Context, r *route, k *keyWrites) (*mutation.Document, error) {
	if r.target.Reader == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrVersionUnknown, ErrNoReader, r.reads)
	}
	ctx, done := a.bound(ctx)
	defer done()
	ctx, cancel := context.WithTimeoutCause(ctx, a.o.LookupTimeout,
		fmt.Errorf("%w: sink %s did not answer within %v", context.DeadlineExceeded, r.reads, a.o.LookupTimeout))
	defer cancel()
	doc, err := a.readApplied(ctx, r, k.collection, k.key, k.hash)
	switch {
	case err == nil:
		return doc, nil
	case errors.Is(err, mutation.ErrNotFound):
		return nil, nil
	case a.closing.Err() != nil:
		return nil, wal.ErrClosed
	}
	return nil, fmt.Errorf("%w: %w", ErrVersionUnknown, err)
}
