package walproxy

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
)

// errPaused is why the loop of a paused sink ends at once when Close begins.
var errPaused = errors.New("walproxy: the sink is paused, and the proxy closes")

// PauseSink keeps writes to a sink in the log from now on, over restarts, until
// ResumeSink. They are acknowledged as always. Reads and waits that would need
// the sink to go on get ErrPaused. It returns when no call of the sink is under
// way; or ctx's cause, and then the sink is paused all the same. Pausing again
// waits again.
func (p *Proxy) PauseSink(ctx context.Context, name string) error {
	s, err := p.setPaused(name, true)
	if err != nil {
		return err
	}
	s.mu.Lock()
	loops := s.loopsLocked()
	s.mu.Unlock()
	for _, loop := range loops {
		if err := loop.Still(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ResumeSink undoes PauseSink, and SinkOptions.Paused until the next Open. A sink
// that has halted is started again, from its store's checkpoint and with the same
// checks as by Open; it does not wait for what comes of that: Status tells.
func (p *Proxy) ResumeSink(name string) error {
	s, err := p.setPaused(name, false)
	if err == nil && s.ask() {
		p.logger.Info("halted sink is started again", zap.String("sink", name))
	}
	return err
}

// SetPaused pauses or resumes a sink of the data directory dir, durably, as
// PauseSink and ResumeSink do in an open proxy, and returns what it was before.
// ErrNoSink: dir knows of none, as before the first Open with it. No proxy may have
// dir open: *wal.LockedError.
func SetPaused(dir, sink string, paused bool) (before bool, err error) {
	err = offline(dir, func(st *state.Store) error {
		claim, err := knownClaim(st, sink)
		if err != nil {
			return err
		}
		before = claim.Paused
		_, err = st.ChangeClaim(sink, func(c *state.Claim) { c.Paused = paused })
		return err
	})
	return before, err
}

// setPaused changes the claim first: what a crash leaves is what was asked for,
// or what was before if nobody was told otherwise.
func (p *Proxy) setPaused(name string, paused bool) (*sink, error) {
	s, err := p.sink(name)
	if err != nil {
		return nil, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if p.closing.Load() {
		return nil, ErrClosed
	}
	if _, err := p.state.ChangeClaim(name, func(c *state.Claim) { c.Paused = paused }); err != nil {
		return nil, err
	}
	if s.isPaused() != paused {
		s.setPaused(paused)
		p.logger.Info("sink paused or resumed", zap.String("sink", name), zap.Bool("paused", paused))
	}
	return s, nil
}

// stopPaused ends the loops of paused sinks, which would not end by themselves
// when the log does. Nothing is paused or resumed after it: closing is set.
func (p *Proxy) stopPaused() {
	for _, s := range p.sinks {
		s.change.Lock()
		if s.isPaused() {
			s.stop(errPaused)
		}
		s.change.Unlock()
	}
}
