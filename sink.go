package walproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// sink is one store with its loop.
type sink struct {
	name    string
	options SinkOptions  // of Open
	reader  sinks.Reader // nil: cannot read
	log     *wal.Log
	// attempt is the loop that counts, and what it has before it: another one when
	// the sink goes on after a halt.
	attempt atomic.Pointer[attempt]
	added   added
	end     wal.LSN // of what was there when it was opened, and is to be applied
	// from is where the log ended when the sink was added: nothing at or below
	// it is the sink's.
	from wal.LSN
	// retries of dead letters by this process.
	retries retries
	stop    context.CancelCauseFunc // ends the loops
	// maxLag and retain are SinkOptions.MaxLagBytes and Retain, as they are now.
	maxLag, retain atomic.Int64
	// again holds a token when somebody has asked for a halted sink to go on.
	again chan struct{}

	// change serialises pauses, and Close with them. It is held during a sync of
	// the state store, mu never is.
	change sync.Mutex
	mu     struct {
		sync.Mutex
		paused bool
		// running ends when the sink is paused; its cause is ErrPaused.
		running   context.Context
		interrupt context.CancelCauseFunc
		// next runs already, and has not reached the store yet; nil: there is none.
		next *replay.Loop
		// halt is why the sink halted, until it has got further; nil: it has not.
		halt error
		past replay.Status // what the loops before counted
		// loopFor is what the next loop is made with. stopLoop ends the one that runs
		// last was made; tuned: not with loopFor. handover is closed when another loop
		// counts, or none will; nil: none is to.
		loopFor  replay.Options
		stopLoop context.CancelCauseFunc
		tuned    bool
		ended    bool // no loop runs, or will
		handover chan struct{}
	}
}

// attempt is one loop of a sink.
type attempt struct {
	turn uint64
	loop *replay.Loop
	lag  *lag
}

func (s *sink) loop() *replay.Loop { return s.attempt.Load().loop }
func (s *sink) turn() uint64       { return s.attempt.Load().turn }
func (s *sink) lag() *lag          { return s.attempt.Load().lag }

// newSink makes the loop of a sink, which does not run yet, and its claim.
func (p *Proxy) newSink(so SinkOptions) (*sink, error) {
	claim, err := p.claim(so.Name)
	if err != nil {
		return nil, err
	}
	options := so.Loop
	options.Name = so.Name
	if options.Owner == "" {
		options.Owner = p.owner()
	}
	if options.OnReject == nil {
		options.OnReject = func(string) replay.Policy { return replay.ParkKey }
	}
	options.Logger = p.logger.Named("replay").With(zap.String("sink", so.Name))
	options.TracerProvider = p.options.TracerProvider
	options.OnCheckpoint = func(wal.LSN) { p.check() }
	held, err := p.state.Held(so.Name).Range()
	if err != nil {
		return nil, err
	}
	s := &sink{name: so.Name, options: so, log: p.log, end: p.end(), from: claim.From, again: make(chan struct{}, 1)}
	if p.replayTo != nil {
		options.Until = *p.replayTo
		options.OnResume = func(low wal.LSN) { p.onResume(s, low) }
	}
	s.mu.loopFor = options
	s.maxLag.Store(so.MaxLagBytes)
	s.retain.Store(so.Retain)
	loop, err := replay.New(p.log, p.state, so.Sink, options)
	if err != nil {
		return nil, err
	}
	s.reader, _ = so.Sink.(sinks.Reader)
	s.added.last = s.end
	s.retries.init(p.log.Durable())
	s.attempt.Store(&attempt{0, loop, newLag(s, loop, claim, held)})
	s.mu.running, s.mu.interrupt = context.WithCancelCause(context.Background())
	if so.Paused || claim.Paused {
		s.setPaused(true)
	}
	return s, nil
}

// end is how far the log is to be applied, of what it holds now.
func (p *Proxy) end() wal.LSN {
	if p.replayTo != nil {
		return *p.replayTo
	}
	return p.log.Durable()
}

// owner names this process to people who find it in a store, or wait for it.
func (p *Proxy) owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	dir, err := filepath.Abs(p.options.Dir)
	if err != nil {
		dir = p.options.Dir
	}
	return fmt.Sprintf("%s, pid %d, %s", host, os.Getpid(), dir)
}

// claim returns what is known of a sink. One that was not known begins here, at
// the end of the log, durably before anything is routed to it: what was logged
// before was not routed to it, or was given up when its name was forgotten. If not
// every sink had to have a claim so far, it may have been: then it begins where
// the log does.
func (p *Proxy) claim(name string) (state.Claim, error) {
	claim, known, err := p.state.Claim(name)
	if err != nil || known {
		return claim, err
	}
	complete, err := p.state.Complete()
	if err != nil {
		return claim, err
	}
	if err := p.state.DropHeld(name); err != nil { // of an AddSink that did not come to its end
		return claim, err
	}
	from := p.log.Durable()
	if !complete {
		from = min(from, p.log.First()-1)
	}
	p.logger.Info("sink added", zap.String("sink", name), zap.Uint64("from", uint64(from)))
	return p.state.ChangeClaim(name, func(c *state.Claim) { c.From = from })
}

// Applied, Parked and WaitKey make *sink an accept.Applied that knows about
// pauses.
func (s *sink) Applied() wal.LSN { return s.loop().Applied() }

func (s *sink) Parked(collection string, key *walproxyv1.Key) (wal.LSN, bool, error) {
	return s.loop().Parked(collection, key)
}

// Wait ends with ErrPaused when the sink is paused, or while it waits.
func (s *sink) WaitKey(ctx context.Context, collection string, key *walproxyv1.Key, lsn wal.LSN) error {
	return s.whileRunning(ctx,
		func(loop *replay.Loop) bool { return loop.AppliedKey(collection, key) >= lsn },
		func(ctx context.Context, loop *replay.Loop) error { return loop.WaitKey(ctx, collection, key, lsn) })
}

// Wait is WaitKey for all keys.
func (s *sink) Wait(ctx context.Context, lsn wal.LSN) error {
	return s.whileRunning(ctx,
		func(loop *replay.Loop) bool { return loop.Applied() >= lsn },
		func(ctx context.Context, loop *replay.Loop) error { return loop.Wait(ctx, lsn) })
}

// whileRunning calls wait, on the loop, unless it is done, with a context that ends when
// the sink is paused; not at all while the sink has halted. Where another loop takes the
// place of the one that ended, as when the options change, it waits for that one.
func (s *sink) whileRunning(ctx context.Context, done func(*replay.Loop) bool, wait func(context.Context, *replay.Loop) error) error {
	for {
		loop := s.loop()
		if done(loop) {
			return nil
		}
		s.mu.Lock()
		running, halt := s.mu.running, s.mu.halt
		s.mu.Unlock()
		if halt != nil {
			return fmt.Errorf("%w: %s: %w", ErrHalted, s.name, halt)
		}
		again, err := s.waitOn(ctx, running, loop, wait)
		if !again {
			return err
		}
	}
}

// waitOn is wait, until running ends; again: another loop has taken loop's place.
func (s *sink) waitOn(ctx, running context.Context, loop *replay.Loop, wait func(context.Context, *replay.Loop) error) (again bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(running, func() { cancel(context.Cause(running)) })()
	err = wait(ctx, loop)
	if errors.Is(err, replay.ErrClosed) {
		s.mu.Lock()
		handover := s.mu.handover
		again = s.loop() != loop
		s.mu.Unlock()
		if again || handover == nil {
			return again, err
		}
		select {
		case <-handover:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	// Of full dead letters the sink may have gone on by now.
	if err != nil && (errors.Is(err, replay.ErrDeadLettersFull) || loop.Status().State == replay.Halted) {
		return false, fmt.Errorf("%w: %s: %w", ErrHalted, s.name, err)
	}
	return false, err
}

func (s *sink) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.paused
}

// loopsLocked are the loop that counts and the one that is to take its place.
func (s *sink) loopsLocked() []*replay.Loop {
	loops := []*replay.Loop{s.loop()}
	if s.mu.next != nil {
		loops = append(loops, s.mu.next)
	}
	return loops
}

// setPaused makes the loop begin nothing more, or go on.
func (s *sink) setPaused(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.paused == paused {
		return
	}
	s.mu.paused = paused
	if paused {
		for _, loop := range s.loopsLocked() {
			loop.Suspend()
		}
		s.mu.interrupt(fmt.Errorf("%w: %s", ErrPaused, s.name))
		return
	}
	s.mu.running, s.mu.interrupt = context.WithCancelCause(context.Background())
	for _, loop := range s.loopsLocked() {
		loop.Resume()
	}
}
