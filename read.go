package walproxy

import (
	"context"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
)

// Level is how far a write has come.
type Level int

const (
	// Logged: fsync'd in the log; the acknowledgement.
	Logged Level = iota
	// Applied: in every sink, as far as it is routed there.
	Applied
)

// Read returns a record with every write that was acknowledged before the call:
// it waits until the key's pending writes are applied, and fails if they cannot
// be: *ParkedError if one is a dead letter. mutation.ErrNotFound: the record
// does not exist.
func (p *Proxy) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	doc, err := p.acceptor.Read(ctx, collection, key)
	return doc, closedError(err)
}

// ReadEvents returns up to limit events of a record's stream from the from-th
// on (1 is the first). It waits as Read does. mutation.ErrNotFound: the record
// does not exist.
func (p *Proxy) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	events, err := p.acceptor.ReadEvents(ctx, collection, key, from, limit)
	return events, closedError(err)
}

// ReadApplied returns a record as the sink that answers reads for it has it now. It
// waits for no write: what was acknowledged and is not applied yet, is parked or a dead
// letter is not in it. mutation.ErrNotFound: the sink does not have the record.
func (p *Proxy) ReadApplied(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	doc, err := p.acceptor.ReadApplied(ctx, collection, key)
	return doc, closedError(err)
}

// ReadEventsApplied is ReadEvents of what the sink has now, as ReadApplied.
func (p *Proxy) ReadEventsApplied(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	events, err := p.acceptor.ReadEventsApplied(ctx, collection, key, from, limit)
	return events, closedError(err)
}

// Wait returns nil once the write lsn has come to level: Applied at the sinks
// that it is routed to, where with it is everything before it. It returns
// ErrUnknownLSN for an LSN that was not given out, *DeadError if the write lsn
// became a dead letter, ErrHalted, ErrPaused, or ctx's cause.
func (p *Proxy) Wait(ctx context.Context, lsn LSN, level Level) error {
	if lsn > p.log.Appended() {
		return fmt.Errorf("%w: %d", ErrUnknownLSN, lsn)
	}
	if err := p.log.WaitDurable(ctx, lsn); err != nil {
		return closedError(err)
	}
	if level == Logged {
		return nil
	}
	routed := p.routedSinks(ctx, lsn)
	for _, s := range routed {
		if err := s.Wait(ctx, lsn); err != nil {
			return fmt.Errorf("sink %s: %w", s.name, err)
		}
	}
	for _, s := range routed {
		fate, err := s.fate(ctx, lsn)
		if err != nil {
			return fmt.Errorf("sink %s: %w", s.name, err)
		}
		if fate == replay.Dead || fate == replay.Parked {
			return &DeadError{Sink: s.name, LSN: lsn, Fate: fate}
		}
	}
	return nil
}

// fate is what became of a write that the sink has passed. A sink that halted and
// goes on takes back dead letters that its store's checkpoint had not passed.
func (s *sink) fate(ctx context.Context, lsn LSN) (replay.Fate, error) {
	for {
		loop := s.loop()
		fate, err := loop.Fate(lsn)
		if err != nil || s.loop() == loop && loop.Applied() >= lsn {
			return fate, err
		}
		if err := s.Wait(ctx, lsn); err != nil {
			return "", err
		}
	}
}
