package pebble

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/sinks"
)

// load reads what the store holds about itself, or creates it.
func (s *Sink) load() error {
	format, found, err := s.get(metaKey("format"))
	if err != nil {
		return err
	}
	switch {
	case !found && s.readOnly:
		return ErrNoStore
	case !found:
		return s.create()
	}
	if err := decodeFormat(format); err != nil {
		return err
	}
	identity, found, err := s.get(metaKey("identity"))
	if err != nil {
		return err
	}
	if !found {
		return corrupt("identity", "missing")
	}
	if s.identity, err = decodeIdentity(identity); err != nil {
		return err
	}
	return s.loadCheckpoint()
}

// create makes an empty database a store.
func (s *Sink) create() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if used {
		return fmt.Errorf("%w: the directory holds another Pebble database", ErrFormat)
	}
	s.identity = uuid.New()
	b := s.db.NewBatch()
	if err := errors.Join(
		b.Set(metaKey("format"), encodeFormat(), nil),
		b.Set(metaKey("identity"), s.identity[:], nil),
	); err != nil {
		return err
	}
	return s.db.Apply(b, pebble.Sync)
}

func (s *Sink) loadCheckpoint() error {
	enc, found, err := s.get(metaKey("claim"))
	if err != nil || !found {
		return err
	}
	c, err := decodeClaim(enc)
	if err != nil {
		return err
	}
	checkpoint := sinks.Checkpoint{Stream: c.stream, Epoch: c.epoch, Lanes: make([]sinks.Point, c.lanes)}
	for lane := range checkpoint.Lanes {
		enc, found, err := s.get(laneKey(lane))
		if err != nil {
			return err
		}
		if !found {
			return corrupt("lane", "the checkpoint of lane %d of %d is missing", lane, c.lanes)
		}
		if checkpoint.Lanes[lane], err = decodePoint(enc); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.claimed, s.mu.checkpoint = true, checkpoint
	return nil
}

// get returns a copy of the value of key.
func (s *Sink) get(key []byte) (value []byte, found bool, err error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value = slices.Clone(v)
	return value, true, closer.Close()
}

// Resume implements sinks.Sink. It waits for batches of the older epoch that are
// still at work: none of them commits after Resume has returned.
func (s *Sink) Resume(ctx context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	leave, err := s.enter()
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	release, err := s.gate.all(ctx, s.stop)
	if err != nil {
		leave()
		return sinks.Checkpoint{}, notBegun(err)
	}
	return run(ctx, s, func() (sinks.Checkpoint, error) {
		defer leave()
		defer release()
		return s.resume(c)
	})
}

// Position implements sinks.Positioner.
func (s *Sink) Position(context.Context) (sinks.Checkpoint, error) {
	leave, err := s.enter()
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.claimed {
		return sinks.Checkpoint{}, sinks.ErrNoCheckpoint
	}
	c := s.mu.checkpoint
	c.Lanes = slices.Clone(c.Lanes)
	return c, nil
}

// resume runs with all lanes taken.
func (s *Sink) resume(c sinks.Claim) (sinks.Checkpoint, error) {
	s.mu.Lock()
	claimed, next := s.mu.claimed, s.mu.checkpoint
	s.mu.Unlock()
	switch {
	case !claimed && !c.Fresh:
		return sinks.Checkpoint{}, sinks.ErrNoCheckpoint
	case !claimed && (c.Lanes < 1 || c.Lanes > maxLanes):
		return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Halt, fmt.Errorf("claim: lanes: %d, want 1 to %d", c.Lanes, maxLanes))
	case !claimed:
		next = sinks.Checkpoint{Stream: c.Stream, Lanes: make([]sinks.Point, c.Lanes)}
	case next.Stream != c.Stream:
		return sinks.Checkpoint{}, fmt.Errorf("%w: it holds %v, the claim is for %v", sinks.ErrForeignStream, next.Stream, c.Stream)
	}
	next.Epoch++
	next.Lanes = slices.Clone(next.Lanes)
	b := s.db.NewBatch()
	if err := errors.Join(putClaim(b, next), putLanes(b, next)); err != nil {
		return sinks.Checkpoint{}, err
	}
	if err := s.commit(b); err != nil {
		return sinks.Checkpoint{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.claimed, s.mu.checkpoint = true, next
	next.Lanes = slices.Clone(next.Lanes)
	return next, nil
}

func putClaim(b *pebble.Batch, c sinks.Checkpoint) error {
	return b.Set(metaKey("claim"), claim{stream: c.Stream, epoch: c.Epoch, lanes: len(c.Lanes)}.encode(), nil)
}

func putLanes(b *pebble.Batch, c sinks.Checkpoint) error {
	for lane, point := range c.Lanes {
		if err := b.Set(laneKey(lane), encodePoint(point), nil); err != nil {
			return err
		}
	}
	return nil
}

// Rebase implements sinks.Rebaser. It waits for batches that are at work.
func (s *Sink) Rebase(ctx context.Context, _ string, from, to sinks.Checkpoint) error {
	if len(to.Lanes) < 1 || len(to.Lanes) > maxLanes {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("rebase: lanes: %d, want 1 to %d", len(to.Lanes), maxLanes))
	}
	leave, err := s.enter()
	if err != nil {
		return err
	}
	release, err := s.gate.all(ctx, s.stop)
	if err != nil {
		leave()
		return notBegun(err)
	}
	_, err = run(ctx, s, func() (none struct{}, err error) {
		defer leave()
		defer release()
		return none, s.rebase(from, to)
	})
	return err
}

// rebase runs with all lanes taken.
func (s *Sink) rebase(from, to sinks.Checkpoint) error {
	s.mu.Lock()
	stored := s.mu.checkpoint
	s.mu.Unlock()
	switch {
	case stored.SamePlace(to):
		return nil
	case !stored.SamePlace(from):
		return sinks.ErrMoved
	}
	next := sinks.Checkpoint{Stream: to.Stream, Epoch: stored.Epoch + 1, Lanes: slices.Clone(to.Lanes)}
	b := s.db.NewBatch()
	if err := b.DeleteRange(laneKey(0), laneKey(maxLanes), nil); err != nil {
		return err
	}
	if err := errors.Join(putClaim(b, next), putLanes(b, next)); err != nil {
		return err
	}
	if err := s.commit(b); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.claimed, s.mu.checkpoint = true, next
	return nil
}
