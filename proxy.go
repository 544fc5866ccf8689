package walproxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/internal/unfinished"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Proxy is an open log with its loops. All methods may be called concurrently.
type Proxy struct {
	options  Options
	logger   *zap.Logger
	log      *wal.Log
	state    *state.Store
	acceptor *accept.Acceptor
	sinks    []*sink

	stopLoops context.CancelCauseFunc
	loops     sync.WaitGroup // every sink's Run
	checked   chan struct{}  // log space may be free; capacity 1
	stopSpace chan struct{}
	stopHold  context.CancelFunc
	space     sync.WaitGroup // freeSpace, hold, countBacklog, measure
	stopCount context.CancelFunc
	recent    recentRoutes
	measures  measures
	backup    sync.Mutex // one at a time
	releasing sync.Mutex // held while space is freed, or must not be
	intake    intake

	metrics *collector

	replayTo *wal.LSN // where a Replay ends; nil: this is none
	onResume func(s *sink, low wal.LSN)

	closing  atomic.Bool
	ending   chan struct{} // closed when Close begins
	closed   chan struct{} // Close has finished
	closeErr error         // read after closed
}

// Open opens or creates the log in o.Dir, checks that log, state store and
// sinks belong together, and starts applying what the sinks lack. A sink that
// cannot be reached, or refuses, does not keep Open from returning: writes are
// acknowledged meanwhile, Status shows why it waits. A sink that the log knows
// and o does not is refused: *OrphanedSinkError; see Forget.
//
// ctx bounds Open alone.
func Open(ctx context.Context, o Options) (*Proxy, error) {
	p, err := newProxy(o)
	if err != nil {
		return nil, err
	}
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(advise(err), p.release())
	}
	loopCtx, stop := context.WithCancelCause(context.Background())
	p.stopLoops = stop
	for _, s := range p.sinks {
		ctx, stop := context.WithCancelCause(loopCtx)
		s.stop = stop
		p.loops.Go(func() { p.run(ctx, s) })
	}
	countCtx, stopCount := context.WithCancel(context.Background())
	p.stopCount = stopCount
	p.space.Go(func() { p.countBacklog(countCtx) })
	p.space.Go(p.freeSpace)
	holdCtx, stopHold := context.WithCancel(context.Background())
	p.stopHold = stopHold
	p.space.Go(func() { p.hold(holdCtx) })
	p.space.Go(func() { p.measure(holdCtx) })
	return p, nil
}

func newProxy(o Options) (*Proxy, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Proxy{
		options:   o,
		logger:    o.Logger,
		checked:   make(chan struct{}, 1),
		stopSpace: make(chan struct{}),
		closed:    make(chan struct{}),
		ending:    make(chan struct{}),
	}, nil
}

// open opens what p holds. The log comes first: it has the lock.
func (p *Proxy) open(ctx context.Context) error {
	if err := p.openLog(); err != nil {
		return err
	}
	if err := p.checkOrphans(); err != nil {
		return err
	}
	return p.openSinks(ctx)
}

// openSinks opens everything else.
func (p *Proxy) openSinks(ctx context.Context) error {
	targets := map[string]accept.Target{}
	for _, so := range p.options.Sinks {
		s, err := p.newSink(so)
		if err != nil {
			return err
		}
		p.sinks = append(p.sinks, s)
		target := accept.Target{Loop: s, Reader: s.reader, Lag: s, Turn: s.turn}
		if shaper, ok := so.Sink.(sinks.Shaper); ok {
			target.Exact = shaper.Exact
		}
		targets[s.name] = target
	}
	if err := p.state.SetComplete(); err != nil {
		return err
	}
	if err := p.resumeDrain(); err != nil {
		return err
	}
	var err error
	p.acceptor, err = accept.New(ctx, p.log, p.state, p.acceptOptions(targets))
	if err != nil {
		return err
	}
	for _, s := range p.sinks {
		if e, ok := s.options.Sink.(sinks.Expirer); ok {
			e.UseHorizon(p.acceptor.Horizon)
		}
	}
	if p.options.Registerer == nil {
		return nil
	}
	metrics := newCollector(p)
	if err := p.options.Registerer.Register(metrics); err != nil {
		return fmt.Errorf("walproxy: register metrics: %w", err)
	}
	p.metrics = metrics
	return nil
}

// openLog opens the log, and the state store with it.
func (p *Proxy) openLog() (err error) {
	if err := unfinished.Check(p.options.Dir); err != nil {
		return fmt.Errorf("walproxy: %w", err)
	}
	o := p.options.Log
	o.Logger = p.logger.Named("wal")
	o.Attach = p.attach
	o.ExtraBytes = func() int64 { return p.state.Bytes() }
	p.log, err = wal.Open(p.options.logDir(), o)
	return err
}

// attach opens the state store once the log's lock is held, and checks that the
// two belong together.
func (p *Proxy) attach(stream uuid.UUID, empty bool, newest uint64) (boot uint64, err error) {
	p.state, err = state.Open(p.options.stateDir(), state.Options{Logger: p.logger.Named("state")})
	if err != nil {
		return 0, err
	}
	return p.state.Bind(stream, empty, newest)
}

func (p *Proxy) acceptOptions(targets map[string]accept.Target) accept.Options {
	o := accept.Options{
		Targets:  targets,
		KeyTypes: p.options.KeyType,
		Logger:   p.logger.Named("accept"),
		Tracer:   tracing.Tracer(p.options.TracerProvider),
	}
	o.Window.Age = p.options.RequestAge
	o.Window.Count = p.options.RequestCount
	for _, r := range p.options.Routes {
		o.Routes = append(o.Routes, accept.Route(r))
	}
	return o
}

// Done is closed when the proxy cannot take writes any more because a write or
// fsync of the log failed; Err says which. What is durable is still applied:
// call Close.
func (p *Proxy) Done() <-chan struct{} { return p.log.Poisoned() }

// Prove returns nil once the log has shown that it works: an fsync that began after the call
// has succeeded. It waits as long as the disk does, or ctx; an error is wal.ErrPoisoned,
// ErrClosed or ctx's cause.
func (p *Proxy) Prove(ctx context.Context) error { return closedError(p.log.Prove(ctx)) }

// Err is the failure that closed Done, else nil.
func (p *Proxy) Err() error { return p.log.Err() }
