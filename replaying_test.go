package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// fataler is what *testing.T and *rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// backlog opens o with every sink paused, appends ms, and closes: what a log holds
// whose stores were away.
func backlog(t fataler, o walproxy.Options, ms ...*walproxyv1.Mutation) (lsns []walproxy.LSN) {
	t.Helper()
	o.Sinks = slices.Clone(o.Sinks)
	for i := range o.Sinks {
		o.Sinks[i].Paused = true
	}
	p, err := walproxy.Open(context.Background(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	for _, r := range p.AppendBatch(context.Background(), ms) {
		if r.Err != nil {
			t.Fatalf("Append: %v", r.Err)
		}
		lsns = append(lsns, r.LSN)
	}
	var left *walproxy.RemainingError
	if err := p.Close(context.Background()); err != nil && !errors.As(err, &left) {
		t.Fatalf("Close: %v", err)
	}
	return lsns
}

// replayed runs a replay to its end, or until ctx ends, and returns its sinks.
func replayed(t fataler, ctx context.Context, o walproxy.Options, r walproxy.ReplayOptions) map[string]walproxy.ReplayStatus {
	t.Helper()
	rp, err := walproxy.OpenReplay(context.Background(), o, r)
	if err != nil {
		t.Fatalf("OpenReplay: %v", err)
	}
	rp.Run(ctx)
	found := map[string]walproxy.ReplayStatus{}
	for _, st := range rp.Status() {
		found[st.Name] = st
	}
	if err := errors.Join(rp.Close(context.Background()), rp.Close(context.Background())); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return found
}

func increments(n, keys int) (ms []*walproxyv1.Mutation) {
	for i := range n {
		ms = append(ms, increment(fmt.Sprint("k", i%keys)))
	}
	return ms
}

// incremented sums up what increments left in a store.
func incremented(t fataler, store sinks.Reader, keys int) (sum int64) {
	t.Helper()
	for i := range keys {
		doc, err := store.Read(context.Background(), "things", mutation.String(fmt.Sprint("k", i)))
		if errors.Is(err, mutation.ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		sum += doc.Fields["n"].GetInt64()
	}
	return sum
}

// TestReplay applies a backlog in parts: to an LSN, to a time, one sink at a time;
// what is left is counted exactly, and at the end nothing is.
func TestReplay(t *testing.T) {
	const n, keys = 500, 9
	dir, a, b := t.TempDir(), sinktest.NewMemory(), sinktest.NewMemory()
	o := options(dir, a)
	o.Log.SegmentBytes = 4096
	o.Sinks = append(o.Sinks, walproxy.SinkOptions{Name: "b", Sink: b})
	backlog(t, o, increments(n, keys)...)
	noon := time.Now()
	backlog(t, o, increments(n, keys)...)

	check := func(st walproxy.ReplayStatus, outcome walproxy.ReplayOutcome, left uint64) {
		t.Helper()
		if st.Outcome != outcome || st.Left != left || !st.Exact {
			t.Errorf("sink %s: %s, %d left (exact: %v, %v); want %s, %d", st.Name, st.Outcome, st.Left, st.Exact, st.Err, outcome, left)
		}
	}
	st := replayed(t, t.Context(), o, walproxy.ReplayOptions{ToLSN: 100, Sinks: []string{"main"}})
	check(st["main"], walproxy.ReplayDone, 0)
	if got := incremented(t, a, keys); got != 100 || st["main"].Applied != 100 || st["main"].Passed != 100 {
		t.Errorf("to LSN 100: %d applied, status %+v", got, st["main"])
	}
	if st["b"].Outcome != walproxy.ReplayLeft || incremented(t, b, keys) != 0 {
		t.Errorf("the other sink: %+v", st["b"])
	}
	st = replayed(t, t.Context(), o, walproxy.ReplayOptions{Until: noon})
	check(st["main"], walproxy.ReplayDone, 0)
	check(st["b"], walproxy.ReplayDone, 0)
	if x, y := incremented(t, a, keys), incremented(t, b, keys); x != n || y != n {
		t.Errorf("until noon: %d and %d applied, want %d", x, y, n)
	}
	for _, r := range []walproxy.ReplayOptions{{Until: noon.Add(-time.Hour)}, {ToLSN: 3}, {ToLSN: n}, {Until: noon}} {
		st = replayed(t, t.Context(), o, r)
		check(st["main"], walproxy.ReplayDone, 0)
		if x, y := incremented(t, a, keys), incremented(t, b, keys); x != n || y != n {
			t.Errorf("%+v: %d and %d applied, want %d", r, x, y, n)
		}
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	st = replayed(t, stopped, o, walproxy.ReplayOptions{})
	if st["main"].Outcome != walproxy.ReplayStopped || st["main"].Left < n {
		t.Errorf("stopped at once: %+v", st["main"])
	}
	st = replayed(t, t.Context(), o, walproxy.ReplayOptions{Until: time.Now()})
	check(st["main"], walproxy.ReplayDone, 0)
	check(st["b"], walproxy.ReplayDone, 0)
	if x, y := incremented(t, a, keys), incremented(t, b, keys); x != 2*n || y != 2*n {
		t.Errorf("at the end: %d and %d applied, want %d", x, y, 2*n)
	}
	// A server that starts then has nothing to do, and the log was freed.
	p := open(t, o)
	if s := p.Status(); s.Log.First < n {
		t.Errorf("the log begins at LSN %d", s.Log.First)
	}
	applied(t, p, "b", 2*n)
	closeProxy(t, p)
}

// TestReplayRefuses: what cannot be meant is refused, and nothing is changed.
func TestReplayRefuses(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	o := options(dir, store)
	backlog(t, o, increments(10, 1)...)
	for _, c := range []struct {
		r    walproxy.ReplayOptions
		want error
	}{
		{walproxy.ReplayOptions{ToLSN: 11}, walproxy.ErrEnd},
		{walproxy.ReplayOptions{Sinks: []string{"nobody"}}, walproxy.ErrNoSink},
		{walproxy.ReplayOptions{Sinks: []string{"main"}, FromLSN: 12}, walproxy.ErrEnd},
	} {
		if _, err := walproxy.OpenReplay(t.Context(), o, c.r); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.r, err, c.want)
		}
	}
	p := open(t, o)
	if _, err := walproxy.OpenReplay(t.Context(), o, walproxy.ReplayOptions{}); !errors.Is(err, wal.ErrLocked) {
		t.Errorf("beside a server: %v", err)
	}
	applied(t, p, "main", 10)
	closeProxy(t, p)
	if _, err := walproxy.OpenReplay(t.Context(), o, walproxy.ReplayOptions{Sinks: []string{"main"}, FromLSN: 5}); !errors.Is(err, walproxy.ErrClaimedSink) {
		t.Errorf("from an LSN, with a claimed sink: %v", err)
	}
	if got := incremented(t, store, 1); got != 10 {
		t.Errorf("%d applied, want 10", got)
	}
}

// TestReplayFrom: a sink that was never claimed begins where it is told to; one
// whose store holds a checkpoint does not, whatever the state store says.
func TestReplayFrom(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	o := options(dir, store)
	backlog(t, o, increments(10, 1)...)
	from := walproxy.ReplayOptions{Sinks: []string{"main"}, FromLSN: 8}

	used := sinktest.NewMemory()
	if _, err := used.Resume(t.Context(), sinks.Claim{Fresh: true, Lanes: 1}); err != nil {
		t.Fatal(err)
	}
	var refused *walproxy.FromError
	if _, err := walproxy.OpenReplay(t.Context(), options(dir, used), from); !errors.As(err, &refused) || !errors.Is(err, walproxy.ErrClaimedSink) {
		t.Errorf("a store with a checkpoint: %v", err)
	}
	away := sinktest.NewFaulty(sinktest.NewMemory()) // no Positioner
	if _, err := walproxy.OpenReplay(t.Context(), options(dir, away), from); !errors.As(err, &refused) {
		t.Errorf("a store that cannot say: %v", err)
	}
	st := replayed(t, t.Context(), o, from)["main"]
	if got := incremented(t, store, 1); st.Outcome != walproxy.ReplayDone || got != 3 {
		t.Errorf("%+v: %d applied, want 3", st, got)
	}
	st = replayed(t, t.Context(), o, walproxy.ReplayOptions{})["main"]
	if got := incremented(t, store, 1); st.Outcome != walproxy.ReplayDone || got != 3 {
		t.Errorf("again: %+v: %d applied, want 3", st, got)
	}
}

// TestReplayGoesOnBesideAHalt: a halted sink says why, a paused one is left alone,
// the others get everything.
func TestReplayGoesOnBesideAHalt(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	o := options(dir, store)
	bad := sinktest.NewFaulty(sinktest.NewMemory())
	bad.FailResume(sinktest.Always, sinks.WithOutcome(sinks.Halt, sinktest.ErrAway))
	o.Sinks = append(o.Sinks, walproxy.SinkOptions{Name: "bad", Sink: bad},
		walproxy.SinkOptions{Name: "paused", Sink: sinktest.NewMemory()})
	backlog(t, o, increments(100, 5)...)
	o.Sinks[2].Paused = true
	st := replayed(t, t.Context(), o, walproxy.ReplayOptions{})
	if st["main"].Outcome != walproxy.ReplayDone || incremented(t, store, 5) != 100 {
		t.Errorf("the good one: %+v", st["main"])
	}
	if st["bad"].Outcome != walproxy.ReplayHalted || !errors.Is(st["bad"].Err, sinktest.ErrAway) || st["bad"].Left != 100 {
		t.Errorf("the halted one: %+v", st["bad"])
	}
	if st["paused"].Outcome != walproxy.ReplayPaused || st["paused"].Left != 100 {
		t.Errorf("the paused one: %+v", st["paused"])
	}
}

// TestReplayLimit: at the limit of dead letters every sink stops; each run gets on.
func TestReplayLimit(t *testing.T) {
	dir, store, other := t.TempDir(), sinktest.NewMemory(), sinktest.NewMemory()
	o := options(dir, store)
	o.Sinks = append(o.Sinks, walproxy.SinkOptions{Name: "other", Sink: other})
	o.Routes = []walproxy.Route{{Collections: []string{"others"}, Sinks: []string{"other"}}, {Collections: []string{"*"}, Sinks: []string{"main"}}}
	var ms []*walproxyv1.Mutation
	for i := range 5 {
		ms = append(ms, text(fmt.Sprint("bad", i)), increment(fmt.Sprint("bad", i)), increment("k0"))
	}
	backlog(t, o, ms...)
	for run := range 6 {
		for i := range o.Sinks {
			o.Sinks[i].Loop.Rejects = replay.NewRejectLimit(1)
		}
		st := replayed(t, t.Context(), o, walproxy.ReplayOptions{})["main"]
		want := min(uint64(run)+1, 5)
		if st.DeadLetters != want {
			t.Fatalf("run %d: %d dead letters, want %d: %+v", run, st.DeadLetters, want, st)
		}
		if limit := errors.Is(st.Err, replay.ErrRejectLimit); limit != (run < 5) {
			t.Errorf("run %d: %+v", run, st)
		}
	}
	if got := incremented(t, store, 1); got != 5 {
		t.Errorf("%d applied, want 5", got)
	}
}

// TestReplayProperty: whatever is replayed in whatever order, to whatever LSN, with
// whatever lanes, sinks that fail and interrupts, in the end every store holds what
// applying the log one record after the other makes.
func TestReplayProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "walproxy-replay")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		const keys = 7
		stores := map[string]*sinktest.Memory{"main": sinktest.NewMemory(), "other": sinktest.NewMemory()}
		model := map[string]map[string]int64{"main": {}, "other": {}} // by sink and key
		build := func() walproxy.Options {
			o := walproxy.Options{Dir: filepath.Join(dir, "data"), DrainTimeout: 30 * time.Second, Routes: []walproxy.Route{
				{Collections: []string{"both"}, Sinks: []string{"main", "other"}},
				{Collections: []string{"mine"}, Sinks: []string{"main"}},
				{Collections: []string{"theirs"}, Sinks: []string{"other"}},
			}}
			o.Log.MinFree, o.Log.SegmentBytes = -1, 4096
			for _, name := range []string{"main", "other"} {
				f := sinktest.NewFaulty(stores[name].Reopen())
				if rapid.IntRange(0, 2).Draw(t, "faults") == 0 {
					f.Add(sinktest.Rule{When: sinktest.CallNumber(rapid.IntRange(1, 10).Draw(t, "call")), Do: sinktest.LoseAnswer(sinktest.ErrAway)})
				}
				so := walproxy.SinkOptions{Name: name, Sink: f}
				so.Loop.Lanes = rapid.IntRange(1, 5).Draw(t, "lanes")
				so.Loop.Batch.Records = rapid.IntRange(1, 20).Draw(t, "batch")
				so.Loop.RetryMax = 20 * time.Millisecond
				o.Sinks = append(o.Sinks, so)
			}
			return o
		}
		last := walproxy.LSN(0)
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			var ms []*walproxyv1.Mutation
			for range rapid.IntRange(1, 60).Draw(t, "records") {
				collection := rapid.SampledFrom([]string{"both", "mine", "theirs"}).Draw(t, "collection")
				key := fmt.Sprint("k", rapid.IntRange(0, keys-1).Draw(t, "key"))
				of := collection + "/" + key
				m := must(mutation.Increment(collection, mutation.String(key), map[string]any{"n": 1}))
				change := func(n int64) int64 { return n + 1 }
				if rapid.IntRange(0, 3).Draw(t, "set") == 0 {
					to := rapid.IntRange(0, 1000).Draw(t, "to")
					m = must(mutation.Set(collection, mutation.String(key), map[string]any{"n": to}))
					change = func(int64) int64 { return int64(to) }
				}
				ms = append(ms, m)
				for _, sink := range map[string][]string{"both": {"main", "other"}, "mine": {"main"}, "theirs": {"other"}}[collection] {
					model[sink][of] = change(model[sink][of])
				}
			}
			lsns := backlog(t, build(), ms...)
			last = lsns[len(lsns)-1]
			for range rapid.IntRange(0, 3).Draw(t, "replays") {
				replayOnce(t, build(), last)
			}
		}
		o := build()
		for i, so := range o.Sinks {
			o.Sinks[i].Sink = stores[so.Name]
		}
		surveyed, err := walproxy.SurveyReplay(context.Background(), o, walproxy.SurveyOptions{})
		if err != nil || surveyed.Refusal != nil || surveyed.Last != last {
			t.Fatalf("survey: %+v, %v", surveyed, err)
		}
		st := replayed(t, context.Background(), build(), walproxy.ReplayOptions{})
		for _, s := range surveyed.Sinks {
			sum := s.Together
			for _, n := range s.Lanes {
				sum.Records, sum.Bytes = sum.Records+n.Records, sum.Bytes+n.Bytes
			}
			if got := st[s.Name].Records; s.Refusal != nil || s.All.Records != got || sum != s.All {
				t.Errorf("sink %s: the survey found %+v (%v), %d were applied then", s.Name, s.Survey, s.Refusal, got)
			}
		}
		for name, store := range stores {
			if st[name].Outcome != walproxy.ReplayDone || st[name].Applied != last {
				t.Errorf("sink %s: %+v", name, st[name])
			}
			for of, want := range model[name] {
				collection, key := filepath.Split(of)
				doc, err := store.Read(context.Background(), filepath.Clean(collection), mutation.String(key))
				if err != nil || doc.Fields["n"].GetInt64() != want {
					t.Errorf("sink %s, %s: %v, %v; want %d", name, of, doc, err, want)
				}
			}
		}
	})
}

// replayOnce replays a part, and may be interrupted.
func replayOnce(t *rapid.T, o walproxy.Options, last walproxy.LSN) {
	r := walproxy.ReplayOptions{Sinks: rapid.SampledFrom([][]string{nil, {"main"}, {"other"}}).Draw(t, "sinks")}
	if rapid.Bool().Draw(t, "to an LSN") {
		r.ToLSN = walproxy.LSN(rapid.Uint64Range(1, uint64(last)).Draw(t, "to"))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rapid.Bool().Draw(t, "interrupted") {
		timer := time.AfterFunc(time.Duration(rand.Int64N(int64(3*time.Millisecond))), cancel) // a random instant, not a condition
		defer timer.Stop()
	}
	for name, st := range replayed(t, ctx, o, r) {
		chosen := len(r.Sinks) == 0 || slices.Contains(r.Sinks, name)
		switch {
		case !chosen && (st.Outcome != walproxy.ReplayLeft || st.Passed > 0):
			t.Fatalf("sink %s was not chosen: %+v", name, st)
		case chosen && st.Outcome != walproxy.ReplayDone && (st.Outcome != walproxy.ReplayStopped || ctx.Err() == nil):
			t.Fatalf("sink %s: %+v", name, st)
		case chosen && st.Outcome == walproxy.ReplayDone && r.ToLSN == 0 && st.Applied != last:
			t.Fatalf("sink %s is done at LSN %d of %d", name, st.Applied, last)
		}
	}
}
