package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks"
)

// openSink opens a sink that the test closes.
func openSink(t testing.TB, o Options) *Sink {
	t.Helper()
	s := mustOpen(t, o)
	t.Cleanup(func() { closeSink(t, s) })
	return s
}

func mustOpen(t testing.TB, o Options) *Sink {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeSink(t testing.TB, s *Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func claimOf(lanes int) sinks.Claim {
	return sinks.Claim{Stream: uuid.New(), Owner: "test", Lanes: lanes, Fresh: true}
}

// driver moves checkpoints as the loop does.
type driver struct {
	t    testing.TB
	sink *Sink
	cp   sinks.Checkpoint
	inc  uuid.UUID
}

func resumed(t testing.TB, s *Sink, c sinks.Claim) *driver {
	t.Helper()
	cp, err := s.Resume(bounded(t), c)
	if err != nil {
		t.Fatal(err)
	}
	return &driver{t: t, sink: s, cp: cp, inc: uuid.New()}
}

func (d *driver) move(lane int, to sinks.LSN) *sinks.Batch {
	return &sinks.Batch{Epoch: d.cp.Epoch, Moves: []sinks.Move{{
		Lane: lane, From: d.cp.Lanes[lane], To: sinks.Point{Incarnation: d.inc, LSN: to},
	}}}
}

func (d *driver) apply(b *sinks.Batch) {
	d.t.Helper()
	if _, err := d.sink.Apply(bounded(d.t), b); err != nil {
		d.t.Fatal(err)
	}
	for _, m := range b.Moves {
		d.cp.Lanes[m.Lane] = m.To
	}
}

func TestCheckpoint(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	s := openSink(t, Options{DSN: dsn})
	c := claimOf(3)
	if _, err := s.Resume(bounded(t), sinks.Claim{Stream: c.Stream, Lanes: 3}); !errors.Is(err, sinks.ErrNoCheckpoint) {
		t.Fatalf("without Fresh: %v", err)
	}
	d := resumed(t, s, c)
	b := d.move(1, 10)
	d.apply(b)
	d.apply(b) // again
	stale := d.move(0, 5)
	stale.Moves[0].From.LSN = 3
	if _, err := s.Apply(bounded(t), stale); !errors.Is(err, sinks.ErrFenced) {
		t.Fatalf("from elsewhere: %v", err)
	}
	c.Fresh = false
	next := resumed(t, s, c)
	if next.cp.Epoch != d.cp.Epoch+1 || next.cp.Lanes[1].LSN != 10 {
		t.Fatalf("resumed %+v", next.cp)
	}
	if _, err := s.Apply(bounded(t), d.move(0, 5)); !errors.Is(err, sinks.ErrFenced) {
		t.Fatalf("the old epoch: %v", err)
	}
	if _, err := s.Resume(bounded(t), claimOf(3)); !errors.Is(err, sinks.ErrForeignStream) {
		t.Fatalf("another stream: %v", err)
	}
	one, err := s.Identity(bounded(t))
	if err != nil || one == "" {
		t.Fatal(one, err)
	}
	two, err := openSink(t, Options{DSN: pgtest.Shared(t).Database(t)}).Identity(bounded(t))
	if err != nil || one == two {
		t.Fatalf("another database has the identity %q, too (%v)", two, err)
	}
}
