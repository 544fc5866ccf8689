package walproxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// collector exports Status. It reads a snapshot per scrape, so that nothing on
// the write path updates a metric.
type collector struct {
	proxy *Proxy
	log   []metric[wal.Stats]
	sinks []metric[SinkStatus]
	state *prometheus.Desc
	aside *prometheus.Desc
	sink  *prometheus.Desc // one series per sink and loop state
}

// metric reads one number from a snapshot.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) float64
}

func newCollector(p *Proxy) *collector {
	logMetric := func(name, help string, kind prometheus.ValueType, value func(wal.Stats) float64) metric[wal.Stats] {
		return metric[wal.Stats]{prometheus.NewDesc("walproxy_log_"+name, help, nil, nil), kind, value}
	}
	sinkMetric := func(name, help string, kind prometheus.ValueType, value func(SinkStatus) float64) metric[SinkStatus] {
		return metric[SinkStatus]{prometheus.NewDesc("walproxy_sink_"+name, help, []string{"sink"}, nil), kind, value}
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	return &collector{
		proxy: p,
		log: []metric[wal.Stats]{
			logMetric("appended_lsn", "Highest LSN given out.", gauge, func(s wal.Stats) float64 { return float64(s.Appended) }),
			logMetric("durable_lsn", "Highest LSN that is fsync'd.", gauge, func(s wal.Stats) float64 { return float64(s.Durable) }),
			logMetric("first_lsn", "Lowest LSN still kept.", gauge, func(s wal.Stats) float64 { return float64(s.First) }),
			logMetric("bytes", "Size of the log's files.", gauge, func(s wal.Stats) float64 { return float64(s.Bytes) }),
			logMetric("free_bytes", "Free space of the log's file system.", gauge, func(s wal.Stats) float64 { return float64(s.FreeBytes) }),
			logMetric("segments", "Segments kept.", gauge, func(s wal.Stats) float64 { return float64(s.Segments) }),
			logMetric("records_total", "Records made durable since the start.", counter, func(s wal.Stats) float64 { return float64(s.Records) }),
			logMetric("payload_bytes_total", "Bytes of their payloads.", counter, func(s wal.Stats) float64 { return float64(s.PayloadBytes) }),
			logMetric("groups_total", "Group commits since the start.", counter, func(s wal.Stats) float64 { return float64(s.Groups) }),
			logMetric("syncs_total", "fsyncs of record data since the start.", counter, func(s wal.Stats) float64 { return float64(s.Syncs) }),
			logMetric("poisoned", "1 after a failed write or fsync.", gauge, func(s wal.Stats) float64 { return flag(s.Err != nil) }),
		},
		sinks: []metric[SinkStatus]{
			sinkMetric("applied_lsn", "Everything up to this LSN is in the sink.", gauge, func(s SinkStatus) float64 { return float64(s.Applied) }),
			sinkMetric("checkpoint_lsn", "Lowest checkpoint stored in the sink.", gauge, func(s SinkStatus) float64 { return float64(s.Checkpoint) }),
			sinkMetric("lag_records", "Records routed to the sink and not passed.", gauge, func(s SinkStatus) float64 { return float64(s.Lag) }),
			sinkMetric("lag_bytes", "Their size in the log.", gauge, func(s SinkStatus) float64 { return float64(s.LagBytes) }),
			sinkMetric("max_lag_bytes", "Bound of lag_bytes; 0: none.", gauge, func(s SinkStatus) float64 { return float64(s.MaxLagBytes) }),
			sinkMetric("records_total", "Records applied since the start.", counter, func(s SinkStatus) float64 { return float64(s.Records) }),
			sinkMetric("batches_total", "Batches applied since the start.", counter, func(s SinkStatus) float64 { return float64(s.Batches) }),
			sinkMetric("retries_total", "Batches applied again since the start.", counter, func(s SinkStatus) float64 { return float64(s.Retries) }),
			sinkMetric("queue_bytes", "Records read ahead of the lanes.", gauge, func(s SinkStatus) float64 { return float64(s.QueueBytes) }),
			sinkMetric("dead_letters", "Dead letters stored, parked ones included.", gauge, func(s SinkStatus) float64 { return float64(s.DeadLetters) }),
			sinkMetric("dead_letter_bytes", "Their size.", gauge, func(s SinkStatus) float64 { return float64(s.DeadLetterBytes) }),
			sinkMetric("parked_keys", "Keys that they park.", gauge, func(s SinkStatus) float64 { return float64(s.ParkedKeys) }),
			sinkMetric("held_records", "Records copied out of the log because the sink is far behind.", gauge, func(s SinkStatus) float64 { return float64(s.HeldRecords) }),
			sinkMetric("held_bytes", "Their payloads.", gauge, func(s SinkStatus) float64 { return float64(s.HeldBytes) }),
			sinkMetric("lost_records", "LSNs that a repair of the log gave up and the sink has passed.", gauge, func(s SinkStatus) float64 { return float64(s.LostRecords) }),
			sinkMetric("paused", "1 while the sink is paused.", gauge, func(s SinkStatus) float64 { return flag(s.Paused) }),
		},
		aside: prometheus.NewDesc("walproxy_log_quarantine_bytes", "Size of what starts and repairs set aside; it counts towards no bound.", nil, nil),
		state: prometheus.NewDesc("walproxy_state_bytes", "Size of the state store.", nil, nil),
		sink:  prometheus.NewDesc("walproxy_sink_state", "1 for the state that the sink's loop is in.", []string{"sink", "state"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.log {
		ch <- m.desc
	}
	for _, m := range c.sinks {
		ch <- m.desc
	}
	ch <- c.state
	ch <- c.aside
	ch <- c.sink
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st := c.proxy.Status()
	for _, m := range c.log {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(st.Log))
	}
	ch <- prometheus.MustNewConstMetric(c.aside, prometheus.GaugeValue, float64(st.QuarantineBytes))
	ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, float64(st.StateBytes))
	for _, s := range st.Sinks {
		for _, m := range c.sinks {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s), s.Name)
		}
		for _, state := range []replay.State{replay.Starting, replay.Running, replay.Retrying, replay.Paused, replay.Halted, replay.Stopped} {
			ch <- prometheus.MustNewConstMetric(c.sink, prometheus.GaugeValue, flag(s.State == state), s.Name, string(state))
		}
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
