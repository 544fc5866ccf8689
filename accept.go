package walproxy

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/replay"
)

// ErrPlanChanged: what accepting a sink means is not what was shown any more.
var ErrPlanChanged = errors.New("walproxy: what is to be accepted has changed since it was shown")

// ErrAcceptFinished: an earlier Accept was interrupted behind its decision, which is
// carried out now; nothing else was decided.
var ErrAcceptFinished = errors.New("walproxy: what was accepted before an interruption is carried out now")

// PlanAccept says what it means to go on with a sink that is refused because its
// checkpoint and the log do not fit; see replay.Loop.PlanAccept. It changes nothing.
func (p *Proxy) PlanAccept(ctx context.Context, sink string, after *LSN) (*replay.Plan, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	s, err := p.sink(sink)
	if err != nil {
		return nil, err
	}
	return s.loop().PlanAccept(ctx, after)
}

// AcceptSink has a refused sink go on as PlanAccept has shown it: the same plan by
// its Token, else ErrPlanChanged. The decision is durable when it returns; what
// becomes of it Status tells. A paused sink stays so.
func (p *Proxy) AcceptSink(ctx context.Context, sink string, after *LSN, token string) (*replay.Plan, error) {
	plan, err := p.PlanAccept(ctx, sink, after)
	if err != nil {
		return plan, err
	}
	if plan.Token() != token {
		return plan, fmt.Errorf("%w: sink %s", ErrPlanChanged, sink)
	}
	s, err := p.sink(sink)
	if err != nil {
		return plan, err
	}
	if err := s.loop().Accept(plan); err != nil {
		return plan, err
	}
	p.logger.Warn("a refused sink was accepted", zap.String("sink", sink), zap.Strings("effects", plan.Effects))
	s.ask()
	return plan, nil
}

// Accept is PlanAccept and AcceptSink for a data directory that no proxy has open:
// decide is shown the plan and returns nil to have it done, or why not, which is
// returned. It is done when Accept returns nil; after an error, or a crash, behind
// decide it may be done by the next Open, or a repeated call does it:
// ErrAcceptFinished. Of o Dir, Log,
// Logger and the sink's options are read; what decide says no to has begun an
// incarnation of the log and changed nothing else.
func Accept(ctx context.Context, o Options, sink string, after *LSN, decide func(*replay.Plan) error) (err error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	p := &Proxy{options: o, logger: o.Logger}
	defer func() { err = errors.Join(err, p.release()) }()
	if err := p.openLog(); err != nil {
		return err
	}
	loop, err := p.loopOf(sink)
	if err != nil {
		return err
	}
	switch done, err := loop.Finish(ctx); {
	case err != nil:
		return err
	case done:
		return ErrAcceptFinished
	}
	plan, err := loop.PlanAccept(ctx, after)
	if err != nil && !errors.Is(err, replay.ErrAfterNeeded) {
		return err
	}
	if err != nil { // shown, and then it is over
		return errors.Join(decide(plan), err)
	}
	if err := decide(plan); err != nil {
		return err
	}
	if err := loop.Accept(plan); err != nil {
		return err
	}
	return loop.CarryOut(ctx)
}

// loopOf makes a loop that does not run.
func (p *Proxy) loopOf(sink string) (*replay.Loop, error) {
	for _, so := range p.options.Sinks {
		if so.Name == sink {
			options := so.Loop
			options.Name, options.Owner = so.Name, p.owner()
			options.Logger = p.logger.Named("replay").With(zap.String("sink", so.Name))
			return replay.New(p.log, p.state, so.Sink, options)
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoSink, sink)
}
