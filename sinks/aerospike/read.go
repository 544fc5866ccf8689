package aerospike

import (
	"context"
	"errors"
	"fmt"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// Read implements sinks.Reader: one keyed read, events included. A record that was
// not written through walproxy has version 0.
func (s *Sink) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	r, guard, err := s.record(ctx, collection, key)
	if err != nil {
		return nil, err
	}
	return documentOf(r, guard, time.Now())
}

// ReadEvents implements sinks.Reader.
func (s *Sink) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	from = max(from, 1)
	if limit < 1 {
		return nil, nil
	}
	r, _, err := s.record(ctx, collection, key, // and its guard
		as.GetBinOp(binDead), as.ListGetRangeOp(binEvents, int(from-1), limit))
	if err != nil {
		return nil, err
	}
	if r.Bins[binDead] != nil {
		return nil, mutation.ErrNotFound
	}
	items, _ := r.Bins[binEvents].([]any)
	events := make([]mutation.StoredEvent, len(items))
	for i, item := range items {
		if events[i], err = fromEvent(item, from+uint64(i)); err != nil {
			return nil, fmt.Errorf("sink aerospike: %w", err)
		}
	}
	return events, nil
}

// record reads a record, whole or by ops that read, and says what its guard is
// called.
func (s *Sink) record(ctx context.Context, collection string, key *walproxyv1.Key, ops ...*as.Operation) (*as.Record, string, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return nil, "", err
	}
	defer leave()
	guard, err := s.owner.guard(ctx)
	if err != nil {
		return nil, "", err
	}
	k, at, err := s.o.keyOf(collection, key)
	if err != nil { // nothing can ever have been written there
		return nil, "", fmt.Errorf("%w: %w", mutation.ErrNotFound, err)
	}
	client, err := s.client(ctx)
	if err != nil {
		return nil, "", err
	}
	if len(ops) > 0 && guard != "" {
		ops = append(ops, as.GetBinOp(guard))
	}
	// Asked for before the read: what was written until now it has to find.
	floor := s.readFloor(at.Place, [20]byte(k.Digest()))
	r, err := s.get(ctx, client, k, ops)
	absent := codeOf(err) == types.KEY_NOT_FOUND_ERROR
	if err != nil && !absent {
		return nil, "", err
	}
	if absent && floor > 0 {
		// What it had may have settled since, and its tombstone be gone.
		floor = min(floor, s.readFloor(at.Place, [20]byte(k.Digest())))
	}
	if floor > 0 && (absent || guardOf(r, guard) < floor) {
		return nil, "", sinks.WithOutcome(sinks.Retry, fmt.Errorf("%w: it has version %v, and had %v", errRolledBack, guardOf(r, guard), floor))
	}
	if absent {
		return nil, "", mutation.ErrNotFound
	}
	return r, guard, nil
}

// errRolledBack: a node was restarted and has lost what it acknowledged.
var errRolledBack = errors.New("sink aerospike: the record is older than it was: a node has lost what it acknowledged, and it is being applied again")

// guardOf is the LSN of a record's last write, 0 without one.
func guardOf(r *as.Record, guard string) sinks.LSN {
	if r == nil {
		return 0
	}
	lsn, _ := r.Bins[guard].(int)
	return sinks.LSN(lsn)
}

// get is one read of the cluster.
func (s *Sink) get(ctx context.Context, client *as.Client, key *as.Key, ops []*as.Operation) (*as.Record, error) {
	policy, err := s.readPolicy(ctx)
	if err != nil {
		return nil, err
	}
	return wait(ctx, s, notSent, func() (*as.Record, error) {
		var r *as.Record
		var err as.Error
		if len(ops) == 0 {
			r, err = client.Get(policy, key)
		} else {
			p := as.NewWritePolicy(0, 0)
			p.BasePolicy = *policy
			r, err = client.Operate(p, key, ops...)
		}
		if err != nil {
			return nil, judge(err, notSent)
		}
		if r == nil {
			return nil, errors.New("sink aerospike: an answer without a record")
		}
		return r, nil
	})
}

var _ sinks.Reader = (*Sink)(nil)
