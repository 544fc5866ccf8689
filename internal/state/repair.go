package state

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// Check returns what Bind would refuse, and ErrRequests if the log begins above
// what is known of the request ids; nil: a start takes the store. It changes
// nothing. first is the first LSN that the log has, newest its boot counter; empty
// says that the log never held a record.
func (s *Store) Check(stream uuid.UUID, empty bool, newest uint64, first position.LSN) error {
	return s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.bindable(stream, empty, newest); err != nil {
			return err
		}
		if !empty && s.mu.durable+1 < first {
			return fmt.Errorf("%w: they are known up to LSN %d, the log begins at %d", ErrRequests, s.mu.durable, first)
		}
		return nil
	})
}

// Accept makes a store that is older than its log, or whose request ids do not
// reach the log's first LSN, one that a start takes, durably: what it does not know
// is given up. ErrForeign and ErrMissing as Bind.
func (s *Store) Accept(stream uuid.UUID, newest uint64, first position.LSN) error {
	return s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.bindable(stream, false, 0); err != nil {
			return err
		}
		return s.adoptLocked(stream, newest, first)
	})
}

// Rebuild makes a new store that of a log, durably: sinks are claimed, as ones that
// have a checkpoint, from the beginning of the log on.
func (s *Store) Rebuild(stream uuid.UUID, newest uint64, first position.LSN, sinks []string) error {
	if _, bound := s.Stream(); bound {
		return fmt.Errorf("%w: it is in use", ErrForeign)
	}
	for _, sink := range sinks {
		if err := s.PutClaim(Claim{Sink: sink, Settled: true, Rebuilt: true}); err != nil {
			return err
		}
	}
	if err := s.SetComplete(); err != nil {
		return err
	}
	return s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.adoptLocked(stream, newest, first)
	})
}

// adoptLocked binds the store, which knows of all of the log's starts from now on,
// and of all request ids below first.
func (s *Store) adoptLocked(stream uuid.UUID, newest uint64, first position.LSN) error {
	boot, mark := max(s.mu.boot, newest), s.mu.mark
	if first > 0 {
		mark = max(mark, first-1)
	}
	b := s.db.NewBatch()
	defer b.Close()
	err := errors.Join(b.Set(keyStream, stream[:], nil), setNumber(b, keyBoot, boot), setNumber(b, keyMark, uint64(mark)))
	if err != nil {
		return err
	}
	if err := s.commit(b); err != nil {
		return err
	}
	s.mu.stream, s.mu.bound, s.mu.boot = stream, true, boot
	s.mu.mark, s.mu.durable = mark, max(s.mu.durable, mark)
	return nil
}
