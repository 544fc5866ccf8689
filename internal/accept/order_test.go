package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// steps is a clock that tests set.
type steps struct {
	mu   sync.Mutex
	now  time.Time
	next []time.Time
}

func (s *steps) read() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.next) > 0 {
		s.now, s.next = s.next[0], s.next[1:]
	}
	return s.now
}

// then makes the next looks see these times, and later ones the last.
func (s *steps) then(times ...time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = times
}

// records reads the log from LSN 1.
func (r *rig) records() (list []*walproxyv1.Record) {
	r.t.Helper()
	reader, err := r.log.NewReader(1)
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	if err := r.log.WaitDurable(r.t.Context(), r.log.Appended()); err != nil {
		r.t.Fatal(err)
	}
	for lsn := r.log.Appended(); lsn > wal.LSN(len(list)); {
		rec, err := reader.Next(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		body, err := mutation.Decode(rec.Payload)
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, body)
	}
	return list
}

func checkTimes(t *testing.T, list []*walproxyv1.Record) {
	t.Helper()
	for i := 1; i < len(list); i++ {
		if list[i].AcceptedUnixNanos < list[i-1].AcceptedUnixNanos {
			t.Fatalf("LSN %d was accepted %v before its predecessor", i+1, time.Duration(list[i-1].AcceptedUnixNanos-list[i].AcceptedUnixNanos))
		}
	}
}

// The accepted time never goes back with the LSN, from many writers and with a
// clock that jumps.
func TestAcceptedTimeInOrder(t *testing.T) {
	now := func() time.Time { return noon.Add(time.Duration(rand.IntN(2_000_000)-1_000_000) * time.Microsecond) }
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.Now = now })
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 100 {
				if _, err := r.Submit(t.Context(), record(increment(string(rune('a'+i))))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list := r.records()
	if len(list) != 1600 {
		t.Fatalf("%d records", len(list))
	}
	checkTimes(t, list)
}

// Nor over a restart with the clock set back, even when nothing is left of the
// log before it, or nothing was closed.
func TestAcceptedTimeOverRestart(t *testing.T) {
	for _, kill := range []bool{false, true} {
		clock := &steps{now: noon}
		prepare := func(r *rig) { r.opts.Now = clock.read }
		dir := t.TempDir()
		r := newRig(t, dir, prepare)
		r.must(set("k", mutation.ExpiresAt(noon.Add(time.Minute))))
		clock.then(noon.Add(time.Hour))
		r.must(set("other"))
		if kill {
			dir = r.crash()
		}
		r.close()
		clock.then(noon)
		for range 2 { // the second start finds nothing new in the log
			r = newRig(t, dir, prepare)
			if got := r.clock(); got.Before(noon.Add(time.Hour)) {
				t.Fatalf("kill %v: the clock went back to %v", kill, got)
			}
			r.close()
		}
	}
}

// What Horizon said holds over a kill with the clock set back, also where nothing
// was ever written.
func TestHorizonOverRestart(t *testing.T) {
	for _, written := range []int{0, 3} {
		clock := &steps{now: noon}
		prepare := func(r *rig) { r.opts.Now = clock.read }
		r := newRig(t, t.TempDir(), prepare)
		for range written {
			r.must(set("k"))
		}
		clock.then(noon.Add(time.Hour))
		above, at, err := r.Horizon(t.Context())
		if err != nil || above != wal.LSN(written) || !at.Equal(noon.Add(time.Hour)) {
			t.Fatalf("%d records: above %d at %v, %v", written, above, at, err)
		}
		dir := r.crash()
		clock.then(noon)
		r.must(set("late"))
		r.close()
		for range 2 {
			r = newRig(t, dir, prepare)
			r.must(set("late"))
			list := r.records()
			if got := unixTime(list[len(list)-1].AcceptedUnixNanos); got.Before(at) {
				t.Errorf("%d records: one above %d was accepted at %v, before %v", written, above, got, at)
			}
			dir = r.crash()
			r.close()
		}
		if _, _, err := r.Horizon(t.Context()); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// The log's refusals pass through, nothing is logged, and a request id is free
// again.
func TestLogRefuses(t *testing.T) {
	faults := vfs.NewFaults(vfs.OS())
	faults.SetSpace(&vfs.Space{Free: 1 << 19})
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.wal.FS, r.wal.MinFree, r.wal.MaxRecordBytes = faults, 1<<20, 1<<10
	})
	write := record(set("k", mutation.WithRequestID("r")))
	if _, err := r.do(t.Context(), write); !errors.Is(err, wal.ErrFull) || r.log.Appended() != 0 {
		t.Fatalf("got %v, want ErrFull", err)
	}
	faults.SetSpace(nil)
	res, err := r.do(t.Context(), write)
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, wal.ErrFull) && time.Now().Before(deadline); {
		res, err = r.do(t.Context(), write) // the log looks again from time to time
	}
	if err != nil || res.Repeat {
		t.Fatalf("after it: %+v, %v; want a first write", res, err)
	}
	large := map[string]*walproxyv1.Value{"x": mutation.BytesValue(make([]byte, 2<<10))}
	_, err = r.do(t.Context(), record(mutation.New("c", mutation.String("k"), []*walproxyv1.Op{mutation.SetOp(large)})))
	if !errors.Is(err, wal.ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
}

// A poisoned log refuses; who waits learns that the outcome is unknown, and so
// does a repeat.
func TestLogPoisoned(t *testing.T) {
	// The failure comes from the background: whether it catches a write in
	// flight is as it happens.
	for range 50 {
		if caughtByPoison(t) {
			return
		}
	}
	t.Fatal("in 50 logs no write was in flight when they failed")
}

// caughtByPoison writes until the log fails. It reports whether a write was in
// flight then, after checking what it and others are told.
func caughtByPoison(t *testing.T) bool {
	faults := vfs.NewFaults(vfs.OS())
	r := newRig(t, t.TempDir(), func(r *rig) { r.wal.FS, r.wal.SegmentBytes = faults, 1 })
	r.must(set("k"))
	faults.Arm(vfs.Fault{Op: vfs.OpSyncDir, Stay: true, Err: io.ErrShortWrite})
	var unknown []*walproxyv1.Record
	for i := 0; unknown == nil; i++ { // segments are made ahead
		var recs []*walproxyv1.Record
		var pending []*Pending
		for j := range 8 {
			rec := record(set("k", mutation.WithRequestID(fmt.Sprintf("r%d-%d", i, j))))
			p, err := r.Submit(t.Context(), rec)
			if errors.Is(err, wal.ErrPoisoned) {
				break // refused: nothing was logged
			}
			if err != nil {
				t.Fatal(err)
			}
			recs, pending = append(recs, rec), append(pending, p)
		}
		for j, p := range pending {
			res, err := p.Wait(t.Context())
			if err == nil {
				continue
			}
			if !errors.Is(err, wal.ErrPoisoned) || res.LSN != p.LSN() {
				t.Fatalf("got %+v, %v; want ErrPoisoned", res, err)
			}
			unknown = append(unknown, recs[j])
		}
		if unknown == nil && r.log.Err() != nil {
			return false
		}
	}
	for _, rec := range unknown {
		if res, err := r.do(t.Context(), rec); !errors.Is(err, wal.ErrPoisoned) || !res.Repeat {
			t.Fatalf("the repeat got %+v, %v; want ErrPoisoned", res, err)
		}
	}
	if _, err := r.do(t.Context(), record(set("k"))); !errors.Is(err, wal.ErrPoisoned) {
		t.Fatalf("a new write got %v", err)
	}
	if _, err := r.do(t.Context(), record(set("k", mutation.IfVersion(1)))); !errors.Is(err, wal.ErrPoisoned) {
		t.Fatalf("a conflict with a version that is not durable is told: %v", err)
	}
	return true
}

// F3: submitting races with Close from 64 goroutines. Each write is acked, and
// then in the log, or refused.
func TestCloseRace(t *testing.T) {
	for round := range 5 {
		r := newRig(t, t.TempDir(), nil)
		var mu sync.Mutex
		acked := map[wal.LSN]string{}
		started := make(chan struct{}, 64)
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for n := 0; ; n++ {
					key := string(rune('a'+i%8)) + string(rune('a'+n%26))
					m := increment(key)
					if n%3 == 1 {
						mutation.IfVersion(wal.LSN(n))(m)
					}
					if n%3 == 2 {
						mutation.WithRequestID(key)(m)
					}
					res, err := r.do(context.Background(), record(m))
					var conflict *ConflictError
					switch {
					case err == nil:
						mu.Lock()
						acked[res.LSN] = key
						mu.Unlock()
					case errors.Is(err, wal.ErrClosed):
						return
					case errors.As(err, &conflict):
					default:
						t.Error(err)
						return
					}
					if n == 0 {
						started <- struct{}{}
					}
				}
			})
		}
		for range 64 / 2 {
			<-started
		}
		if round%2 == 0 {
			if err := r.log.Seal(t.Context()); err != nil {
				t.Error(err)
			}
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		closers.Wait()
		list := r.records()
		for lsn, key := range acked {
			if got := list[lsn-1].GetMutation().GetKey().GetString_(); got != key {
				t.Errorf("LSN %d was acked for %q and holds %q", lsn, key, got)
			}
		}
		for name, err := range map[string]error{
			"Submit":    func() error { _, err := r.Submit(t.Context(), record(set("k"))); return err }(),
			"Read":      func() error { _, err := r.Read(t.Context(), "c", mutation.String("k")); return err }(),
			"SyncBelow": r.SyncBelow(1),
		} {
			if !errors.Is(err, wal.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
		r.close()
	}
}

// Close ends the calls that wait for the store, and waits for them: nothing is
// used after it.
func TestCloseJoinsCalls(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) { r.opts.LookupTimeout = time.Minute })
	late := make(chan struct{})
	r.store.set(func() { r.store.mu.hang, r.store.mu.late = true, late })
	results := make(chan error, 2)
	go func() {
		_, err := r.Submit(context.Background(), record(set("k", mutation.IfAbsent())))
		results <- err
	}()
	go func() {
		_, err := r.Read(context.Background(), "c", mutation.String("k"))
		results <- err
	}()
	eventually(t, "both read", func() bool {
		r.store.mu.Lock()
		defer r.store.mu.Unlock()
		return r.store.mu.reads == 2
	})
	done := make(chan error, 1)
	go func() { done <- r.Close() }()
	select {
	case err := <-done:
		t.Fatalf("Close returned %v while calls ran", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(late)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-results; !errors.Is(err, wal.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
}
