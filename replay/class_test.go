package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// appendTo logs n writes to a collection, durably.
func (r *rig) appendTo(collection string, n int) (last wal.LSN) {
	r.t.Helper()
	for i := range n {
		payload, err := mutation.Encode(nil, &walproxyv1.Record{Format: 1, Routes: []string{"main"}, Body: &walproxyv1.Record_Mutation{
			Mutation: mutation.New(collection, mutation.String(fmt.Sprint("k", i%100)), bump("").GetOps()),
		}})
		if err != nil {
			r.t.Fatal(err)
		}
		last = r.append(payload)
	}
	if err := r.log.WaitDurable(context.Background(), last); err != nil {
		r.t.Fatal(err)
	}
	return last
}

// own gives each of the collections a class with its name.
func own(o *Options, collections ...string) {
	for _, c := range collections {
		o.Classes = append(o.Classes, Class{Name: c})
	}
	o.OwnLanes = func(collection string) string {
		if slices.Contains(collections, collection) {
			return collection
		}
		return ""
	}
}

// of says which collection a batch writes.
func of(collection string) func(int, *sinks.Batch) bool {
	return func(_ int, b *sinks.Batch) bool {
		return slices.ContainsFunc(b.Records, func(r sinks.Record) bool { return r.Body.GetMutation().GetCollection() == collection })
	}
}

// TestHotTableDoesNotStarveOthers: the store takes nothing of a hot table, whose
// backlog is more than the queue holds. A write to a cold table that was logged
// last is applied if the hot one has lanes of its own, and only then.
// WALPROXY_LONG makes the backlog 100,000 records.
func TestHotTableDoesNotStarveOthers(t *testing.T) {
	hot := 10_000
	if os.Getenv("WALPROXY_LONG") != "" {
		hot = 100_000
	}
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprint("apart=", apart), func(t *testing.T) {
			r := newRig(t)
			r.appendTo("hot", hot)
			cold := r.appendTo("cold", 1)
			f := sinktest.NewFaulty(sinktest.NewMemory())
			release := make(chan struct{})
			f.Add(sinktest.Rule{When: of("hot"), Do: sinktest.HoldBefore(release), Times: sinktest.Always})
			o := fast()
			o.QueueBytes, o.ApplyTimeout = 1<<20, time.Hour
			if apart {
				own(&o, "hot")
			}
			run := r.start(f, o)
			if apart {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := run.WaitKey(ctx, "cold", mutation.String("k0"), cold); err != nil {
					t.Fatalf("WaitKey: %v; %+v", err, run.Status())
				}
				if at := run.AppliedKey("cold", mutation.String("k0")); at < cold {
					t.Errorf("AppliedKey of cold: %d, want %d", at, cold)
				}
				if at := run.AppliedKey("hot", mutation.String("k0")); at != run.Applied() || at >= cold {
					t.Errorf("AppliedKey of hot: %d, of all: %d, while the store takes none of it", at, run.Applied())
				}
				if s := run.Status(); s.Records != 1 || s.QueueBytes > 1<<20 {
					t.Errorf("%+v, want one record applied, a bounded queue", s)
				}
			} else {
				eventually(t, "the queue is full", func() bool { return run.Status().QueueBytes > 900_000 })
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if err := run.WaitKey(ctx, "cold", mutation.String("k0"), cold); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("WaitKey: %v: the test shows nothing", err)
				}
			}
			f.Clear()
			close(release)
			run.await(cold)
			if s := run.Status(); s.Records != uint64(hot)+1 {
				t.Errorf("%d records applied", s.Records)
			}
		})
	}
}

// TestClassesMeet: a group over two classes waits for everything before it in
// both, and everything after it waits for it.
func TestClassesMeet(t *testing.T) {
	r := newRig(t)
	before := r.appendTo("hot", 50)
	both := r.appendGroup("hot", "cold")
	r.appendTo("cold", 20)
	last := r.appendTo("hot", 20)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	release := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.LSN(10), Do: sinktest.HoldBefore(release), Times: sinktest.Always})
	o := fast()
	o.Batch.Records, o.ApplyTimeout = 5, time.Hour
	own(&o, "hot", "cold")
	run := r.start(f, o)
	awaitCall(t, f, "LSN 10 hangs", func(c sinktest.Call) bool { return slices.Contains(c.LSNs, 10) })
	eventually(t, "the feed of cold is at the group", func() bool {
		p := run.pipe.Load()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.meeting != nil && p.meeting.arrived == len(p.feeds)
	})
	f.Clear()
	close(release)
	run.await(last)
	done := wal.LSN(0)
	for _, c := range f.Calls() {
		for _, lsn := range c.LSNs {
			switch {
			case lsn == both && (len(c.LSNs) != 1 || len(c.Moves) != len(run.Status().Lanes)):
				t.Errorf("the group went with %v, moves %v", c.LSNs, c.Moves)
			case lsn < both && done >= both, lsn > both && done < both:
				t.Errorf("LSN %d was sent when %d was the highest", lsn, done)
			}
		}
		done = max(done, slices.Max(append(c.LSNs, 0)))
	}
	if before+1 != both {
		t.Fatalf("LSNs %d, %d", before, both)
	}
}

// appendGroup logs a group that writes to each of the collections.
func (r *rig) appendGroup(collections ...string) wal.LSN {
	r.t.Helper()
	g := &walproxyv1.Group{}
	for _, c := range collections {
		g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{
			Mutation: mutation.New(c, mutation.String("k0"), bump("").GetOps()),
		}})
	}
	payload, err := mutation.Encode(nil, &walproxyv1.Record{Format: 1, Routes: []string{"main"}, Body: &walproxyv1.Record_Group{Group: g}})
	if err != nil {
		r.t.Fatal(err)
	}
	lsn := r.append(payload)
	if err := r.log.WaitDurable(context.Background(), lsn); err != nil {
		r.t.Fatal(err)
	}
	return lsn
}

// TestClassesChangeBetweenRuns: a collection gets lanes of its own, others, and
// none again, while lanes are at different points; starts die at every call of
// the switch.
func TestClassesChangeBetweenRuns(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	options := func(round int) Options {
		o := fast()
		o.Batch.Records = 3
		switch round % 4 {
		case 1:
			own(&o, "c")
		case 2: // as many lanes as before, in other classes
			own(&o, "c")
			o.Lanes, o.Classes[0].Lanes = 3, 2
		case 3:
			own(&o, "other", "c")
		}
		return o
	}
	for round := range 8 {
		for calls := int64(2); calls < 14; calls++ { // the claim counts
			r.write(bumps(40, 23)...)
			if calls%4 == 0 {
				r.write(mixed(5, 23, 3)...)
			}
			d := &doomed{Sink: memory.Reopen(), effect: calls%2 == 0}
			d.left.Store(calls)
			if err := r.start(d, options(round)).ended(); !errors.Is(err, errDead) {
				t.Fatalf("round %d: %v", round, err)
			}
			if calls%5 == 0 {
				r.crash()
			}
		}
	}
	for round := range 4 {
		run := r.start(memory.Reopen(), options(round))
		run.await(r.log.Durable())
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		r.check(memory)
	}
}

// TestGroupAndClass: collections that must share a lane do, whatever is said of
// their classes.
func TestGroupAndClass(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := fast()
	o.LaneKey = func(collection string) string {
		if collection == "other" {
			return ""
		}
		return "family"
	}
	own(&o, "orders", "lines", "other")
	for range 20 {
		r.appendTo("orders", 1)
		r.appendTo("lines", 2)
		r.appendTo("other", 3)
	}
	last := r.appendTo("orders", 1)
	run := r.start(f, o)
	run.await(last)
	for _, key := range []string{"k0", "k1"} {
		if err := run.WaitKey(t.Context(), "lines", mutation.String(key), last); err != nil {
			t.Error(err)
		}
	}
	stored, err := r.state.LaneMap("main")
	if err != nil || stored.Places["orders"] != (state.LanePlace{Group: "family", Class: "orders"}) ||
		stored.Places["lines"] != (state.LanePlace{Group: "family", Class: "orders"}) ||
		stored.Places["other"] != (state.LanePlace{Class: "other"}) {
		t.Errorf("stored %+v, %v", stored, err)
	}
	lanes := map[string]map[int]bool{"orders": {}, "lines": {}, "other": {}}
	p := run.pipe.Load()
	for _, c := range f.Calls() {
		for _, lsn := range c.LSNs {
			collection := []string{"orders", "lines", "lines", "other", "other", "other"}[(lsn-1)%6]
			lanes[collection][c.Moves[0].Lane] = true
		}
	}
	if len(lanes["orders"]) != 1 || fmt.Sprint(lanes["orders"]) != fmt.Sprint(lanes["lines"]) || len(lanes["other"]) != 1 || len(p.feeds) != 4 {
		t.Errorf("lanes %v, want orders and lines in one, other in another", lanes)
	}
}

// TestClassOptions: a class that is not there halts, and options that make no sense are refused.
func TestClassOptions(t *testing.T) {
	r := newRig(t)
	o := fast()
	o.OwnLanes = func(string) string { return "nowhere" }
	r.write(bumps(1, 1)...)
	if err := r.start(sinktest.NewMemory(), o).ended(); !contains(err, `class "nowhere"`) {
		t.Errorf("%v, want that the class is not known", err)
	}
	for want, classes := range map[string][]Class{
		"empty or taken":           {{Name: "a"}, {Name: "a"}},
		`"" is empty`:              {{}},
		"want at most 15":          make([]Class, 16),
		"Lanes is -1":              {{Name: "a", Lanes: -1}},
		"want at most 1024":        {{Name: "a", Lanes: 1021}},
		"Classes[0].Lanes is 1025": {{Name: "a", Lanes: 1025}},
	} {
		o := fast()
		o.Classes = classes
		if _, err := New(r.log, r.state, sinktest.NewMemory(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", classes, err, want)
		}
	}
}

// TestWaitKey: it ends with the lane, with ctx, with the loop, and before the
// store was reached.
func TestWaitKey(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.FailResume(1, sinktest.ErrAway)
	o := fast()
	o.Batch.Linger = time.Hour // a waiter cuts it
	own(&o, "cold")
	release := make(chan struct{})
	f.Add(sinktest.Rule{When: of("hot"), Do: sinktest.HoldBefore(release), Times: sinktest.Always})
	run := r.start(f, o)
	key := mutation.String("k0")
	if err := run.WaitKey(t.Context(), "cold", key, r.appendTo("cold", 1)); err != nil {
		t.Fatal(err)
	}
	hot := r.appendTo("hot", 1)
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := run.WaitKey(ctx, "hot", key, hot); !errors.Is(err, cause) {
		t.Errorf("%v, want ctx's cause", err)
	}
	if err := run.WaitKey(t.Context(), "cold", key, hot); err != nil {
		t.Errorf("%v, want that hot is not waited for", err)
	}
	failed := make(chan error, 1)
	go func() { failed <- run.WaitKey(context.WithoutCancel(t.Context()), "hot", key, hot+1) }()
	awaitCall(t, f, "hot hangs", func(c sinktest.Call) bool { return slices.Contains(c.LSNs, hot) })
	f.Clear()
	close(release)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	for _, ln := range run.pipe.Load().lanes {
		if len(ln.waiters) > 0 {
			t.Errorf("%d waiters left", len(ln.waiters))
		}
	}
	never := r.loop(f, o)
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(cause)
	if err := never.WaitKey(ctx, "hot", key, 1); !errors.Is(err, cause) {
		t.Errorf("before Run: %v, want ctx's cause", err)
	}
}
