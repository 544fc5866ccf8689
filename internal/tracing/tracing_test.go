package tracing

import (
	"bytes"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

func spanContext(t *testing.T, flags trace.TraceFlags, state string) trace.SpanContext {
	t.Helper()
	ts, err := trace.ParseTraceState(state)
	if err != nil {
		t.Fatal(err)
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: flags, TraceState: ts})
}

// TestStored: a context comes back as it was stored; one of a trace that nobody records
// is not stored.
func TestStored(t *testing.T) {
	sc := spanContext(t, trace.FlagsSampled, "a=1,b=2")
	if got := Context(Stored(sc)); !got.Equal(sc.WithRemote(true)) {
		t.Errorf("%v came back as %v", sc, got)
	}
	if got := Stored(spanContext(t, 0, "")); got != nil {
		t.Errorf("stored of an unsampled one: %v", got)
	}
	if got := Stored(trace.SpanContext{}); got != nil {
		t.Errorf("stored of none: %v", got)
	}
	long := spanContext(t, trace.FlagsSampled, "a="+strings.Repeat("x", 250)+",b="+strings.Repeat("y", 250)+",c="+strings.Repeat("z", 10))
	if got := Stored(long); got == nil || got.State != "" {
		t.Errorf("a state of %d bytes is stored: %v", long.TraceState().Len(), got)
	}
}

// TestContextOfNone: what is no context is none, and no error.
func TestContextOfNone(t *testing.T) {
	id, span := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{1}, 8)
	for _, bad := range []*walproxyv1.Trace{nil, {}, {TraceId: id}, {SpanId: span}, {TraceId: id[:15], SpanId: span},
		{TraceId: append(id, 1), SpanId: span}, {TraceId: id, SpanId: span[:7]}, {TraceId: make([]byte, 16), SpanId: span, Flags: 1}} {
		if got := Context(bad); got.IsValid() {
			t.Errorf("%v is %v", bad, got)
		}
	}
	if got := Context(&walproxyv1.Trace{TraceId: id, SpanId: span, Flags: 1, State: "no state"}); !got.IsSampled() || got.TraceState().Len() != 0 {
		t.Errorf("with a bad state: %v", got)
	}
}
