package rpc

import (
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traced is r with the trace context of its headers, traceparent and tracestate: of all
// its items, if it has many. What is no such context is passed over, as W3C wants it.
func traced(r *http.Request) *http.Request {
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return r
	}
	return r.WithContext(ctx)
}
