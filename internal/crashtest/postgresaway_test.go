package crashtest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/ledger"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPostgresAway takes PostgreSQL away (the long form for a minute) while
// clients write: acks go on and memory stays bounded. When it is back the backlog
// drains over no more than the configured connections; in the long form at no less
// than 70% of the rate of one that never saw an outage, and another client of the
// database keeps at least half of its throughput meanwhile.
func TestPostgresAway(t *testing.T) {
	if !long() {
		t.Parallel() // its rates do not count
	}
	ctx := timeout(t, 2*time.Minute, time.Hour)
	c := pgtest.New(t, pgtest.Options{})
	dsn := c.Database(t)
	s := onPostgres(t, dsn, "WALPROXY_LOG__SEGMENT_BYTES=1MiB")
	records := times(10_000, 300_000)
	s.start(ctx, paused)
	s.spread(ctx, records)
	s.process.Kill()
	s.start(ctx)
	neighbour := newNeighbour(ctx, t, dsn)
	steady, _ := s.drainBeside(ctx, neighbour)
	alone := neighbour.rate(ctx, time.Second)

	c.Stop(t)
	began := time.Now()
	s.spread(ctx, records)
	time.Sleep(time.Until(began.Add(time.Duration(times(1, 60)) * time.Second))) // the outage's length
	s.memory("with PostgreSQL away", memoryMost)
	c.Start(t)
	neighbour = newNeighbour(ctx, t, dsn)
	back, shared := s.drainBeside(ctx, neighbour)
	must(t, s.client.WaitDrained(ctx))
	s.memory("after the drain", memoryMost)
	t.Logf("drained %.0f records/s, %.0f after the outage (%.0f%%); another client %.0f transactions/s, %.0f beside the drain (%.0f%%); at most %d connections",
		steady, back, 100*back/steady, alone, shared, 100*shared/alone, neighbour.most.Load())
	// The short form's drains take half a second: its rates say little.
	if long() && back < 0.7*steady {
		t.Errorf("%.0f records/s after the outage, %.0f without: want at least 70%%", back, steady)
	}
	if long() && shared < 0.5*alone {
		t.Errorf("another client did %.0f transactions/s beside the drain, %.0f alone: want at least half", shared, alone)
	}
	if most := neighbour.most.Load(); most < 1 || most > 4+4+1 {
		t.Errorf("%d connections, configured are 4, 4 and the lock's", most)
	}
	s.check(ctx)
	s.stop()
}

// drainBeside is drainRate with a neighbour at work, and its rate.
func (s *server) drainBeside(ctx context.Context, n *neighbour) (drained, shared float64) {
	s.Helper()
	measure, stop := context.WithCancel(ctx)
	beside := make(chan float64, 1)
	go func() { beside <- n.rate(measure, time.Hour) }()
	drained = s.drainRate(ctx)
	stop()
	return drained, <-beside
}

// drainRate waits until the backlog is applied and returns records per second,
// from the first that is seen applied. Applied itself moves in leaps: the slowest
// lane holds it.
func (s *server) drainRate(ctx context.Context) float64 {
	s.Helper()
	var first, records uint64
	var began, last time.Time
	before, err := s.client.Status(ctx)
	must(s.T, err)
	for {
		status, err := s.client.Status(ctx)
		must(s.T, err)
		if n := status.Sinks[0].Records; n > max(records, before.Sinks[0].Records) {
			if records, last = n, time.Now(); first == 0 {
				first, began = records, last
			}
		}
		if status.Lag() == 0 {
			return float64(records-first) / last.Sub(began).Seconds()
		}
		select {
		case <-ctx.Done():
			s.Fatalf("not drained: %+v", status)
		case <-time.After(time.Duration(times(2, 20)) * time.Millisecond):
		}
	}
}

// spread writes n records over many keys, all acked.
func (s *server) spread(ctx context.Context, n int) {
	s.Helper()
	s.runs++
	load := ledger.Load{Client: s.client, Ledger: s.ledger, Clients: clients, Records: n, Keys: 500, Batch: 80, Pad: 200,
		Name: fmt.Sprintf("spread%d", s.runs)}
	if err := load.Run(ctx); err != nil {
		s.Fatal(err)
	}
}

// neighbour is another client of the database.
type neighbour struct {
	*testing.T
	conn *pgx.Conn
	most atomic.Int64 // connections of walproxy that it saw
}

func newNeighbour(ctx context.Context, t *testing.T, dsn string) *neighbour {
	t.Helper()
	n := &neighbour{T: t, conn: pgtest.Connect(t, dsn)}
	_, err := n.conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS neighbour (id int PRIMARY KEY, n bigint); INSERT INTO neighbour VALUES (1, 0) ON CONFLICT DO NOTHING")
	must(t, err)
	return n
}

// rate runs small transactions for a while, or until ctx ends.
func (n *neighbour) rate(ctx context.Context, d time.Duration) float64 {
	began, done := time.Now(), 0
	for time.Since(began) < d && ctx.Err() == nil {
		if _, err := n.conn.Exec(context.WithoutCancel(ctx), "UPDATE neighbour SET n = n + 1 WHERE id = 1"); err != nil {
			n.Error(err)
			return 0
		}
		if done++; done%50 == 0 {
			var seen int64
			if err := n.conn.QueryRow(context.WithoutCancel(ctx),
				"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walproxy'").Scan(&seen); err != nil {
				n.Error(err)
				return 0
			}
			n.most.Store(max(n.most.Load(), seen))
		}
	}
	return float64(done) / time.Since(began).Seconds()
}
