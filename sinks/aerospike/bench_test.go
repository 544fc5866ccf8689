package aerospike

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// BenchmarkApply applies batches of 1,000 records, each of another key, without
// owner and checkpoints, beside the same values put one by one from one goroutine
// and from 64. With WALPROXY_TEST_AEROSPIKE the store is a real server.
func BenchmarkApply(b *testing.B) {
	const size, keys = 1000, 20_000
	name := func(i int) string { return fmt.Sprintf("k%d", i%keys) }
	writes := map[string]func(i int) *walproxyv1.Mutation{
		"set": func(i int) *walproxyv1.Mutation {
			return set(name(i), fields{"n": int64(i), "text": "some text of a record", "b": true})
		},
		"increment": func(i int) *walproxyv1.Mutation { return add(name(i), 1) },
		"delete":    func(i int) *walproxyv1.Mutation { return remove(name(i)) },
		"careful":   func(i int) *walproxyv1.Mutation { return add(name(i), 1, mutation.IfEventCount(0)) },
	}
	for _, op := range []string{"set", "increment", "delete", "careful"} {
		for _, lanes := range []int{1, 4} {
			b.Run(fmt.Sprintf("op=%s/lanes=%d", op, lanes), func(b *testing.B) {
				s, err := Open(options(b))
				if err != nil {
					b.Fatal(err)
				}
				defer closeSink(s)
				client, err := s.client(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				guard := guardName(uuid.New())
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range lanes {
					wg.Go(func() {
						for {
							from := int(next.Add(size)) - size
							if from >= b.N {
								return
							}
							applyBatch(b, s, client, guard, from, min(from+size, b.N), writes[op])
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("op=put/clients=%d", clients), func(b *testing.B) {
			s, err := Open(options(b))
			if err != nil {
				b.Fatal(err)
			}
			defer closeSink(s)
			client, err := s.client(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
						key, _, err := s.o.keyOf(collection, mutation.String(name(i)))
						if err != nil {
							b.Error(err)
							return
						}
						if err := client.Put(nil, key, as.BinMap{"n": i, "text": "some text of a record", "b": true}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func applyBatch(b *testing.B, s *Sink, client *as.Client, guard string, from, to int, write func(int) *walproxyv1.Mutation) {
	batch := &sinks.Batch{}
	for i := from; i < to; i++ {
		batch.Records = append(batch.Records, sinks.Record{LSN: sinks.LSN(i + 1), Accepted: time.Now(),
			Body: &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: write(i)}}})
	}
	phases, err := s.phases(batch)
	if err != nil {
		b.Error(err)
		return
	}
	ctx, leave, err := s.calls.Enter(context.Background())
	if err != nil {
		b.Error(err)
		return
	}
	defer leave()
	a := &applier{sink: s, client: client, guard: guard, window: noWindow{}, results: make([]sinks.Result, len(batch.Records))}
	if !a.run(ctx, phases) {
		b.Error(a.results[0])
	}
}
