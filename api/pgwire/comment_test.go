package pgwire

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/tracing"
)

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
	traceparent  = "traceparent='00-" + callersTrace + "-" + callersSpan + "-01'"
)

func TestCommented(t *testing.T) {
	for sql, state := range map[string]string{
		"INSERT INTO t VALUES (1) /*" + traceparent + "*/":                         "",
		"INSERT INTO t VALUES (1) /* " + traceparent + " */ ; \n":                  "",
		"SELECT 1 /*action='a%2Cb'," + traceparent + ",tracestate='congo%3Dt61'*/": "congo=t61",
		"SELECT 1 /*" + traceparent + ",tracestate='congo%3Dt61%2Crojo%3D00f0'*/":  "congo=t61,rojo=00f0",
		"SELECT 1 /*" + traceparent + ",tracestate='congo%3Dt61,rojo%3D00f0'*/":    "", // a comma is to be %2C
		"SELECT '/*' /* nested /* " + traceparent + "*/":                           "",
	} {
		got := commented(sql)
		if got.TraceID().String() != callersTrace || got.SpanID().String() != callersSpan || !got.IsSampled() || !got.IsRemote() || got.TraceState().String() != state {
			t.Errorf("%s: %v", sql, got)
		}
	}
	for _, sql := range []string{"", "*/", "/*/", "/**/", "SELECT '/*" + traceparent + "*/'", "/*" + traceparent + "*/ SELECT 1",
		"SELECT 1 /*traceparent='00-0-0-01'*/", "SELECT 1 /*traceparent=00-" + callersTrace + "-" + callersSpan + "-01*/",
		"SELECT 1 /*traceparent='%zz'*/", "SELECT 1 -- " + traceparent} {
		if got := commented(sql); got.IsValid() {
			t.Errorf("%s: %v", sql, got)
		}
	}
}

// TestTraceOfComment: a write that is written behind goes on with the trace that its
// comment names; each of a transaction that is held with that of its first.
func TestTraceOfComment(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) {
		o.proxy = func(po *walproxy.Options) {
			po.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
		}
	})
	simple, extended := r.connect(pgx.QueryExecModeSimpleProtocol), r.connect(pgx.QueryExecModeExec)
	do(t, simple, "INSERT INTO items (id, name) VALUES (1, 'a') /*"+traceparent+"*/")
	if _, err := extended.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, 'a') /*"+traceparent+"*/", 2); err != nil {
		t.Fatal(err)
	}
	do(t, simple, "INSERT INTO items (id, name) VALUES (3, 'a')")
	if n := r.logged(); n != 3 {
		t.Fatalf("%d were written behind: %s", n, r.why())
	}
	r.applied()
	own, callers := 0, 0
	for end := time.Now().Add(time.Minute); own+callers < 3 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		own, callers = 0, 0
		for _, s := range spans.Ended() {
			switch {
			case s.Name() != tracing.Accept:
			case s.SpanContext().TraceID().String() != callersTrace:
				own++
			case s.Parent().SpanID().String() == callersSpan && s.Parent().IsRemote():
				callers++
			}
		}
	}
	if own != 1 || callers != 2 {
		t.Errorf("%d of the callers' trace, %d of their own; want 2 and 1", callers, own)
	}
}

func FuzzCommented(f *testing.F) {
	f.Add("INSERT INTO t VALUES (1) /*" + traceparent + "*/")
	f.Add("SELECT 1 /*a='b',tracestate='congo%3Dt61'*/;")
	f.Add("/*/")
	f.Fuzz(func(t *testing.T, sql string) {
		if got := commented(sql); got.IsValid() && (!strings.Contains(sql, "traceparent") || !strings.Contains(sql, "*/")) {
			t.Errorf("%q: %v", sql, got)
		}
	})
}
