package aerospike

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// ownership drives a sink as the loop does, with one lane and a record a batch.
type ownership struct {
	testing.TB
	s    *Sink
	cp   sinks.Checkpoint
	inc  uuid.UUID
	name string
}

// owns claims a stream; a new one if fresh.
func owns(t testing.TB, s *Sink, stream uuid.UUID, name string, fresh bool) (*ownership, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cp, err := s.Resume(ctx, sinks.Claim{Stream: stream, Owner: name, Lanes: 1, Fresh: fresh})
	return &ownership{TB: t, s: s, cp: cp, inc: uuid.UUID{1}, name: name}, err
}

func mustOwn(t testing.TB, s *Sink, stream uuid.UUID, fresh bool) *ownership {
	t.Helper()
	o, err := owns(t, s, stream, t.Name(), fresh)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// apply applies m as the record after the last.
func (o *ownership) apply(m *walproxyv1.Mutation) error {
	o.Helper()
	from := o.cp.Lanes[0]
	to := sinks.Point{Incarnation: o.inc, LSN: from.LSN + 1}
	b := &sinks.Batch{Epoch: o.cp.Epoch, Moves: []sinks.Move{{From: from, To: to}},
		Records: []sinks.Record{{LSN: to.LSN, Accepted: time.Now(), Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: m}}}}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results, err := o.s.Apply(ctx, b)
	if err == nil && results[0].Outcome != sinks.Applied {
		err = fmt.Errorf("LSN %v is %v: %w", to.LSN, results[0].Outcome, results[0].Err)
	}
	if err == nil {
		o.cp.Lanes[0] = to
	}
	return err
}

func (o *ownership) must(m *walproxyv1.Mutation) {
	o.Helper()
	if err := o.apply(m); err != nil {
		o.Fatal(err)
	}
}

func bump(key string) *walproxyv1.Mutation {
	m, err := mutation.Increment(collection, mutation.String(key), map[string]any{"n": int64(1)})
	if err != nil {
		panic(err)
	}
	return m
}

// raw reads a record as the store has it; nil: it has none.
func (o *ownership) raw(key string) *as.Record {
	o.Helper()
	r, err := (&direct{s: o.s}).tryRecord(context.Background(), key)
	if codeOf(err) == 2 {
		return nil
	}
	if err != nil {
		o.Fatal(err)
	}
	return r
}

// count is a counter as a reader sees it; -1: there is none.
func (o *ownership) count(key string) int64 {
	o.Helper()
	d, err := o.s.Read(context.Background(), collection, mutation.String(key))
	if errors.Is(err, mutation.ErrNotFound) {
		return -1
	}
	if err != nil {
		o.Fatal(err)
	}
	return d.Fields["n"].GetInt64()
}

// seen is when the store said last who owns the stream.
func (o *ownership) seen() time.Time {
	o.s.owner.mu.Lock()
	defer o.s.owner.mu.Unlock()
	return o.s.owner.mu.seen
}

// soon polls cond.
func soon(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// quick are options that settle soon.
func quick(t testing.TB) Options {
	o := options(t)
	o.Settle = 300 * time.Millisecond
	return o
}

// TestFenced: who claims the stream shuts the owner before out, while both apply:
// every record is done once.
func TestFenced(t *testing.T) {
	t.Parallel()
	o, stream := quick(t), uuid.New()
	first := mustOwn(t, open(t, o), stream, true)
	for range 5 {
		first.must(bump("k"))
	}
	second := mustOwn(t, open(t, o), stream, false)
	if second.cp.Epoch <= first.cp.Epoch {
		t.Fatalf("epoch %d after %d", second.cp.Epoch, first.cp.Epoch)
	}
	var err error
	for err == nil {
		if err = first.apply(bump("k")); err == nil && first.cp.Lanes[0].LSN > 100_000 {
			t.Fatal("the owner before is never fenced")
		}
	}
	if !errors.Is(err, sinks.ErrFenced) || sinks.OutcomeOf(err) != sinks.Halt {
		t.Fatalf("Apply of the owner before: %v, want ErrFenced", err)
	}
	last := first.cp.Lanes[0].LSN + 1 // that one may have been done as well
	for second.cp.Lanes[0].LSN < last {
		second.must(bump("k"))
	}
	if n := second.count("k"); n != int64(last) {
		t.Errorf("%d records made %d", last, n)
	}
}

// TestSettles: what was applied is settled when its time has passed, the log may be
// freed later still, and the next owner goes on from there. Nothing is written when
// nothing happens.
func TestSettles(t *testing.T) {
	t.Parallel()
	o, stream := quick(t), uuid.New()
	own := mustOwn(t, open(t, o), stream, true)
	began := time.Now()
	for range 20 {
		own.must(bump("k"))
	}
	soon(t, "the log may be freed", func() bool { return own.s.Settled() == 20 })
	if took := time.Since(began); took < 2*o.Settle {
		t.Errorf("after %v the log was freed: what says so can be lost for %v more", took, 2*o.Settle-took)
	}
	before, err := own.s.owner.load(t.Context())
	if err != nil || before.Lanes[0].LSN != 20 {
		t.Fatalf("state %+v, %v; want it at 20", before, err)
	}
	looks := own.seen()
	soon(t, "the owner has been looked at some times more", func() bool {
		return own.seen().Sub(looks) > 10*own.s.owner.interval()
	})
	if after, err := own.s.owner.load(t.Context()); err != nil || after.generation != before.generation {
		t.Errorf("the state record was written while nothing happened: generation %d, %v; it was %d", after.generation, err, before.generation)
	}
	next := mustOwn(t, open(t, o), stream, false)
	if at := next.cp.Lanes[0].LSN; at != 20 {
		t.Errorf("the next owner begins at %v, want 20", at)
	}
}

// TestTombstones: a deleted record leaves its guard until that is settled; what was
// written since stays.
func TestTombstones(t *testing.T) {
	t.Parallel()
	own := mustOwn(t, open(t, quick(t)), uuid.New(), true)
	for _, key := range []string{"gone", "back"} {
		own.must(bump(key))
		own.must(mutation.Delete(collection, mutation.String(key)))
	}
	if r := own.raw("gone"); r != nil && r.Bins[binDead] == nil { // a slow machine may have settled it
		t.Fatalf("right after the deletion: %+v, want its guard alone", r)
	}
	if n := own.count("gone"); n != -1 {
		t.Errorf("a deleted record reads as %d", n)
	}
	own.must(bump("back"))
	soon(t, "the tombstone is gone", func() bool { return own.raw("gone") == nil })
	soon(t, "all is settled", func() bool { return own.s.Settled() == own.cp.Lanes[0].LSN })
	if n := own.count("back"); n != 1 {
		t.Errorf("what was written after the deletion is %d, want 1", n)
	}
}

// TestClaimLost: a node that was restarted has the state record of before the claim:
// the owner is told, and claims it anew above its own epoch.
func TestClaimLost(t *testing.T) {
	t.Parallel()
	o, stream := quick(t), uuid.New()
	s := open(t, o)
	first := mustOwn(t, s, stream, true)
	older, err := s.owner.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := mustOwn(t, s, stream, false)
	now, err := s.owner.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	older.generation = now.generation
	if err := s.owner.save(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	soon(t, "the owner is told", func() bool { return errors.Is(s.Rewound(), sinks.ErrRewound) })
	if err := second.apply(bump("k")); !errors.Is(err, sinks.ErrRewound) {
		t.Errorf("Apply: %v, want ErrRewound", err)
	}
	third := mustOwn(t, s, stream, false)
	if third.cp.Epoch <= second.cp.Epoch || s.Rewound() != nil {
		t.Errorf("claimed again with epoch %d after %d and %d; Rewound %v", third.cp.Epoch, first.cp.Epoch, second.cp.Epoch, s.Rewound())
	}
	third.must(bump("k"))
}

// TestStateDamaged: a state record that cannot be read is never taken for none.
func TestStateDamaged(t *testing.T) {
	t.Parallel()
	o, stream := quick(t), uuid.New()
	s := open(t, o)
	mustOwn(t, s, stream, true)
	client, err := s.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.owner.record().asKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"format":2}`, `{"format":1}`} {
		if err := client.PutBins(nil, key, as.NewBin(stateBin, text)); err != nil {
			t.Fatal(err)
		}
		_, err := owns(t, open(t, o), stream, "other", true)
		said, ok := errors.AsType[*StateError](err)
		if !ok || sinks.OutcomeOf(err) != sinks.Halt {
			t.Errorf("Resume with %q: %v (%v), want a *StateError that halts", text, err, said)
		}
	}
}

// FuzzState decodes what may be in the state record.
func FuzzState(f *testing.F) {
	f.Add(`{"format":1,"stream":"11111111-1111-1111-1111-111111111111","epoch":1,"lanes":[{"LSN":1}]}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		if st, err := decodeState(text); err == nil && (len(st.Lanes) < 1 || st.Stream == uuid.Nil) {
			t.Errorf("%q is %+v", text, st)
		}
	})
}
