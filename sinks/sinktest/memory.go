package sinktest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// Memory is a small correct sink: a store in memory and a handle on it. It is
// written against the public contract only and passes the suite, so it is where
// to start a sink of your own. All methods may be called concurrently; Apply
// holds one lock for all lanes, which a real store would do per lane.
type Memory struct {
	store *memoryStore
	now   func() time.Time

	mu     sync.RWMutex
	closed bool
}

// memoryStore is what outlives a handle: the "database".
type memoryStore struct {
	identity uuid.UUID

	mu         sync.RWMutex
	claimed    bool // checkpoint exists
	checkpoint sinks.Checkpoint
	rows       map[string]row
}

// row is a record and its event stream. Rows are replaced, never changed.
type row struct {
	document *mutation.Document
	events   []mutation.StoredEvent
}

// NewMemory returns a handle on a new, empty store.
func NewMemory() *Memory {
	return &Memory{
		store: &memoryStore{identity: uuid.New(), rows: map[string]row{}},
		now:   time.Now,
	}
}

// Reopen returns another handle on the same store, as a process that starts
// after a crash has one. The old handle keeps working until it is fenced.
func (m *Memory) Reopen() *Memory { return &Memory{store: m.store, now: m.now} }

// WithClock makes reads judge expiry by now; call it before any other method.
func (m *Memory) WithClock(now func() time.Time) *Memory {
	m.now = now
	return m
}

// use keeps Close waiting until the returned function is called.
func (m *Memory) use() (done func(), err error) {
	m.mu.RLock()
	if m.closed {
		m.mu.RUnlock()
		return nil, sinks.ErrClosed
	}
	return m.mu.RUnlock, nil
}

// Resume implements sinks.Sink.
func (m *Memory) Resume(_ context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	done, err := m.use()
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer done()
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.claimed && !claim.Fresh:
		return sinks.Checkpoint{}, sinks.ErrNoCheckpoint
	case !s.claimed && claim.Lanes < 1:
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, fmt.Errorf("claim: lanes: %d, want at least 1", claim.Lanes))
	case !s.claimed:
		s.claimed = true
		s.checkpoint = sinks.Checkpoint{Stream: claim.Stream, Lanes: make([]sinks.Point, claim.Lanes)}
	case s.checkpoint.Stream != claim.Stream:
		return sinks.Checkpoint{}, fmt.Errorf("%w: it has %v, the claim is for %v", sinks.ErrForeignStream, s.checkpoint.Stream, claim.Stream)
	}
	s.checkpoint.Epoch++
	c := s.checkpoint
	c.Lanes = slices.Clone(c.Lanes)
	return c, nil
}

// Position implements sinks.Positioner.
func (m *Memory) Position(context.Context) (sinks.Checkpoint, error) {
	done, err := m.use()
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer done()
	m.store.mu.RLock()
	defer m.store.mu.RUnlock()
	if !m.store.claimed {
		return sinks.Checkpoint{}, sinks.ErrNoCheckpoint
	}
	c := m.store.checkpoint
	c.Lanes = slices.Clone(c.Lanes)
	return c, nil
}

// Rebase implements sinks.Rebaser.
func (m *Memory) Rebase(_ context.Context, _ string, from, to sinks.Checkpoint) error {
	done, err := m.use()
	if err != nil {
		return err
	}
	defer done()
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	var stored sinks.Checkpoint
	if s.claimed {
		stored = s.checkpoint
	}
	switch {
	case stored.SamePlace(to):
		return nil
	case !stored.SamePlace(from):
		return sinks.ErrMoved
	}
	s.claimed = true
	s.checkpoint = sinks.Checkpoint{Stream: to.Stream, Epoch: s.checkpoint.Epoch + 1, Lanes: slices.Clone(to.Lanes)}
	return nil
}

// LoseCheckpoint drops the checkpoint, as somebody does who deletes its row.
func (m *Memory) LoseCheckpoint() {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	m.store.claimed = false
}

// Apply implements sinks.Sink.
func (m *Memory) Apply(_ context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	done, err := m.use()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := b.Validate(); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	next, applied, err := s.checkpoint.Begin(b)
	if err != nil {
		return nil, err
	}
	if applied {
		return sinks.Results(len(b.Records), sinks.Applied, nil), nil
	}
	// The transaction: changed rows are staged here, and the last lines make
	// them and the checkpoint visible together.
	staged := map[string]row{}
	for i, r := range b.Records {
		if err := s.stage(staged, &r); err != nil {
			var no *mutation.RejectedError
			if !errors.As(err, &no) {
				return nil, err
			}
			results := sinks.Results(len(b.Records), sinks.Retry, errNeighbour)
			results[i] = sinks.Result{Outcome: sinks.Rejected, Err: err}
			return results, nil
		}
	}
	maps.Copy(s.rows, staged)
	maps.DeleteFunc(s.rows, func(_ string, r row) bool { return r.document == nil })
	s.checkpoint = next
	return sinks.Results(len(b.Records), sinks.Applied, nil), nil
}

// stage does what r says to the rows, as staged so far.
func (s *memoryStore) stage(staged map[string]row, r *sinks.Record) error {
	mutations, err := mutation.Mutations(r.Body)
	if err != nil { // a kind this store does not know: no record is to blame
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("LSN %v: %w", r.LSN, err))
	}
	for _, m := range mutations {
		key := string(mutation.AppendKey(nil, m.GetCollection(), m.GetKey()))
		old, ok := staged[key]
		if !ok {
			old = s.rows[key]
		}
		next, changed, err := old.after(m, r)
		if err != nil {
			return err
		}
		if changed {
			staged[key] = next
		}
	}
	return nil
}

// after returns the row that m, of rec, makes of r.
func (r row) after(m *walproxyv1.Mutation, rec *sinks.Record) (next row, changed bool, err error) {
	effect, err := mutation.Apply(r.document, m, rec.LSN, rec.Accepted)
	if err != nil {
		return r, false, fmt.Errorf("LSN %v: %w", rec.LSN, err)
	}
	if effect.Unchanged {
		return r, false, nil
	}
	if effect.Document != nil { // one that is too large rejects its record
		if _, err := mutation.EncodeDocument(nil, effect.Document); err != nil {
			return r, false, fmt.Errorf("LSN %v: %w", rec.LSN, err)
		}
	}
	return r.with(effect, rec.LSN), true, nil
}

// with returns the row that effect makes of r.
func (r row) with(effect *mutation.Effect, lsn sinks.LSN) row {
	if effect.Document == nil {
		return row{}
	}
	next := row{document: effect.Document}
	if !effect.DropEvents {
		next.events = slices.Clip(r.events)
	}
	for i, e := range effect.Events {
		next.events = append(next.events, mutation.StoredEvent{
			Number: effect.FirstEvent + uint64(i), LSN: lsn, Event: e,
		})
	}
	return next
}

// find returns the row of a live record.
func (m *Memory) find(collection string, key *walproxyv1.Key) (row, error) {
	done, err := m.use()
	if err != nil {
		return row{}, err
	}
	defer done()
	m.store.mu.RLock()
	defer m.store.mu.RUnlock()
	r := m.store.rows[string(mutation.AppendKey(nil, collection, key))]
	if r.document == nil || r.document.ExpiredAt(m.now()) {
		return row{}, mutation.ErrNotFound
	}
	return r, nil
}

// Read implements sinks.Reader.
func (m *Memory) Read(_ context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	r, err := m.find(collection, key)
	return r.document, err
}

// ReadEvents implements sinks.Reader.
func (m *Memory) ReadEvents(_ context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	r, err := m.find(collection, key)
	if err != nil {
		return nil, err
	}
	return r.page(from, limit), nil
}

func (r row) page(from uint64, limit int) []mutation.StoredEvent {
	events := slices.DeleteFunc(slices.Clone(r.events), func(e mutation.StoredEvent) bool { return e.Number < from })
	return events[:min(len(events), max(limit, 0))]
}

// Identity implements sinks.Identifier.
func (m *Memory) Identity(context.Context) (string, error) {
	done, err := m.use()
	if err != nil {
		return "", err
	}
	defer done()
	return m.store.identity.String(), nil
}

// Close implements sinks.Sink. The store stays: see Reopen.
func (m *Memory) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

var (
	_ sinks.Sink       = (*Memory)(nil)
	_ sinks.Reader     = (*Memory)(nil)
	_ sinks.Identifier = (*Memory)(nil)
	_ sinks.Rebaser    = (*Memory)(nil)
)
