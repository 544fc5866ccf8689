package accept

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// open counts the request ids in memory.
func (r *rig) open() int {
	r.requests.mu.Lock()
	defer r.requests.mu.Unlock()
	return len(r.requests.mu.open)
}

// Of many first requests with one id exactly one is logged; all get its LSN.
func TestRequestOnce(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	for round := range 20 {
		rec := record(increment("k", mutation.WithRequestID(fmt.Sprint("r", round))))
		before := r.log.Appended()
		var mu sync.Mutex
		lsns := map[wal.LSN]int{}
		firsts := 0
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				res, err := r.do(t.Context(), rec)
				mu.Lock()
				defer mu.Unlock()
				if lsns[res.LSN]++; err != nil {
					t.Error(err)
				}
				if !res.Repeat {
					firsts++
				}
			})
		}
		wg.Wait()
		if r.log.Appended() != before+1 || len(lsns) != 1 || lsns[before+1] != 32 || firsts != 1 {
			t.Fatalf("round %d: %d records, LSNs %v, %d firsts", round, r.log.Appended()-before, lsns, firsts)
		}
	}
	eventually(t, "stored ids leave memory", func() bool { return r.open() == 0 })
	res, err := r.do(t.Context(), record(increment("k", mutation.WithRequestID("r3")))) // from the state store
	if err != nil || !res.Repeat || res.LSN != 4 {
		t.Fatalf("a stored id: %+v, %v", res, err)
	}
}

// An id is a principal's; another payload under it is refused, wherever the id
// is found. The id is checked before the precondition.
func TestRequestMismatchAndScope(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	by := func(principal string, m *walproxyv1.Mutation) (Result, error) {
		rec := record(m)
		rec.Principal = principal
		return r.do(t.Context(), rec)
	}
	id := mutation.WithRequestID("r")
	first, err := by("alice", set("k", id, mutation.IfAbsent()))
	if err != nil {
		t.Fatal(err)
	}
	for _, stored := range []bool{false, true} {
		if stored {
			eventually(t, "stored ids leave memory", func() bool { return r.open() == 0 })
		}
		if _, err := by("alice", set("k", id)); !errors.Is(err, ErrRequestMismatch) {
			t.Errorf("stored %v: another payload: %v", stored, err)
		}
		// By now it would conflict.
		if res, err := by("alice", set("k", id, mutation.IfAbsent())); err != nil || res.LSN != first.LSN || !res.Repeat {
			t.Errorf("stored %v: the repeat: %+v, %v", stored, res, err)
		}
		other := fmt.Sprint("bob", stored)
		if res, err := by(other, set("k", id)); err != nil || res.Repeat {
			t.Errorf("stored %v: another principal: %+v, %v", stored, res, err)
		}
	}
}

// The repeat of an event append says the same event count.
func TestRequestRepeatEventCount(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	m := mutation.New("c", mutation.String("k"), []*walproxyv1.Op{mutation.AppendEventOp(&walproxyv1.Event{})},
		mutation.IfEventCount(0), mutation.WithRequestID("r"))
	for i := range 2 {
		if res := r.must(m); res.EventCount != 1 || res.Repeat != (i == 1) {
			t.Errorf("%+v", res)
		}
	}
}

// A repeat waits for the original's durability.
func TestRequestWaitsForOriginal(t *testing.T) {
	gate := &gateFS{FS: vfs.OS()}
	r := newRig(t, t.TempDir(), func(r *rig) { r.wal.FS, r.wal.SegmentBytes = gate, 1 })
	gate.shut()
	t.Cleanup(gate.release)
	var original *Pending
	var rec *walproxyv1.Record
	for i := 0; ; i++ { // segments are made ahead
		rec = record(set("k", mutation.WithRequestID(fmt.Sprint("r", i))))
		var err error
		if original, err = r.Submit(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		select {
		case <-original.Done():
			continue
		case <-time.After(50 * time.Millisecond):
		}
		break
	}
	if mark, err := r.requests.syncNow(); err != nil || mark >= original.LSN() {
		t.Fatalf("mark %d, %v; LSN %d is not durable", mark, err, original.LSN())
	}
	if got, ok, err := r.state.LookupRequest(t.Context(), "", rec.GetMutation().GetRequestId()); err != nil || ok {
		t.Fatalf("%+v, %v: an id that is not durable in the log was stored", got, err)
	}
	repeat, err := r.Submit(t.Context(), rec)
	if err != nil || repeat.LSN() != original.LSN() {
		t.Fatalf("LSN %v, %v; want %d", repeat, err, original.LSN())
	}
	select {
	case <-repeat.Done():
		t.Fatal("the repeat is acked before the original is durable")
	case <-time.After(20 * time.Millisecond):
	}
	gate.release()
	if res, err := repeat.Wait(t.Context()); err != nil || !res.Repeat || res.LSN != original.LSN() {
		t.Fatalf("the repeat: %+v, %v", res, err)
	}
}

// A write that was not logged leaves its id free.
func TestRequestFreeAfterFailure(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	id := mutation.WithRequestID("r")
	if _, err := r.do(t.Context(), record(set("k", id, mutation.IfVersion(9)))); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	if res := r.must(set("k", id)); res.Repeat {
		t.Fatalf("%+v after a conflict", res)
	}
}

// Ids are known after a clean restart, and after a kill at any stage of their
// way into the state store.
func TestRequestOverRestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	rec := func(i int) *walproxyv1.Record {
		return record(increment(fmt.Sprint("k", i%7), mutation.WithRequestID(fmt.Sprint("r", i))))
	}
	const n = 300
	var copies []string
	for i := range n {
		if _, err := r.do(t.Context(), rec(i)); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 10, 150:
			copies = append(copies, r.crash())
		case 100: // stored, durably
			if err := r.SyncBelow(r.log.Durable() + 1); err != nil {
				t.Fatal(err)
			}
			copies = append(copies, r.crash())
		}
	}
	r.close()
	for _, d := range append(copies, dir) {
		r := newRig(t, d, nil)
		logged := int(r.log.Appended())
		for i := range logged {
			res, err := r.do(t.Context(), rec(i))
			if err != nil || !res.Repeat || res.LSN != wal.LSN(i+1) {
				t.Fatalf("of %d: id %d: %+v, %v", logged, i, res, err)
			}
		}
		if res, err := r.do(t.Context(), rec(n)); err != nil || res.Repeat {
			t.Fatalf("a new id: %+v, %v", res, err)
		}
		r.close()
	}
}

// SyncBelow makes the ids durable before the log is freed, also with writers at
// work; the mark follows.
func TestSyncBelow(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, func(r *rig) { r.wal.SegmentBytes = 4 << 10 })
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				if _, err := r.do(t.Context(), record(increment("k", mutation.WithRequestID(fmt.Sprint(w, "-", i))))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	released := wal.LSN(0)
	for r.log.Durable() < 800 {
		low := min(r.log.Durable(), r.store.Applied())
		if err := r.SyncBelow(low + 1); err != nil {
			t.Fatal(err)
		}
		if mark, err := r.state.RequestMark(); err != nil || mark < low {
			t.Fatalf("mark %d, %v; want at least %d", mark, err, low)
		}
		r.log.Release(low + 1)
		released = low
	}
	wg.Wait()
	eventually(t, "the log is freed", func() bool { return r.log.First() > 1 })
	if err := r.SyncBelow(r.log.Durable() + 2); err == nil {
		t.Error("SyncBelow beyond the durable LSN succeeds")
	}
	r.close()
	r = newRig(t, dir, func(r *rig) { r.store.mu.applied = released })
	for w := range 4 {
		if res, err := r.do(t.Context(), record(increment("k", mutation.WithRequestID(fmt.Sprint(w, "-", 0))))); err != nil || !res.Repeat {
			t.Fatalf("an id whose record is freed: %+v, %v", res, err)
		}
	}
}

// The mark rises without any id, so that the rescan stays short.
func TestMarkWithoutIDs(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	last := r.must(set("k")).LSN
	eventually(t, "the mark rises", func() bool {
		r.requests.mu.Lock()
		defer r.requests.mu.Unlock()
		return r.requests.mu.mark >= last
	})
	if err := r.SyncBelow(0); err != nil { // durable with the next sync
		t.Fatal(err)
	}
	if mark, err := r.state.RequestMark(); err != nil || mark < last {
		t.Fatalf("mark %d, %v", mark, err)
	}
}

// Beyond the window an id is new again; the number of stored ids is bounded.
func TestRequestWindow(t *testing.T) {
	clock := &steps{now: noon}
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.opts.Now, r.opts.Window.Age, r.opts.Window.Count = clock.read, time.Hour, 100
	})
	first := r.must(set("k", mutation.WithRequestID("r")))
	eventually(t, "stored ids leave memory", func() bool { return r.open() == 0 })
	clock.then(noon.Add(time.Hour))
	if res := r.must(set("k", mutation.WithRequestID("r"))); !res.Repeat || res.LSN != first.LSN {
		t.Fatalf("within the window: %+v", res)
	}
	clock.then(noon.Add(time.Hour + 1))
	second := r.must(set("k", mutation.WithRequestID("r")))
	if second.Repeat {
		t.Fatalf("beyond the window: %+v", second)
	}
	if res := r.must(set("k", mutation.WithRequestID("r"))); !res.Repeat || res.LSN != second.LSN {
		t.Fatalf("the new one's repeat: %+v", res)
	}
	for i := range 500 {
		if _, err := r.Submit(t.Context(), record(set("k", mutation.WithRequestID(fmt.Sprint(i))))); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 { // what is stored at once is dropped at once
			eventually(t, "stored ids leave memory", func() bool { return r.open() == 0 })
		}
	}
	eventually(t, "old ids are dropped", func() bool {
		_, ok, err := r.state.LookupRequest(t.Context(), "", "0")
		if err != nil {
			t.Fatal(err)
		}
		return !ok && r.open() == 0
	})
	if res := r.must(set("k", mutation.WithRequestID("499"))); !res.Repeat {
		t.Fatalf("the last one was dropped: %+v", res)
	}
}

// A log older than its state store is refused: its ids would answer for writes
// that are gone.
func TestRequestsOfLostLog(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.must(set("k"))
	old := r.crash()
	r.must(set("k"))
	r.close()
	if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(old, "log"), filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	r = openRig(t, dir, nil)
	defer r.log.Close()
	defer r.state.Close()
	if _, err := New(t.Context(), r.log, r.state, r.opts); !errors.Is(err, ErrRequestsLost) {
		t.Fatalf("got %v, want ErrRequestsLost", err)
	}
}

// So is a log that begins above what the state store has the ids of: it was freed, and
// the store is an older copy.
func TestRequestsOfFreedLog(t *testing.T) {
	for first, lost := range map[wal.LSN]bool{2: false, 3: true, 100: true} { // the mark is 1
		dir := t.TempDir()
		r := newRig(t, dir, nil)
		r.must(set("k", mutation.WithRequestID("1")))
		stream, boot, history := r.log.Stream(), r.state.Boot(), r.log.History(0, r.log.Durable())
		r.close()
		if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
			t.Fatal(err)
		}
		restored, err := wal.Restore(filepath.Join(dir, "log"), wal.RestoreOptions{Stream: stream, Boot: boot, Incarnations: history, First: first})
		if err != nil {
			t.Fatal(err)
		}
		body := record(set("k", mutation.WithRequestID("2")))
		body.Format, body.Routes = mutation.Format, []string{"main"}
		payload, err := mutation.Encode(nil, body)
		if err := errors.Join(err, restored.Record(first, payload), restored.Close()); err != nil {
			t.Fatal(err)
		}
		r = openRig(t, dir, nil)
		a, err := New(t.Context(), r.log, r.state, r.opts)
		if errors.Is(err, ErrRequestsLost) != lost || !lost && err != nil {
			t.Errorf("the log begins at LSN %d: %v; ids are lost: %v", first, err, lost)
		}
		if lost && err != nil && !strings.Contains(err.Error(), fmt.Sprintf("stored up to LSN 1, and the log begins at %d", first)) {
			t.Errorf("it does not say where: %v", err)
		}
		if a != nil {
			err = a.Close()
		}
		if err := errors.Join(err, r.state.Close(), r.log.Close()); !lost && err != nil {
			t.Error(err)
		}
	}
}

// The hash outlives upgrades: it never changes, nor does it depend on when, where
// to and by whom.
func TestPayloadHash(t *testing.T) {
	rec := record(set("k", mutation.WithRequestID("r")))
	for range 2 {
		hash, err := hashPayload(rec)
		if got := hex.EncodeToString(hash[:]); err != nil || got != "b01de344653f96813f4cd8bb3f394731" {
			t.Errorf("hash %s, %v", got, err)
		}
		rec.AcceptedUnixNanos, rec.Routes, rec.Principal = 7, []string{"x"}, "p"
	}
	rec.AcceptedUnixNanos = 0
	r := newRig(t, t.TempDir(), nil)
	w, err := r.prepare(rec, nil) // with routes and principal
	if err != nil {
		t.Fatal(err)
	}
	hash, err := w.hash()
	if want, _ := hashPayload(rec); err != nil || hash != want || w.buffer == nil {
		t.Errorf("of the payload: %x, %v; want %x", hash, err, want)
	}
	if payload, err := mutation.Encode(nil, w.record); err != nil || !bytes.Equal(payload, w.payload) {
		t.Errorf("the payload is %x behind it, want %x, %v", w.payload, payload, err)
	}
	w.free()
	other, err := hashPayload(record(set("k2", mutation.WithRequestID("r"))))
	if mine, _ := hashPayload(rec); err != nil || other == mine {
		t.Errorf("two writes, one hash: %v", err)
	}
}

// A write that is durable before it could say that it has an id holds the mark
// back, and SyncBelow waits for it.
func TestMarkBehindEnqueue(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	id := requestKey{"", "r"}
	req, _, err := r.requests.begin(t.Context(), id, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	r.requests.enqueuing()
	ticket, err := r.log.Enqueue(t.Context(), mustEncode(t, r, set("k", mutation.WithRequestID("r"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mark, err := r.requests.syncNow(); err != nil || mark >= ticket.LSN {
		t.Fatalf("mark %d, %v; the id of LSN %d is not stored", mark, err, ticket.LSN)
	}
	synced := make(chan error, 1)
	go func() { synced <- r.SyncBelow(ticket.LSN + 1) }()
	select {
	case err := <-synced:
		t.Fatalf("SyncBelow returned %v before the id was stored", err)
	case <-time.After(20 * time.Millisecond):
	}
	r.requests.enqueued(req, ticket, noon.UnixNano(), nil)
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	if got, ok, err := r.state.LookupRequest(t.Context(), "", "r"); err != nil || !ok || got.LSN != ticket.LSN {
		t.Fatalf("%+v, %v, %v", got, ok, err)
	}
}

func mustEncode(t *testing.T, r *rig, m *walproxyv1.Mutation) []byte {
	t.Helper()
	w, err := r.prepare(record(m), nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := mutation.Encode(nil, w.record)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}
