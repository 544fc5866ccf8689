package crashtest_test

import (
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestAerospikeCountersWhilePostgresIsAway adds to counters while PostgreSQL is
// killed and walproxy, too, which starts again beside a PostgreSQL that is not there:
// no acknowledged addition is lost and none is done twice.
func TestAerospikeCountersWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	cluster, r := pgtest.New(t, pgtest.Options{}), rng(t)
	s := onPostgres(t, cluster.Database(t), "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	a := onEndpoint(s, "crash", 4, func(int) ([]*as.Operation, bool) {
		return []*as.Operation{as.AddOp(as.NewBin("count", 1))}, false
	})
	for range times(2, 40) {
		for _, away := range []bool{false, true} {
			a.start(ctx)
			c := a.connect()
			stop := a.load(c)
			a.more(ctx, 1+r.IntN(100))
			if !away {
				cluster.KillAll(t)
				a.more(ctx, 100) // additions go on
			}
			a.process.Kill()
			stop()
			c.Close()
		}
		cluster.Start(t)
	}
	a.start(ctx)
	c := a.connect()
	defer c.Close()
	a.check(ctx, c)
	a.server.stop()
}
