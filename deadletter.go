package walproxy

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/replay"
)

// DeadLetter is a record that a sink could not apply, or that is parked behind
// one. It needs nothing of the log to be understood or retried.
type DeadLetter = state.DeadLetter

var (
	// ErrNoSink: there is no sink of that name.
	ErrNoSink = errors.New("walproxy: no such sink")
	// ErrNoDeadLetter: the sink has no dead letter of that LSN; *NoDeadLetterError.
	ErrNoDeadLetter = errors.New("walproxy: no such dead letter")
	// ErrDead: the write is a dead letter at a sink; *DeadError says which.
	ErrDead = errors.New("walproxy: the write is a dead letter")
)

// NoDeadLetterError says what became of a dead letter, as far as that is known.
type NoDeadLetterError struct {
	Sink string
	LSN  LSN
	// RetriedAs is the LSN under which it was logged again, 0 if it was not or nobody
	// knows: the sink has passed that, or is at it.
	RetriedAs LSN
	GivenUp   bool
}

func (e *NoDeadLetterError) Error() string {
	text := fmt.Sprintf("%v: LSN %d at sink %s", ErrNoDeadLetter, e.LSN, e.Sink)
	switch {
	case e.GivenUp:
		text += ": it was given up"
	case e.RetriedAs != 0:
		text += fmt.Sprintf(": it was retried as LSN %d", e.RetriedAs)
	}
	return text
}

// Unwrap returns ErrNoDeadLetter.
func (e *NoDeadLetterError) Unwrap() error { return ErrNoDeadLetter }

// DeadError says that a write did not go into a sink's store.
type DeadError struct {
	Sink string
	LSN  LSN
	Fate replay.Fate // replay.Dead or replay.Parked
}

func (e *DeadError) Error() string {
	return fmt.Sprintf("%v: LSN %d is %s at sink %s", ErrDead, e.LSN, e.Fate, e.Sink)
}

// Unwrap returns ErrDead.
func (e *DeadError) Unwrap() error { return ErrDead }

func (p *Proxy) sink(name string) (*sink, error) {
	for _, s := range p.sinks {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoSink, name)
}

// DeadLetters returns up to limit dead letters of a sink in LSN order, from LSN
// from on, fewer if they are large: there are no more only if it returns none.
func (p *Proxy) DeadLetters(sink string, from LSN, limit int) ([]DeadLetter, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	s, err := p.sink(sink)
	if err != nil {
		return nil, err
	}
	return s.loop().Letters().List(from, limit)
}

// DeadLetter returns the dead letter of lsn, or *NoDeadLetterError.
func (p *Proxy) DeadLetter(sink string, lsn LSN) (DeadLetter, error) {
	s, err := p.openSink(sink)
	if err != nil {
		return DeadLetter{}, err
	}
	return s.letter(lsn)
}

// DeadLettersOf returns up to limit dead letters of a key of the sink, encoded as
// in DeadLetter.Keys, in the order in which they have to be applied, fewer if they
// are large.
func (p *Proxy) DeadLettersOf(sink string, key []byte, limit int) ([]DeadLetter, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	s, err := p.sink(sink)
	if err != nil {
		return nil, err
	}
	return s.loop().Letters().Of(key, limit)
}

// DiscardDeadLetter gives the dead letter of lsn up, durably: its write will
// never be applied. A key that nothing is parked behind is free at once; what is
// parked stays so until it is retried.
func (p *Proxy) DiscardDeadLetter(sink string, lsn LSN) error {
	gone, err := p.DiscardDeadLetters(sink, []LSN{lsn})
	if err != nil || len(gone) > 0 {
		return err
	}
	_, err = p.DeadLetter(sink, lsn) // why not
	return err
}

// DiscardDeadLetters is DiscardDeadLetter for those of lsns that are there, all of
// them or none. It returns what was given up, without payloads.
func (p *Proxy) DiscardDeadLetters(sink string, lsns []LSN) ([]DeadLetter, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	s, err := p.sink(sink)
	if err != nil {
		return nil, err
	}
	gone, err := s.loop().Letters().DeleteAll(lsns)
	if len(gone) > 0 {
		p.logger.Warn("dead letters discarded: their writes are given up", zap.String("sink", sink),
			zap.Int("dead_letters", len(gone)), zap.Uint64("first", uint64(gone[0].LSN)), zap.Uint64("last", uint64(gone[len(gone)-1].LSN)))
	}
	return gone, err
}
