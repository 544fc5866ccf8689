package crashtest_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"

	as "github.com/aerospike/aerospike-client-go/v7"
)

// aerospikeOn is the load of Aerospike clients on a server in front of PostgreSQL.
func aerospikeOn(t *testing.T, dsn string, clients int) *aerospike {
	s := onPostgres(t, dsn, "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	return &aerospike{server: s, clients: clients, sent: make([]int, clients), acked: make([][]int, clients)}
}

// TestKillAerospikeOnPostgres kills walproxy under operations that are evaluated by
// it on what PostgreSQL holds, and compares after each restart.
func TestKillAerospikeOnPostgres(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	a, r := aerospikeOn(t, pgtest.Shared(t).Database(t), 6), rng(t)
	for range times(3, 60) {
		a.start(ctx)
		c := a.connect()
		a.waitFor(ctx, "the store", func() bool { _, err := c.Exists(nil, a.key(0)); return err == nil })
		a.check(c)
		var total atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() { a.write(c, &total) })
		want := int64(1 + r.IntN(200))
		a.waitFor(ctx, fmt.Sprint(want, " writes"), func() bool { return total.Load() >= want })
		a.process.Kill()
		wg.Wait()
		c.Close()
	}
	a.start(ctx)
	c := a.connect()
	a.waitFor(ctx, "the store", func() bool { _, err := c.Exists(nil, a.key(0)); return err == nil })
	a.check(c)
	c.Close()
	a.stop()
}

// TestAerospikeCountersWhilePostgresIsAway adds to counters while PostgreSQL is
// killed and walproxy, too, which starts again beside a PostgreSQL that is not there:
// no acknowledged addition is lost and none is done twice.
func TestAerospikeCountersWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	cluster, r := pgtest.New(t, pgtest.Options{}), rng(t)
	const clients = 4
	a := aerospikeOn(t, cluster.Database(t), clients)
	var sent, acked [clients]atomic.Int64
	add := func(c *as.Client, ended <-chan struct{}, total *atomic.Int64, stop *atomic.Bool) {
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				for !stop.Load() {
					sent[i].Add(1)
					if err := c.Add(nil, a.key(i), as.BinMap{"count": 1}); err == nil {
						acked[i].Add(1)
						total.Add(1)
						continue
					}
					select {
					case <-ended:
						return
					case <-time.After(time.Millisecond): // not as fast as it is refused
					}
				}
			})
		}
		wg.Wait()
	}
	for range times(2, 40) {
		for _, away := range []bool{false, true} {
			a.start(ctx)
			c := a.connect()
			var total atomic.Int64
			var stop atomic.Bool
			var wg sync.WaitGroup
			ended := a.process.Ended()
			wg.Go(func() { add(c, ended, &total, &stop) })
			more := func(n int64) {
				want := total.Load() + n
				a.waitFor(ctx, fmt.Sprint(n, " more"), func() bool { return total.Load() >= want })
			}
			more(1 + int64(r.IntN(100)))
			if !away {
				cluster.KillAll(t)
				more(100) // additions go on
			}
			a.process.Kill()
			stop.Store(true)
			wg.Wait()
			c.Close()
		}
		cluster.Start(t)
	}
	a.start(ctx)
	c := a.connect()
	defer c.Close()
	for i := range clients {
		var rec *as.Record
		a.waitFor(ctx, "the store", func() (ok bool) {
			var err as.Error
			rec, err = c.Get(nil, a.key(i))
			return err == nil
		})
		count := int64(rec.Bins["count"].(int))
		if count < acked[i].Load() || count > sent[i].Load() {
			t.Errorf("counter %d: %d, of %d acknowledged and %d sent", i, count, acked[i].Load(), sent[i].Load())
		}
	}
	a.stop()
}
