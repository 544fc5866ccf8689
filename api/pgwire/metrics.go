package pgwire

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/internal/promset"
)

type metrics struct {
	connections    prometheus.Counter
	ended          *prometheus.CounterVec
	cancels        *prometheus.CounterVec
	requests       prometheus.Counter
	up, down       prometheus.Counter // bytes
	connectSeconds prometheus.Histogram

	// Of Options.Away.
	awayLogins, detached, attached, refused prometheus.Counter
	// Of Options.Pool.
	poolOpened, poolTimeouts, poolPrepared prometheus.Counter
	poolWait                               prometheus.Histogram

	close func() // takes them back
}

func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "walproxy_pgwire_bytes_total", Help: "Bytes passed on in sessions; up: to PostgreSQL.",
	}, []string{"direction"})
	m := &metrics{
		connections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_pgwire_connections_total", Help: "Connections taken, cancel requests among them.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_pgwire_ended_total", Help: "Connections and sessions that ended, without cancel requests, by reason; closed: one of the two sides wanted it.",
		}, []string{"reason"}),
		cancels: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_pgwire_cancels_total", Help: "Cancel requests: passed, answered by the endpoint, failed, or of an unknown key.",
		}, []string{"result"}),
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_pgwire_requests_total", Help: "Requests that PostgreSQL has finished, by ReadyForQuery.",
		}),
		up: bytes.WithLabelValues("up"), down: bytes.WithLabelValues("down"),
		connectSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walproxy_pgwire_upstream_connect_seconds", Help: "Time to connect to PostgreSQL, TLS included, without the login.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	for _, c := range []struct {
		to         *prometheus.Counter
		name, help string
	}{
		{&m.awayLogins, "away_logins_total", "Logins that walproxy granted while PostgreSQL was away."},
		{&m.detached, "detached_total", "Sessions that lost PostgreSQL and stayed."},
		{&m.attached, "attached_total", "Sessions that were given a new connection to PostgreSQL."},
		{&m.poolOpened, "pool_opened_total", "Connections to PostgreSQL that were made for the pool."},
		{&m.poolTimeouts, "pool_timeouts_total", "Requests that were refused because no connection of the pool was free in time."},
		{&m.poolPrepared, "pool_prepared_total", "Statements that were prepared on a connection of the pool because a session had prepared them on another."},
		{&m.refused, "away_refused_total", "Requests that were refused because PostgreSQL was away."},
	} {
		*c.to = prometheus.NewCounter(prometheus.CounterOpts{Name: "walproxy_pgwire_" + c.name, Help: c.help})
	}
	sessions := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "walproxy_pgwire_sessions", Help: "Sessions that are logged in.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.mu.sessions))
	})
	m.poolWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "walproxy_pgwire_pool_wait_seconds", Help: "Time that requests and logins waited for a connection of the pool, where none was free.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
	})
	all := []prometheus.Collector{m.connections, m.ended, m.cancels, m.requests, bytes, m.connectSeconds, sessions,
		m.awayLogins, m.detached, m.attached, m.refused}
	if s.pools != nil {
		all = append(all, m.poolOpened, m.poolTimeouts, m.poolPrepared, m.poolWait)
		all = append(all, s.pools.gauges()...)
	}
	if err := promset.Register(reg, all...); err != nil {
		return nil, fmt.Errorf("pgwire: metrics: %w", err)
	}
	m.close = func() { promset.Unregister(reg, all...) }
	return m, nil
}

// gauges of what the pools have.
func (p *pools) gauges() (list []prometheus.Collector) {
	for _, g := range []struct {
		name, help string
		of         func(poolCounts) int
	}{
		{"open", "Connections of the pool to PostgreSQL, and those that are being made.", func(n poolCounts) int { return n.open }},
		{"idle", "Connections of the pool that no session has.", func(n poolCounts) int { return n.idle }},
		{"waiting", "Requests and logins that wait for a connection of the pool.", func(n poolCounts) int { return n.waiting }},
	} {
		list = append(list, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "walproxy_pgwire_pool_" + g.name, Help: g.help},
			func() float64 { return float64(g.of(p.total())) }))
	}
	return append(list, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "walproxy_pgwire_pool_pinned", Help: "Sessions that keep a connection of the pool for themselves, for what they hold there."},
		func() float64 { return float64(p.s.pinned()) }))
}

// behindMetrics are those of sessions that may write behind.
type behindMetrics struct {
	logged      atomic.Uint64
	passed      *prometheus.CounterVec
	failed      *prometheus.CounterVec
	yields      prometheus.Counter
	gateSeconds prometheus.Histogram
	why         atomic.Value // string: of the last write that was passed through
	close       func()
}

func newBehindMetrics(reg prometheus.Registerer) (*behindMetrics, error) {
	m := &behindMetrics{
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_pgwire_passed_total", Help: "Writes that were looked at and passed through instead, by reason.",
		}, []string{"reason"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "walproxy_pgwire_failed_total", Help: "Queries that the endpoint answered with an error, by reason; refused: as PostgreSQL would.",
		}, []string{"reason"}),
		yields: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "walproxy_pgwire_gates_yielded_total", Help: "Direct writes that no longer kept others out of the log, because PostgreSQL hung or was away.",
		}),
		gateSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walproxy_pgwire_gate_seconds", Help: "Time that direct writes waited for what was pending of their tables.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	logged := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "walproxy_pgwire_behind_total", Help: "Queries that were acknowledged from the log.",
	}, func() float64 { return float64(m.logged.Load()) })
	all := []prometheus.Collector{logged, m.passed, m.failed, m.yields, m.gateSeconds}
	if err := promset.Register(reg, all...); err != nil {
		return nil, fmt.Errorf("pgwire: metrics: %w", err)
	}
	m.close = func() { promset.Unregister(reg, all...) }
	return m, nil
}
