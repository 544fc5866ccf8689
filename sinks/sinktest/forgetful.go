package sinktest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// Forgetful is a correct sink on a store that acknowledges what it has not made
// durable yet, as some fast stores do: a sinks.Settler. When the store restarts
// each record that was written since the settled point falls back to what it was at
// the settled point or at any time since; a deleted one is there again, and as long as
// nothing is settled the checkpoint itself may be gone. Every record keeps a guard, the
// LSN of its last write, so that a write that it has is not done again. All methods may
// be called concurrently.
type Forgetful struct {
	store *forgetfulStore
	news  chan struct{}
	every int // so many Applies make it settle

	// Guarded by the store's mutex.
	at       sinks.Checkpoint // of this owner, in memory
	restarts int              // of the store, when this owner resumed
	samples  []sample         // oldest first: see settleLocked
	closed   bool
}

// forgetfulStore is what outlives a handle and survives a restart, but for what it
// forgets.
type forgetfulStore struct {
	mu      sync.Mutex
	claimed bool
	stream  uuid.UUID
	epoch   uint64
	lanes   int
	settled sinks.Point
	before  sinks.LSN // where that was before
	// rows by mutation.AppendKey; the versions of each since the settled point, the
	// first as it was there.
	rows     map[string][]guarded
	restarts int
	applies  int
}

// guarded is a version of a record. One without a document was deleted, or never
// was: guard 0.
type guarded struct {
	row
	guard sinks.LSN
	apply int // the number of the Apply that made it
}

// sample is where an owner was after so many Applies.
type sample struct {
	at      sinks.Point
	applies int
}

// NewForgetful returns a handle on a new, empty store.
func NewForgetful() *Forgetful {
	return (&Forgetful{store: &forgetfulStore{rows: map[string][]guarded{}}, every: 5}).Reopen()
}

// SettleEvery says after how many Applies something settles, 5 by default; 0: only
// when Settle is called. It is called before any other method.
func (f *Forgetful) SettleEvery(applies int) *Forgetful {
	f.every = applies
	return f
}

// Reopen returns another handle on the same store.
func (f *Forgetful) Reopen() *Forgetful {
	return &Forgetful{store: f.store, every: f.every, news: make(chan struct{}, 1)}
}

// Restart makes the store forget. random decides what; nil: all that it can.
func (f *Forgetful) Restart(random *rand.Rand) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts++
	if s.settled.LSN == 0 && (random == nil || random.IntN(2) == 0) {
		s.claimed = false // the checkpoint is written like everything else
	}
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		versions := s.rows[name]
		keep := 1
		if random != nil {
			keep += random.IntN(len(versions))
		}
		s.rows[name] = versions[:keep]
	}
	f.tell()
}

func (f *Forgetful) tell() {
	select {
	case f.news <- struct{}{}:
	default: // it is known
	}
}

// Resume implements sinks.Sink.
func (f *Forgetful) Resume(_ context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.closed:
		return sinks.Checkpoint{}, sinks.ErrClosed
	case !s.claimed && !claim.Fresh:
		return sinks.Checkpoint{}, sinks.ErrNoCheckpoint
	case !s.claimed && claim.Lanes < 1:
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, fmt.Errorf("claim: lanes: %d, want at least 1", claim.Lanes))
	case !s.claimed:
		s.claimed, s.stream, s.lanes = true, claim.Stream, claim.Lanes
	case s.stream != claim.Stream:
		return sinks.Checkpoint{}, fmt.Errorf("%w: it has %v, the claim is for %v", sinks.ErrForeignStream, s.stream, claim.Stream)
	}
	s.epoch++
	f.at = sinks.Checkpoint{Stream: s.stream, Epoch: s.epoch, Lanes: slices.Repeat([]sinks.Point{s.settled}, s.lanes)}
	f.restarts, f.samples = s.restarts, nil
	c := f.at
	c.Lanes = slices.Clone(c.Lanes)
	return c, nil
}

// rewoundLocked is Rewound with the store locked.
func (f *Forgetful) rewoundLocked() error {
	if f.restarts == f.store.restarts {
		return nil
	}
	return fmt.Errorf("%w: it has restarted", sinks.ErrRewound)
}

// Settled implements sinks.Settler.
func (f *Forgetful) Settled() sinks.LSN {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	return f.store.before
}

// Rewound implements sinks.Settler.
func (f *Forgetful) Rewound() error {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	return f.rewoundLocked()
}

// News implements sinks.Settler.
func (f *Forgetful) News() <-chan struct{} { return f.news }

// Apply implements sinks.Sink.
func (f *Forgetful) Apply(_ context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.closed {
		return nil, sinks.ErrClosed
	}
	if f.at.Epoch != s.epoch {
		return nil, fmt.Errorf("%w: the store has epoch %d", sinks.ErrFenced, s.epoch)
	}
	next, done, err := f.at.Begin(b)
	if err != nil {
		return nil, err
	}
	if err := f.rewoundLocked(); err != nil {
		return nil, err
	}
	s.applies++
	if !done {
		if results, err := s.apply(b.Records); results != nil || err != nil {
			return results, err
		}
		f.at = next
		if b.Relane {
			s.lanes = len(b.Moves)
		}
	}
	if f.every > 0 && s.applies%f.every == 0 {
		f.settleLocked()
	}
	return sinks.Results(len(b.Records), sinks.Applied, nil), nil
}

// apply does all records or, with results that say why, none.
func (s *forgetfulStore) apply(records []sinks.Record) ([]sinks.Result, error) {
	staged := map[string]guarded{}
	for i, r := range records {
		if err := s.stage(staged, &r); err != nil {
			var no *mutation.RejectedError
			if !errors.As(err, &no) {
				return nil, err
			}
			results := sinks.Results(len(records), sinks.Retry, errNeighbour)
			results[i] = sinks.Result{Outcome: sinks.Rejected, Err: err}
			return results, nil
		}
	}
	for name, version := range staged {
		if len(s.rows[name]) == 0 {
			s.rows[name] = []guarded{{}} // it was absent
		}
		s.rows[name] = append(s.rows[name], version)
	}
	return nil, nil
}

// stage puts what r makes of its records, as far as they do not have it, into staged.
func (s *forgetfulStore) stage(staged map[string]guarded, r *sinks.Record) error {
	mutations, err := mutation.Mutations(r.Body)
	if err != nil {
		return sinks.WithOutcome(sinks.Halt, err)
	}
	rows := map[string]row{} // of this record: a group may write a key more than once
	for _, m := range mutations {
		name := string(mutation.AppendKey(nil, m.GetCollection(), m.GetKey()))
		current, ok := staged[name]
		if !ok {
			current = last(s.rows[name])
		}
		if current.guard >= r.LSN {
			continue // a part of it that was not lost
		}
		of, ok := rows[name]
		if !ok {
			of = current.row
		}
		if rows[name], _, err = of.after(m, r); err != nil {
			return err
		}
	}
	for name, of := range rows {
		staged[name] = guarded{of, r.LSN, s.applies}
	}
	return nil
}

func last(versions []guarded) guarded {
	if len(versions) == 0 {
		return guarded{}
	}
	return versions[len(versions)-1]
}

// Settle makes durable all that was applied; the store can have it for good.
func (f *Forgetful) Settle() {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	for range 4 {
		f.settleLocked()
	}
}

// settleLocked makes durable what was applied some settles ago. What is said to be settled
// is one of these steps behind that again, for the log is freed by it.
func (f *Forgetful) settleLocked() {
	s := f.store
	if f.rewoundLocked() != nil || f.at.Epoch != s.epoch {
		return // what this owner applied may be gone
	}
	f.samples = append(f.samples, sample{f.at.Low(), s.applies})
	if len(f.samples) < 3 {
		return
	}
	s.before = s.settled.LSN
	durable := f.samples[0]
	if durable.at.LSN > s.settled.LSN {
		s.settled = durable.at
	}
	f.samples = f.samples[1:]
	for name, versions := range s.rows {
		// By time, not by LSN: of a batch across the settled point all is durable.
		for len(versions) > 1 && versions[1].apply <= durable.applies {
			versions = versions[1:]
		}
		s.rows[name] = versions
		// A lane may be ahead of the settled point: what is behind a tombstone of it
		// would be done again.
		if only := versions[0]; len(versions) == 1 && only.document == nil && only.guard <= s.settled.LSN {
			delete(s.rows, name)
		}
	}
	f.tell()
}

// Close implements sinks.Sink.
func (f *Forgetful) Close(context.Context) error {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	f.closed = true
	return nil
}

// Read implements sinks.Reader. What was read would be stale once the store has
// forgotten: ErrRewound.
func (f *Forgetful) Read(_ context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	r, err := f.read(collection, key)
	return r.document, err
}

// ReadEvents implements sinks.Reader.
func (f *Forgetful) ReadEvents(_ context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	r, err := f.read(collection, key)
	if err != nil {
		return nil, err
	}
	return r.page(from, limit), nil
}

func (f *Forgetful) read(collection string, key *walproxyv1.Key) (row, error) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.closed {
		return row{}, sinks.ErrClosed
	}
	if err := f.rewoundLocked(); err != nil {
		return row{}, err
	}
	r := last(s.rows[string(mutation.AppendKey(nil, collection, key))]).row
	if r.document == nil || r.document.ExpiredAt(time.Now()) {
		return row{}, mutation.ErrNotFound
	}
	return r, nil
}

var (
	_ sinks.Settler = (*Forgetful)(nil)
	_ sinks.Reader  = (*Forgetful)(nil)
)
