package replay

import (
	"context"
	"errors"
	"runtime/pprof"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

var (
	errTwice = errors.New("replay: Run was called twice")
	// errTimeout is the cause of the contexts of Apply and Resume.
	errTimeout = errors.New("replay: the sink did not answer in time")
	// errStopped is the cause when an Apply was cut off by the end of the loop.
	errStopped = errors.New("replay: the loop ended before the sink answered")
)

// Run resumes and applies until ctx ends (nil), the log is sealed and everything
// durable is applied (nil), or the sink halts (why). It is called once. When it
// returns nothing of the loop runs any more: sink, log and state may be closed.
func (l *Loop) Run(ctx context.Context) error {
	if l.started.Swap(true) {
		return errTwice
	}
	stop := make(chan struct{})
	var notifier sync.WaitGroup
	held := trimmer{Loop: l}
	notifier.Go(func() {
		l.marks.notify(stop, func(checkpoint wal.LSN) {
			held.trim(checkpoint)
			if l.o.OnCheckpoint != nil {
				l.o.OnCheckpoint(checkpoint)
			}
		})
	})
	err := l.run(ctx)
	close(stop)
	notifier.Wait()
	if err != nil {
		l.setState(Halted, err)
		if errors.Is(err, sinks.ErrRewound) {
			l.marks.retract()
		}
		l.marks.end(err)
		return err
	}
	l.setState(Stopped, nil)
	l.marks.end(ErrClosed)
	return nil
}

func (l *Loop) run(ctx context.Context) error {
	checkpoint, err := l.resume(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.o.OnResume != nil {
		l.o.OnResume(checkpoint.Low().LSN)
	}
	if err := l.resumeHeld(checkpoint); err != nil {
		return err
	}
	stored, err := l.storedMap(checkpoint)
	if err != nil {
		return err
	}
	if err := l.resumeLetters(checkpoint, stored); err != nil {
		return err
	}
	l.resumed(checkpoint)
	if l.mustRelane(checkpoint) {
		checkpoint.Lanes, err = l.relane(ctx, checkpoint, stored)
		if err != nil || checkpoint.Lanes == nil {
			return err
		}
	}
	next, err := l.nextMap()
	if err != nil {
		return err
	}
	return newPipeline(l, checkpoint, next).run(ctx)
}

func (l *Loop) resumed(c sinks.Checkpoint) {
	l.health.Lock()
	l.health.state, l.health.epoch, l.health.err = Running, c.Epoch, nil
	l.health.Unlock()
	l.logger.Info("sink resumed", zap.Uint64("epoch", c.Epoch), zap.Stringer("checkpoint", c.Low()),
		zap.Uint64("durable", uint64(l.log.Durable())), zap.Int("lanes", len(c.Lanes)))
}

// relane finishes with the stored lanes up to the highest of them and switches
// there to the configured number, or only to where all are at one point, in one
// transaction: before it a crash continues with the old lanes, after it with the
// new ones. It returns nil lanes
// if ctx, or the loop at Options.Until, ended first.
func (l *Loop) relane(ctx context.Context, c sinks.Checkpoint, stored laneMap) ([]sinks.Point, error) {
	high := slices.MaxFunc(c.Lanes, func(a, b sinks.Point) int {
		return int(min(max(int64(a.LSN)-int64(b.LSN), -1), 1))
	})
	p := newPipeline(l, c, stored)
	p.newLanes, p.until = l.o.total(), high
	if err := p.run(ctx); err != nil || !p.relaned {
		return nil, err
	}
	l.logger.Info("lanes switched", zap.Int("from", len(c.Lanes)), zap.Int("to", l.o.total()), zap.Stringer("at", high))
	return slices.Repeat([]sinks.Point{high}, l.o.total()), nil
}

// run starts the lanes, feeds them until the pipeline's end, joins them, and
// moves the checkpoints a last time.
func (p *pipeline) run(ctx context.Context) error {
	stop, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.cancel, p.stopped = cancel, stop.Done()
	// Applies outlive the order to stop, by StopTimeout.
	work, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(nil)

	var lanes, helpers sync.WaitGroup
	joined := make(chan struct{})
	helpers.Go(func() { p.cutOff(stop, joined, abandon) })
	helpers.Go(func() { p.keep(joined) })
	helpers.Go(func() { p.tend(joined) })
	helpers.Go(func() { p.listen(joined) })
	for _, ln := range p.lanes {
		lanes.Go(func() {
			pprof.Do(stop, pprof.Labels("walproxy", "replay-lane"), func(stop context.Context) { p.runLane(stop, work, ln) })
		})
	}
	p.loop.pipe.Store(p)
	if p.newLanes == 0 {
		close(p.loop.serving)
	}
	complete := p.feedAll(stop, work)
	lanes.Wait()
	if complete && p.newLanes > 0 && p.end() == p.until.LSN && p.empty() && stop.Err() == nil {
		p.relaned = p.switchLanes(stop, work)
	}
	close(joined)
	helpers.Wait()
	for _, f := range p.feeds {
		if err := f.source.close(); err != nil {
			p.halt(err)
		}
	}
	if err := p.halted(); err != nil {
		return err
	}
	if !p.relaned {
		p.settle(context.WithoutCancel(ctx))
	}
	return nil
}

// switchLanes makes the new set of lanes, all at until.
func (p *pipeline) switchLanes(stop, work context.Context) bool {
	b := &sinks.Batch{Epoch: p.epoch, Relane: true}
	for i := range p.newLanes {
		b.Moves = append(b.Moves, sinks.Move{Lane: i, To: p.until})
	}
	if _, ok := p.apply(stop, work, b); !ok {
		return false
	}
	p.loop.batches.Add(1)
	p.loop.raise(p.until.LSN, p.until.LSN)
	return true
}

// settle moves every lane's checkpoint as far as it can, once, so that the next
// start is short. Nothing depends on it.
func (p *pipeline) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.loop.o.StopTimeout, errStopped)
	defer cancel()
	p.mu.Lock()
	b := &sinks.Batch{Epoch: p.epoch}
	unsettled := p.flying > 0
	p.flying++
	for _, ln := range p.lanes {
		if to := ln.reach(); to > ln.stored.LSN {
			b.Moves = append(b.Moves, sinks.Move{Lane: ln.index, From: ln.stored, To: sinks.Point{LSN: to}})
		}
	}
	p.mu.Unlock()
	// After an Apply without an answer the store is not worth another wait, and
	// a paused one is left alone.
	if unsettled || p.loop.pace.isPaused() || len(b.Moves) == 0 {
		return
	}
	err := p.locate(b.Moves)
	if err == nil {
		v := p.attempt(ctx, b)
		if err = v.err; v.outcome == sinks.Applied {
			p.finish(nil, b)
			return
		}
	}
	p.loop.logger.Warn("last checkpoints not stored: the next start reads a little more", zap.Error(err))
}

// cutOff ends applies in flight StopTimeout after the loop was told to stop.
func (p *pipeline) cutOff(stop context.Context, joined <-chan struct{}, abandon context.CancelCauseFunc) {
	select {
	case <-joined:
		return
	case <-stop.Done():
	}
	timer := time.NewTimer(p.loop.o.StopTimeout)
	defer timer.Stop()
	select {
	case <-joined:
	case <-timer.C:
		abandon(errStopped)
	}
}
