package postgres

import (
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/internal/promset"
	"github.com/walproxy/walproxy/sinks"
)

// metrics of one sink. They cost nothing when nobody registered for them.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector

	latency prometheus.Histogram
	records prometheus.Histogram
	bytes   prometheus.Counter
	errors  *prometheus.CounterVec
	lost    prometheus.Counter

	expired, expiredKept prometheus.Counter
}

func newMetrics(s *Sink) (*metrics, error) {
	m := &metrics{
		registerer: s.o.Registerer,
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walproxy_postgres_apply_seconds", Help: "Time of one applied transaction.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		records: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walproxy_postgres_batch_records", Help: "Records of one applied transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_postgres_applied_bytes_total", Help: "Bytes in the log of the records applied.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_postgres_errors_total", Help: "Failed transactions and connects, by outcome and class of SQLSTATE.",
		}, []string{"outcome", "class"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_postgres_lock_lost_total", Help: "How often the connection with the stream's lock was lost.",
		}),
	}
	m.expired = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "walproxy_postgres_expired_total", Help: "Expired rows deleted.",
	})
	m.expiredKept = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "walproxy_postgres_expired_kept_total", Help: "How often the table refused that an expired row is deleted; it is tried again every hour.",
	})
	m.all = []prometheus.Collector{m.latency, m.records, m.bytes, m.errors, m.lost, m.expired, m.expiredKept}
	m.gauge("walproxy_postgres_owner", "1 while this process holds the stream's lock.", nil, func() float64 {
		if s.owner.holds() {
			return 1
		}
		return 0
	})
	m.pool("apply", s.applyPool)
	m.pool("read", s.readPool)
	if err := promset.Register(m.registerer, m.all...); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *metrics) gauge(name, help string, labels prometheus.Labels, value func() float64) {
	m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

func (m *metrics) pool(name string, p *pgxpool.Pool) {
	labels := prometheus.Labels{"pool": name}
	m.gauge("walproxy_postgres_pool_connections", "Connections of the pool.", labels, func() float64 { return float64(p.Stat().TotalConns()) })
	m.gauge("walproxy_postgres_pool_busy", "Connections of the pool that are in use.", labels, func() float64 { return float64(p.Stat().AcquiredConns()) })
	m.gauge("walproxy_postgres_pool_max", "Connections that the pool may have.", labels, func() float64 { return float64(p.Stat().MaxConns()) })
}

func (m *metrics) close() { promset.Unregister(m.registerer, m.all...) }

func (m *metrics) applied(b *sinks.Batch, took time.Duration) {
	m.latency.Observe(took.Seconds())
	m.records.Observe(float64(len(b.Records)))
	bytes := 0
	for i := range b.Records {
		bytes += b.Records[i].Bytes
	}
	m.bytes.Add(float64(bytes))
}

// rejected counts a transaction that was rolled back for a record that is to blame.
func (m *metrics) rejected(results []sinks.Result) {
	for _, r := range results {
		if r.Outcome == sinks.Rejected {
			m.failed(r.Outcome, codeOf(r.Err))
			return
		}
	}
}

func (m *metrics) failed(o sinks.Outcome, code string) {
	class := "none"
	if len(code) >= 2 {
		class = code[:2]
	}
	m.errors.WithLabelValues(o.String(), class).Inc()
}
