package replay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/sinks"
)

// verdict is what an Apply means for its batch as a whole.
type verdict struct {
	// outcome: Applied: all of it. Unknown, Retry: the same batch again. Halt.
	// Rejected: one of the records can never apply; the others are not applied
	// or will be reported Applied when they are sent again.
	outcome sinks.Outcome
	hint    int   // with Rejected: index of the first record that the sink blames, or -1
	err     error // why, unless Applied
}

// apply applies b until the sink has it or rejects one of its records. It
// returns false if the loop stops or halts first; b's outcome may be unknown
// then.
func (p *pipeline) apply(stop, work context.Context, b *sinks.Batch) (v verdict, ok bool) {
	failed := false
	defer func() {
		if failed {
			p.loop.recovered()
		}
	}()
	for attempt := 0; ; attempt++ {
		round, ok := p.loop.pace.enter(stop)
		if !ok {
			return v, false
		}
		began := time.Now()
		v := p.attempt(work, b)
		p.loop.pace.leave(round, b, v.outcome, time.Since(began))
		switch v.outcome {
		case sinks.Applied, sinks.Rejected:
			if attempt >= outageAttempts {
				p.loop.pace.wake()
			}
			return v, true
		case sinks.Unknown, sinks.Retry:
		default:
			note(work, tracing.Halt, v)
			p.halt(p.loop.resumeError(v.err))
			return v, false
		}
		if stop.Err() != nil {
			return v, false
		}
		if v.outcome == sinks.Unknown {
			p.loop.retriesUnknown.Add(1)
		}
		p.loop.failing(!failed, v.err)
		failed = true
		delay := p.loop.backoff(attempt)
		note(work, tracing.Retry, v, tracing.Attempt.Int(attempt+1), tracing.RetryIn.Int64(delay.Milliseconds()))
		// Not every attempt: many a second say nothing new.
		if attempt == 0 || delay > time.Second {
			p.loop.logger.Warn("apply failed, will retry", zap.Stringer("outcome", v.outcome), zap.Int("attempt", attempt+1),
				zap.Duration("retry_in", delay), zap.Int("records", len(b.Records)), zap.Error(v.err))
		}
		if !p.loop.pace.wait(stop, delay, p.loop.marks.awaited) {
			return v, false
		}
	}
}

// outageAttempts is how many failures in a row count as an outage: the first lane
// that gets through wakes the others from their backoff, or a store that is back
// would have one lane to serve until the longest of them ends. Fewer say nothing
// about other lanes, which would be kept from backing off.
const outageAttempts = 4

// attempt is one Apply.
func (p *pipeline) attempt(work context.Context, b *sinks.Batch) verdict {
	ctx, cancel := context.WithTimeoutCause(work, p.loop.o.ApplyTimeout, errTimeout)
	defer cancel()
	failpoint.Hit("replay-mid-apply")
	results, err := call(ctx, p.loop.sink, b)
	return judge(b, results, err)
}

// call is sink.Apply, with a panic as a reason to halt.
func call(ctx context.Context, sink sinks.Sink, b *sinks.Batch) (results []sinks.Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			results, err = nil, sinks.WithOutcome(sinks.Halt, &PanicError{Value: r, Stack: debug.Stack()})
		}
	}()
	return sink.Apply(ctx, b)
}

// errNoReason stands in where a sink reports a failure without saying why.
var errNoReason = errors.New("the sink gave no reason")

// judge makes one verdict of what a sink says. The worst outcome decides: Halt,
// Rejected (the lowest LSN), Unknown or Retry, Applied.
func judge(b *sinks.Batch, results []sinks.Result, err error) verdict {
	if results == nil || len(b.Records) == 0 {
		return judgeWhole(b, err)
	}
	if len(results) != len(b.Records) {
		return verdict{outcome: sinks.Halt, err: fmt.Errorf("the sink returned %d results for %d records", len(results), len(b.Records))}
	}
	worst := verdict{outcome: sinks.Applied, hint: -1}
	for i, r := range results {
		if r.Err == nil && r.Outcome != sinks.Applied {
			r.Err = errNoReason
		}
		if severity(r.Outcome) > severity(worst.outcome) {
			worst = verdict{outcome: r.Outcome, hint: i, err: r.Err}
		}
	}
	if worst.outcome == sinks.Applied && err != nil {
		// It contradicts itself; applying again tells.
		return verdict{outcome: sinks.Unknown, hint: -1, err: err}
	}
	return worst
}

// judgeWhole is judge for an err that stands for every record.
func judgeWhole(b *sinks.Batch, err error) verdict {
	v := verdict{outcome: sinks.OutcomeOf(err), hint: -1, err: err}
	if v.outcome == sinks.Rejected && len(b.Records) == 0 {
		v.outcome = sinks.Halt // there is nothing to reject
	}
	return v
}

func severity(o sinks.Outcome) int {
	switch o {
	case sinks.Applied:
		return 0
	case sinks.Retry:
		return 1
	case sinks.Unknown:
		return 2
	case sinks.Rejected:
		return 3
	}
	return 4 // Halt, and what no sink may say
}

// backoff is how long to wait after attempt (from 0): exponential, with full
// jitter so that lanes and processes spread out.
func (l *Loop) backoff(attempt int) time.Duration {
	limit := l.o.RetryMax
	if l.o.RetryMin <= limit>>min(attempt, 62) {
		limit = l.o.RetryMin << attempt
	}
	return max(time.Duration(l.random()*float64(limit)), l.o.RetryMin/10, 1)
}

// pause returns true after d, false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
