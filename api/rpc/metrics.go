package rpc

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/internal/promset"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	items    *prometheus.CounterVec
	inFlight prometheus.Gauge
	close    func()
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_http_requests_total", Help: "Requests answered.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "walproxy_http_request_seconds", Help: "Time from the request's head to the end of the answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}, []string{"route"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_http_mutations_total", Help: "Items of POST /v1/mutations answered, by code; ok: acknowledged.",
		}, []string{"code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "walproxy_http_requests_in_flight", Help: "Requests being served.",
		}),
	}
	all := []prometheus.Collector{m.requests, m.seconds, m.items, m.inFlight}
	if err := promset.Register(reg, all...); err != nil {
		return nil, fmt.Errorf("rpc: metrics: %w", err)
	}
	m.close = func() { promset.Unregister(reg, all...) }
	return m, nil
}

func (m *metrics) observe(route, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete:
	default: // a client must not make up labels
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

// statusWriter remembers the status and bounds how long a client may take to
// take the answer. Unwrap lets http.ResponseController through.
type statusWriter struct {
	http.ResponseWriter
	status   int
	timeout  time.Duration
	encoding string // of whole answers; "": none
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	// Not a connection: no bound needed. net/http takes it away behind the request.
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.timeout))
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
