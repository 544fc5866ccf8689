package accept

import (
	"context"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// Read waits for the key's pending writes to be applied and reads the record.
// mutation.ErrNotFound: it does not exist or has expired.
func (a *Acceptor) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	if err := a.enter(); err != nil {
		return nil, err
	}
	defer a.leave()
	r, key, err := a.findRead(collection, key)
	if err != nil {
		return nil, err
	}
	ctx, done := a.bound(ctx)
	defer done()
	doc, err := a.readApplied(ctx, r, collection, key, a.buckets.get(mutation.Hash(collection, key)))
	if err != nil {
		return nil, err
	}
	if doc.ExpiredAt(a.clock()) {
		return nil, mutation.ErrNotFound
	}
	return doc, nil
}

// ReadEvents is Read for events: up to limit of them from the from-th on.
func (a *Acceptor) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	if err := a.enter(); err != nil {
		return nil, err
	}
	defer a.leave()
	r, key, err := a.findRead(collection, key)
	if err != nil {
		return nil, err
	}
	ctx, done := a.bound(ctx)
	defer done()
	lsn := a.buckets.get(mutation.Hash(collection, key))
	var events []mutation.StoredEvent
	err = a.whileApplied(ctx, r, collection, key, lsn, func() (err error) {
		events, err = r.target.Reader.ReadEvents(ctx, collection, key, from, limit)
		return err
	})
	return events, err
}

func (a *Acceptor) findRead(collection string, key *walproxyv1.Key) (*route, *walproxyv1.Key, error) {
	key, err := mutation.CanonicalKey(key, a.o.KeyTypes(collection))
	if err != nil {
		return nil, nil, err
	}
	r, err := a.router.find(collection)
	if err != nil {
		return nil, nil, err
	}
	if r.target.Reader == nil {
		return nil, nil, fmt.Errorf("%w: %s", ErrNoReader, r.reads)
	}
	return r, key, nil
}

// readApplied reads a canonical key once lsn, its bucket's, is applied.
func (a *Acceptor) readApplied(ctx context.Context, r *route, collection string, key *walproxyv1.Key, lsn wal.LSN) (doc *mutation.Document, err error) {
	err = a.whileApplied(ctx, r, collection, key, lsn, func() (err error) {
		doc, err = r.target.Reader.Read(ctx, collection, key)
		if err == nil && doc == nil {
			return fmt.Errorf("sink %s: the read returned neither a record nor an error", r.reads)
		}
		return err
	})
	return doc, err
}

// whileApplied reads once lsn, of the key's bucket, is applied: again if a store
// that has lost what it had applied (sinks.Settler) was resumed meanwhile.
func (a *Acceptor) whileApplied(ctx context.Context, r *route, collection string, key *walproxyv1.Key, lsn wal.LSN, read func() error) error {
	for {
		turn := r.target.turn()
		if err := a.awaitKey(ctx, r, collection, key, lsn); err != nil {
			return err
		}
		readErr := read()
		// Its loop has taken back what was applied before the store was resumed.
		if err := a.waitApplied(ctx, r, collection, key, lsn); err != nil {
			return err
		}
		if r.target.turn() == turn {
			return readErr
		}
	}
}

// awaitKey waits until lsn, of the key's bucket, is passed, and makes sure that
// the key's writes went into the store: *ParkedError if one did not.
func (a *Acceptor) awaitKey(ctx context.Context, r *route, collection string, key *walproxyv1.Key, lsn wal.LSN) error {
	for {
		turn := r.target.turn()
		if err := a.waitApplied(ctx, r, collection, key, lsn); err != nil {
			return err
		}
		by, parked, err := r.target.Loop.Parked(collection, key)
		if err != nil {
			return err
		}
		if parked {
			return &ParkedError{Sink: r.reads, LSN: by}
		}
		if r.target.turn() == turn {
			return nil
		}
	}
}

func (t *Target) turn() uint64 {
	if t.Turn == nil {
		return 0
	}
	return t.Turn()
}

func (a *Acceptor) waitApplied(ctx context.Context, r *route, collection string, key *walproxyv1.Key, lsn wal.LSN) error {
	if lsn == 0 || r.target.Loop.Applied() >= lsn {
		return nil
	}
	if err := r.target.Loop.WaitKey(ctx, collection, key, lsn); err != nil {
		return fmt.Errorf("sink %s has not applied LSN %d: %w", r.reads, lsn, err)
	}
	return nil
}
