package replay

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// nowhere takes everything at once: what is left is the loop's own cost.
type nowhere struct{ lanes int }

func (n nowhere) Resume(_ context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	return sinks.Checkpoint{Stream: c.Stream, Epoch: 1, Lanes: make([]sinks.Point, n.lanes)}, nil
}
func (nowhere) Apply(context.Context, *sinks.Batch) ([]sinks.Result, error) { return nil, nil }
func (nowhere) Close(context.Context) error                                 { return nil }

// BenchmarkDrain applies a backlog of b.N records of 1,000 keys from the log.
func BenchmarkDrain(b *testing.B) {
	for _, sink := range []string{"nowhere", "pebble"} {
		for _, lanes := range []int{1, 4} {
			b.Run(fmt.Sprintf("sink=%s/lanes=%d", sink, lanes), func(b *testing.B) { benchmarkDrain(b, sink, lanes, 0) })
		}
	}
}

// BenchmarkDrainRejected is BenchmarkDrain with one record in a hundred that the
// store rejects: it becomes a dead letter.
func BenchmarkDrainRejected(b *testing.B) {
	for _, lanes := range []int{1, 4} {
		b.Run(fmt.Sprintf("sink=pebble/bad=1%%/lanes=%d", lanes), func(b *testing.B) { benchmarkDrain(b, "pebble", lanes, 100) })
	}
}

// benchmarkDrain: every bad-th record is rejected; 0: none.
func benchmarkDrain(b *testing.B, name string, lanes, bad int) {
	r := &rig{t: b, dir: b.TempDir(), model: map[string]*modelRow{}}
	r.open()
	defer r.close()
	var last sinks.LSN
	for i := range b.N {
		m, err := mutation.Set("c", mutation.String(fmt.Sprint("k", i%1000)), map[string]any{"text": "hello, world", "n": i})
		if err != nil {
			b.Fatal(err)
		}
		if bad > 0 && i%bad == bad-1 {
			m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfVersion{IfVersion: 1 << 60}}
		}
		payload, err := mutation.Encode(nil, &walproxyv1.Record{
			Format: 1, Routes: []string{"main"}, AcceptedUnixNanos: int64(i + 1), Body: &walproxyv1.Record_Mutation{Mutation: m},
		})
		if err != nil {
			b.Fatal(err)
		}
		last = r.append(payload)
	}
	if err := r.log.WaitDurable(context.Background(), last); err != nil {
		b.Fatal(err)
	}
	var sink sinks.Sink = nowhere{lanes}
	if name == "pebble" {
		store, err := pebble.Open(filepath.Join(r.dir, "store"), pebble.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = store.Close(context.Background()) }()
		sink = store
	}
	b.ReportAllocs()
	b.ResetTimer()
	o := Options{Name: "main", Lanes: lanes, OnReject: func(string) Policy { return Skip }}
	run := r.start(sink, o)
	run.await(last)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	if err := run.stop(); err != nil {
		b.Fatal(err)
	}
}
