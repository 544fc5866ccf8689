package aerowire_test

import (
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// TestPostgresHangs: a store that answers nothing is waited for no longer than a write's
// patience, once in a while.
func TestPostgresHangs(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgtest.Options{})
	r := newTables(t, cluster.Database(t), postgres.Options{AutoCreate: true})
	c := connect(t, r.addr)
	once := fresh(c)
	once.MaxRetries = 0
	k := key(t, "hung", "k")
	want(t, "put", c.Put(once, k, as.BinMap{"n": 0}), types.OK)
	r.applied().Close(t.Context())
	cluster.Pause(t)
	began := time.Now()
	const rounds = 30
	for range rounds {
		want(t, "add", c.Add(once, k, as.BinMap{"n": 1}), types.OK)
	}
	if took := time.Since(began); took > 90*time.Second { // each would wait for 10 s, and some wait for 2 s
		t.Errorf("%d additions took %v", rounds, took)
	}
	cluster.Continue(t)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := c.Get(nil, k); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	r.bins(c, k, 1+rounds, as.BinMap{"n": rounds})
}

// scanAway wants a scan to find nothing, and to say that it has not looked.
func scanAway(t testing.TB, c *as.Client, set string) {
	t.Helper()
	p := as.NewScanPolicy()
	p.MaxRetries = 0
	results, err := c.ScanAll(p, namespace, set)
	if err == nil {
		for res := range results.Results() {
			if res.Err == nil {
				t.Errorf("a scan while away: %v", res.Record)
			} else {
				err = res.Err
			}
		}
	}
	if err == nil || !err.Matches(types.MAX_RETRIES_EXCEEDED) || err.Matches(types.TIMEOUT) {
		t.Errorf("a scan while away: %v", err)
	}
}
