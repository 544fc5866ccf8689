package pebble

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

func benchSink(b *testing.B, lanes int) (*Sink, sinks.Checkpoint) {
	b.Helper()
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close(b.Context()) })
	cp, err := s.Resume(b.Context(), sinks.Claim{Stream: uuid.New(), Lanes: lanes, Fresh: true})
	if err != nil {
		b.Fatal(err)
	}
	return s, cp
}

// BenchmarkApply: an op is one record of 512 bytes, applied and synced.
func BenchmarkApply(b *testing.B) {
	for _, lanes := range []int{1, 4} {
		for _, size := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("lanes=%d/batch=%d", lanes, size), func(b *testing.B) { benchApply(b, lanes, size) })
		}
	}
}

func benchApply(b *testing.B, lanes, size int) {
	s, cp := benchSink(b, lanes)
	value := make([]byte, 512)
	var lsn, left atomic.Int64
	left.Store(int64(b.N))
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			from := cp.Lanes[lane]
			for left.Add(-int64(size)) > -int64(size) {
				last := sinks.LSN(lsn.Add(int64(size)))
				batch := &sinks.Batch{Epoch: cp.Epoch, Moves: []sinks.Move{{Lane: lane, From: from, To: point(last)}}}
				for i := range size {
					n := last - sinks.LSN(size) + 1 + sinks.LSN(i)
					m, err := mutation.Set("c", mutation.String(fmt.Sprintf("%d-%d", lane, n%50_000)), map[string]any{"v": value})
					if err != nil {
						b.Error(err)
						return
					}
					batch.Records = append(batch.Records, record(n, start, m))
				}
				if _, err := s.Apply(b.Context(), batch); err != nil {
					b.Error(err)
					return
				}
				from = batch.Moves[0].To
			}
		})
	}
	wg.Wait()
}

// BenchmarkRead: the cost of a read does not depend on how often the key was
// written (F13).
func BenchmarkRead(b *testing.B) {
	for _, writes := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("writes=%d", writes), func(b *testing.B) {
			s, cp := benchSink(b, 1)
			key := mutation.String("hot")
			from := cp.Lanes[0]
			for done := 0; done < writes; {
				batch := &sinks.Batch{Epoch: cp.Epoch}
				for range min(1000, writes-done) {
					done++
					m, err := mutation.Increment("c", key, map[string]any{"n": int64(1)})
					if err != nil {
						b.Fatal(err)
					}
					batch.Records = append(batch.Records, record(sinks.LSN(done), start, m))
				}
				batch.Moves = []sinks.Move{{From: from, To: point(sinks.LSN(done))}}
				if _, err := s.Apply(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				from = batch.Moves[0].To
			}
			b.ReportAllocs()
			for b.Loop() {
				if d, err := s.Read(b.Context(), "c", key); err != nil || d.Version != sinks.LSN(writes) {
					b.Fatal(d, err)
				}
			}
		})
	}
}
