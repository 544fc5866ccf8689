package walproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	// ErrNoDeadLetter: the sink has no dead letter of that LSN.
	ErrNoDeadLetter = errors.New("walproxy: no such dead letter")
	// ErrDead: the write is a dead letter at a sink; *DeadError says which.
	ErrDead = errors.New("walproxy: the write is a dead letter")
)

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

// DeadLetter returns the dead letter of lsn, or ErrNoDeadLetter.
func (p *Proxy) DeadLetter(sink string, lsn LSN) (DeadLetter, error) {
	if p.closing.Load() {
		return DeadLetter{}, ErrClosed
	}
	s, err := p.sink(sink)
	if err != nil {
		return DeadLetter{}, err
	}
	letter, ok, err := s.loop().Letters().Get(lsn)
	if err == nil && !ok {
		err = fmt.Errorf("%w: LSN %d at sink %s", ErrNoDeadLetter, lsn, sink)
	}
	return letter, err
}

// RetryMax bounds how many dead letters one RetryDeadLetter appends.
const RetryMax = 1000

// retryBytesMax bounds what it reads of the queues of several keys.
const retryBytesMax = 64 << 20

// RetryDeadLetter appends the dead letter of lsn again, and behind it, in order,
// what is parked with it in the queues of its keys, up to RetryMax records and
// about 8 MiB for each key: new LSNs, to that sink alone. It returns when they are durable, with one result
// each. A dead letter is gone once the sink has passed its retry; until then a
// second retry is harmless. Call it again for what a long queue leaves.
func (p *Proxy) RetryDeadLetter(ctx context.Context, sink string, lsn LSN) ([]Result, error) {
	letter, err := p.DeadLetter(sink, lsn)
	if err != nil {
		return nil, err
	}
	s, err := p.sink(sink)
	if err != nil {
		return nil, err
	}
	letters, err := s.queue(letter)
	if err != nil {
		return nil, err
	}
	var pending []*Pending
	var failed error
	for i := range letters {
		w, err := p.acceptor.Retry(ctx, &letters[i])
		if err != nil {
			failed = fmt.Errorf("retry of LSN %d: %w", letters[i].LSN, closedError(err))
			break // those behind it keep their places
		}
		pending = append(pending, &Pending{w})
	}
	var results []Result
	for _, w := range pending {
		r, err := w.Wait(ctx)
		if err != nil {
			return results, errors.Join(failed, err)
		}
		results = append(results, r)
	}
	return results, failed
}

// queue returns letter and what shares a key with it, in the order in which
// they have to be applied. What comes before letter in a queue comes too: it
// would only be parked again otherwise.
func (s *sink) queue(letter DeadLetter) ([]DeadLetter, error) {
	found := map[LSN]DeadLetter{letter.LSN: letter}
	bytes := 0
	for _, key := range letter.Keys {
		if bytes >= retryBytesMax {
			break
		}
		of, err := s.loop().Letters().Of(key, RetryMax)
		if err != nil {
			return nil, err
		}
		for _, l := range of {
			found[l.LSN] = l
			bytes += len(l.Payload)
		}
	}
	letters := make([]DeadLetter, 0, len(found))
	for _, l := range found {
		letters = append(letters, l)
	}
	slices.SortFunc(letters, func(a, b DeadLetter) int {
		if a.Position < b.Position {
			return -1
		}
		return 1
	})
	return letters[:min(len(letters), RetryMax)], nil
}

// DiscardDeadLetter gives the dead letter of lsn up, durably: its write will
// never be applied. Keys that nothing else parks are free at once.
func (p *Proxy) DiscardDeadLetter(sink string, lsn LSN) error {
	if p.closing.Load() {
		return ErrClosed
	}
	s, err := p.sink(sink)
	if err != nil {
		return err
	}
	ok, err := s.loop().Letters().Delete(lsn)
	if err == nil && !ok {
		err = fmt.Errorf("%w: LSN %d at sink %s", ErrNoDeadLetter, lsn, sink)
	}
	if err == nil {
		p.logger.Warn("dead letter discarded: its write is given up", zap.String("sink", sink), zap.Uint64("lsn", uint64(lsn)))
	}
	return err
}
