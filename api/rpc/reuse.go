package rpc

import (
	"context"
	"sync"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// What streams make for each message they make once, and use again for whichever message
// comes next: a stream that rests keeps none of it.

// slicePool has slices of T to use again. Calls may be concurrent.
type slicePool[T any] struct {
	most int // what is larger is not kept
	pool sync.Pool
}

// take returns one of n zeroes.
func (p *slicePool[T]) take(n int) []T {
	if s, ok := p.pool.Get().(*[]T); ok && cap(*s) >= n {
		return (*s)[:n]
	}
	return make([]T, n)
}

// give takes it back; nobody has it any more.
func (p *slicePool[T]) give(s []T) {
	if cap(s) == 0 || cap(s) > p.most {
		return
	}
	clear(s)
	s = s[:0]
	p.pool.Put(&s)
}

// messageMost is what a message may have by default.
const messageMost = 1024

var (
	sentPool    = slicePool[submitted]{most: messageMost}
	outcomePool = slicePool[outcome]{most: messageMost}
	textPool    = slicePool[byte]{most: 2 * batchFlush}
)

// outMessage is the answer to a message, with what its outcomes are made of.
type outMessage struct {
	message  walproxyv1.WriteStreamResponse
	outcomes []walproxyv1.WriteStreamResponse_Outcome
	written  []walproxyv1.WriteStreamResponse_Outcome_Written
	answers  []walproxyv1.WriteResponse
}

var outMessages = sync.Pool{New: func() any { return new(outMessage) }}

// of is the answer that tells outcomes, until of is called again.
func (o *outMessage) of(outcomes []outcome) *walproxyv1.WriteStreamResponse {
	if n := len(outcomes); n > len(o.outcomes) {
		o.outcomes = make([]walproxyv1.WriteStreamResponse_Outcome, n)
		o.written = make([]walproxyv1.WriteStreamResponse_Outcome_Written, n)
		o.answers = make([]walproxyv1.WriteResponse, n)
		o.message.Outcomes = make([]*walproxyv1.WriteStreamResponse_Outcome, 0, n)
		for i := range o.written {
			o.written[i].Written = &o.answers[i]
		}
	}
	o.message.Outcomes = o.message.Outcomes[:0]
	for i := range outcomes {
		to := &o.outcomes[i]
		if failed := outcomes[i].failed; failed != nil {
			to.Kind = &walproxyv1.WriteStreamResponse_Outcome_Failure{Failure: failed.failure()}
		} else {
			outcomes[i].written.set(&o.answers[i])
			to.Kind = &o.written[i]
		}
		o.message.Outcomes = append(o.message.Outcomes, to)
	}
	return &o.message
}

// patience bounds how long each of some writes may wait to be accepted, with one context
// for those that come within a moment.
type patience struct {
	ctx    context.Context
	cancel context.CancelFunc
	since  time.Time
}

// from is the context of a write that begins now: it ends after timeout, or up to a
// sixteenth of that earlier.
func (p *patience) from(parent context.Context, now time.Time, timeout time.Duration) context.Context {
	if p.ctx == nil || now.Sub(p.since) > timeout/16 {
		p.end()
		p.since = now
		p.ctx, p.cancel = context.WithDeadline(parent, now.Add(timeout))
	}
	return p.ctx
}

func (p *patience) end() {
	if p.cancel != nil {
		p.cancel()
	}
}
