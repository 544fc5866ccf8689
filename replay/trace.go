package replay

import (
	"context"
	"iter"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/sinks"
)

// linksMax bounds the records that a batch's span has links to, and so the spans that
// one batch makes.
const linksMax = 128

// spans are those of a batch: each trace that one of its records belongs to gets one,
// behind the span that accepted the record. The first is the batch's own, with links to
// the records and all that happens to the batch; the others have a link to it. nil: no
// record belongs to a trace.
type spans struct {
	of  []trace.Span    // [0] is the batch's
	ids []trace.TraceID // whose they are
}

// trace begins the spans of a batch. The context that comes with them has the batch's.
func (p *pipeline) trace(work context.Context, records iter.Seq[*sinks.Record]) (context.Context, *spans) {
	if p.loop.tracer == nil {
		return work, nil
	}
	var contexts []trace.SpanContext
	count, traced := 0, 0
	var first, last *sinks.Record
	for r := range records {
		if count++; first == nil {
			first = r
		}
		last = r
		if r.Body.GetTrace() == nil {
			continue
		}
		if traced++; len(contexts) < linksMax {
			if sc := tracing.Context(r.Body.GetTrace()); sc.IsValid() {
				contexts = append(contexts, sc)
			}
		}
	}
	if len(contexts) == 0 {
		return work, nil
	}
	links := make([]trace.Link, len(contexts))
	for i, sc := range contexts {
		links[i].SpanContext = sc
	}
	attributes := []attribute.KeyValue{tracing.Sink.String(p.loop.o.Name), tracing.Records.Int(count),
		tracing.FirstLSN.Int64(int64(first.LSN)), tracing.LastLSN.Int64(int64(last.LSN))}
	if n := traced - len(contexts); n > 0 {
		attributes = append(attributes, tracing.Unlinked.Int(n))
	}
	began := trace.WithTimestamp(time.Now())
	consumer, with := trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...)
	s := &spans{}
	for _, sc := range contexts {
		if slices.Contains(s.ids, sc.TraceID()) {
			continue
		}
		parent := trace.ContextWithRemoteSpanContext(work, sc)
		var span trace.Span
		if len(s.of) == 0 {
			work, span = p.loop.tracer.Start(parent, tracing.Apply, consumer, with, began, trace.WithLinks(links...))
		} else {
			_, span = p.loop.tracer.Start(parent, tracing.Apply, consumer, with, began,
				trace.WithLinks(trace.Link{SpanContext: s.of[0].SpanContext()}))
		}
		s.of, s.ids = append(s.of, span), append(s.ids, sc.TraceID())
	}
	return work, s
}

// record notes what became of one record, in its own trace if it has one.
func (s *spans) record(event string, r *sinks.Record, err error) {
	if s == nil {
		return
	}
	span := s.of[0]
	if i := slices.Index(s.ids, tracing.Context(r.Body.GetTrace()).TraceID()); i >= 0 {
		span = s.of[i]
	}
	span.AddEvent(event, trace.WithAttributes(append(storeCode(err), tracing.LSN.Int64(int64(r.LSN)))...))
}

// end ends the spans; applied: the store has what of the batch is no dead letter.
func (s *spans) end(applied bool) {
	if s == nil {
		return
	}
	outcome := "applied"
	if !applied {
		outcome = "unfinished" // it comes again
	}
	for _, span := range s.of {
		span.SetAttributes(tracing.Outcome.String(outcome))
		if !applied {
			span.SetStatus(codes.Error, outcome)
		}
		span.End()
	}
}

// note adds an event to the span of work, if it has one.
func note(work context.Context, event string, v verdict, more ...attribute.KeyValue) {
	span := trace.SpanFromContext(work)
	if !span.IsRecording() {
		return
	}
	attributes := append(storeCode(v.err), tracing.Outcome.String(v.outcome.String()))
	span.AddEvent(event, trace.WithAttributes(append(attributes, more...)...))
}

// storeCode is the code of what a store said. Its text may hold keys and values.
func storeCode(err error) []attribute.KeyValue {
	details := sinks.DetailsOf(err, detailsBytesMax)
	for _, name := range []string{"sqlstate", "result_code"} {
		if code := details[name]; code != "" {
			return []attribute.KeyValue{attribute.String("db.response.status_code", code)}
		}
	}
	return nil
}

// items are the records of them.
func items(of []item) iter.Seq[*sinks.Record] {
	return func(yield func(*sinks.Record) bool) {
		for i := range of {
			if !yield(&of[i].Record) {
				return
			}
		}
	}
}

func pointers(of []sinks.Record) iter.Seq[*sinks.Record] {
	return func(yield func(*sinks.Record) bool) {
		for i := range of {
			if !yield(&of[i]) {
				return
			}
		}
	}
}
