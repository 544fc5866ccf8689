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
	itemsOK  prometheus.Counter // of items
	inFlight prometheus.Gauge
	cut      *prometheus.CounterVec
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
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_http_cut_total",
			Help: "Clients given up that paused for longer than http.body_timeout: in their request, or while they took their answer.",
		}, []string{"reason"}),
	}
	m.itemsOK = m.items.WithLabelValues(codeOK)
	for _, reason := range []string{cutRequest, cutAnswer} {
		m.cut.WithLabelValues(reason)
	}
	all := []prometheus.Collector{m.requests, m.seconds, m.items, m.inFlight, m.cut}
	if err := promset.Register(reg, all...); err != nil {
		return nil, fmt.Errorf("rpc: metrics: %w", err)
	}
	m.close = func() { promset.Unregister(reg, all...) }
	return m, nil
}

// codeOK stands for an item that was acknowledged.
const codeOK = "ok"

// item counts one.
func (m *metrics) item(code string) {
	if code == codeOK {
		m.itemsOK.Inc()
		return
	}
	m.items.WithLabelValues(code).Inc()
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

// Reasons of walproxy_http_cut_total.
const (
	cutRequest = "request"
	cutAnswer  = "answer"
)

// answerWriter counts a client that does not take its answer in time. Unwrap lets
// http.ResponseController through.
type answerWriter struct {
	http.ResponseWriter
	conn    *http.ResponseController
	metrics *metrics
	until   time.Time // zero: no bound
	cut     bool
}

func (s *Server) answerWriter(w http.ResponseWriter) answerWriter {
	return answerWriter{ResponseWriter: w, conn: http.NewResponseController(w), metrics: s.metrics}
}

func (w *answerWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.note(err)
	return n, err
}

// FlushError is what http.ResponseController calls.
func (w *answerWriter) FlushError() error {
	err := w.conn.Flush()
	w.note(err)
	return err
}

// SetWriteDeadline is what http.ResponseController calls. What is no connection has none.
func (w *answerWriter) SetWriteDeadline(until time.Time) error {
	w.until = until
	return w.conn.SetWriteDeadline(until)
}

// note counts an error of a write. HTTP/2 does not say that a deadline was its cause.
func (w *answerWriter) note(err error) {
	if err != nil && !w.cut && !w.until.IsZero() && !time.Now().Before(w.until) {
		w.cut = true
		w.metrics.cut.WithLabelValues(cutAnswer).Inc()
	}
}

func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// statusWriter remembers the status and bounds how long a client may take to
// take the answer.
type statusWriter struct {
	answerWriter
	status   int
	timeout  time.Duration
	encoding string // of whole answers; "": none
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	_ = w.SetWriteDeadline(time.Now().Add(w.timeout)) // net/http takes it away behind the request
	w.ResponseWriter.WriteHeader(status)
}
