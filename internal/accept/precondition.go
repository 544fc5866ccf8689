package accept

import (
	"context"
	"errors"
	"fmt"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
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

// checkPreconditions judges what w demands of its keys, whose locks are held. It
// returns a key that has to be looked up first.
func (a *Acceptor) checkPreconditions(w *write) (missing *keyWrites, err error) {
	w.notBefore, w.until = 0, 0
	if w.retry() {
		return nil, nil // it was accepted long since; the sink checks it
	}
	for i := range w.keys {
		p := w.keys[i].mutations[0].GetPrecondition() // validated: only the first has one
		if p == nil {
			continue
		}
		if decided, err := a.checkPrecondition(w, &w.keys[i], p); err != nil {
			return nil, err
		} else if !decided {
			return &w.keys[i], nil
		}
	}
	return nil, nil
}

func (a *Acceptor) checkPrecondition(w *write, k *keyWrites, p *walproxyv1.Precondition) (decided bool, err error) {
	// Later than any lookup: what the store calls expired is so at accept as well.
	now := a.clock()
	entry, _ := a.exact.get(k.hash, k.encoded, w.route.target.Loop.Applied())
	j := entry.known.judge(p, now)
	k.prior = known{}
	if !j.decided {
		// The lookup is as of now: a later write to the key is known by itself, or
		// asks for another lookup.
		at := a.buckets.get(k.hash)
		if !k.looked || !k.held && at != k.foundAt {
			k.foundAt, k.looked = at, false
			return false, nil
		}
		k.prior, entry.lsn = k.found, 0
		j = k.found.judge(p, now)
	}
	if !j.holds {
		conflict := ConflictError{Version: j.found.version}
		if _, ok := p.GetKind().(*walproxyv1.Precondition_IfEventCount); ok {
			conflict.EventCount = j.found.events
		}
		return true, &unsettledConflict{conflict, entry.lsn}
	}
	w.notBefore = max(w.notBefore, now.UnixNano())
	if j.found.exists == exists {
		w.endsBy(j.found.expires)
	}
	return true, nil
}

// endsBy notes that what w takes for granted holds until a record expires; zero:
// it never does.
func (w *write) endsBy(expires time.Time) {
	// A far expiry lies beyond what int64 nanoseconds can tell, and so beyond any
	// accepted time.
	if expires.IsZero() || !expires.Before(unixTime(1<<63-1)) {
		return
	}
	if nanos := expires.UnixNano(); w.until == 0 || nanos < w.until {
		w.until = nanos
	}
}

// look reads k's record from the store, as of k.foundAt: it waits until that is
// applied. Whatever goes wrong is ErrVersionUnknown, never
// "absent". held says that the key's lock is held.
func (a *Acceptor) look(ctx context.Context, w *write, k *keyWrites, held bool) error {
	at := place{route: w.route, collection: k.collection, key: k.key}
	if err := at.readable(); err != nil {
		return fmt.Errorf("%w: %w", ErrVersionUnknown, err)
	}
	doc, err := a.readUntil(ctx, at, k.foundAt, &w.lookUntil)
	if err != nil {
		return err
	}
	k.found, k.looked, k.held = knownOf(doc), true, held
	return nil
}
