package accept

import (
	"context"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// Read waits for the key's pending writes to be applied and reads the record.
// mutation.ErrNotFound: it does not exist or has expired.
func (a *Acceptor) Read(ctx context.Context, collection string, key *walproxyv1.Key) (doc *mutation.Document, err error) {
	err = a.at(ctx, collection, key, func(ctx context.Context, p place) (err error) {
		if err := p.readable(); err != nil {
			return err
		}
		doc, err = a.readApplied(ctx, p, a.buckets.get(p.hash()))
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case doc.ExpiredAt(a.clock()):
		return nil, mutation.ErrNotFound
	}
	return doc, nil
}

// ReadApplied reads the record as the store has it now, without waiting: it may lack
// writes that were acknowledged. mutation.ErrNotFound as for Read.
func (a *Acceptor) ReadApplied(ctx context.Context, collection string, key *walproxyv1.Key) (doc *mutation.Document, err error) {
	err = a.at(ctx, collection, key, func(ctx context.Context, p place) (err error) {
		if err := p.readable(); err != nil {
			return err
		}
		doc, err = p.stored(ctx)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case doc.ExpiredAt(a.clock()):
		return nil, mutation.ErrNotFound
	}
	return doc, nil
}

// ReadEventsApplied is ReadApplied for events.
func (a *Acceptor) ReadEventsApplied(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) (events []mutation.StoredEvent, err error) {
	err = a.at(ctx, collection, key, func(ctx context.Context, p place) (err error) {
		if err := p.readable(); err != nil {
			return err
		}
		events, err = p.target.Reader.ReadEvents(ctx, p.collection, p.key, from, limit)
		return err
	})
	return events, err
}

// ReadEvents is Read for events: up to limit of them from the from-th on.
func (a *Acceptor) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) (events []mutation.StoredEvent, err error) {
	err = a.at(ctx, collection, key, func(ctx context.Context, p place) error {
		if err := p.readable(); err != nil {
			return err
		}
		return a.whileApplied(ctx, p, a.buckets.get(p.hash()), func() (err error) {
			events, err = p.target.Reader.ReadEvents(ctx, p.collection, p.key, from, limit)
			return err
		})
	})
	return events, err
}
