package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// tuned is a Tuning of the sink main alone.
func tuned(change func(*replay.Options)) walproxy.Tuning {
	loop := replay.Options{RetryMax: 20 * time.Millisecond}
	change(&loop)
	return walproxy.Tuning{Sinks: []walproxy.SinkTuning{{Name: "main", Loop: &loop}}}
}

// TestTuneUnderLoad: lanes and batches change at random while writers write, add to
// counters under a precondition and read what they wrote. No call fails, each write is
// applied once.
func TestTuneUnderLoad(t *testing.T) {
	t.Parallel()
	rounds := 15
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 500
	}
	store := sinktest.NewMemory()
	p := open(t, options(t.TempDir(), store))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	const writers = 4
	var counts [writers]int64
	var written atomic.Int64
	var stopped atomic.Bool
	var joined sync.WaitGroup
	for w := range writers {
		joined.Go(func() {
			key := fmt.Sprint("k", w)
			for !stopped.Load() {
				r, err := p.Append(ctx, increment(key))
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				counts[w]++
				written.Add(1)
				if counts[w]%3 == 0 {
					if _, err := p.Append(ctx, must(mutation.Increment("things", mutation.String(key), map[string]any{"n": 1}, mutation.IfVersion(r.LSN)))); err != nil {
						t.Errorf("writer %d, conditional: %v", w, err)
						return
					}
					counts[w]++
				}
				if counts[w]%2 == 0 {
					doc, err := p.Read(ctx, "things", mutation.String(key))
					if err != nil || doc.Fields["n"].GetInt64() != counts[w] {
						t.Errorf("writer %d reads %v, %v; want %d", w, doc, err, counts[w])
						return
					}
				}
			}
		})
	}
	for range rounds {
		at := written.Load()
		until(t, "writes go on", func() bool { return written.Load() > at+5 || t.Failed() })
		err := p.Tune(tuned(func(o *replay.Options) {
			o.Lanes = 1 + rand.IntN(6)
			o.Batch.Records = 1 + rand.IntN(50)
			if rand.IntN(2) == 0 {
				o.Classes, o.OwnLanes = []replay.Class{{Name: "own", Lanes: 1 + rand.IntN(2)}}, func(string) string { return "own" }
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if s := sinkStatus(t, p, "main"); s.State == replay.Stopped || s.State == replay.Halted {
			t.Errorf("the sink is %s: %v", s.State, s.Err)
		}
	}
	if err := p.Tune(tuned(func(o *replay.Options) { o.Lanes = 3 })); err != nil {
		t.Fatal(err)
	}
	until(t, "three lanes", func() bool { return len(sinkStatus(t, p, "main").Lanes) == 3 })
	stopped.Store(true)
	joined.Wait()
	closeProxy(t, p)
	again := store.Reopen()
	for w := range writers {
		doc, err := again.Read(t.Context(), "things", mutation.String(fmt.Sprint("k", w)))
		if err != nil || doc.Fields["n"].GetInt64() != counts[w] {
			t.Errorf("counter %d is %v, %v; want %d", w, doc, err, counts[w])
		}
	}
}

// TestTuneIsWhole: where something is wrong nothing changes, whatever stands before it.
func TestTuneIsWhole(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Sinks = append(o.Sinks, walproxy.SinkOptions{Name: "other", Sink: sinktest.NewMemory()})
	o.Routes = []walproxy.Route{{Collections: []string{"*"}, Sinks: []string{"main"}}}
	p := open(t, o)
	good := walproxy.SinkTuning{Name: "main", MaxLagBytes: 1 << 20, Loop: &replay.Options{Lanes: 2}}
	both := []walproxy.Route{{Collections: []string{"*"}, Sinks: []string{"main", "other"}}}
	for name, bad := range map[string]walproxy.Tuning{
		"lanes":  {Routes: both, Sinks: []walproxy.SinkTuning{good, {Name: "other", Loop: &replay.Options{Lanes: 5000}}}},
		"bound":  {Routes: both, Sinks: []walproxy.SinkTuning{good, {Name: "other", Retain: -1}}},
		"sink":   {Routes: both, Sinks: []walproxy.SinkTuning{good, {Name: "nobody"}}},
		"routes": {Routes: []walproxy.Route{{Collections: []string{"*"}, Sinks: []string{"nobody"}}}, Sinks: []walproxy.SinkTuning{good}},
	} {
		if err := p.Tune(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	appendOne(t, p, set("a", 1))
	if s := sinkStatus(t, p, "main"); s.MaxLagBytes != 0 || s.State == replay.Stopped || sinkStatus(t, p, "other").Lag != 0 {
		t.Errorf("something has changed: %+v", s)
	}
	until(t, "four lanes", func() bool { return len(sinkStatus(t, p, "main").Lanes) == 4 })
	if err := p.Tune(walproxy.Tuning{Routes: both, Sinks: []walproxy.SinkTuning{good}}); err != nil {
		t.Fatal(err)
	}
	until(t, "two lanes", func() bool { return len(sinkStatus(t, p, "main").Lanes) == 2 })
	lsn := appendOne(t, p, set("a", 2))
	if err := p.Wait(t.Context(), lsn, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	if n := sinkStatus(t, p, "other").Records; n != 1 {
		t.Errorf("the other sink was given %d records, want the one since the routes changed", n)
	}
	closeProxy(t, p)
	if err := p.Tune(walproxy.Tuning{}); !errors.Is(err, walproxy.ErrClosed) {
		t.Errorf("of a closed proxy: %v", err)
	}
}

// TestTuneAway: while the store does not answer, or is paused, or has halted, Tune does
// not wait; reads say what they said before, and all is applied when it goes on.
func TestTuneAway(t *testing.T) {
	t.Parallel()
	o, store, f := healing(t.TempDir(), -1)
	p := open(t, o)
	change := tuned(func(o *replay.Options) { o.Lanes, o.HaltRetry = 2, -1 })
	appendOne(t, p, set("a", 1))
	if _, err := p.Read(t.Context(), "things", mutation.String("a")); err != nil {
		t.Fatal(err)
	}
	if err := p.PauseSink(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	appendOne(t, p, set("a", 2))
	if err := p.Tune(change); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(t.Context(), "things", mutation.String("a")); !errors.Is(err, walproxy.ErrPaused) {
		t.Errorf("paused and tuned: %v", err)
	}
	readOnly(f)
	if err := p.ResumeSink("main"); err != nil {
		t.Fatal(err)
	}
	halted(t, p, errReadOnly)
	if _, err := p.Read(t.Context(), "things", mutation.String("a")); !errors.Is(err, walproxy.ErrHalted) {
		t.Errorf("halted: %v", err)
	}
	f.Clear()
	if err := p.Tune(change); err != nil {
		t.Fatal(err)
	}
	until(t, "it goes on", func() bool {
		doc, err := p.Read(t.Context(), "things", mutation.String("a"))
		return err == nil && doc.Fields["n"].GetInt64() == 2
	})
	release := make(chan struct{})
	f.HoldResume(release)
	if err := p.Tune(change); err != nil {
		t.Fatal(err)
	}
	appendOne(t, p, set("a", 3))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if doc, err := p.Read(ctx, "things", mutation.String("a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the store does not answer: %v, %v; want that it waits", doc, err)
	}
	if s := sinkStatus(t, p, "main"); s.State == replay.Stopped {
		t.Errorf("the sink is %s", s.State)
	}
	close(release)
	if doc, err := p.Read(t.Context(), "things", mutation.String("a")); err != nil || doc.Fields["n"].GetInt64() != 3 {
		t.Errorf("behind it: %v, %v", doc, err)
	}
	closeProxy(t, p)
	if _, err := store.Reopen().Read(t.Context(), "things", mutation.String("a")); err != nil {
		t.Error(err)
	}
}
