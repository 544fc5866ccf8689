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

// place is where a key's record is: the key, canonical, and its collection's route.
type place struct {
	*route
	collection string
	key        *walproxyv1.Key
}

func (p place) hash() uint64 { return mutation.Hash(p.collection, p.key) }

func (p place) readable() error {
	if p.target.Reader == nil {
		return fmt.Errorf("%w: %s", ErrNoReader, p.reads)
	}
	return nil
}

func (a *Acceptor) find(collection string, key *walproxyv1.Key) (place, error) {
	key, err := mutation.CanonicalKey(key, a.o.KeyTypes(collection))
	if err != nil {
		return place{}, err
	}
	r, err := a.router.Load().find(collection)
	return place{route: r, collection: collection, key: key}, err
}

// at calls f, which Close waits for, with the key's place. f's context ends with ctx
// and with the acceptor.
func (a *Acceptor) at(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, place) error) error {
	if err := a.enter(); err != nil {
		return err
	}
	defer a.leave()
	p, err := a.find(collection, key)
	if err != nil {
		return err
	}
	ctx, done := a.bound(ctx)
	defer done()
	return f(ctx, p)
}

// readApplied reads the record once lsn, of its bucket, is applied.
func (a *Acceptor) readApplied(ctx context.Context, p place, lsn wal.LSN) (doc *mutation.Document, err error) {
	err = a.whileApplied(ctx, p, lsn, func() (err error) {
		doc, err = p.stored(ctx)
		return err
	})
	return doc, err
}

// stored is the record as the store has it.
func (p place) stored(ctx context.Context) (*mutation.Document, error) {
	doc, err := p.target.Reader.Read(ctx, p.collection, p.key)
	if err == nil && doc == nil {
		return nil, fmt.Errorf("sink %s: the read returned neither a record nor an error", p.reads)
	}
	return doc, err
}

// whileApplied reads once lsn, of the key's bucket, is applied: again if a store
// that has lost what it had applied (sinks.Settler) was resumed meanwhile.
func (a *Acceptor) whileApplied(ctx context.Context, p place, lsn wal.LSN, read func() error) error {
	for {
		turn := p.target.turn()
		if err := a.awaitKey(ctx, p, lsn); err != nil {
			return err
		}
		readErr := read()
		// Its loop has taken back what was applied before the store was resumed.
		if err := waitApplied(ctx, p, lsn); err != nil {
			return err
		}
		if p.target.turn() == turn {
			return readErr
		}
	}
}

// awaitKey waits until lsn, of the key's bucket, is passed, and makes sure that
// the key's writes went into the store: *ParkedError if one did not.
func (a *Acceptor) awaitKey(ctx context.Context, p place, lsn wal.LSN) error {
	for {
		turn := p.target.turn()
		if err := waitApplied(ctx, p, lsn); err != nil {
			return err
		}
		by, parked, err := p.target.Loop.Parked(p.collection, p.key)
		if err != nil {
			return err
		}
		if parked {
			return &ParkedError{Sink: p.reads, LSN: by}
		}
		if p.target.turn() == turn {
			return nil
		}
	}
}

func waitApplied(ctx context.Context, p place, lsn wal.LSN) error {
	if lsn == 0 || p.target.Loop.Applied() >= lsn {
		return nil
	}
	if err := p.target.Loop.WaitKey(ctx, p.collection, p.key, lsn); err != nil {
		return fmt.Errorf("sink %s has not applied LSN %d: %w", p.reads, lsn, err)
	}
	return nil
}

// awaitUntil is awaitKey until a time; ErrVersionUnknown if it is over.
func (a *Acceptor) awaitUntil(ctx context.Context, p place, lsn wal.LSN, until time.Time) error {
	ctx, cancel := context.WithDeadlineCause(ctx, until,
		fmt.Errorf("%w: sink %s has not applied LSN %d within %v", context.DeadlineExceeded, p.reads, lsn, a.o.LookupTimeout))
	defer cancel()
	err := a.awaitKey(ctx, p, lsn)
	if _, parked := errors.AsType[*ParkedError](err); err == nil || parked {
		return err
	}
	return a.unknown(err)
}

// readUntil is readApplied until a time, nil for an absent record; whatever goes
// wrong is ErrVersionUnknown, never "absent". A zero time is set, to LookupTimeout
// from now.
func (a *Acceptor) readUntil(ctx context.Context, p place, lsn wal.LSN, until *time.Time) (*mutation.Document, error) {
	if until.IsZero() {
		*until = time.Now().Add(a.o.LookupTimeout)
	}
	ctx, done := a.bound(ctx)
	defer done()
	ctx, cancel := context.WithDeadlineCause(ctx, *until,
		fmt.Errorf("%w: sink %s did not answer within %v", context.DeadlineExceeded, p.reads, a.o.LookupTimeout))
	defer cancel()
	doc, err := a.readApplied(ctx, p, lsn)
	switch {
	case errors.Is(err, mutation.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, a.unknown(err)
	}
	return doc, nil
}

// unknown is the answer where a record's state could not be learned.
func (a *Acceptor) unknown(err error) error {
	if a.closing.Err() != nil {
		return wal.ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrVersionUnknown, err)
}

func (t *Target) turn() uint64 {
	if t.Turn == nil {
		return 0
	}
	return t.Turn()
}
