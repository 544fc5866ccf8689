package aerospike

import (
	"strconv"
	"time"

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
	careful prometheus.Counter
	rewinds prometheus.Counter
}

func newMetrics(s *Sink) (*metrics, error) {
	m := &metrics{
		registerer: s.o.Registerer,
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walproxy_aerospike_apply_seconds", Help: "Time of one batch, applied or not.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		records: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walproxy_aerospike_batch_records", Help: "Records of one applied batch.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_aerospike_applied_bytes_total", Help: "Bytes in the log of the records applied.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_aerospike_errors_total", Help: "Records that were not applied, by outcome and result code.",
		}, []string{"outcome", "code"}),
		careful: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_aerospike_read_before_write_total", Help: "Keys that were read before they were written: preconditions, sums that are no integers, what a filter kept out.",
		}),
		rewinds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_aerospike_rewinds_total", Help: "How often a node was seen to have been restarted, left or joined, and what was not settled was applied again.",
		}),
	}
	unsettled := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "walproxy_aerospike_unsettled_records", Help: "LSNs that are applied and not settled: a restart of a node could still take them back, and the log keeps them.",
	}, func() float64 { return float64(s.owner.unsettled()) })
	stuck := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "walproxy_aerospike_unsettled_seconds", Help: "Since when something is applied and not settled and nothing has settled: beyond some times cluster.settle the log only grows.",
	}, func() float64 {
		s.owner.mu.Lock()
		defer s.owner.mu.Unlock()
		return s.owner.stuckLocked().Seconds()
	})
	m.all = []prometheus.Collector{m.latency, m.records, m.bytes, m.errors, m.careful, m.rewinds, unsettled, stuck}
	if err := promset.Register(m.registerer, m.all...); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *metrics) close() { promset.Unregister(m.registerer, m.all...) }

// applied counts one Apply, whatever became of it.
func (m *metrics) applied(b *sinks.Batch, results []sinks.Result, err error, took time.Duration) {
	m.latency.Observe(took.Seconds())
	if err != nil {
		m.failed(err, max(len(b.Records), 1))
		return
	}
	done := true
	for _, r := range results {
		if r.Outcome != sinks.Applied {
			m.failed(sinks.WithOutcome(r.Outcome, r.Err), 1)
			done = false
		}
	}
	if !done {
		return
	}
	m.records.Observe(float64(len(b.Records)))
	bytes := 0
	for i := range b.Records {
		bytes += b.Records[i].Bytes
	}
	m.bytes.Add(float64(bytes))
}

func (m *metrics) failed(err error, records int) {
	m.errors.WithLabelValues(sinks.OutcomeOf(err).String(), strconv.Itoa(int(codeOf(err)))).Add(float64(records))
}
