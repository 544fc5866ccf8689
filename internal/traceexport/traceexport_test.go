package traceexport

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(endpoint string) Options {
	return Options{Endpoint: endpoint, Version: "1.2.3", SampleOneIn: 1, Queue: 100, Timeout: 10 * time.Second,
		Logger: zap.NewNop(), Registerer: prometheus.NewRegistry()}
}

func open(t *testing.T, o Options) *Exporter {
	t.Helper()
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// spans are what walproxy_tracing_spans_total says.
func spans(t *testing.T, o Options) map[string]float64 {
	t.Helper()
	families, err := o.Registerer.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			counts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return counts
}

// end ends n spans of one trace each.
func end(e *Exporter, n int) {
	tracer := e.TracerProvider().Tracer("test")
	for i := range n {
		_, span := tracer.Start(context.Background(), fmt.Sprint("span ", i))
		span.End()
	}
}

// TestExport: what ends comes to the collector, with its headers, at the default path, at
// the latest with Close.
func TestExport(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	got := make(chan *collector.ExportTraceServiceRequest, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		in := &collector.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, in); err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("%s with %v: %v", r.URL, r.Header, err)
		}
		got <- in
	}))
	defer s.Close()
	o := options(s.URL)
	o.Headers = map[string]string{"Authorization": "Bearer x"}
	e := open(t, o)
	end(e, 3)
	if err := e.provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if counts := spans(t, o); counts["exported"] != 3 || counts["failed"] != 0 || counts["dropped"] != 0 {
		t.Errorf("counted: %v", counts)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	in := <-got
	about := fmt.Sprint(in.GetResourceSpans()[0].GetResource())
	for _, want := range []string{"walproxy", "1.2.3", "deployment.environment.name"} {
		if !strings.Contains(about, want) {
			t.Errorf("the resource is %s, without %s", about, want)
		}
	}
	if n := len(in.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()); n != 3 {
		t.Errorf("%d spans", n)
	}
}

// TestHangingCollector: a collector that takes a request and says nothing costs spans, each
// of which is counted, and Close no more than StopTimeout; nobody who ends a span waits.
func TestHangingCollector(t *testing.T) {
	const queue, ended = 4, 100
	hang, asked := make(chan struct{}), make(chan struct{}, 100)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-hang
	}))
	defer s.Close()
	defer close(hang)
	o := options(s.URL)
	o.Queue, o.Timeout = queue, time.Hour
	e := open(t, o)
	end(e, queue)
	<-asked
	end(e, ended-queue)
	if counts := spans(t, o); counts["dropped"] != ended-queue {
		t.Errorf("while it hangs: %v", counts)
	}
	began := time.Now()
	metrics := e.metrics
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > StopTimeout+time.Minute { // the machine may be busy; the export's own bound is an hour
		t.Errorf("Close took %v", took)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics...)
	o.Registerer = registry
	if counts := spans(t, o); counts["failed"] != queue || counts["exported"] != 0 {
		t.Errorf("after Close: %v", counts)
	}
}

// TestCollectorAway: where nobody listens spans fail, and room is there for others.
func TestCollectorAway(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	o := options(s.URL)
	o.Queue, o.Timeout = 2, 200*time.Millisecond
	e := open(t, o)
	for round := range 3 {
		end(e, 2)
		_ = e.provider.ForceFlush(t.Context())
		if counts := spans(t, o); counts["failed"] != float64(2*round+2) || counts["dropped"] != 0 {
			t.Fatalf("after %d rounds: %v", round+1, counts)
		}
	}
}

// TestSampling: the caller decides about its own traces, sample_one_in about those that
// begin here.
func TestSampling(t *testing.T) {
	for _, c := range []struct {
		oneIn int
		flags trace.TraceFlags
		root  bool
		want  bool
	}{{1, 0, true, true}, {-1, 0, true, false}, {1, 0, false, false}, {-1, trace.FlagsSampled, false, true}} {
		o := options("http://127.0.0.1:1")
		o.SampleOneIn = c.oneIn
		e := open(t, o)
		ctx := context.Background()
		if !c.root {
			ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: c.flags}))
		}
		if _, span := e.TracerProvider().Tracer("test").Start(ctx, "x"); span.SpanContext().IsSampled() != c.want {
			t.Errorf("%+v: %v", c, !c.want)
		}
	}
}

// TestOpenErrors: a file of authorities that is none is refused at the start.
func TestOpenErrors(t *testing.T) {
	o := options("https://127.0.0.1:1")
	o.CA = "traceexport.go"
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("with no certificate: %v", err)
	}
}
