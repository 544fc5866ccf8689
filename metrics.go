package walproxy

import (
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/internal/tally"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// collector exports Status. It reads a snapshot per scrape, so that nothing on
// the write path updates a metric.
type collector struct {
	proxy   *Proxy
	status  []metric[*Status]
	log     []metric[wal.Stats]
	timings []timing
	sinks   []metric[SinkStatus]
	retries *prometheus.Desc // one series per sink and class
	lane    *prometheus.Desc // one series per sink and lane
	sink    *prometheus.Desc // one series per sink and loop state
}

// metric reads one number from a snapshot.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) float64
}

// timing is a histogram with buckets up to powers of two, divided by unit.
type timing struct {
	desc            *prometheus.Desc
	lowest, highest int
	unit            float64
	value           func(*wal.Timings) *tally.Histogram
}

const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue

func newCollector(p *Proxy) *collector {
	return &collector{
		proxy:   p,
		status:  statusMetrics(),
		log:     logMetrics(),
		timings: timingMetrics(),
		sinks:   sinkMetrics(),
		retries: prometheus.NewDesc("walproxy_sink_retries_total",
			"Batches applied again since the start, by what the failure before meant: unknown, it may have been applied; retry, it was not; start, the store was not reached at first.",
			[]string{"sink", "class"}, nil),
		lane: prometheus.NewDesc("walproxy_sink_lane_checkpoint_lsn", "Checkpoint of a lane, stored in the sink.", []string{"sink", "lane"}, nil),
		sink: prometheus.NewDesc("walproxy_sink_state", "1 for the state that the sink's loop is in.", []string{"sink", "state"}, nil),
	}
}

func statusMetrics() []metric[*Status] {
	of := func(name, help string, value func(*Status) float64) metric[*Status] {
		return metric[*Status]{prometheus.NewDesc("walproxy_"+name, help, nil, nil), gauge, value}
	}
	return []metric[*Status]{
		of("accepting", "1 while writes are taken, as far as log and proxy are concerned.", func(s *Status) float64 { return flag(s.Refusing == "") }),
		of("draining", "1 while new writes are refused for `walproxy drain`.", func(s *Status) float64 { return flag(s.Draining) }),
		of("state_bytes", "Size of the state store.", func(s *Status) float64 { return float64(s.StateBytes) }),
		of("log_max_bytes", "Bound of log and state store together.", func(s *Status) float64 { return float64(s.MaxBytes) }),
		of("log_min_free_bytes", "Free space of the file system at which writes are refused; negative: no bound.", func(s *Status) float64 { return float64(s.MinFree) }),
		of("log_full_seconds", "Time until writes are refused for want of room, at the growth of the last minute; +Inf: it does not come to that.", fullSeconds),
		of("log_quarantine_bytes", "Size of what starts and repairs set aside; it counts towards no bound.", func(s *Status) float64 { return float64(s.QuarantineBytes) }),
	}
}

func fullSeconds(s *Status) float64 {
	if s.Rates.FullIn == 0 {
		return math.Inf(1)
	}
	return s.Rates.FullIn.Seconds()
}

func logMetrics() []metric[wal.Stats] {
	of := func(name, help string, kind prometheus.ValueType, value func(wal.Stats) float64) metric[wal.Stats] {
		return metric[wal.Stats]{prometheus.NewDesc("walproxy_log_"+name, help, nil, nil), kind, value}
	}
	return []metric[wal.Stats]{
		of("appended_lsn", "Highest LSN given out.", gauge, func(s wal.Stats) float64 { return float64(s.Appended) }),
		of("durable_lsn", "Highest LSN that is fsync'd.", gauge, func(s wal.Stats) float64 { return float64(s.Durable) }),
		of("first_lsn", "Lowest LSN still kept.", gauge, func(s wal.Stats) float64 { return float64(s.First) }),
		of("bytes", "Bytes written to the log's segments; what is made ready ahead is not counted.", gauge, func(s wal.Stats) float64 { return float64(s.Bytes) }),
		of("free_bytes", "Free space of the log's file system.", gauge, func(s wal.Stats) float64 { return float64(s.FreeBytes) }),
		of("segments", "Segments kept.", gauge, func(s wal.Stats) float64 { return float64(s.Segments) }),
		of("records_total", "Records made durable since the start: each was acknowledged.", counter, func(s wal.Stats) float64 { return float64(s.Records) }),
		of("payload_bytes_total", "Bytes of their payloads.", counter, func(s wal.Stats) float64 { return float64(s.PayloadBytes) }),
		of("groups_total", "Group commits since the start.", counter, func(s wal.Stats) float64 { return float64(s.Groups) }),
		of("syncs_total", "fsyncs of record data since the start.", counter, func(s wal.Stats) float64 { return float64(s.Syncs) }),
		of("poisoned", "1 after a failed write or fsync.", gauge, func(s wal.Stats) float64 { return flag(s.Err != nil) }),
	}
}

// nanoseconds are exported as seconds.
const nanoseconds = float64(time.Second)

func timingMetrics() []timing {
	return []timing{
		{prometheus.NewDesc("walproxy_ack_seconds", "Time from when a record was queued until it was durable.", nil, nil),
			15, 33, nanoseconds, func(t *wal.Timings) *tally.Histogram { return &t.Ack }},
		{prometheus.NewDesc("walproxy_log_sync_seconds", "Time of an fsync of record data.", nil, nil),
			15, 33, nanoseconds, func(t *wal.Timings) *tally.Histogram { return &t.Sync }},
		{prometheus.NewDesc("walproxy_log_group_records", "Records that one fsync made durable.", nil, nil),
			0, 16, 1, func(t *wal.Timings) *tally.Histogram { return &t.Group }},
	}
}

func sinkMetrics() []metric[SinkStatus] {
	of := func(name, help string, kind prometheus.ValueType, value func(SinkStatus) float64) metric[SinkStatus] {
		return metric[SinkStatus]{prometheus.NewDesc("walproxy_sink_"+name, help, []string{"sink"}, nil), kind, value}
	}
	return []metric[SinkStatus]{
		of("applied_lsn", "Everything up to this LSN is in the sink.", gauge, func(s SinkStatus) float64 { return float64(s.Applied) }),
		of("checkpoint_lsn", "Lowest checkpoint stored in the sink.", gauge, func(s SinkStatus) float64 { return float64(s.Checkpoint) }),
		of("epoch", "Epoch under which this process claimed the sink; 0: not yet.", gauge, func(s SinkStatus) float64 { return float64(s.Epoch) }),
		of("lag_records", "Records routed to the sink and not passed.", gauge, func(s SinkStatus) float64 { return float64(s.Lag) }),
		of("lag_bytes", "Their size in the log.", gauge, func(s SinkStatus) float64 { return float64(s.LagBytes) }),
		of("max_lag_bytes", "Bound of lag_bytes; 0: none.", gauge, func(s SinkStatus) float64 { return float64(s.MaxLagBytes) }),
		of("oldest_seconds", "Age of the first record that the sink has not passed; 0: there is none, or it is not known. At most 5 s old.", gauge, oldestSeconds),
		of("records_total", "Records applied since the start.", counter, func(s SinkStatus) float64 { return float64(s.Records) }),
		of("batches_total", "Batches applied since the start.", counter, func(s SinkStatus) float64 { return float64(s.Batches) }),
		of("queue_bytes", "Records read ahead of the lanes.", gauge, func(s SinkStatus) float64 { return float64(s.QueueBytes) }),
		of("concurrency", "Lanes that may apply at once, as the store can take it.", gauge, func(s SinkStatus) float64 { return float64(s.Concurrency) }),
		of("dead_letters", "Dead letters stored, parked ones included.", gauge, func(s SinkStatus) float64 { return float64(s.DeadLetters) }),
		of("dead_letters_made_total", "Dead letters made since the start, parked ones included.", counter, func(s SinkStatus) float64 { return float64(s.DeadLettersMade) }),
		of("dead_letter_bytes", "Size of the dead letters stored.", gauge, func(s SinkStatus) float64 { return float64(s.DeadLetterBytes) }),
		of("parked_keys", "Keys that they park.", gauge, func(s SinkStatus) float64 { return float64(s.ParkedKeys) }),
		of("held_records", "Records copied out of the log because the sink is far behind.", gauge, func(s SinkStatus) float64 { return float64(s.HeldRecords) }),
		of("held_bytes", "Their payloads.", gauge, func(s SinkStatus) float64 { return float64(s.HeldBytes) }),
		of("lost_records", "LSNs that a repair of the log gave up and the sink has passed.", gauge, func(s SinkStatus) float64 { return float64(s.LostRecords) }),
		of("unsettled_records", "LSNs that are applied and that a restart of the store could still take back.", gauge, func(s SinkStatus) float64 { return float64(s.Unsettled) }),
		of("paused", "1 while the sink is paused.", gauge, func(s SinkStatus) float64 { return flag(s.Paused) }),
	}
}

func oldestSeconds(s SinkStatus) float64 {
	if s.Oldest.IsZero() {
		return 0
	}
	return max(time.Since(s.Oldest).Seconds(), 0)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.status {
		ch <- m.desc
	}
	for _, m := range c.log {
		ch <- m.desc
	}
	for _, m := range c.timings {
		ch <- m.desc
	}
	for _, m := range c.sinks {
		ch <- m.desc
	}
	ch <- c.retries
	ch <- c.lane
	ch <- c.sink
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st := c.proxy.Status()
	for _, m := range c.status {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&st))
	}
	for _, m := range c.log {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(st.Log))
	}
	timings := c.proxy.log.Timings()
	for _, m := range c.timings {
		h := m.value(&timings)
		ch <- prometheus.MustNewConstHistogram(m.desc, h.Count(), float64(h.Sum())/m.unit, h.Cumulative(m.lowest, m.highest, m.unit))
	}
	for i := range st.Sinks {
		c.collectSink(ch, &st.Sinks[i])
	}
}

func (c *collector) collectSink(ch chan<- prometheus.Metric, s *SinkStatus) {
	for _, m := range c.sinks {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(*s), s.Name)
	}
	for class, n := range map[string]uint64{
		"unknown": s.RetriesUnknown, "start": s.RetriesStart, "retry": s.Retries - min(s.Retries, s.RetriesUnknown+s.RetriesStart),
	} {
		ch <- prometheus.MustNewConstMetric(c.retries, counter, float64(n), s.Name, class)
	}
	for lane, lsn := range s.Lanes {
		ch <- prometheus.MustNewConstMetric(c.lane, gauge, float64(lsn), s.Name, strconv.Itoa(lane))
	}
	for _, state := range []replay.State{replay.Starting, replay.Running, replay.Retrying, replay.Paused, replay.Halted, replay.Stopped} {
		ch <- prometheus.MustNewConstMetric(c.sink, gauge, flag(s.State == state), s.Name, string(state))
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
