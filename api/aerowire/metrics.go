package aerowire

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/promset"
)

// kind is what a message, or a row of a batch, asks for.
type kind int

const (
	kindRead kind = iota
	kindWrite
	kindDelete
	kindUDF
	kindBatch
	kindQuery
	kindInfo
	kindLogin
	kinds
)

var kindNames = [kinds]string{"read", "write", "delete", "udf", "batch", "query", "info", "login"}

// kindOf is that of a message for one record.
func kindOf(m *codec.Message) kind {
	if _, udf := m.Field(codec.FieldUDFPackage); udf {
		return kindUDF
	}
	switch {
	case m.Info2&codec.Info2Write == 0:
		return kindRead
	case m.Info2&codec.Info2Delete != 0:
		return kindDelete
	}
	return kindWrite
}

// unanswered stands for the result of a request that got no answer: no code is as high.
const unanswered codec.Result = 255

// results counts by kind and result. Its methods may be called concurrently, and allocate
// nothing.
type results struct {
	desc *prometheus.Desc
	n    [kinds][256]atomic.Uint64
}

func newResults(name, help string) *results {
	return &results{desc: prometheus.NewDesc("walproxy_aerowire_"+name, help, []string{"op", "result"}, nil)}
}

func (r *results) add(k kind, result codec.Result) { r.n[k][result].Add(1) }

// Describe implements prometheus.Collector.
func (r *results) Describe(to chan<- *prometheus.Desc) { to <- r.desc }

// Collect implements prometheus.Collector.
func (r *results) Collect(to chan<- prometheus.Metric) {
	for k := range r.n {
		for result := range r.n[k] {
			if n := r.n[k][result].Load(); n > 0 {
				to <- prometheus.MustNewConstMetric(r.desc, prometheus.CounterValue, float64(n), kindNames[k], resultLabel(codec.Result(result)))
			}
		}
	}
}

func resultLabel(r codec.Result) string {
	if r == unanswered {
		return "none"
	}
	if name, ok := r.Name(); ok {
		return strings.ReplaceAll(name, " ", "_")
	}
	return strconv.Itoa(int(r))
}

type metrics struct {
	connections    prometheus.Counter
	refused, login prometheus.Counter
	requests, rows *results
	in, out        prometheus.Counter // bytes
	seconds        [kinds]prometheus.Observer

	close func() // takes them back
}

func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "walproxy_aerowire_bytes_total", Help: "Bytes of messages, without TLS; in: from clients.",
	}, []string{"direction"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "walproxy_aerowire_refused_total", Help: "Connections whose TLS failed, as without a certificate that is asked for, and logins, which this endpoint does not have.",
	}, []string{"reason"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "walproxy_aerowire_request_seconds", Help: "Time from when a message was there until its answer was sent.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
	}, []string{"op"})
	m := &metrics{
		connections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_aerowire_connections_total", Help: "Connections taken.",
		}),
		refused: refused.WithLabelValues("tls"), login: refused.WithLabelValues("login"),
		requests: newResults("requests_total", "Messages, by what they ask for and its result; none: the connection ended without an answer."),
		rows:     newResults("batch_rows_total", "Rows of batches that were done, by what they ask for and its result."),
		in:       bytes.WithLabelValues("in"), out: bytes.WithLabelValues("out"),
	}
	for k, name := range kindNames {
		m.seconds[k] = seconds.WithLabelValues(name)
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "walproxy_aerowire_connections", Help: "Connections that are open.",
	}, func() float64 { return float64(s.open()) })
	panics := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "walproxy_aerowire_panics_total", Help: "Requests that ended in a panic, which is a defect: their connections were closed.",
	}, func() float64 { return float64(s.stats.panicked.Load()) })
	all := []prometheus.Collector{m.connections, refused, m.requests, m.rows, bytes, seconds, open, panics}
	if err := promset.Register(reg, all...); err != nil {
		return nil, fmt.Errorf("aerowire: metrics: %w", err)
	}
	m.close = func() { promset.Unregister(reg, all...) }
	return m, nil
}

// done counts a message.
func (m *metrics) done(k kind, result codec.Result, began time.Time) {
	m.requests.add(k, result)
	if result != unanswered {
		m.seconds[k].Observe(time.Since(began).Seconds())
	}
}

// counted is a connection whose bytes are counted.
type counted struct {
	net.Conn
	m *metrics
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.in.Add(float64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.m.out.Add(float64(n))
	return n, err
}
