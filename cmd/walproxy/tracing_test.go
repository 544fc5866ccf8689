package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/walproxy/walproxy/client"
	server "github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/mutation"
)

// receiver is a collector that keeps spans.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*tracev1.Span
	changed chan struct{} // closed and replaced with each request
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{changed: make(chan struct{})}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		in := &collector.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, in); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, of := range in.GetResourceSpans() {
			for _, scope := range of.GetScopeSpans() {
				r.spans = append(r.spans, scope.GetSpans()...)
			}
		}
		close(r.changed)
		r.changed = make(chan struct{})
	}))
	t.Cleanup(r.Close)
	return r
}

// await returns the span of that name in a trace.
func (r *receiver) await(t *testing.T, name string, in trace.TraceID) *tracev1.Span {
	t.Helper()
	patience := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		for _, s := range r.spans {
			if s.GetName() == name && trace.TraceID(s.GetTraceId()) == in {
				r.mu.Unlock()
				return s
			}
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-patience:
			t.Fatalf("no span %s in trace %s came", name, in)
		}
	}
}

func caller(trac byte, flags trace.TraceFlags) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{trac, 1}, SpanID: trace.SpanID{trac, 2}, TraceFlags: flags, Remote: true})
}

// send puts body to url, with the header traceparent.
func send(t *testing.T, method, url, contentType, body string, from trace.SpanContext) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("traceparent", fmt.Sprintf("00-%s-%s-%s", from.TraceID(), from.SpanID(), from.TraceFlags()))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK || strings.Contains(string(said), `"error"`) {
		t.Fatalf("%s: %s", answer.Status, said)
	}
}

const tracedConfig = `
data_dir: %s
log: { min_free: -1 }
api: { listen: "127.0.0.1:0" }
admin: { listen: "127.0.0.1:0" }
sinks: { main: { type: pebble, paused: %v } }
tracing: { endpoint: "%s", sample_one_in: -1 }
`

// TestServeTraces: writes over REST, as lines of NDJSON and over gRPC, with the contexts of
// traces, have a span when they are accepted and one when they are applied, at a collector.
// Of a trace that its caller does not record, and without a caller, nothing goes there.
func TestServeTraces(t *testing.T) {
	to := newReceiver(t)
	c, err := config.Parse("", fmt.Appendf(nil, tracedConfig, filepath.Join(t.TempDir(), "data"), false, to.URL), nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = i.close() }()
	address := urlOf(i.apiListener, false)
	none, empty := caller(9, 0), trace.SpanContext{}
	send(t, http.MethodPut, address+"/v1/orders/9", "application/json", `{"n":1}`, none)
	send(t, http.MethodPut, address+"/v1/orders/8", "application/json", `{"n":1}`, empty)
	rest, lines, grpc := caller(1, trace.FlagsSampled), caller(2, trace.FlagsSampled), caller(3, trace.FlagsSampled)
	send(t, http.MethodPut, address+"/v1/orders/1", "application/json", `{"n":1}`, rest)
	send(t, http.MethodPost, address+"/v1/mutations", "application/x-ndjson", `{"collection":"orders","key":"2","set":{"n":1}}`+"\n", lines)
	calls, err := client.New(address, client.Options{GRPC: true})
	if err != nil {
		t.Fatal(err)
	}
	defer calls.Close()
	if _, err := calls.Put(trace.ContextWithSpanContext(t.Context(), grpc), "orders", mutation.String("3"), map[string]any{"n": 1}); err != nil {
		t.Fatal(err)
	}
	for _, from := range []trace.SpanContext{rest, lines, grpc} {
		accept := to.await(t, "walproxy.accept", from.TraceID())
		apply := to.await(t, "walproxy.apply", from.TraceID())
		if trace.SpanID(accept.GetParentSpanId()) != from.SpanID() || accept.GetKind() != tracev1.Span_SPAN_KIND_SERVER {
			t.Errorf("the write's span is %v", accept)
		}
		if trace.SpanID(apply.GetParentSpanId()) != trace.SpanID(accept.GetSpanId()) || len(apply.GetLinks()) == 0 {
			t.Errorf("the apply's span is %v", apply)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := i.close(); err != nil {
		t.Error(err)
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	for _, s := range to.spans {
		if id := trace.TraceID(s.GetTraceId()); id != rest.TraceID() && id != lines.TraceID() && id != grpc.TraceID() {
			t.Errorf("nobody asked for %v", s)
		}
	}
}

// TestTraceOutlivesKill: a server is killed between the ack and the apply. The next one
// applies the write in the trace that it came with.
func TestTraceOutlivesKill(t *testing.T) {
	exe, err := exec.LookPath("walproxy") // as testscript put it into PATH
	if err != nil {
		t.Fatal(err)
	}
	to, dir := newReceiver(t), t.TempDir()
	serve := func(paused bool) *server.Process {
		p, err := server.Start(context.WithoutCancel(t.Context()), server.Options{Command: []string{exe, "serve"}, Env: []string{
			"WALPROXY_DATA_DIR=" + filepath.Join(dir, "data"), "WALPROXY_LOG__MIN_FREE=-1", "WALPROXY_API__LISTEN=127.0.0.1:0", "WALPROXY_ADMIN__LISTEN=127.0.0.1:0",
			"WALPROXY_TRACING__ENDPOINT=" + to.URL, fmt.Sprint("WALPROXY_SINKS__MAIN__PAUSED=", paused),
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.Kill()
			<-p.Ended()
		})
		return p
	}
	from := caller(5, trace.FlagsSampled)
	first := serve(true)
	send(t, http.MethodPut, "http://"+first.Addr("api")+"/v1/orders/1", "application/json", `{"n":1}`, from)
	first.Kill()
	<-first.Ended()
	http.DefaultClient.CloseIdleConnections()
	serve(false)
	apply := to.await(t, "walproxy.apply", from.TraceID())
	if parent := trace.SpanID(apply.GetParentSpanId()); !parent.IsValid() || parent == from.SpanID() {
		t.Errorf("the apply's span is %v", apply)
	}
}

// TestServeWithHangingCollector: a collector that hangs holds up no write, and the stop for
// a bounded time alone.
func TestServeWithHangingCollector(t *testing.T) {
	hang := make(chan struct{})
	to := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer to.Close()
	defer close(hang)
	text := strings.Replace(fmt.Sprintf(tracedConfig, filepath.Join(t.TempDir(), "data"), false, to.URL), "sample_one_in: -1", "sample_one_in: 1, queue: 8, timeout: 5m", 1)
	c, err := config.Parse("", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := start(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = i.close() }()
	for n := range 100 {
		send(t, http.MethodPut, urlOf(i.apiListener, false)+fmt.Sprint("/v1/orders/", n), "application/json", `{"n":1}`, trace.SpanContext{})
	}
	http.DefaultClient.CloseIdleConnections()
	began := time.Now()
	if err := i.close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Minute { // the machine may be busy; an export alone may take 5
		t.Errorf("the stop took %v", took)
	}
}

// tracingMetrics: every span of a write is counted as what became of it.
func tracingMetrics(t *testing.T, j *judge) {
	to := newReceiver(t)
	_, api, metrics, _ := running(t, "tracing: { endpoint: \""+to.URL+"\", sample_one_in: -1 }\n")
	const writes = 3
	for n := range byte(writes) {
		send(t, http.MethodPut, fmt.Sprint(api, "/v1/orders/", n), "application/json", `{"n":1}`, caller(n+1, trace.FlagsSampled))
	}
	// One when it is accepted and one when it is applied; of each trace its own.
	s := awaitSum(t, metrics, 2*writes, "walproxy_tracing_spans_total", `outcome="exported"`)
	j.same(t, s, 2*writes, "walproxy_tracing_spans_total")
	j.same(t, s, 2*writes, "walproxy_tracing_spans_total", `outcome="exported"`)
}
