package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// recordOf is what EditDeadLetter and ImportDeadLetter take.
func recordOf(m *walproxyv1.Mutation) *walproxyv1.Record {
	return &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: m}}
}

// rejected makes a dead letter of each key, and waits for them.
func rejected(t *testing.T, p *walproxy.Proxy, keys ...string) (lsns []walproxy.LSN) {
	t.Helper()
	for _, key := range keys {
		appendOne(t, p, text(key))
		lsns = append(lsns, appendOne(t, p, increment(key)))
	}
	for _, lsn := range lsns {
		if err := p.Wait(t.Context(), lsn, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
			t.Fatalf("Wait(%d) = %v, want ErrDead", lsn, err)
		}
	}
	return lsns
}

func awaitAll(t *testing.T, p *walproxy.Proxy, again []walproxy.Retried) {
	t.Helper()
	for _, one := range again {
		if err := p.Wait(t.Context(), one.LSN, walproxy.Applied); err != nil && !errors.Is(err, walproxy.ErrDead) {
			t.Fatalf("Wait(%d) = %v", one.LSN, err)
		}
	}
}

func count(t *testing.T, p *walproxy.Proxy) int {
	t.Helper()
	letters, err := p.DeadLetters("main", 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	return len(letters)
}

// TestEditDeadLetter: the edit takes the dead letter's place in the queue of its key,
// which follows in order; nothing is done if nothing was changed.
func TestEditDeadLetter(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	bad := rejected(t, p, "a")[0]
	behind := appendOne(t, p, increment("a"))
	if err := p.Wait(t.Context(), behind, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
		t.Fatalf("Wait = %v", err)
	}
	before := p.Status().Log.Appended
	if again, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(increment("a"))); err != nil || len(again) != 0 {
		t.Fatalf("an edit that changes nothing: %+v, %v", again, err)
	}
	if now := p.Status().Log.Appended; now != before {
		t.Errorf("it logged %d records", now-before)
	}
	again, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("a", 10)))
	if err != nil || len(again) != 2 || again[0].Origin != bad || again[1].Origin != behind {
		t.Fatalf("EditDeadLetter = %+v, %v", again, err)
	}
	awaitAll(t, p, again)
	if got := readN(t, p, "a"); got != 11 {
		t.Errorf("n = %d, want 10 and the increment behind it", got)
	}
	for _, lsn := range []walproxy.LSN{bad, behind} {
		if ws := stateOf(t, p, lsn); ws.State != walproxy.StateApplied {
			t.Errorf("LSN %d is %s", lsn, ws.State)
		}
	}
	if n := count(t, p); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
	for what, err := range map[string]error{
		"gone":     second(p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("a", 1)))),
		"no sink":  second(p.EditDeadLetter(t.Context(), "other", bad, recordOf(set("a", 1)))),
		"no write": second(p.EditDeadLetter(t.Context(), "main", bad, &walproxyv1.Record{})),
	} {
		if !errors.Is(err, walproxy.ErrNoDeadLetter) && !errors.Is(err, walproxy.ErrNoSink) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestEditInvalid: what no client could write is no edit either; the dead letter stays.
func TestEditInvalid(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	bad := rejected(t, p, "a")[0]
	var invalid *mutation.InvalidError
	for what, rec := range map[string]*walproxyv1.Record{
		"no body": {},
		"no ops":  recordOf(mutation.New("things", mutation.String("a"), nil)),
		"no key":  recordOf(mutation.New("things", nil, increment("a").GetOps())),
	} {
		if _, err := p.EditDeadLetter(t.Context(), "main", bad, rec); !errors.As(err, &invalid) {
			t.Errorf("%s: %v, want *mutation.InvalidError", what, err)
		}
	}
	if n := count(t, p); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}

// TestEditToAnotherKey: the old key is free, the new one has the write.
func TestEditToAnotherKey(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	bad := rejected(t, p, "a")[0]
	again, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("b", 5)))
	if err != nil {
		t.Fatal(err)
	}
	awaitAll(t, p, again)
	if got := readN(t, p, "b"); got != 5 {
		t.Errorf("b: n = %d", got)
	}
	if doc, err := p.Read(t.Context(), "things", mutation.String("a")); err != nil || doc.Fields["n"].GetString_() == "" {
		t.Errorf("a is %v, %v, want its text", doc, err)
	}
}

// TestSecondEdit: of several forms of one dead letter the first counts. Another is
// refused while it may be under way, also by a process that did not log it; a retry
// does no harm and logs nothing.
func TestSecondEdit(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	f := sinktest.NewFaulty(store)
	o := options(dir, f)
	o.Sinks[0].Loop.StopTimeout = 10 * time.Millisecond // of the held Apply
	p := open(t, o)
	bad := rejected(t, p, "a")[0]
	hold := make(chan struct{})
	held := appendHeld(t, p, f, hold)
	first, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("a", 1)))
	if err != nil || len(first) != 1 {
		t.Fatalf("EditDeadLetter = %+v, %v", first, err)
	}
	var pending *walproxy.RetriedError
	if _, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("a", 2))); !errors.As(err, &pending) || pending.By != first[0].LSN {
		t.Errorf("a second edit: %v, want *RetriedError that names LSN %d", err, first[0].LSN)
	}
	logged := p.Status().Log.Appended
	if again, err := p.RetryDeadLetter(t.Context(), "main", bad); err != nil || len(again) != 1 || again[0].LSN != first[0].LSN || p.Status().Log.Appended != logged {
		t.Errorf("a retry of what is edited: %+v, %v", again, err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Close(ended) // it says that records are left

	f, hold = sinktest.NewFaulty(store.Reopen()), make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.LSN(held), Do: sinktest.HoldBefore(hold), Times: sinktest.Always})
	p = open(t, options(dir, f))
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := p.EditDeadLetter(short, "main", bad, recordOf(set("a", 3))); !errors.As(err, &pending) || pending.By != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an edit after a start: %v, want *RetriedError that knows no LSN", err)
	}
	f.Clear()
	close(hold)
	awaitAll(t, p, first)
	var gone *walproxy.NoDeadLetterError
	if _, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("a", 4))); !errors.As(err, &gone) || gone.RetriedAs != first[0].LSN {
		t.Errorf("an edit of what is applied: %v, want *NoDeadLetterError that names LSN %d", err, first[0].LSN)
	}
	if got := readN(t, p, "a"); got != 1 {
		t.Errorf("n = %d, want the first edit", got)
	}
}

// appendHeld writes what the store holds until hold is closed: no retry is reached.
func appendHeld(t *testing.T, p *walproxy.Proxy, f *sinktest.Faulty, hold chan struct{}) walproxy.LSN {
	t.Helper()
	next := p.Status().Log.Appended + 1
	f.Add(sinktest.Rule{When: sinktest.LSN(next), Do: sinktest.HoldBefore(hold), Times: sinktest.Always})
	return appendOne(t, p, set("held", 1))
}

// TestDiscardedWhileEdited: given up is the last word, and it is said so.
func TestDiscardedWhileEdited(t *testing.T) {
	f := sinktest.NewFaulty(sinktest.NewMemory())
	p := open(t, options(t.TempDir(), f))
	bad := rejected(t, p, "a")[0]
	hold := make(chan struct{})
	appendHeld(t, p, f, hold)
	again, err := p.EditDeadLetter(t.Context(), "main", bad, recordOf(set("a", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.DiscardDeadLetter("main", bad); err != nil {
		t.Fatal(err)
	}
	f.Clear()
	close(hold)
	awaitAll(t, p, again)
	if ws := stateOf(t, p, bad); ws.State != walproxy.StateDead {
		t.Errorf("it is %s, want %s", ws.State, walproxy.StateDead)
	}
	if doc, err := p.Read(t.Context(), "things", mutation.String("a")); err != nil || doc.Fields["n"].GetString_() == "" {
		t.Errorf("a is %v, %v: the edit was applied", doc, err)
	}
}

// TestRetryMany: several keys at once, each with its queue in order; what is no dead
// letter is passed over; the bound is kept, and calls go on from there.
func TestRetryMany(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	keys := []string{"a", "b", "c"}
	bad := rejected(t, p, keys...)
	var parked []walproxy.LSN
	for range 3 {
		for _, key := range keys {
			parked = append(parked, appendOne(t, p, increment(key)))
		}
	}
	last := appendOne(t, p, set("z", 1))
	if err := p.Wait(t.Context(), last, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	again, err := p.RetryDeadLetters(t.Context(), "main", append([]walproxy.LSN{1, 7777}, bad...))
	if err != nil || len(again) != len(bad)+len(parked) {
		t.Fatalf("%d retried, %v", len(again), err)
	}
	origins := make([]walproxy.LSN, len(again))
	for i := range again {
		origins[i] = again[i].Origin
	}
	if !slices.IsSorted(origins) {
		t.Errorf("in the order %v", origins)
	}
	awaitAll(t, p, again)
	if n := count(t, p); n != len(again) { // the cause is still there
		t.Errorf("%d dead letters, want %d", n, len(again))
	}
	if _, err := p.RetryDeadLetters(t.Context(), "main", []walproxy.LSN{1, 2}); !errors.Is(err, walproxy.ErrNoDeadLetter) {
		t.Errorf("of none: %v", err)
	}
	gone, err := p.DiscardDeadLetters("main", []walproxy.LSN{again[0].LSN, 9999, again[1].LSN})
	if err != nil || len(gone) != 2 {
		t.Errorf("DiscardDeadLetters = %+v, %v", gone, err)
	}
}

func exported(t *testing.T, p *walproxy.Proxy, id string) (all []walproxy.ImportedLetter) {
	t.Helper()
	letters, err := p.DeadLetters("main", 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range letters {
		rec, err := letters[i].Record()
		if err != nil {
			t.Fatal(err)
		}
		if id != "" {
			rec.GetMutation().RequestId = fmt.Sprint(id, letters[i].LSN)
		}
		all = append(all, walproxy.ImportedLetter{Stream: p.Status().Stream, LSN: letters[i].LSN, Record: rec})
	}
	return all
}

func importAll(t *testing.T, p *walproxy.Proxy, all []walproxy.ImportedLetter) (last walproxy.LSN) {
	t.Helper()
	for _, in := range all {
		w, err := p.ImportDeadLetter(t.Context(), "main", in)
		if err != nil {
			t.Fatalf("ImportDeadLetter(%d) = %v", in.LSN, err)
		}
		r, err := w.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = r.LSN
	}
	return last
}

// TestImportDeadLetters: on another log they are new writes for the sink alone, each
// once however often they are imported; on their own log they are retried, mended or
// as they are, and are dead letters no more.
func TestImportDeadLetters(t *testing.T) {
	here := open(t, options(t.TempDir(), sinktest.NewMemory()))
	bad := rejected(t, here, "a", "b")
	appendOne(t, here, increment("a"))
	again, err := here.RetryDeadLetter(t.Context(), "main", bad[1]) // its record says what it retries here
	if err != nil {
		t.Fatal(err)
	}
	awaitAll(t, here, again)
	if err := here.Wait(t.Context(), appendOne(t, here, set("z", 1)), walproxy.Applied); err != nil {
		t.Fatal(err)
	}

	o := options(t.TempDir(), sinktest.NewMemory())
	o.Sinks = append(o.Sinks, walproxy.SinkOptions{Name: "other", Sink: sinktest.NewMemory()})
	there := open(t, o)
	moved := exported(t, here, "moved-")
	for range 2 {
		last := importAll(t, there, moved)
		if err := there.Wait(t.Context(), last, walproxy.Applied); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := readN(t, there, "a"), readN(t, there, "b"); a != 2 || b != 1 {
		t.Errorf("a is %d, b is %d, want 2 and 1", a, b)
	}
	if n := there.Status().Log.Appended; n != 3 {
		t.Errorf("%d records were logged for three", n)
	}
	if records := there.Status().Sinks[1].Records; records != 0 {
		t.Errorf("the other sink got %d", records)
	}

	own := exported(t, here, "")
	own[0].Record = recordOf(set("a", 100))
	last := importAll(t, here, own)
	if err := here.Wait(t.Context(), last, walproxy.Applied); err != nil && !errors.Is(err, walproxy.ErrDead) {
		t.Fatal(err)
	}
	if n := readN(t, here, "a"); n != 101 {
		t.Errorf("a is %d, want the mended 100 and the increment", n)
	}
	if n := count(t, here); n != 1 { // b's cause is still there
		t.Errorf("%d dead letters", n)
	}
	for _, in := range own {
		if _, err := here.ImportDeadLetter(t.Context(), "main", in); !errors.Is(err, walproxy.ErrNoDeadLetter) {
			t.Errorf("LSN %d again: %v, want ErrNoDeadLetter", in.LSN, err)
		}
	}
	var invalid *mutation.InvalidError
	if _, err := there.ImportDeadLetter(t.Context(), "main", walproxy.ImportedLetter{Stream: "x", LSN: 1, Record: &walproxyv1.Record{}}); !errors.As(err, &invalid) {
		t.Errorf("nothing to import: %v", err)
	}
}
