// Package traceexport sends the spans of a server to a collector, by OTLP over HTTP.
//
//	span ends ──► queue (bounded, drops) ──► batches ──► POST /v1/traces
//
// Nothing that writes ever waits for it: a span that finds the queue full is dropped, and
// counted. A collector that is away or hangs costs the spans, and Close at most
// StopTimeout.
package traceexport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/promset"
	"github.com/walproxy/walproxy/internal/vfs"
)

// StopTimeout bounds how long Close waits for the collector to take what is left.
const StopTimeout = 2 * time.Second

const (
	batchSpans  = 512         // of one export
	batchDelay  = time.Second // how long a span waits for others
	dialTimeout = 5 * time.Second
	caBytesMax  = 1 << 20
)

// Options of Open; all but Headers, CA and ServiceName are required.
type Options struct {
	Endpoint    string // URL; without a path: /v1/traces
	Headers     map[string]string
	CA          string // a file in PEM. Empty: the system's authorities
	ServiceName string // empty: OTEL_SERVICE_NAME, else walproxy
	Version     string // of the program
	SampleOneIn int    // traces that begin here; negative: none
	Queue       int    // spans
	Timeout     time.Duration
	Logger      *zap.Logger
	Registerer  prometheus.Registerer
}

// Exporter is a provider of tracers whose spans go to a collector.
type Exporter struct {
	provider   *sdktrace.TracerProvider
	transport  *http.Transport
	registerer prometheus.Registerer
	metrics    []prometheus.Collector

	// gone ends when the collector has had its time.
	gone   context.Context
	giveUp context.CancelFunc
	closed sync.Once
}

// Open returns an exporter. It does not connect: the collector may come later.
func Open(ctx context.Context, o Options) (*Exporter, error) {
	endpoint, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if endpoint.Path == "" || endpoint.Path == "/" {
		endpoint.Path = "/v1/traces"
	}
	e := &Exporter{registerer: o.Registerer}
	e.gone, e.giveUp = context.WithCancel(context.Background())
	if e.transport, err = e.newTransport(o.CA); err != nil {
		return nil, err
	}
	client := &http.Client{Transport: e.transport, Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the headers are for the endpoint alone
	}}
	options := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(endpoint.String()), otlptracehttp.WithHTTPClient(client),
		otlptracehttp.WithTimeout(o.Timeout)}
	if len(o.Headers) > 0 {
		options = append(options, otlptracehttp.WithHeaders(o.Headers))
	}
	inner, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, err
	}
	about, err := about(ctx, o)
	if err != nil {
		return nil, err
	}
	q := &queue{most: int64(o.Queue)}
	s := &sender{SpanExporter: inner, queue: q, gone: e.gone, logger: o.Logger}
	if err := e.count(q, s); err != nil {
		return nil, err
	}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(s, sdktrace.WithMaxQueueSize(o.Queue), sdktrace.WithBatchTimeout(batchDelay),
		sdktrace.WithMaxExportBatchSize(min(batchSpans, o.Queue)), sdktrace.WithExportTimeout(o.Timeout))
	e.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q), sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sampler(o.SampleOneIn))), sdktrace.WithRawSpanLimits(limits))
	return e, nil
}

// limits bound what one span holds.
var limits = sdktrace.SpanLimits{AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 128, LinkCountLimit: 128,
	AttributePerEventCountLimit: 16, AttributePerLinkCountLimit: 1}

func sampler(oneIn int) sdktrace.Sampler {
	if oneIn < 0 {
		return sdktrace.NeverSample()
	}
	return sdktrace.TraceIDRatioBased(1 / float64(oneIn))
}

// about is what all spans say of where they come from.
func about(ctx context.Context, o Options) (*resource.Resource, error) {
	said := []attribute.KeyValue{attribute.String("service.version", o.Version)}
	if o.ServiceName != "" {
		said = append(said, attribute.String("service.name", o.ServiceName))
	}
	return resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "walproxy")),
		resource.WithFromEnv(), resource.WithAttributes(said...))
}

func (e *Exporter) newTransport(ca string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: dialTimeout,
		MaxConnsPerHost:     1, // one export at a time
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			defer context.AfterFunc(e.gone, cancel)()
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	if ca == "" {
		return t, nil
	}
	pem, err := vfs.ReadFile(vfs.OS(), ca, caBytesMax)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: %s holds no certificate in PEM", ca)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// count registers the metrics.
func (e *Exporter) count(q *queue, s *sender) error {
	for outcome, n := range map[string]*atomic.Uint64{"exported": &s.exported, "failed": &s.failed, "dropped": &q.dropped} {
		e.metrics = append(e.metrics, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "walproxy_tracing_spans_total", ConstLabels: prometheus.Labels{"outcome": outcome},
			Help: "Spans that ended: exported to the collector, failed because it did not take them in time, or dropped because the queue was full.",
		}, func() float64 { return float64(n.Load()) }))
	}
	return promset.Register(e.registerer, e.metrics...)
}

// TracerProvider is what spans are made with, until Close.
func (e *Exporter) TracerProvider() trace.TracerProvider { return e.provider }

// Close sends what is left, for StopTimeout at most, and joins every goroutine; after the
// last span has ended. A second call does nothing.
func (e *Exporter) Close() (err error) {
	e.closed.Do(func() { err = e.close() })
	return err
}

func (e *Exporter) close() error {
	timer := time.AfterFunc(StopTimeout, e.giveUp)
	defer timer.Stop()
	err := e.provider.Shutdown(context.Background()) // giveUp bounds it
	e.giveUp()
	e.transport.CloseIdleConnections()
	promset.Unregister(e.registerer, e.metrics...)
	return err
}

// queue lets in as many spans as may wait, those being sent included.
type queue struct {
	sdktrace.SpanProcessor // makes batches of them; its own queue is never full
	most                   int64
	waiting                atomic.Int64
	dropped                atomic.Uint64
}

// OnEnd implements sdktrace.SpanProcessor. It does not block.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.dropped.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// sender counts and logs what becomes of batches: nobody else is told.
type sender struct {
	sdktrace.SpanExporter
	queue            *queue
	gone             context.Context
	logger           *zap.Logger
	exported, failed atomic.Uint64
}

// ExportSpans implements sdktrace.SpanExporter.
func (s *sender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer s.queue.waiting.Add(-int64(len(spans)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.gone, cancel)()
	err := errors.New("there was no time left")
	if s.gone.Err() == nil {
		err = s.SpanExporter.ExportSpans(ctx, spans)
	}
	if err == nil {
		s.exported.Add(uint64(len(spans)))
		return nil
	}
	s.failed.Add(uint64(len(spans)))
	s.logger.Warn("the collector did not take spans", zap.Int("spans", len(spans)), zap.Error(err))
	return nil
}
