package replay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// resume claims the sink, trying until it answers or ctx ends (its cause). The
// claim is durable before the sink hears of it, and settled, durably, before
// anything is applied (of a Settler: before anything is freed that it could lose
// with its checkpoint): so a checkpoint may be created only while nothing can
// have been applied, and its absence afterwards is an error.
func (l *Loop) resume(ctx context.Context) (sinks.Checkpoint, error) {
	claim, err := l.state.ChangeClaim(l.o.Name, func(*state.Claim) {})
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	l.from.Store(uint64(claim.From))
	l.filledTo.Store(uint64(claim.Filled))
	for attempt := 0; ; attempt++ {
		if !l.pace.pass(ctx) {
			return sinks.Checkpoint{}, context.Cause(ctx)
		}
		checkpoint, err := l.tryResume(ctx)
		l.pace.passed()
		if err == nil {
			if attempt > 0 {
				l.recovered()
				l.pace.recovering()
			}
			return checkpoint, nil
		}
		if ctx.Err() != nil {
			return sinks.Checkpoint{}, context.Cause(ctx)
		}
		switch sinks.OutcomeOf(err) {
		case sinks.Unknown, sinks.Retry:
		default:
			return sinks.Checkpoint{}, l.resumeError(err)
		}
		l.retriesStart.Add(1)
		l.failing(attempt == 0, err)
		delay := l.backoff(attempt)
		if attempt == 0 {
			l.logger.Warn("the store does not answer: writes are acknowledged and stay in the log",
				zap.Duration("retry_in", delay), zap.Error(err))
		}
		if !l.pace.wait(ctx, delay, l.marks.awaited) {
			return sinks.Checkpoint{}, context.Cause(ctx)
		}
	}
}

// tryResume is one attempt. Errors that no retry mends are marked sinks.Halt.
func (l *Loop) tryResume(ctx context.Context) (c sinks.Checkpoint, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.o.ApplyTimeout, errTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			err = sinks.WithOutcome(sinks.Halt, &PanicError{Value: r, Stack: debug.Stack()})
		}
	}()
	claim, err := l.carryOut(ctx)
	if err != nil {
		return c, err
	}
	// Before Resume, which raises the epoch: the wrong store is left untouched.
	identity, err := l.identity(ctx, claim)
	if err != nil {
		return c, err
	}
	if err := l.checkFirst(ctx); err != nil {
		return c, err
	}
	c, err = l.sink.Resume(ctx, sinks.Claim{
		Stream: l.log.Stream(), Owner: l.o.Owner, Lanes: l.o.total(), Fresh: !claim.Settled,
	})
	if err != nil {
		return c, err
	}
	if err := l.check(c); err != nil {
		if y, ok := l.sink.(sinks.Yielder); ok {
			y.Yield()
		}
		return c, sinks.WithOutcome(sinks.Halt, err)
	}
	_, err = l.state.ChangeClaim(l.o.Name, func(c *state.Claim) {
		c.Identity, c.Settled = identity, c.Settled || l.kept()
		l.keeps.Store(c.Settled)
	})
	return c, sinks.WithOutcome(sinks.Halt, err)
}

// checkFirst refuses a store before it is claimed, if it can be looked at: a log that
// has no business there must not shut out the one that has, nor keep its lock.
func (l *Loop) checkFirst(ctx context.Context) error {
	positioner, ok := l.sink.(sinks.Positioner)
	if !ok {
		return nil
	}
	at, err := positioner.Position(ctx)
	if errors.Is(err, sinks.ErrNoCheckpoint) {
		return nil // Resume tells a new store from one that lost it
	}
	if err == nil {
		err = sinks.WithOutcome(sinks.Halt, l.check(at))
	}
	return err
}

// identity asks the sink which store it is; empty if it cannot say.
func (l *Loop) identity(ctx context.Context, claim state.Claim) (found string, err error) {
	if i, ok := l.sink.(sinks.Identifier); ok {
		found, err = i.Identity(ctx)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return "", err
		}
	}
	if claim.Identity != "" && found != claim.Identity {
		return "", sinks.WithOutcome(sinks.Halt, &ResumeError{
			Sink: l.o.Name, Err: ErrWrongStore,
			Found: fmt.Sprintf("it says it is %q, the one that was claimed is %q", found, claim.Identity),
			Next:  fmt.Sprintf("nothing was changed; connect it to the right store, for a copy must not drain this log; or, if this one takes its place, run `walproxy sink accept %s`, which shows what that means", l.o.Name),
		})
	}
	return found, nil
}

// check compares the sink's checkpoint with the log.
func (l *Loop) check(c sinks.Checkpoint) error {
	refuse := func(sentinel, cause error, found, next string) error {
		return &ResumeError{Sink: l.o.Name, Found: found, Next: next, Err: sentinel, Cause: cause}
	}
	if c.Stream != l.log.Stream() {
		return refuse(ErrForeignStream, nil,
			fmt.Sprintf("its checkpoint is of stream %s, the log is stream %s", c.Stream, l.log.Stream()),
			foreignNext(l.o.Name))
	}
	if len(c.Lanes) < 1 || len(c.Lanes) > lanesMax {
		return refuse(ErrCheckpointMissing, nil, fmt.Sprintf("its checkpoint has %d lanes", len(c.Lanes)), missingNext(l.o.Name))
	}
	if _, err := l.heldRange(); errors.Is(err, wal.ErrDiverged) {
		return refuse(ErrDiverged, err,
			"records are held for it which this log never held: an older copy of the log was put back, or its tail was lost",
			fmt.Sprintf("nothing was applied; put the log back that belongs to the state store, or run `walproxy sink accept %s`, which shows what it means to go on without them", l.o.Name))
	} else if err != nil {
		return err
	}
	for i, p := range c.Lanes {
		err := l.contains(p)
		switch {
		case err == nil && !l.filled(p.LSN):
			return refuse(ErrBelowFirst, nil,
				fmt.Sprintf("lane %d is at %v: what it was given up to LSN %d when it was added was never routed to it, and is not kept any more", i, p, l.fill()),
				fmt.Sprintf("nothing was applied; restore the store from a later backup, or run `walproxy sink accept %s` to go on without those records", l.o.Name))
		case err == nil:
		case errors.Is(err, wal.ErrDiverged):
			return refuse(ErrDiverged, err,
				fmt.Sprintf("lane %d is at %v, which this log never held: an older copy of the log was put back, or its tail was lost", i, p),
				fmt.Sprintf("nothing was applied; put the log back that the sink was fed from, or run `walproxy sink accept %s`, which shows what it means to go on from this log (with --after LSN where it cannot know up to where they are one)", l.o.Name))
		case errors.Is(err, wal.ErrBelowFirst) && l.log.First()-1 <= l.start(): // what is gone was not this sink's
		case errors.Is(err, wal.ErrBelowFirst):
			return refuse(ErrBelowFirst, err,
				fmt.Sprintf("lane %d is at %v, the log starts at LSN %d", i, p, l.log.First()),
				fmt.Sprintf("the records between are gone; restore the store from a backup that reaches LSN %d, or run `walproxy sink accept %s`, which shows what it means to go on without them", l.log.First()-1, l.o.Name))
		default:
			return err
		}
	}
	return nil
}

// resumeError turns what a sink says into this package's words.
func (l *Loop) resumeError(err error) error {
	if _, ok := errors.AsType[*ResumeError](err); ok {
		return err
	}
	refused := &ResumeError{Sink: l.o.Name, Cause: err}
	switch {
	case errors.Is(err, sinks.ErrNoCheckpoint):
		refused.Err, refused.Next = ErrCheckpointMissing, missingNext(l.o.Name)
		refused.Found = "it was claimed for this log and records may have been applied, but it holds no checkpoint"
	case errors.Is(err, sinks.ErrForeignStream):
		refused.Err, refused.Next = ErrForeignStream, foreignNext(l.o.Name)
		refused.Found = fmt.Sprintf("the log is stream %s", l.log.Stream())
	case errors.Is(err, sinks.ErrFenced):
		refused.Err = ErrFenced
		refused.Found = "somebody claimed the stream with a higher epoch, or moved its checkpoint"
		refused.Next = fmt.Sprintf("one process may own a stream, and nothing can be accepted here: stop the other one, then `walproxy sink resume %s`", l.o.Name)
	case errors.Is(err, sinks.ErrRewound):
		return &HaltError{Sink: l.o.Name, Err: err, Passing: true}
	default:
		_, panicked := errors.AsType[*PanicError](err)
		over := errors.Is(err, sinks.ErrFailed) || errors.Is(err, sinks.ErrClosed)
		return &HaltError{Sink: l.o.Name, Err: err, Passing: !panicked && !over}
	}
	return refused
}

// RetryAfter tells how long to wait before another loop for the sink is worth its
// while, when Run returned err; false: not before somebody has acted. A sink that is
// fenced or has diverged, or whose own store has failed, never goes on by itself.
// Delays are spread.
func (l *Loop) RetryAfter(err error) (time.Duration, bool) {
	if errors.Is(err, sinks.ErrRewound) {
		return max(l.backoff(0), 1), true
	}
	halt, ok := errors.AsType[*HaltError](err)
	if !ok || !halt.Passing || l.o.HaltRetry < 0 {
		return 0, false
	}
	return max(time.Duration((0.5+l.random())*float64(l.o.HaltRetry)), 1), true
}

func missingNext(name string) string {
	return fmt.Sprintf("restore the checkpoint; or run `walproxy sink accept %s --after LSN`, naming the LSN up to which the store has this log: it shows what that means", name)
}

func foreignNext(name string) string {
	return fmt.Sprintf("connect the sink to its own store; or, if the store's former log is given up, run `walproxy sink accept %s` (with --after LSN where the store has some of this log), which shows what that means", name)
}
