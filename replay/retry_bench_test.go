package replay

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/wal"
)

// BenchmarkRetry retries b.N dead letters of one key, and of as many keys.
func BenchmarkRetry(b *testing.B) {
	b.Run("keys=1", func(b *testing.B) { benchmarkRetry(b, 1) })
	b.Run("keys=N", func(b *testing.B) { benchmarkRetry(b, b.N) })
}

func benchmarkRetry(b *testing.B, keys int) {
	r := &rig{t: b, dir: b.TempDir(), model: map[string]*modelRow{}}
	r.open()
	defer r.close()
	store, err := pebble.Open(filepath.Join(r.dir, "store"), pebble.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close(context.Background()) }()
	run := r.start(store, fast())
	write := func(origin wal.LSN, route string, m *walproxyv1.Mutation) wal.LSN {
		body := &walproxyv1.Record{Format: 1, Routes: []string{route}, AcceptedUnixNanos: 1, Body: &walproxyv1.Record_Mutation{Mutation: m}}
		if origin > 0 {
			body.Origin = &walproxyv1.Origin{Lsn: uint64(origin), Sink: "main"}
		}
		payload, err := mutation.Encode(nil, body)
		if err != nil {
			b.Fatal(err)
		}
		return r.append(payload)
	}
	bumpOf := func(i int) *walproxyv1.Mutation { return bump(fmt.Sprint("k", i%keys)) }
	var dead []state.DeadLetter
	var last wal.LSN
	for i := range b.N { // LSNs to be dead letters of
		m := bumpOf(i)
		last = write(0, "nobody", m)
		payload, err := mutation.Encode(nil, &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: m}})
		if err != nil {
			b.Fatal(err)
		}
		dead = append(dead, state.DeadLetter{LSN: last, Position: last, Kind: state.Rejected, Parks: true, When: time.Now(),
			Keys: [][]byte{mutation.AppendKey(nil, "c", m.GetKey())}, Reason: "so it is", Payload: payload})
	}
	run.await(last)
	if err := run.Letters().Put(dead, nil, state.Bounds{}); err != nil {
		b.Fatal(err)
	}
	run.Suspend() // the log's speed is not the question
	for i, l := range dead {
		last = write(l.LSN, "main", bumpOf(i))
	}
	b.ResetTimer()
	run.Resume()
	run.await(last)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	if s := run.Status(); s.DeadLetters != 0 || s.Records != uint64(b.N) {
		b.Fatalf("%+v, want %d retries applied", s, b.N)
	}
	if err := run.stop(); err != nil {
		b.Fatal(err)
	}
}
