package walproxy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

func TestMain(m *testing.M) {
	// Rapid's default of 100 checks is too long beside other tests; the command
	// line, parsed later, still decides.
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// options opens sink as "main" in dir, with short waits.
func options(dir string, sink sinks.Sink) walproxy.Options {
	o := walproxy.Options{
		Dir:          dir,
		Sinks:        []walproxy.SinkOptions{{Name: "main", Sink: sink}},
		DrainTimeout: 30 * time.Second,
	}
	o.Log.MinFree = -1
	o.Sinks[0].Loop.RetryMax = 20 * time.Millisecond
	return o
}

// open opens a proxy that the test closes, if it has not done so itself.
func open(t *testing.T, o walproxy.Options) *walproxy.Proxy {
	t.Helper()
	p, err := walproxy.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) }) // a test that cares has looked at it
	return p
}

func closeProxy(t *testing.T, p *walproxy.Proxy) {
	t.Helper()
	if err := p.Close(context.Background()); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// must returns the mutation of a constructor that cannot fail on its constants.
func must(m *walproxyv1.Mutation, err error) *walproxyv1.Mutation {
	if err != nil {
		panic(err)
	}
	return m
}

func set(key string, n int, options ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Set("things", mutation.String(key), map[string]any{"n": n}, options...))
}

func increment(key string) *walproxyv1.Mutation {
	return must(mutation.Increment("things", mutation.String(key), map[string]any{"n": 1}))
}

func appendOne(t *testing.T, p *walproxy.Proxy, m *walproxyv1.Mutation) walproxy.LSN {
	t.Helper()
	r, err := p.Append(t.Context(), m)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return r.LSN
}

func stateOf(t *testing.T, p *walproxy.Proxy, lsn walproxy.LSN) walproxy.WriteState {
	t.Helper()
	ws, err := p.WriteState(lsn)
	if err != nil {
		t.Fatalf("WriteState(%d): %v", lsn, err)
	}
	return ws
}

func readN(t *testing.T, p *walproxy.Proxy, key string) int64 {
	t.Helper()
	doc, err := p.Read(t.Context(), "things", mutation.String(key))
	if err != nil {
		t.Fatalf("Read %s: %v", key, err)
	}
	return doc.Fields["n"].GetInt64()
}

func TestAppendReadRestart(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	p := open(t, options(dir, store))
	lsn := appendOne(t, p, set("a", 1))
	appendOne(t, p, increment("a"))
	doc, err := p.Read(t.Context(), "things", mutation.String("a"))
	if err != nil || doc.Fields["n"].GetInt64() != 2 || doc.Version != lsn+1 {
		t.Fatalf("Read = %v, %v; want n 2 at version %d", doc, err, lsn+1)
	}
	if _, err := p.Read(t.Context(), "things", mutation.String("b")); !errors.Is(err, mutation.ErrNotFound) {
		t.Fatalf("Read of an absent record: %v", err)
	}
	if err := p.Wait(t.Context(), lsn+1, walproxy.Applied); err != nil {
		t.Fatalf("Wait: %v", err)
	}
	if ws := stateOf(t, p, lsn); ws.State != walproxy.StateApplied || ws.Sinks["main"] != walproxy.StateApplied {
		t.Fatalf("WriteState = %+v", ws)
	}
	if ws := stateOf(t, p, lsn+100); ws.State != walproxy.StateUnknown {
		t.Fatalf("WriteState of an LSN to come = %+v", ws)
	}
	if err := p.Wait(t.Context(), lsn+100, walproxy.Logged); !errors.Is(err, walproxy.ErrUnknownLSN) {
		t.Fatalf("Wait for an LSN to come: %v", err)
	}
	closeProxy(t, p)
	closeProxy(t, p) // twice is once

	p = open(t, options(dir, store))
	if got := readN(t, p, "a"); got != 2 {
		t.Fatalf("after a restart n = %d, want 2", got)
	}
	if got := appendOne(t, p, increment("a")); got != lsn+2 {
		t.Fatalf("after a restart the next LSN is %d, want %d", got, lsn+2)
	}
	closeProxy(t, p)
}

func TestClosedCalls(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	closeProxy(t, p)
	ctx := t.Context()
	calls := map[string]func() error{
		"Append":      func() error { _, err := p.Append(ctx, set("a", 1)); return err },
		"AppendAsync": func() error { _, err := p.AppendAsync(ctx, set("a", 1)); return err },
		"AppendGroup": func() error { _, err := p.AppendGroup(ctx, &walproxyv1.Group{}); return err },
		"AppendBatch": func() error { return p.AppendBatch(ctx, []*walproxyv1.Mutation{set("a", 1)})[0].Err },
		"Read":        func() error { _, err := p.Read(ctx, "things", mutation.String("a")); return err },
		"WriteState":  func() error { _, err := p.WriteState(1); return err },
		"DeadLetters": func() error { _, err := p.DeadLetters("main", 1, 1); return err },
		"ReadEvents": func() error {
			_, err := p.ReadEvents(ctx, "things", mutation.String("a"), 1, 1)
			return err
		},
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, walproxy.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
	p.Status()
	_ = p.Err()
}

// F3: appends from 64 goroutines race with Close. Each is either acknowledged,
// and then present after a restart exactly once, or refused.
func TestCloseRacesAppend(t *testing.T) {
	const writers, rounds = 64, 5
	for round := range rounds {
		dir, store := t.TempDir(), sinktest.NewMemory()
		p := open(t, options(dir, store))
		var acked [writers]int64
		var started atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for {
					_, err := p.Append(t.Context(), increment(fmt.Sprint(w)))
					switch {
					case err == nil:
						acked[w]++
						started.Add(1)
					case errors.Is(err, walproxy.ErrClosed):
						return
					default:
						t.Errorf("round %d: Append: %v", round, err)
						return
					}
				}
			})
		}
		for started.Load() < int64(100*round) {
			time.Sleep(time.Millisecond) // only spreads the moment of Close
		}
		closeProxy(t, p)
		wg.Wait()

		p = open(t, options(dir, store))
		for w := range writers {
			key := mutation.String(fmt.Sprint(w))
			doc, err := p.Read(t.Context(), "things", key)
			var got int64
			if !errors.Is(err, mutation.ErrNotFound) {
				if err != nil {
					t.Fatalf("Read: %v", err)
				}
				got = doc.Fields["n"].GetInt64()
			}
			if got != acked[w] {
				t.Errorf("round %d: writer %d has %d acks, the store counts %d", round, w, acked[w], got)
			}
		}
		closeProxy(t, p)
	}
}

// F5: the store hangs; Close ends by its deadline and says exactly how many
// records stay; the next start applies exactly those.
func TestCloseReportsRemaining(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	hung := sinktest.NewFaulty(store)
	hung.Add(sinktest.Rule{When: sinktest.NotEmpty, Times: sinktest.Always, Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway)})
	o := options(dir, hung)
	o.DrainTimeout = 100 * time.Millisecond
	p := open(t, o)
	const records = 137
	for i := range records {
		appendOne(t, p, increment(fmt.Sprint(i%10)))
	}
	err := p.Close(context.Background())
	var remaining *walproxy.RemainingError
	if !errors.As(err, &remaining) || remaining.Records["main"] != records {
		t.Fatalf("Close = %v, want %d records remaining for main", err, records)
	}
	if !strings.Contains(err.Error(), "137 for sink main") {
		t.Errorf("the message does not say how many stay: %v", err)
	}

	p = open(t, options(dir, store))
	if err := p.Wait(t.Context(), records, walproxy.Applied); err != nil {
		t.Fatalf("Wait: %v", err)
	}
	if got := p.Status().Sinks[0].Records; got != records {
		t.Errorf("the next start applied %d records, want %d", got, records)
	}
	for i := range 10 {
		want := int64(records / 10)
		if i < records%10 {
			want++
		}
		if got := readN(t, p, fmt.Sprint(i)); got != want {
			t.Errorf("key %d = %d, want %d", i, got, want)
		}
	}
	closeProxy(t, p)
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	p := open(t, options(dir, sinktest.NewMemory()))
	_, err := walproxy.Open(t.Context(), options(dir, sinktest.NewMemory()))
	if !errors.Is(err, wal.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("second Open: %v, want ErrLocked naming pid %d", err, os.Getpid())
	}
	appendOne(t, p, set("a", 1)) // the first is not disturbed
	closeProxy(t, p)
}

// Log and state store belong together: one of them missing, foreign or older is
// refused before anything is written, and putting it back mends it.
func TestStateAndLogBelongTogether(t *testing.T) {
	cases := []struct {
		name string
		harm func(t *testing.T, dir string)
		want error
	}{
		{"state missing", func(t *testing.T, dir string) { move(t, dir, "state", "away") }, state.ErrMissing},
		{"log missing", func(t *testing.T, dir string) { move(t, dir, "log", "away") }, state.ErrForeign},
		{"state older", func(t *testing.T, dir string) {
			move(t, dir, "state", "away")
			move(t, dir, "old-state", "state")
		}, state.ErrOlder},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir, store := t.TempDir(), sinktest.NewMemory()
			p := open(t, options(dir, store))
			appendOne(t, p, set("a", 1))
			closeProxy(t, p)
			if err := os.CopyFS(filepath.Join(dir, "old-state"), os.DirFS(filepath.Join(dir, "state"))); err != nil {
				t.Fatal(err)
			}
			p = open(t, options(dir, store))
			appendOne(t, p, set("a", 2))
			closeProxy(t, p)

			c.harm(t, dir)
			if _, err := walproxy.Open(t.Context(), options(dir, store)); !errors.Is(err, c.want) {
				t.Fatalf("Open = %v, want %v", err, c.want)
			}
			_, err := walproxy.Open(t.Context(), options(dir, store))
			if !errors.Is(err, c.want) {
				t.Fatalf("a second Open = %v, want %v again", err, c.want)
			}
		})
	}
}

func move(t *testing.T, dir, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		t.Fatal(err)
	}
}

// An older copy of the data directory is put back and writes go on past the
// sink's checkpoint: the sink refuses the other history, nothing is skipped.
func TestDivergedHistoryIsRefused(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	p := open(t, options(dir, store))
	appendOne(t, p, set("a", 1))
	closeProxy(t, p)
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	p = open(t, options(dir, store))
	for i := range 10 {
		appendOne(t, p, set("a", i))
	}
	closeProxy(t, p)

	o := options(backup, store)
	o.Sinks[0].Paused = true // the sink is away while the old copy takes writes
	p = open(t, o)
	for i := range 20 {
		appendOne(t, p, set("other", i))
	}
	if err := p.Close(context.Background()); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Fatalf("Close = %v", err)
	}

	o.Sinks[0].Paused = false
	p = open(t, o)
	err := p.Wait(t.Context(), 21, walproxy.Applied)
	if !errors.Is(err, replay.ErrDiverged) {
		t.Fatalf("Wait = %v, want ErrDiverged", err)
	}
	if _, err := store.Read(t.Context(), "things", mutation.String("other")); !errors.Is(err, mutation.ErrNotFound) {
		t.Fatalf("a record of the other history reached the store: %v", err)
	}
	appendOne(t, p, set("a", 99)) // acks go on
	if err := p.Close(context.Background()); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Fatalf("Close = %v, want the records that stay", err)
	}
}

// With the policy to halt, a rejected record halts the sink: loudly, and nothing
// behind it is skipped. Writes are still acknowledged.
func TestRejectedRecordHaltsTheSink(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Sinks[0].Loop.OnReject = func(string) replay.Policy { return replay.Halt }
	p := open(t, o)
	appendOne(t, p, text("a"))
	bad := appendOne(t, p, increment("a"))
	if err := p.Wait(t.Context(), bad, walproxy.Applied); !errors.Is(err, replay.ErrRejected) || !errors.Is(err, walproxy.ErrHalted) {
		t.Fatalf("Wait = %v, want ErrRejected", err)
	}
	appendOne(t, p, set("a", 7))
	if _, err := p.Read(t.Context(), "things", mutation.String("a")); !errors.Is(err, replay.ErrRejected) {
		t.Fatalf("Read behind the rejected write = %v, want ErrRejected", err)
	}
	st := p.Status().Sinks[0]
	if st.State != replay.Halted || !errors.Is(st.Err, replay.ErrRejected) || st.Lag == 0 {
		t.Fatalf("Status = %+v", st)
	}
}

// text makes the record one that cannot be incremented.
func text(key string) *walproxyv1.Mutation {
	return must(mutation.Set("things", mutation.String(key), map[string]any{"n": "text"}))
}

// A rejected write becomes a dead letter, the key's later writes queue behind it,
// other keys go on, and so it is after a restart. Discarding what was wrong and
// retrying the rest brings the key back, in order.
func TestDeadLetters(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	p := open(t, options(dir, store))
	appendOne(t, p, text("a"))
	bad := appendOne(t, p, increment("a"))
	if err := p.Wait(t.Context(), bad, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
		t.Fatalf("Wait = %v, want ErrDead", err)
	}
	behind := []walproxy.LSN{appendOne(t, p, set("a", 7)), appendOne(t, p, increment("a"))}
	other := appendOne(t, p, set("b", 1))
	if err := p.Wait(t.Context(), other, walproxy.Applied); err != nil {
		t.Fatalf("another key waits: %v", err)
	}
	check := func() {
		t.Helper()
		for lsn, want := range map[walproxy.LSN]string{
			bad: walproxy.StateDead, behind[0]: walproxy.StateParked, behind[1]: walproxy.StateParked, other: walproxy.StateApplied,
		} {
			if ws := stateOf(t, p, lsn); ws.State != want || ws.Sinks["main"] != want {
				t.Errorf("LSN %d is %+v, want %s", lsn, ws, want)
			}
		}
		var parked *walproxy.ParkedError
		if _, err := p.Read(t.Context(), "things", mutation.String("a")); !errors.As(err, &parked) || parked.LSN != bad {
			t.Errorf("Read of the parked key = %v, want *ParkedError naming LSN %d", err, bad)
		}
		letters, err := p.DeadLetters("main", 1, 10)
		if err != nil || len(letters) != 3 || letters[0].LSN != bad || letters[0].IsParked() || !letters[1].IsParked() {
			t.Fatalf("DeadLetters = %+v, %v", letters, err)
		}
		if st := p.Status().Sinks[0]; st.DeadLetters != 3 || st.ParkedKeys != 1 || st.Lag != 0 {
			t.Errorf("Status = %+v", st)
		}
	}
	check()
	closeProxy(t, p)
	p = open(t, options(dir, store))
	if err := p.Wait(t.Context(), other, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	check()

	if err := p.DiscardDeadLetter("main", bad); err != nil {
		t.Fatal(err)
	}
	if err := p.DiscardDeadLetter("main", bad); !errors.Is(err, walproxy.ErrNoDeadLetter) {
		t.Fatalf("a second discard: %v", err)
	}
	results, err := p.RetryDeadLetter(t.Context(), "main", behind[1]) // brings what is before it
	if err != nil || len(results) != 2 {
		t.Fatalf("RetryDeadLetter = %+v, %v, want 2 results", results, err)
	}
	if _, err := p.RetryDeadLetter(t.Context(), "main", behind[1]); err != nil && !errors.Is(err, walproxy.ErrNoDeadLetter) {
		t.Fatalf("a second retry: %v", err)
	}
	last := appendOne(t, p, increment("a"))
	if err := p.Wait(t.Context(), last, walproxy.Applied); err != nil {
		t.Fatalf("Wait: %v", err)
	}
	if got := readN(t, p, "a"); got != 9 {
		t.Errorf("n = %d, want 7 + 1 + 1", got)
	}
	if st := p.Status().Sinks[0]; st.DeadLetters != 0 || st.ParkedKeys != 0 {
		t.Errorf("Status = %+v", st)
	}
	if ws := stateOf(t, p, bad); ws.State != walproxy.StateDead {
		t.Errorf("the discarded write is %s", ws.State)
	}
	if ws := stateOf(t, p, behind[0]); ws.State != walproxy.StateApplied {
		t.Errorf("the retried write is %s", ws.State)
	}
	closeProxy(t, p)
}

// A retry does not answer to its request id or precondition again, and leaves
// the id to the original write.
func TestRetryKeepsTheRequestID(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	p := open(t, options(dir, store))
	appendOne(t, p, text("a"))
	write := increment("a")
	write.RequestId = "r1"
	bad := appendOne(t, p, write)
	if err := p.Wait(t.Context(), bad, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
		t.Fatalf("Wait = %v", err)
	}
	results, err := p.RetryDeadLetter(t.Context(), "main", bad)
	if err != nil || len(results) != 1 || results[0].LSN == bad || results[0].Repeat {
		t.Fatalf("RetryDeadLetter = %+v, %v", results, err)
	}
	if err := p.Wait(t.Context(), results[0].LSN, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
		t.Fatalf("the retry is rejected again: %v", err)
	}
	for range 2 {
		if r, err := p.Append(t.Context(), write); err != nil || !r.Repeat || r.LSN != bad {
			t.Fatalf("the repeat got %+v, %v, want the original's LSN %d", r, err, bad)
		}
		closeProxy(t, p)
		p = open(t, options(dir, store))
	}
	closeProxy(t, p)
}

func TestPausedSink(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	o := options(dir, store)
	o.Sinks[0].Paused = true
	p := open(t, o)
	lsn := appendOne(t, p, set("a", 1))
	if ws := stateOf(t, p, lsn); ws.State != walproxy.StateLogged {
		t.Fatalf("WriteState = %+v", ws)
	}
	if _, err := p.Read(t.Context(), "things", mutation.String("a")); !errors.Is(err, walproxy.ErrPaused) {
		t.Fatalf("Read = %v, want ErrPaused", err)
	}
	if err := p.Close(context.Background()); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Fatalf("Close = %v", err)
	}
	p = open(t, options(dir, store))
	if got := readN(t, p, "a"); got != 1 {
		t.Fatalf("n = %d", got)
	}
	closeProxy(t, p)
}

// F11 in embedded mode: of 50 writers with one expected version one succeeds.
func TestOneOfManyConditionalWrites(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	version := appendOne(t, p, set("a", 0))
	var winner atomic.Uint64
	var conflicts []walproxy.LSN
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			r, err := p.Append(t.Context(), set("a", i+1, mutation.IfVersion(version)))
			var conflict *walproxy.ConflictError
			switch {
			case err == nil:
				if !winner.CompareAndSwap(0, uint64(r.LSN)) {
					t.Errorf("a second writer succeeded with LSN %d", r.LSN)
				}
			case errors.As(err, &conflict):
				mu.Lock()
				conflicts = append(conflicts, conflict.Version)
				mu.Unlock()
			default:
				t.Errorf("Append: %v", err)
			}
		})
	}
	wg.Wait()
	if len(conflicts) != 49 {
		t.Fatalf("%d conflicts, want 49", len(conflicts))
	}
	for _, v := range conflicts {
		if uint64(v) != winner.Load() {
			t.Errorf("a conflict names version %d, want the winner's %d", v, winner.Load())
		}
	}
	closeProxy(t, p)
}

func TestAppendBatchAndGroup(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	results := p.AppendBatch(t.Context(), []*walproxyv1.Mutation{set("a", 1), {Collection: "things"}, set("b", 2)})
	if results[0].Err != nil || results[2].Err != nil || results[2].LSN != results[0].LSN+1 {
		t.Fatalf("AppendBatch = %+v", results)
	}
	var invalid *mutation.InvalidError
	if !errors.As(results[1].Err, &invalid) {
		t.Fatalf("the item without a key: %v, want *mutation.InvalidError", results[1].Err)
	}
	member := func(m *walproxyv1.Mutation) *walproxyv1.Group_Member {
		return &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}}
	}
	g := &walproxyv1.Group{Members: []*walproxyv1.Group_Member{member(increment("a")), member(increment("b"))}}
	r, err := p.AppendGroup(t.Context(), g)
	if err != nil {
		t.Fatalf("AppendGroup: %v", err)
	}
	if a, b := readN(t, p, "a"), readN(t, p, "b"); a != 2 || b != 3 {
		t.Fatalf("a, b = %d, %d, want 2, 3", a, b)
	}
	doc, err := p.Read(t.Context(), "things", mutation.String("b"))
	if err != nil || doc.Version != r.LSN {
		t.Fatalf("version = %v, %v, want the group's LSN %d", doc, err, r.LSN)
	}
	closeProxy(t, p)
}

// TestAppendRecord: a record of any kind gets an LSN and is repeated by its request id;
// what it says of routes and origin does not count.
func TestAppendRecord(t *testing.T) {
	p := open(t, options(t.TempDir(), sinktest.NewMemory()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	member := &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: increment("a")}}
	rec := &walproxyv1.Record{Routes: []string{"nowhere"}, Origin: &walproxyv1.Origin{Lsn: 7, Sink: "nowhere"}, Principal: "me",
		Body: &walproxyv1.Record_Group{Group: &walproxyv1.Group{RequestId: "r", Members: []*walproxyv1.Group_Member{member, member}}}}
	for i := range 2 {
		pending, err := p.AppendRecord(ctx, rec)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := pending.Wait(ctx); err != nil || r.LSN != 1 || r.Repeat != (i == 1) {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if n := readN(t, p, "a"); n != 2 {
		t.Fatalf("n = %d, want 2", n)
	}
	statement := &walproxyv1.Statement{Text: "DELETE", Collection: "things", Key: mutation.String("a")}
	pending, err := p.AppendRecord(ctx, &walproxyv1.Record{Body: &walproxyv1.Record_Statement{Statement: statement}})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := pending.Wait(ctx); err != nil || r.LSN != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// Segments below the sink's checkpoint are freed while the proxy runs.
func TestSpaceIsFreed(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Log.SegmentBytes = 64 << 10
	p := open(t, o)
	payload := strings.Repeat("x", 4<<10)
	batch := make([]*walproxyv1.Mutation, 100)
	for i := range batch {
		batch[i] = must(mutation.Set("things", mutation.String(fmt.Sprint(i)), map[string]any{"p": payload}))
	}
	deadline := time.Now().Add(30 * time.Second)
	for p.Status().Log.First < 100 {
		for _, r := range p.AppendBatch(t.Context(), batch) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no segment was freed: %+v", p.Status().Log)
		}
	}
	closeProxy(t, p)
}

// metric is the gauge or counter of a name, of the one sink if there are several.
func metric(t *testing.T, from prometheus.Gatherer, name string, sink ...string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatalf("Gather: %v", err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(sink) == 0 || m.GetLabel()[0].GetValue() == sink[0] {
				return max(m.GetGauge().GetValue(), m.GetCounter().GetValue())
			}
		}
	}
	t.Fatalf("there is no %s of %q", name, sink)
	return 0
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Registerer = registry
	p := open(t, o)
	lsn := appendOne(t, p, set("a", 1))
	if err := p.Wait(t.Context(), lsn, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"walproxy_log_durable_lsn": 1, "walproxy_log_syncs_total": 1, "walproxy_sink_applied_lsn": 1, "walproxy_sink_lag_records": 0,
	} {
		if got := metric(t, registry, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	closeProxy(t, p)
	if families, _ := registry.Gather(); len(families) != 0 {
		t.Errorf("%d metric families are left after Close", len(families))
	}
}

func TestOptionsFaultsAreAllNamed(t *testing.T) {
	_, err := walproxy.Open(t.Context(), walproxy.Options{
		Sinks:  []walproxy.SinkOptions{{Name: "a"}, {Name: "a", Sink: sinktest.NewMemory()}},
		Routes: []walproxy.Route{{Collections: []string{"["}, Sinks: []string{"nobody"}}},
	})
	if err == nil {
		t.Fatal("Open accepted it")
	}
	for _, want := range []string{"Dir is empty", "Sinks[0].Sink is nil", `"a" stands twice`, `"nobody"`, `"["`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}
