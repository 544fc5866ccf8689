package pebble

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// TestMain ignores the goroutine that pebble.Open leaves behind when it fails
// (TestOpenFailure makes it). A database that is not closed leaves others too.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"))
}

var start = time.Unix(1_700_000_000, 0).UTC()

func open(t *testing.T, dir string, o Options) *Sink {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSink(t, s) })
	return s
}

func closeSink(t *testing.T, s *Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func record(lsn sinks.LSN, at time.Time, m *walproxyv1.Mutation) sinks.Record {
	return sinks.Record{LSN: lsn, Accepted: at, Body: &walproxyv1.Record{
		Format: 1, AcceptedUnixNanos: at.UnixNano(), Body: &walproxyv1.Record_Mutation{Mutation: m},
	}}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func point(lsn sinks.LSN) sinks.Point {
	if lsn == 0 {
		return sinks.Point{}
	}
	return sinks.Point{Incarnation: uuid.UUID{1}, LSN: lsn}
}

func TestApplyReadReopen(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s := open(t, dir, Options{})
	stream := uuid.New()
	if _, err := s.Resume(ctx, sinks.Claim{Stream: stream, Lanes: 2}); !errors.Is(err, sinks.ErrNoCheckpoint) {
		t.Fatalf("Resume without Fresh on a new store: %v", err)
	}
	c := must[sinks.Checkpoint](t)(s.Resume(ctx, sinks.Claim{Stream: stream, Lanes: 2, Fresh: true}))
	key := mutation.String("k")
	b := &sinks.Batch{
		Epoch: c.Epoch,
		Records: []sinks.Record{
			record(1, start, must[*walproxyv1.Mutation](t)(mutation.Increment("c", key, map[string]any{"n": int64(1)}))),
			record(2, start, must[*walproxyv1.Mutation](t)(mutation.Increment("c", key, map[string]any{"n": int64(1)}))),
			record(3, start, must[*walproxyv1.Mutation](t)(mutation.AppendEvents("c", key, []map[string]any{{"e": "x"}}))),
		},
		Moves: []sinks.Move{{Lane: 1, To: point(3)}},
	}
	for range 2 { // the second time as after a lost answer
		if results, err := s.Apply(ctx, b); err != nil || results[2].Outcome != sinks.Applied {
			t.Fatalf("Apply: %v %v", results, err)
		}
	}
	identity := must[string](t)(s.Identity(ctx))
	closeSink(t, s)

	s = open(t, dir, Options{})
	d := must[*mutation.Document](t)(s.Read(ctx, "c", key))
	if n := d.Fields["n"].GetInt64(); n != 2 || d.Version != 3 || d.EventCount != 1 {
		t.Errorf("n %d, version %d, %d events; want 2, 3, 1", n, d.Version, d.EventCount)
	}
	events := must[[]mutation.StoredEvent](t)(s.ReadEvents(ctx, "c", key, 1, 10))
	if len(events) != 1 || events[0].Number != 1 || events[0].LSN != 3 {
		t.Errorf("events %v", events)
	}
	if entries := must[[]Entry](t)(s.Scan(ctx, "c", "", nil, 10)); len(entries) != 1 {
		t.Errorf("scan found %d records, want 1", len(entries))
	}
	if again := must[string](t)(s.Identity(ctx)); again != identity {
		t.Errorf("identity %s after reopen, was %s", again, identity)
	}
	c2 := must[sinks.Checkpoint](t)(s.Resume(ctx, sinks.Claim{Stream: stream, Lanes: 4}))
	if c2.Epoch != c.Epoch+1 || len(c2.Lanes) != 2 || c2.Lanes[1] != point(3) {
		t.Errorf("checkpoint %+v", c2)
	}
	if s.Bytes() <= 0 {
		t.Error("Bytes is not positive")
	}
}
