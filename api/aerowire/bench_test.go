package aerowire_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
)

// BenchmarkPut is acknowledged puts of 100 bytes to keys of their own, by that many
// clients at once; with WALPROXY_TEST_AEROSPIKE those of a real server.
func BenchmarkPut(b *testing.B) {
	benchmark(b, func(c *as.Client, k *as.Key, bins as.BinMap) error {
		if err := c.Put(nil, k, bins); err != nil {
			return err
		}
		return nil
	})
}

// BenchmarkOperate is BenchmarkPut of a list append and a counter on 64 keys.
func BenchmarkOperate(b *testing.B) {
	benchmark(b, func(c *as.Client, k *as.Key, _ as.BinMap) error {
		short, err := as.NewKey(namespace, "bench", int(k.Digest()[0])%64)
		if err != nil {
			return err
		}
		if _, err := c.Operate(nil, short, as.AddOp(as.NewBin("n", 1)), as.MapPutOp(as.DefaultMapPolicy(), "m", 1, 2)); err != nil {
			return err
		}
		return nil
	})
}

// BenchmarkHotKey is BenchmarkOperate on one key. A real server refuses some of
// what comes at once, key busy, and is asked again.
func BenchmarkHotKey(b *testing.B) {
	hot := key(b, "bench", "hot")
	benchmark(b, func(c *as.Client, _ *as.Key, _ as.BinMap) error {
		for {
			_, err := c.Operate(nil, hot, as.AddOp(as.NewBin("n", 1)), as.MapPutOp(as.DefaultMapPolicy(), "m", 1, 2))
			if err == nil {
				return nil
			}
			if realServer == "" || !err.Matches(types.KEY_BUSY) {
				return err
			}
		}
	})
}

func benchmark(b *testing.B, do func(*as.Client, *as.Key, as.BinMap) error) {
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			c := client(b)
			bins := as.BinMap{"b": make([]byte, 100)}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						if err := do(c, key(b, "bench", n), bins); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
		})
	}
}
