package accept

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// startSpan begins the span of a write; follow ends it. in may be nil.
func (a *Acceptor) startSpan(ctx context.Context, in *walproxyv1.Record) (context.Context, trace.Span) {
	kind := trace.SpanKindInternal
	if trace.SpanContextFromContext(ctx).IsRemote() {
		kind = trace.SpanKindServer
	}
	ctx, span := a.tracer.Start(ctx, tracing.Accept, trace.WithSpanKind(kind))
	if !span.IsRecording() {
		return ctx, span
	}
	if in.GetGroup() == nil {
		mutation.Keys(in, func(collection string, _ *walproxyv1.Key) {
			span.SetAttributes(tracing.Collection.String(collection))
		})
	}
	if in.GetOrigin() != nil { // the trace of the write that is tried again
		if of := tracing.Context(in.GetTrace()); of.IsValid() {
			span.AddLink(trace.Link{SpanContext: of})
		}
	}
	return ctx, span
}

// follow ends span when the outcome of p is known, or now because of err. Without
// either there was nothing to write.
func (a *Acceptor) follow(span trace.Span, p *Pending, err error) {
	switch {
	case !span.IsRecording(): // End would do nothing
	case err != nil:
		endSpan(span, err)
	case p == nil:
		span.End()
	default:
		span.SetAttributes(tracing.LSN.Int64(int64(p.result.LSN)))
		if p.result.Repeat {
			span.SetAttributes(tracing.Repeat.Bool(true))
		}
		a.acks.add(accepted{span, p})
	}
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		kind := errorType(err)
		span.SetAttributes(tracing.ErrorType.String(kind))
		span.SetStatus(codes.Error, kind)
	}
	span.End()
}

// errorType names err without its text, which may hold keys.
func errorType(err error) string {
	if _, ok := errors.AsType[*mutation.InvalidError](err); ok {
		return "invalid"
	}
	for _, known := range []struct {
		err  error
		name string
	}{
		{ErrConflict, "version_conflict"}, {ErrRequestMismatch, "request_mismatch"}, {ErrUnroutable, "unroutable"},
		{ErrVersionUnknown, "version_unknown"}, {ErrNoReader, "no_reader"}, {ErrDirect, "direct"}, {ErrBehind, "behind"},
		{ErrParked, "parked"}, {wal.ErrFull, "log_full"}, {wal.ErrTooLarge, "too_large"}, {wal.ErrPoisoned, "poisoned"},
		{wal.ErrClosed, "closed"}, {context.DeadlineExceeded, "timeout"}, {context.Canceled, "canceled"},
	} {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	return "_OTHER" // as OpenTelemetry has it
}

// trace has w carry the context of the span that startSpan put into ctx.
func (a *Acceptor) trace(ctx context.Context, w *write) {
	if a.tracer != nil {
		w.record.Trace = tracing.Stored(trace.SpanContextFromContext(ctx))
	}
}

// event adds one to that span.
func (a *Acceptor) event(ctx context.Context, name string) {
	if a.tracer != nil {
		trace.SpanFromContext(ctx).AddEvent(name)
	}
}

// acksMax bounds the spans of writes whose outcome is not known yet. A span beyond
// it ends with the append.
const acksMax = 4096

// acks ends the spans of writes when these are durable, whether or not anybody waits
// for that.
type acks struct {
	queue   chan accepted
	running sync.WaitGroup
}

type accepted struct {
	span    trace.Span
	pending *Pending
}

// start begins to take spans. After end closes nothing is waited for.
func (q *acks) start(end <-chan struct{}) {
	q.queue = make(chan accepted, acksMax)
	q.running.Go(func() {
		for one := range q.queue {
			select {
			case <-one.pending.Done():
			case <-end:
			}
			endSpan(one.span, one.pending.outcome())
		}
	})
}

func (q *acks) add(one accepted) {
	select {
	case q.queue <- one:
	default:
		one.span.End()
	}
}

// stop joins it. Nothing is added any more.
func (q *acks) stop() {
	close(q.queue)
	q.running.Wait()
}

// outcome is Wait's error if that is known, else wal.ErrClosed.
func (p *Pending) outcome() error {
	select {
	case <-p.Done():
	default:
		return wal.ErrClosed
	}
	if p.stored {
		return nil
	}
	return p.ticket.Err()
}
