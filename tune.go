package walproxy

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/replay"
)

// Tuning is what can change of an open proxy.
type Tuning struct {
	Sinks []SinkTuning
	// Routes from now on; nil: as they are. What is logged stays as it was routed.
	Routes []Route
}

// SinkTuning is what can change of one sink.
type SinkTuning struct {
	Name string
	// MaxLagBytes and Retain as in SinkOptions.
	MaxLagBytes, Retain int64
	// Loop, if not nil, is as in SinkOptions: the loop that runs ends between two
	// batches, and another one goes on with these from the store's checkpoint, when the
	// store answers. Reads and waits wait for it.
	Loop *replay.Options
}

// Tune changes options while the proxy runs: all of them or, with an error, none. It
// does not wait for loops to be replaced.
func (p *Proxy) Tune(t Tuning) error {
	if p.closing.Load() {
		return ErrClosed
	}
	tuned := make([]*sink, len(t.Sinks))
	loops := make([]*replay.Options, len(t.Sinks))
	for i, to := range t.Sinks {
		s, err := p.sink(to.Name)
		if err != nil {
			return err
		}
		if to.MaxLagBytes < 0 || to.Retain < 0 {
			return fmt.Errorf("walproxy: tune %s: MaxLagBytes or Retain is negative", to.Name)
		}
		tuned[i] = s
		if to.Loop != nil {
			options := s.fill(p, *to.Loop)
			if err := options.Check(); err != nil {
				return fmt.Errorf("walproxy: tune %s: %w", to.Name, err)
			}
			loops[i] = &options
		}
	}
	if t.Routes != nil {
		var routes []accept.Route
		for _, r := range t.Routes {
			routes = append(routes, accept.Route(r))
		}
		if err := p.acceptor.SetRoutes(routes); err != nil {
			return fmt.Errorf("walproxy: tune: %w", err)
		}
	}
	for i, s := range tuned {
		s.maxLag.Store(t.Sinks[i].MaxLagBytes)
		s.retain.Store(t.Sinks[i].Retain)
		if loops[i] != nil {
			s.retune(*loops[i])
			p.logger.Info("sink is tuned", zap.String("sink", s.name))
		}
	}
	p.check() // it may retain now
	return nil
}

// errTuned ends a loop so that another one takes its place.
var errTuned = errors.New("walproxy: the sink's options have changed")

// fill fills in what is the proxy's of the options of a loop.
func (s *sink) fill(p *Proxy, o replay.Options) replay.Options {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := &s.mu.loopFor
	o.Name, o.Owner, o.Logger, o.OnCheckpoint = was.Name, was.Owner, was.Logger, was.OnCheckpoint
	o.TracerProvider = was.TracerProvider
	o.Until, o.OnResume = was.Until, was.OnResume
	if o.OnReject == nil {
		o.OnReject = func(string) replay.Policy { return replay.ParkKey }
	}
	return o
}

// retune has the next loop run with o, and the one that runs end for it. One that has
// halted goes on.
func (s *sink) retune(o replay.Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.loopFor, s.mu.tuned = o, true
	if s.mu.handover == nil && !s.mu.ended {
		s.mu.handover = make(chan struct{})
	}
	if s.mu.stopLoop != nil {
		s.mu.stopLoop(errTuned)
	}
	if s.mu.halt != nil {
		select {
		case s.again <- struct{}{}:
		default: // somebody has asked
		}
	}
}

// retuned reports that the options have changed since the loop was made.
func (s *sink) retuned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.tuned
}

// nextOptions are those of a loop that is made now.
func (s *sink) nextOptions() replay.Options {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.tuned = false
	return s.mu.loopFor
}

// runLoop runs loop until it ends; errTuned: for another one.
func (s *sink) runLoop(ctx context.Context, loop *replay.Loop) error {
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.mu.Lock()
	if s.mu.tuned { // since it was made
		stop(errTuned)
	}
	s.mu.stopLoop = stop
	s.mu.Unlock()
	err := loop.Run(running)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.stopLoop = nil
	if err == nil && ctx.Err() == nil && errors.Is(context.Cause(running), errTuned) {
		return errTuned
	}
	return err
}

// noMore tells who waits that no loop is to come.
func (s *sink) noMore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.ended = true
	s.handedOverLocked()
}

// handedOver tells who waits for the next loop that it counts, or that there is none.
func (s *sink) handedOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handedOverLocked()
}

func (s *sink) handedOverLocked() {
	if s.mu.handover != nil {
		close(s.mu.handover)
		s.mu.handover = nil
	}
}
