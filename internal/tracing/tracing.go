// Package tracing is what walproxy's spans are made of: their names and attributes, and
// the form in which the log keeps the context of one.
//
//	caller's span ──► walproxy.accept ──► Record.trace in the log ──► walproxy.apply
//
// No attribute and no event holds a payload, a key or what a store said: only LSNs,
// counts, times, and the names of collections and sinks.
package tracing

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Names of spans.
const (
	Accept = "walproxy.accept" // from the order to write to the ack, or the refusal
	Apply  = "walproxy.apply"  // a batch, from when it is taken until the store has it
)

// Names of events.
const (
	Locked     = "locked"   // the keys are
	Appended   = "appended" // the write has its LSN, and waits for the fsync
	Retry      = "retry"
	Halt       = "halt"
	DeadLetter = "dead_letter"
	Parked     = "parked" // behind a dead letter
)

// Keys of attributes.
const (
	Collection = attribute.Key("db.collection.name") // of a write to one
	LSN        = attribute.Key("walproxy.lsn")
	Repeat     = attribute.Key("walproxy.repeat") // LSN is that of the write it repeats
	ErrorType  = attribute.Key("error.type")
	Sink       = attribute.Key("walproxy.sink")
	Records    = attribute.Key("walproxy.records")
	FirstLSN   = attribute.Key("walproxy.lsn.first")
	LastLSN    = attribute.Key("walproxy.lsn.last")
	Unlinked   = attribute.Key("walproxy.unlinked") // records with a context beyond the bound of links
	Outcome    = attribute.Key("walproxy.outcome")
	Attempt    = attribute.Key("walproxy.attempt")
	RetryIn    = attribute.Key("walproxy.retry_in_ms")
)

// stateBytesMax bounds a tracestate, as W3C asks of who passes it on.
const stateBytesMax = 512

// Tracer is p's for walproxy; nil for nil.
func Tracer(p trace.TracerProvider) trace.Tracer {
	if p == nil {
		return nil
	}
	return p.Tracer("github.com/walproxy/walproxy")
}

// Stored is sc as the log keeps it; nil if nobody records its trace.
func Stored(sc trace.SpanContext) *walproxyv1.Trace {
	if !sc.IsValid() || !sc.IsSampled() {
		return nil
	}
	id, span := sc.TraceID(), sc.SpanID()
	t := &walproxyv1.Trace{TraceId: id[:], SpanId: span[:], Flags: uint32(sc.TraceFlags())}
	if state := sc.TraceState().String(); len(state) <= stateBytesMax {
		t.State = state
	}
	return t
}

// Context is the inverse of Stored. It is not valid where t is not.
func Context(t *walproxyv1.Trace) trace.SpanContext {
	if len(t.GetTraceId()) != len(trace.TraceID{}) || len(t.GetSpanId()) != len(trace.SpanID{}) {
		return trace.SpanContext{}
	}
	c := trace.SpanContextConfig{TraceID: trace.TraceID(t.TraceId), SpanID: trace.SpanID(t.SpanId),
		TraceFlags: trace.TraceFlags(t.Flags), Remote: true}
	if state, err := trace.ParseTraceState(t.State); err == nil {
		c.TraceState = state
	}
	return trace.NewSpanContext(c)
}
