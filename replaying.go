package walproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// ErrEnd: the log ends before the LSN that a replay is to end at.
var ErrEnd = errors.New("walproxy: the log ends before that")

// ErrClaimedSink: a sink that was claimed goes on from its store's checkpoint, and
// from nowhere else.
var ErrClaimedSink = errors.New("walproxy: the sink was claimed: it goes on from its store's checkpoint")

// ReplayOptions say what OpenReplay applies. The zero value: everything.
type ReplayOptions struct {
	// Sinks that it is applied to; none: all. SinkOptions.Sink of the others may be
	// nil.
	Sinks []string
	// ToLSN ends the replay once everything up to it is applied. 0: the log's end.
	ToLSN LSN
	// Until ends it before the first record that was accepted after it. Accepted
	// times never go back from one LSN to the next. Zero: the log's end.
	Until time.Time
	// FromLSN has one sink, which Sinks names and no process has ever claimed, begin
	// at it: what the log holds for it below is given up. *FromError if that is
	// refused. 0: where the sink is.
	FromLSN LSN
	// Settled has Run wait, where a sink is a sinks.Settler, until no restart of the
	// store could take back what was applied.
	Settled bool
}

// Replay is a data directory whose log is applied to the sinks, by the same loops
// as in an open Proxy, and which takes no writes. All methods may be called
// concurrently.
type Replay struct {
	proxy *Proxy
	end   LSN // nothing above it is applied
	sinks []*replayed
	// settled is ReplayOptions.Settled.
	settled bool

	counting  context.Context // ends with stopCount
	stopCount context.CancelFunc
	counts    sync.WaitGroup
}

// replayed is one sink of a Replay.
type replayed struct {
	*sink
	mu struct {
		sync.Mutex
		outcome ReplayOutcome
		err     error
	}
}

// ReplayOutcome is how a sink has ended.
type ReplayOutcome string

const (
	ReplayRunning ReplayOutcome = ""
	// ReplayDone: it has everything that was to be applied.
	ReplayDone ReplayOutcome = "done"
	// ReplayStopped: Run's context ended before.
	ReplayStopped ReplayOutcome = "stopped"
	// ReplayHalted: it cannot go on; the error says why, and what to do.
	ReplayHalted ReplayOutcome = "halted"
	// ReplayPaused: somebody paused it, and nothing was applied.
	ReplayPaused ReplayOutcome = "paused"
	// ReplayLeft: it is not among ReplayOptions.Sinks.
	ReplayLeft ReplayOutcome = "left"
)

// ReplayStatus is a snapshot of one sink.
type ReplayStatus struct {
	Name    string
	Outcome ReplayOutcome
	replay.Status
	// Left is how many records up to End are routed to the sink and not passed by it;
	// LeftBytes is their size in the log. Exact is false while they are upper bounds:
	// until the store was reached and what the log holds was counted.
	Left      uint64
	LeftBytes int64
	Exact     bool
	// Passed were passed by this replay: applied or made dead letters, or found to be
	// in the store: a lane may be ahead of the others. Left was counted with these.
	Passed uint64
}

// OpenReplay opens the log in o.Dir as Open does, with the same checks and errors,
// but takes no writes. Nothing is applied before Run. ctx bounds the opening.
func OpenReplay(ctx context.Context, o Options, r ReplayOptions) (*Replay, error) {
	for i, so := range o.Sinks {
		if so.Sink == nil && !r.selects(so.Name) {
			o.Sinks[i].Sink = noSink{}
		}
	}
	p, err := newProxy(o)
	if err != nil {
		return nil, err
	}
	for _, name := range r.Sinks {
		if !slices.ContainsFunc(p.options.Sinks, func(so SinkOptions) bool { return so.Name == name }) {
			return nil, fmt.Errorf("%w: %q", ErrNoSink, name)
		}
	}
	rp := &Replay{proxy: p, settled: r.Settled}
	rp.counting, rp.stopCount = context.WithCancel(context.Background())
	if err := rp.open(ctx, r); err != nil {
		rp.stopCount()
		return nil, errors.Join(advise(err), p.release())
	}
	p.stopCount, p.stopHold, p.stopLoops = func() {}, func() {}, func(error) {}
	p.space.Go(p.freeSpace)
	return rp, nil
}

func (r ReplayOptions) selects(name string) bool {
	return len(r.Sinks) == 0 || slices.Contains(r.Sinks, name)
}

func (rp *Replay) open(ctx context.Context, r ReplayOptions) error {
	p := rp.proxy
	if err := p.openLog(); err != nil {
		return err
	}
	if err := p.checkOrphans(); err != nil {
		return err
	}
	// Nothing is ever appended: loops end at the end of the log.
	if err := p.log.Seal(ctx); err != nil {
		return err
	}
	if err := rp.findEnd(ctx, r); err != nil {
		return err
	}
	if r.FromLSN > 0 {
		if err := rp.begin(ctx, r); err != nil {
			return err
		}
	}
	p.replayTo, p.onResume = &rp.end, rp.resumed
	if err := p.openSinks(ctx); err != nil {
		return err
	}
	for _, s := range p.sinks {
		s.stop = func(error) {} // Run's context does that
		re := &replayed{sink: s}
		switch {
		case !r.selects(s.name):
			re.mu.outcome = ReplayLeft
		case s.isPaused():
			re.mu.outcome = ReplayPaused
		}
		rp.sinks = append(rp.sinks, re)
	}
	return nil
}

// End is the LSN that the replay ends at: everything up to it is applied, nothing
// above. It is 0 if no record was accepted early enough.
func (rp *Replay) End() LSN { return rp.end }

// Stream identifies the log.
func (rp *Replay) Stream() string { return rp.proxy.log.Stream().String() }

// Log is a snapshot of the log.
func (rp *Replay) Log() wal.Stats { return rp.proxy.log.Stats() }

// Run applies what is to be applied and returns when every sink has ended, or soon
// after ctx has: within replay.Options.StopTimeout. It is called once. Status tells
// what came of it.
func (rp *Replay) Run(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, re := range rp.sinks {
		if re.status().outcome == ReplayRunning {
			rp.proxy.loops.Go(func() {
				rp.run(ctx, re)
				if errors.Is(re.status().err, replay.ErrRejectLimit) {
					cancel(re.status().err) // it is all sinks' limit
				}
			})
		}
	}
	rp.proxy.loops.Wait()
	if left := func(re *replayed) bool { return re.status().outcome != ReplayDone }; !slices.ContainsFunc(rp.sinks, left) {
		rp.stopCount() // it would keep the log from being freed, for nothing
		rp.counts.Wait()
	}
	rp.proxy.releaseSpace()
	rp.awaitFreed(ctx)
}

// freedTimeout bounds the wait for segments to be deleted: what stays is freed by
// the next start.
const freedTimeout = 5 * time.Second

// awaitFreed waits until what was released is deleted, which the log does behind its
// back and not after Close.
func (rp *Replay) awaitFreed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, freedTimeout)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		var kept int64
		for _, e := range rp.proxy.log.Extents() {
			kept += e.Bytes
		}
		if rp.proxy.log.Stats().Bytes <= kept || rp.proxy.log.Err() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (rp *Replay) run(ctx context.Context, re *replayed) {
	if rp.end == 0 {
		re.ended(ReplayDone, nil)
		return
	}
	err := re.loop().Run(ctx)
	for {
		if err == nil && rp.settled && re.loop().Applied() >= rp.end {
			err = rp.awaitSettled(ctx, re)
		}
		if !errors.Is(err, sinks.ErrRewound) {
			break
		}
		err = rp.goOn(ctx, re, err)
	}
	switch {
	case errors.Is(err, errUnsettled):
		re.ended(ReplayStopped, err)
	case err != nil:
		re.ended(ReplayHalted, err)
	case ctx.Err() != nil && re.loop().Applied() < rp.end:
		re.ended(ReplayStopped, context.Cause(ctx))
	default:
		re.ended(ReplayDone, nil)
	}
}

// errUnsettled: everything is applied, and the wait until it is settled was cut short.
var errUnsettled = errors.New("walproxy: what is applied is not settled: a restart of the store could take it back")

// awaitSettled waits until no restart of re's store could take back what is applied,
// whose loop has ended. sinks.ErrRewound: one has.
func (rp *Replay) awaitSettled(ctx context.Context, re *replayed) error {
	settler, ok := re.options.Sink.(sinks.Settler)
	if !ok {
		return nil
	}
	for {
		if err := settler.Rewound(); err != nil {
			return err
		}
		if settler.Settled() >= rp.end {
			return nil
		}
		select {
		case <-settler.News():
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errUnsettled, context.Cause(ctx))
		}
	}
}

// goOn runs another loop, from the settled point, after the store has lost some of
// what was applied.
func (rp *Replay) goOn(ctx context.Context, re *replayed, rewound error) error {
	p := rp.proxy
	old := re.attempt.Load()
	after, _ := old.loop.RetryAfter(rewound)
	p.logger.Warn("the store has lost what it had applied: it is applied again", zap.String("sink", re.name), zap.Error(rewound))
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return nil
	}
	loop, err := replay.New(p.log, p.state, re.options.Sink, re.sink.nextOptions())
	if err != nil {
		return err
	}
	re.sink.mu.Lock()
	re.sink.mu.past = re.sink.countLocked(old.loop.Status())
	re.attempt.Store(&attempt{old.turn + 1, loop, old.lag})
	re.sink.mu.Unlock()
	return loop.Run(ctx)
}

type replayEnd struct {
	outcome ReplayOutcome
	err     error
}

func (re *replayed) ended(outcome ReplayOutcome, err error) {
	re.mu.Lock()
	defer re.mu.Unlock()
	re.mu.outcome, re.mu.err = outcome, err
}

func (re *replayed) status() replayEnd {
	re.mu.Lock()
	defer re.mu.Unlock()
	return replayEnd{re.mu.outcome, re.mu.err}
}

// Status returns a snapshot of every sink, by the order of Options.Sinks.
func (rp *Replay) Status() []ReplayStatus {
	var all []ReplayStatus
	for _, re := range rp.sinks {
		end := re.status()
		st := ReplayStatus{Name: re.name, Outcome: end.outcome, Status: re.sink.status()}
		st.Left, st.LeftBytes, st.Exact = rp.proxy.lagOf(re.sink)
		before, since := re.loop().Passed()
		st.Passed = before.Records + since.Records
		switch end.outcome {
		case ReplayRunning:
		case ReplayDone:
			st.Left, st.LeftBytes, st.Exact = 0, 0, true
		default:
			st.Err = end.err
		}
		all = append(all, st)
	}
	return all
}

// Close closes what OpenReplay opened; the sinks stay the caller's. It is called
// when Run has returned, or was never called. It may be called twice.
func (rp *Replay) Close(ctx context.Context) error {
	rp.stopCount()
	rp.counts.Wait()
	return rp.proxy.Close(ctx)
}

// resumed is the OnResume of a replay's loop: what the store has is known now, and
// what it lacks is counted from there.
func (rp *Replay) resumed(s *sink, low wal.LSN) {
	p := rp.proxy
	held, err := p.state.Held(s.name).Range()
	after := max(low, s.from)
	if err != nil || after < held.Low { // the log has them
		held = state.HeldRange{}
	}
	old := s.attempt.Load()
	g := newLag(s, old.loop, state.Claim{From: s.from, Applied: low}, held)
	if held.Through > after {
		found, err := p.countHeld(s.name, after, s.end)
		if err != nil {
			p.logger.Warn("the sink's held records are not counted: an upper bound stands for them", zap.String("sink", s.name), zap.Error(err))
		} else {
			g.backlog.records.Store(found.Records)
			g.backlog.bytes.Store(found.Bytes)
		}
	}
	s.attempt.Store(&attempt{old.turn, old.loop, g})
	rp.counts.Go(func() { p.count(rp.counting, []*lag{g}) })
}

const heldPageBytes = 1 << 20

// countHeld counts the sink's held records above after, up to end.
func (p *Proxy) countHeld(name string, after, end wal.LSN) (found replay.Passed, err error) {
	for {
		page, upTo, err := p.state.Held(name).Read(after, heldPageBytes)
		if err != nil || upTo == after {
			return found, err
		}
		for _, r := range page {
			if r.LSN > end {
				return found, nil
			}
			found.Records++
			found.Bytes += int64(len(r.Payload))
		}
		after = upTo
	}
}
