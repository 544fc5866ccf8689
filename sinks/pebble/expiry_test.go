package pebble

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// expiring is a store with two lanes whose sweeps the test can wait for.
type expiring struct {
	*testing.T
	s  *Sink
	cp sinks.Checkpoint
	n  sinks.LSN
}

func newExpiring(t *testing.T) *expiring {
	s, err := Open("store", Options{fs: vfs.NewMem(), Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSink(t, s) })
	return &expiring{T: t, s: s,
		cp: must[sinks.Checkpoint](t)(s.Resume(t.Context(), sinks.Claim{Stream: uuid.New(), Lanes: 2, Fresh: true}))}
}

func (e *expiring) apply(lane int, at time.Time, ms ...*walproxyv1.Mutation) {
	e.Helper()
	b := &sinks.Batch{Epoch: e.cp.Epoch}
	for _, m := range ms {
		e.n++
		b.Records = append(b.Records, record(e.n, at, m))
	}
	e.move(lane, b)
}

func (e *expiring) move(lane int, b *sinks.Batch) {
	e.Helper()
	b.Moves = []sinks.Move{{Lane: lane, From: e.cp.Lanes[lane], To: point(e.n)}}
	if _, err := e.s.Apply(e.Context(), b); err != nil {
		e.Fatal(err)
	}
	e.cp.Lanes[lane] = point(e.n)
}

// keys counts what is stored under prefix.
func (e *expiring) keys(prefix byte) int {
	e.Helper()
	it := must[*pebble.Iterator](e.T)(e.s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefix}, UpperBound: []byte{prefix + 1}}))
	defer it.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	return n
}

// swept waits until n records were removed.
func (e *expiring) swept(n uint64) {
	e.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for e.s.Metrics().Expired < n {
		if time.Now().After(deadline) {
			e.Fatalf("%d records removed, want %d", e.s.Metrics().Expired, n)
		}
		time.Sleep(time.Millisecond)
	}
}

func setUntil(t *testing.T, name string, until time.Time) *walproxyv1.Mutation {
	return must[*walproxyv1.Mutation](t)(mutation.Set("c", mutation.String(name), map[string]any{"n": int64(1)}, mutation.ExpiresAt(until)))
}

func eventOn(t *testing.T, name string) *walproxyv1.Mutation {
	return must[*walproxyv1.Mutation](t)(mutation.AppendEvents("c", mutation.String(name), []map[string]any{{"e": int64(1)}}))
}

func TestExpiredAreRemoved(t *testing.T) {
	e := newExpiring(t)
	hour := start.Add(time.Hour)
	const many = 2*sweepRecords + 10
	for i := range many {
		name := string(rune('A'+i%26)) + string(rune('A'+i/26))
		e.apply(0, start, setUntil(t, name, hour), eventOn(t, name))
	}
	e.apply(0, start,
		setUntil(t, "longer", hour), setUntil(t, "longer", hour.Add(time.Hour)), // rewritten: another end
		setUntil(t, "kept", hour), must[*walproxyv1.Mutation](t)(mutation.Set("c", mutation.String("kept"), nil)), // and none
		setUntil(t, "deleted", hour), mutation.Delete("c", mutation.String("deleted")),
		setUntil(t, "exact", hour.Add(time.Second)),
		setUntil(t, "later longer", hour), setUntil(t, "later kept", hour), setUntil(t, "later deleted", hour),
	)
	e.apply(0, start, // the same over two batches
		setUntil(t, "later longer", hour.Add(time.Hour)), mutation.Delete("c", mutation.String("later deleted")),
		must[*walproxyv1.Mutation](t)(mutation.Set("c", mutation.String("later kept"), nil)),
	)
	if got, want := e.keys(prefixExpiry), many+3; got != want {
		t.Errorf("%d index entries, want %d", got, want)
	}
	last := hour.Add(time.Second)
	e.apply(0, last, eventOn(t, "now"))
	if n := e.s.Metrics().Expired; n != 0 {
		t.Errorf("%d records removed while lane 1 had passed nothing", n)
	}
	e.move(1, &sinks.Batch{Epoch: e.cp.Epoch}) // the idle lane moves past it
	e.swept(many)
	if got := e.keys(prefixDocument); got != 6 {
		t.Errorf("%d documents left, want longer, kept, exact, now, later longer, later kept", got)
	}
	if got := e.keys(prefixEvent); got != 1 {
		t.Errorf("%d events left, want the one of now", got)
	}
	if got := e.keys(prefixExpiry); got != 3 {
		t.Errorf("%d index entries left, want those of longer, exact and later longer", got)
	}
}

// TestExpiredAreRemovedIdle: where nothing is written the log says how far time has
// come; it is asked only when a record has ended, and is believed once all lanes have
// passed what it knows of.
func TestExpiredAreRemovedIdle(t *testing.T) {
	var now atomic.Int64 // nanoseconds behind start
	clock := func() time.Time { return start.Add(time.Duration(now.Load())) }
	s, err := Open("store", Options{fs: vfs.NewMem(), Now: clock, lookEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSink(t, s) })
	e := &expiring{T: t, s: s,
		cp: must[sinks.Checkpoint](t)(s.Resume(t.Context(), sinks.Claim{Stream: uuid.New(), Lanes: 2, Fresh: true}))}
	e.apply(0, start, setUntil(t, "a", start.Add(time.Hour)), eventOn(t, "a"), setUntil(t, "b", start.Add(2*time.Hour)))
	last := e.n
	var asked atomic.Int64
	s.UseHorizon(func(context.Context) (sinks.LSN, time.Time, error) {
		if asked.Add(1) == 1 {
			return 0, time.Time{}, errors.New("no answer") // it is asked again
		}
		return last, clock(), nil
	})
	if time.Sleep(20 * time.Millisecond); asked.Load() != 0 { // it has looked some times
		t.Error("the log was asked while no record had ended")
	}
	now.Store(int64(time.Hour + time.Second))
	for asked.Load() < 5 {
		time.Sleep(time.Millisecond)
	}
	if n := s.Metrics().Expired; n != 0 {
		t.Errorf("%d records removed while lane 1 had not passed what was written", n)
	}
	e.move(1, &sinks.Batch{Epoch: e.cp.Epoch})
	e.swept(1)
	if documents, events := e.keys(prefixDocument), e.keys(prefixEvent); documents != 1 || events != 0 {
		t.Errorf("%d documents and %d events left, want that of b", documents, events)
	}
}

// TestExpiredIsThereForLateWrites: the lane of the record lags, and its write
// was accepted in time. (Removing by the newest accept time fails this.)
func TestExpiredIsThereForLateWrites(t *testing.T) {
	e := newExpiring(t)
	hour := start.Add(time.Hour)
	e.apply(1, start, setUntil(t, "late", hour))
	e.n++
	late := record(e.n, hour.Add(-time.Minute), must[*walproxyv1.Mutation](t)(
		mutation.Increment("c", mutation.String("late"), map[string]any{"n": int64(1)})))
	e.apply(0, hour.Add(time.Hour), eventOn(t, "now"))
	// What a sweep would do at this moment, done by hand: nothing.
	if more, err := e.s.sweepSome(context.Background()); more || err != nil {
		t.Fatalf("sweep: %v, %v", more, err)
	}
	b := &sinks.Batch{Epoch: e.cp.Epoch, Records: []sinks.Record{late},
		Moves: []sinks.Move{{Lane: 1, From: e.cp.Lanes[1], To: point(late.LSN)}}}
	if _, err := e.s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	d := must[*mutation.Document](t)(e.s.Read(t.Context(), "c", mutation.String("late")))
	if n := d.Fields["n"].GetInt64(); n != 2 {
		t.Errorf("n is %d, want 2: the record was removed from under a write that was accepted before it ended", n)
	}
}

// TestStaleIndexEntry: an entry that no longer belongs to its record is dropped
// without it.
func TestStaleIndexEntry(t *testing.T) {
	e := newExpiring(t)
	hour := start.Add(time.Hour)
	e.apply(0, start, setUntil(t, "a", hour.Add(time.Hour)), eventOn(t, "a"))
	key := documentKey("c", mutation.String("a"))
	b := e.s.db.NewBatch()
	if err := e.s.removeExpired(b, expiryKey(hour, key)); err != nil {
		t.Fatal(err)
	}
	if err := e.s.writeBatch(b, false); err != nil {
		t.Fatal(err)
	}
	if d, err := e.s.Read(t.Context(), "c", mutation.String("a")); err != nil || d.EventCount != 1 {
		t.Errorf("Read: %v, %v; the record must have stayed", d, err)
	}
}

func TestReadsJudgeByTheClock(t *testing.T) {
	now := start
	s, err := Open("store", Options{fs: vfs.NewMem(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSink(t, s)
	e := &expiring{T: t, s: s, cp: must[sinks.Checkpoint](t)(s.Resume(t.Context(), sinks.Claim{Stream: uuid.New(), Lanes: 1, Fresh: true}))}
	e.apply(0, start, setUntil(t, "a", start.Add(time.Hour)), eventOn(t, "a"))
	key := mutation.String("a")
	for _, c := range []struct {
		at    time.Duration
		found bool
	}{{0, true}, {time.Hour - 1, true}, {time.Hour, false}, {2 * time.Hour, false}} {
		now = start.Add(c.at)
		_, err := s.Read(t.Context(), "c", key)
		_, eerr := s.ReadEvents(t.Context(), "c", key, 1, 10)
		entries, serr := s.Scan(t.Context(), "c", "", nil, 10)
		if serr != nil {
			t.Fatal(serr)
		}
		for call, err := range map[string]error{"Read": err, "ReadEvents": eerr} {
			if c.found != (err == nil) || !c.found && !errors.Is(err, mutation.ErrNotFound) {
				t.Errorf("%s at %v: %v; found: want %v", call, c.at, err, c.found)
			}
		}
		if c.found != (len(entries) == 1) {
			t.Errorf("Scan at %v: %d records", c.at, len(entries))
		}
	}
}

// TestDroppedStreams: of a stream that is dropped nothing is left, however long it was.
func TestDroppedStreams(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	c := must[sinks.Checkpoint](t)(s.Resume(t.Context(), sinks.Claim{Stream: uuid.New(), Lanes: 1, Fresh: true}))
	at, lsn := c.Lanes[0], sinks.LSN(0)
	for _, events := range []int{1, pointDeletes, pointDeletes + 1, 3 * pointDeletes} {
		key := mutation.String(fmt.Sprint("k", events))
		many := make([]map[string]any, events)
		for i := range many {
			many[i] = map[string]any{"n": int64(i)}
		}
		b := &sinks.Batch{Epoch: c.Epoch}
		for _, m := range []*walproxyv1.Mutation{must[*walproxyv1.Mutation](t)(mutation.AppendEvents("c", key, many)),
			mutation.Delete("c", key), must[*walproxyv1.Mutation](t)(mutation.AppendEvents("c", key, many[:1]))} {
			lsn++
			b.Records = append(b.Records, record(lsn, start, m))
			b.Moves = []sinks.Move{{From: at, To: point(lsn)}}
			if events%2 == 0 { // each in a batch of its own
				must[[]sinks.Result](t)(s.Apply(t.Context(), b))
				at, b = point(lsn), &sinks.Batch{Epoch: c.Epoch}
			}
		}
		if len(b.Records) > 0 {
			must[[]sinks.Result](t)(s.Apply(t.Context(), b))
			at = point(lsn)
		}
	}
	it := must[*pebble.Iterator](t)(s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEvent}, UpperBound: []byte{prefixEvent + 1}}))
	left := 0
	for it.First(); it.Valid(); it.Next() {
		left++
	}
	if err := it.Close(); err != nil || left != 4 {
		t.Errorf("%d events are left of 4 streams that were begun again with one, %v", left, err)
	}
}
