package walproxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/replay"
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
	space     sync.WaitGroup // freeSpace, hold

	metrics *collector

	closing  atomic.Bool
	closed   chan struct{} // Close has finished
	closeErr error         // read after closed
}

// sink is one store with its loop.
type sink struct {
	name   string
	loop   *replay.Loop
	reader sinks.Reader // nil: cannot read
	paused bool
}

// Applied and Wait make *sink an accept.Applied that knows about pauses.
func (s *sink) Applied() wal.LSN { return s.loop.Applied() }

func (s *sink) Parked(collection string, key *walproxyv1.Key) (wal.LSN, bool, error) {
	return s.loop.Parked(collection, key)
}

func (s *sink) Wait(ctx context.Context, lsn wal.LSN) error {
	if s.paused && s.loop.Applied() < lsn {
		return fmt.Errorf("%w: %s", ErrPaused, s.name)
	}
	err := s.loop.Wait(ctx, lsn)
	if err != nil && s.loop.Status().State == replay.Halted {
		return fmt.Errorf("%w: %s: %w", ErrHalted, s.name, err)
	}
	return err
}

// Open opens or creates the log in o.Dir, checks that log, state store and
// sinks belong together, and starts applying what the sinks lack. A sink that
// cannot be reached, or refuses, does not keep Open from returning: writes are
// acknowledged meanwhile, Status shows why it waits.
//
// ctx bounds Open alone.
func Open(ctx context.Context, o Options) (*Proxy, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		options:   o,
		logger:    o.Logger,
		checked:   make(chan struct{}, 1),
		stopSpace: make(chan struct{}),
		closed:    make(chan struct{}),
	}
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(err, p.release())
	}
	loopCtx, stop := context.WithCancelCause(context.Background())
	p.stopLoops = stop
	for _, s := range p.sinks {
		if !s.paused {
			p.loops.Go(func() { p.run(loopCtx, s) })
		}
	}
	p.space.Go(p.freeSpace)
	holdCtx, stopHold := context.WithCancel(context.Background())
	p.stopHold = stopHold
	p.space.Go(func() { p.hold(holdCtx) })
	return p, nil
}

// open opens what p holds. The log comes first: it has the lock.
func (p *Proxy) open(ctx context.Context) error {
	logOptions := p.options.Log
	logOptions.Logger = p.logger.Named("wal")
	logOptions.Attach = p.attach
	logOptions.ExtraBytes = func() int64 { return p.state.Bytes() }
	var err error
	if p.log, err = wal.Open(p.options.logDir(), logOptions); err != nil {
		return err
	}
	targets := map[string]accept.Target{}
	for _, so := range p.options.Sinks {
		s, err := p.newSink(so)
		if err != nil {
			return err
		}
		p.sinks = append(p.sinks, s)
		targets[s.name] = accept.Target{Loop: s, Reader: s.reader}
	}
	p.acceptor, err = accept.New(ctx, p.log, p.state, p.acceptOptions(targets))
	if err != nil {
		return err
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

// attach opens the state store once the log's lock is held, and checks that the
// two belong together.
func (p *Proxy) attach(stream uuid.UUID, empty bool, newest uint64) (boot uint64, err error) {
	p.state, err = state.Open(p.options.stateDir(), state.Options{Logger: p.logger.Named("state")})
	if err != nil {
		return 0, err
	}
	return p.state.Bind(stream, empty, newest)
}

func (p *Proxy) newSink(so SinkOptions) (*sink, error) {
	if _, err := p.claim(so.Name); err != nil {
		return nil, err
	}
	options := so.Loop
	options.Name = so.Name
	if options.OnReject == nil {
		options.OnReject = func(string) replay.Policy { return replay.ParkKey }
	}
	options.Logger = p.logger.Named("replay").With(zap.String("sink", so.Name))
	options.OnCheckpoint = func(wal.LSN) { p.check() }
	loop, err := replay.New(p.log, p.state, so.Sink, options)
	if err != nil {
		return nil, err
	}
	reader, _ := so.Sink.(sinks.Reader)
	return &sink{name: so.Name, loop: loop, reader: reader, paused: so.Paused}, nil
}

// claim returns what is known of a sink. One that was not known begins here, at
// the end of the log, durably before anything is routed to it: what was logged
// before was not routed to it, or was given up when its name was forgotten.
func (p *Proxy) claim(name string) (state.Claim, error) {
	claim, known, err := p.state.Claim(name)
	if err != nil || known {
		return claim, err
	}
	p.logger.Info("sink added", zap.String("sink", name), zap.Uint64("from", uint64(p.log.Durable())))
	return p.state.ChangeClaim(name, func(c *state.Claim) { c.From = p.log.Durable() })
}

func (p *Proxy) acceptOptions(targets map[string]accept.Target) accept.Options {
	o := accept.Options{
		Targets:  targets,
		KeyTypes: p.options.KeyType,
		Logger:   p.logger.Named("accept"),
	}
	o.Window.Age = p.options.RequestAge
	o.Window.Count = p.options.RequestCount
	for _, r := range p.options.Routes {
		o.Routes = append(o.Routes, accept.Route(r))
	}
	return o
}

// run is one sink's loop. A halt is logged here, once; Status keeps showing it.
func (p *Proxy) run(ctx context.Context, s *sink) {
	if err := s.loop.Run(ctx); err != nil {
		p.logger.Error("sink halted: writes to it are acknowledged and stay in the log",
			zap.String("sink", s.name), zap.Uint64("applied", uint64(s.loop.Applied())), zap.Error(err))
	}
}

// freeSpace releases what no sink needs the log for any more. It looks at most
// once per releaseInterval: a release frees whole segments, not records.
func (p *Proxy) freeSpace() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-p.stopSpace:
			return
		case <-p.checked:
		}
		p.releaseSpace()
		pause.Reset(releaseInterval)
		select {
		case <-p.stopSpace:
			return
		case <-pause.C:
		}
	}
}

func (p *Proxy) releaseSpace() {
	low := p.log.Durable()
	for _, s := range p.sinks {
		low = min(low, s.loop.Needs()-1)
	}
	// Request ids live in the log until the state store has them for sure.
	if err := p.acceptor.SyncBelow(low + 1); err != nil {
		p.logger.Error("log space is kept: request ids could not be stored", zap.Error(err))
		return
	}
	p.log.Release(low + 1)
}

// Done is closed when the proxy cannot take writes any more because a write or
// fsync of the log failed; Err says which. What is durable is still applied:
// call Close.
func (p *Proxy) Done() <-chan struct{} { return p.log.Poisoned() }

// Err is the failure that closed Done, else nil.
func (p *Proxy) Err() error { return p.log.Err() }
