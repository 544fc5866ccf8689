package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// addSink adds a sink with the same short waits to o, and routes: each is
// "collection sink sink".
func addSink(o *walproxy.Options, name string, sink sinks.Sink, routes ...string) {
	so := o.Sinks[0]
	so.Name, so.Sink = name, sink
	o.Sinks = append(o.Sinks, so)
	for _, r := range routes {
		words := strings.Fields(r)
		o.Routes = append(o.Routes, walproxy.Route{Collections: words[:1], Sinks: words[1:]})
	}
}

// to is an increment of a record of a collection, which most tests route by.
func to(collection, key string) *walproxyv1.Mutation {
	return must(mutation.Increment(collection, mutation.String(key), map[string]any{"n": 1}))
}

// countIn is the n of a record in a store, 0 if it is not there.
func countIn(t *testing.T, store sinks.Reader, collection, key string) int64 {
	t.Helper()
	doc, err := store.Read(t.Context(), collection, mutation.String(key))
	if errors.Is(err, mutation.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatalf("read %s/%s: %v", collection, key, err)
	}
	return doc.Fields["n"].GetInt64()
}

// until waits for cond, which must come true by itself.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func sinkStatus(t *testing.T, p *walproxy.Proxy, name string) walproxy.SinkStatus {
	t.Helper()
	for _, s := range p.Status().Sinks {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no sink %s", name)
	return walproxy.SinkStatus{}
}

// applied waits until the sink has passed lsn.
func applied(t *testing.T, p *walproxy.Proxy, name string, lsn walproxy.LSN) {
	t.Helper()
	until(t, fmt.Sprintf("sink %s passes LSN %d", name, lsn), func() bool { return sinkStatus(t, p, name).Applied >= lsn })
}

// fill appends records of about 4 KiB until so many LSNs were given out.
func fill(t *testing.T, p *walproxy.Proxy, collection string, records int) (last walproxy.LSN) {
	t.Helper()
	payload := strings.Repeat("x", 4<<10)
	batch := make([]*walproxyv1.Mutation, records)
	for i := range batch {
		batch[i] = must(mutation.Set(collection, mutation.String(fmt.Sprint(i%50)), map[string]any{"p": payload}))
	}
	for _, r := range p.AppendBatch(t.Context(), batch) {
		if r.Err != nil {
			t.Fatalf("fill %s: %v", collection, r.Err)
		}
		last = r.LSN
	}
	return last
}

// A sink added to a log that has already freed records starts at the log's end:
// it gets everything from then on and nothing from before, whether the first
// process lives to apply anything or not.
func TestAddedSink(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%v", crash), func(t *testing.T) {
			dir, first, added := t.TempDir(), sinktest.NewMemory(), sinktest.NewMemory()
			o := options(dir, first)
			o.Log.SegmentBytes = 64 << 10
			p := open(t, o)
			appendOne(t, p, increment("before"))
			applied(t, p, "main", fill(t, p, "things", 100))
			until(t, "a segment is freed", func() bool { return p.Status().Log.First > 1 })
			closeProxy(t, p)

			away := sinktest.NewFaulty(added)
			if crash { // the store is not reached before the end: only the claim is there
				away.FailResume(sinktest.Always, sinktest.ErrAway)
			}
			addSink(&o, "added", away)
			p = open(t, o)
			from := p.Status().Log.Durable
			lsn := appendOne(t, p, to("things", "after"))
			applied(t, p, "main", fill(t, p, "things", 100))
			if crash {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := p.Close(ctx); !errors.As(err, new(*walproxy.RemainingError)) {
					t.Fatalf("Close = %v, want what remains for the added sink", err)
				}
				away.Clear()
				p = open(t, o)
			}
			applied(t, p, "added", p.Status().Log.Durable)
			if got := countIn(t, added, "things", "before"); got != 0 {
				t.Errorf("a write from before the sink was added reached it: n = %d", got)
			}
			if got := countIn(t, added, "things", "after"); got != 1 {
				t.Errorf("the write at LSN %d is there %d times, want once", lsn, got)
			}
			if doc, err := added.Read(t.Context(), "things", mutation.String("7")); err != nil || doc.Version <= from {
				t.Errorf("key 7 = %+v, %v; want a version above %d", doc, err, from)
			}
			closeProxy(t, p)
		})
	}
}

// A sink that was added and cannot be reached does not pin what was logged
// before it.
func TestAddedSinkPinsNothingBefore(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, sinktest.NewMemory())
	o.Log.SegmentBytes = 64 << 10
	o.Sinks[0].Paused = true
	p := open(t, o)
	end := fill(t, p, "things", 100)
	if err := p.Close(context.Background()); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Fatalf("Close = %v", err)
	}
	away := sinktest.NewFaulty(sinktest.NewMemory())
	away.FailResume(sinktest.Always, sinktest.ErrAway)
	o.Sinks[0].Paused = false
	addSink(&o, "added", away)
	p = open(t, o)
	if lag := sinkStatus(t, p, "added").Lag; lag != 0 {
		t.Errorf("the added sink lags %d records, want none", lag)
	}
	until(t, "the segments before it are freed", func() bool { return p.Status().Log.First > end-20 })
	away.Clear()
	applied(t, p, "added", end)
	closeProxy(t, p)
}

// three sinks: a real store, one in memory and one that can be told to fail, with
// routes that share and that do not.
func three(t *testing.T, dir string) (o walproxy.Options, a *pebble.Sink, b *sinktest.Memory, c *sinktest.Faulty) {
	t.Helper()
	a, err := pebble.Open(filepath.Join(dir, "a"), pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	b, c = sinktest.NewMemory(), sinktest.NewFaulty(sinktest.NewMemory())
	o = options(dir, a)
	o.Sinks[0].Name = "a"
	addSink(&o, "b", b, "onlya a", "onlyb b", "both a b")
	addSink(&o, "c", c, "shared a c", "onlyc c")
	return o, a, b, c
}

// checkStates compares where a write has come: "a=applied c=dead", all sinks.
func checkStates(t *testing.T, p *walproxy.Proxy, lsn walproxy.LSN, state, want string) {
	t.Helper()
	ws := stateOf(t, p, lsn)
	var got []string
	for _, name := range slices.Sorted(maps.Keys(ws.Sinks)) {
		got = append(got, name+"="+ws.Sinks[name])
	}
	if ws.State != state || strings.Join(got, " ") != want {
		t.Errorf("LSN %d is %s, %s; want %s, %s", lsn, ws.State, strings.Join(got, " "), state, want)
	}
}

// Each sink has its own loop, position and dead letters: a record that one
// applies another may reject; the retry goes to that one alone.
func TestFanOut(t *testing.T) {
	dir := t.TempDir()
	o, a, b, c := three(t, dir)
	o.Sinks[0].Retain = 1 << 20 // of what the log has freed it is not known where it went
	const bad = walproxy.LSN(5)
	c.Add(sinktest.Rule{When: sinktest.LSN(bad), Do: sinktest.Reject(sinktest.ErrAway, bad), Times: sinktest.Always})
	p := open(t, o)
	for _, collection := range []string{"onlya", "onlyb", "both", "onlyc", "shared", "shared", "both"} {
		appendOne(t, p, to(collection, "k"))
	}
	check := func() {
		t.Helper()
		for _, name := range []string{"a", "b", "c"} {
			applied(t, p, name, 7)
		}
		checkStates(t, p, 1, walproxy.StateApplied, "a=applied b=unrouted c=unrouted")
		checkStates(t, p, 3, walproxy.StateApplied, "a=applied b=applied c=unrouted")
		checkStates(t, p, bad, walproxy.StateDead, "a=applied b=unrouted c=dead")
		checkStates(t, p, 6, walproxy.StateParked, "a=applied b=unrouted c=parked")
		for name, want := range map[string]uint64{"a": 0, "b": 0, "c": 2} {
			if s := sinkStatus(t, p, name); s.DeadLetters != want || s.Lag != 0 || s.LagBytes != 0 {
				t.Errorf("sink %s: %d dead letters, lag %d (%d bytes); want %d, none", name, s.DeadLetters, s.Lag, s.LagBytes, want)
			}
		}
	}
	check()
	if err := p.Wait(t.Context(), bad, walproxy.Applied); !errors.Is(err, walproxy.ErrDead) {
		t.Errorf("Wait for the dead write: %v", err)
	}
	closeProxy(t, p)
	p = open(t, o) // where the routes are in the log alone
	check()

	c.Clear()
	results, err := p.RetryDeadLetter(t.Context(), "c", bad)
	if err != nil || len(results) != 2 {
		t.Fatalf("RetryDeadLetter = %+v, %v", results, err)
	}
	applied(t, p, "c", results[1].LSN)
	checkStates(t, p, results[0].LSN, walproxy.StateApplied, "a=unrouted b=unrouted c=applied")
	checkStates(t, p, bad, walproxy.StateApplied, "a=applied b=unrouted c=applied")
	for _, want := range []struct {
		store      sinks.Reader
		collection string
		n          int64
	}{
		{a, "onlya", 1}, {a, "onlyb", 0}, {a, "both", 2}, {a, "shared", 2}, {a, "onlyc", 0},
		{b, "onlya", 0}, {b, "onlyb", 1}, {b, "both", 2}, {b, "shared", 0}, {b, "onlyc", 0},
		{c, "onlya", 0}, {c, "onlyb", 0}, {c, "both", 0}, {c, "shared", 2}, {c, "onlyc", 1},
	} {
		if got := countIn(t, want.store, want.collection, "k"); got != want.n {
			t.Errorf("%T has %s %d times, want %d", want.store, want.collection, got, want.n)
		}
	}
	closeProxy(t, p)
}

// One sink is down: its writes are acknowledged, the others' lag stays flat, reads
// from them and waits for their writes go on.
func TestOneSinkDown(t *testing.T) {
	o, a, _, c := three(t, t.TempDir())
	c.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	p := open(t, o)
	const rounds = 50
	var last walproxy.LSN
	for i := range rounds {
		appendOne(t, p, to("shared", fmt.Sprint(i%7)))
		appendOne(t, p, to("onlyc", fmt.Sprint(i%7)))
		last = appendOne(t, p, to("both", fmt.Sprint(i%7)))
		if err := p.Wait(t.Context(), last, walproxy.Applied); err != nil {
			t.Fatalf("Wait for a write that does not go to the sink that is down: %v", err)
		}
		if doc, err := p.Read(t.Context(), "shared", mutation.String(fmt.Sprint(i%7))); err != nil || doc.Fields["n"].GetInt64() != int64(i/7+1) {
			t.Fatalf("Read = %v, %v", doc, err)
		}
		for _, name := range []string{"a", "b"} {
			if s := sinkStatus(t, p, name); s.Lag != 0 {
				t.Fatalf("round %d: sink %s lags by %d", i, name, s.Lag)
			}
		}
	}
	if s := sinkStatus(t, p, "c"); s.Lag != 2*rounds || s.LagBytes < 2*rounds*20 {
		t.Errorf("the sink that is down lags by %d records, %d bytes; want %d records", s.Lag, s.LagBytes, 2*rounds)
	}
	checkStates(t, p, last-1, walproxy.StateLogged, "a=unrouted b=unrouted c=logged")
	c.Clear()
	applied(t, p, "c", last)
	for i := range 7 {
		key := fmt.Sprint(i)
		if x, y := countIn(t, a, "shared", key), countIn(t, c, "shared", key); x != y || x == 0 {
			t.Errorf("key %s: %d and %d", key, x, y)
		}
	}
	if s := sinkStatus(t, p, "c"); s.Lag != 0 || s.LagBytes != 0 {
		t.Errorf("it lags by %d records, %d bytes", s.Lag, s.LagBytes)
	}
	closeProxy(t, p)
}

// describing is a sink that says something of its store.
type describing struct{ sinks.Sink }

func (describing) Describe() sinks.Description {
	return sinks.Description{Owner: "me", LaneGroups: map[string][]string{"a": {"a", "b"}}}
}

// TestStatusDescribes: what a sink says of its store is in the status.
func TestStatusDescribes(t *testing.T) {
	o := options(t.TempDir(), describing{sinktest.NewMemory()})
	o.Sinks = append(o.Sinks, walproxy.SinkOptions{Name: "mute", Sink: sinktest.NewMemory()})
	p := open(t, o)
	all := p.Status().Sinks
	if d := all[0].Store; d.Owner != "me" || len(d.LaneGroups["a"]) != 2 {
		t.Errorf("described as %+v", d)
	}
	if d := all[1].Store; d.Owner != "" || d.LaneGroups != nil {
		t.Errorf("another one's description: %+v", d)
	}
	closeProxy(t, p)
}

// TestOwnerIsNamed: a store is told who claims it, for those who wait for it.
func TestOwnerIsNamed(t *testing.T) {
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := options(t.TempDir(), f)
	p := open(t, o)
	appendOne(t, p, set("a", 1))
	if _, err := p.Read(t.Context(), "things", mutation.String("a")); err != nil {
		t.Fatal(err)
	}
	claims := f.Resumes()
	if len(claims) == 0 || !strings.Contains(claims[0].Owner, fmt.Sprintf("pid %d, %s", os.Getpid(), o.Dir)) {
		t.Errorf("claims %+v", claims)
	}
}
