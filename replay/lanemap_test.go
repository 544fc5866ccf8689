package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestGroupSharesALane: all keys of a group's collections are in one lane, those
// of others are spread.
func TestGroupSharesALane(t *testing.T) {
	shop := func(collection string) string {
		if collection == "orders" || collection == "lines" {
			return "shop"
		}
		return ""
	}
	m := laneMap{classes: []state.LaneClass{{Lanes: 16}}, places: func(c string) state.LanePlace { return state.LanePlace{Group: shop(c)} }}
	lanes := map[string]map[int]bool{}
	for i := range 200 {
		for _, collection := range []string{"orders", "lines", "users"} {
			if lanes[collection] == nil {
				lanes[collection] = map[int]bool{}
			}
			lanes[collection][m.of(collection, mutation.String(fmt.Sprint(i)))] = true
		}
	}
	for lane := range lanes["orders"] {
		if len(lanes["orders"]) != 1 || len(lanes["lines"]) != 1 || !lanes["lines"][lane] {
			t.Errorf("orders in %v, lines in %v, want one and the same lane", lanes["orders"], lanes["lines"])
		}
	}
	if len(lanes["users"]) < 10 {
		t.Errorf("users in %v of 16 lanes", lanes["users"])
	}
}

// TestDependentTablesShareALane: what comes too early in another lane is in order
// in the same one.
func TestDependentTablesShareALane(t *testing.T) {
	r := newRig(t)
	d := &dependent{Memory: sinktest.NewMemory(), parent: "parent", child: "child0"}
	f := sinktest.NewFaulty(d)
	o := fast()
	o.LaneKey = func(string) string { return "family" }
	f.Add(sinktest.Rule{When: sinktest.LSN(1), Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: 5})
	last := r.write([]*walproxyv1.Mutation{bump("parent")}, []*walproxyv1.Mutation{bump("child0")}, []*walproxyv1.Mutation{bump("x")})
	o.Batch.Records = 1
	run := r.start(f, o)
	run.await(last)
	r.check(d)
	var order []sinks.LSN
	for _, c := range f.Calls() {
		if c.Err == nil {
			order = append(order, c.LSNs...)
		}
	}
	if n := d.early.Load(); n != 0 || !slices.IsSorted(order) {
		t.Errorf("%d came too early, order %v", n, order)
	}
}

// linked is a store that knows how its tables depend on each other, from Resume
// on.
type linked struct {
	sinks.Sink
	groups map[string]string // what Resume finds
	found  map[string]string
}

func (s *linked) Resume(ctx context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	s.found = s.groups
	return s.Sink.Resume(ctx, c)
}

func (s *linked) LaneGroup(collection string) string { return s.found[collection] }

// TestSinkLinksCollections: the groups that the sink names share a lane, unless
// LaneKey names others, and are stored, for they decide what a checkpoint means.
func TestSinkLinksCollections(t *testing.T) {
	for _, c := range []struct {
		name   string
		own    func(string) string
		groups map[string]string
		want   string // stored for "c"
		share  bool
	}{
		{"none", nil, nil, "", false},
		{"sink", nil, map[string]string{"c": "family"}, "family", true},
		{"another collection", nil, map[string]string{"d": "family"}, "", false},
		{"options first", func(string) string { return "mine" }, map[string]string{"c": "family"}, "mine", true},
		{"options say none", func(string) string { return "" }, map[string]string{"c": "family"}, "family", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			last := r.write(bumps(60, 20)...)
			f := sinktest.NewFaulty(sinktest.NewMemory())
			o := fast()
			o.LaneKey = c.own
			run := r.start(&linked{Sink: f, groups: c.groups}, o)
			run.await(last)
			lanes := map[int]bool{}
			for _, call := range f.Calls() {
				if len(call.LSNs) > 0 {
					lanes[call.Moves[0].Lane] = true
				}
			}
			if (len(lanes) == 1) != c.share {
				t.Errorf("applied in lanes %v, want shared %t", lanes, c.share)
			}
			if stored, err := r.state.LaneMap("main"); err != nil || stored.Places["c"].Group != c.want {
				t.Errorf("stored groups %v, %v; want %q", stored, err, c.want)
			}
		})
	}
}

// TestSinkLinksChange: what the sink links differs from run to run, with lanes at
// different points in between.
func TestSinkLinksChange(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	for round, group := range []string{"", "a", "b", ""} {
		for calls := int64(2); calls < 12; calls += 3 { // the claim counts
			r.write(bumps(40, 23)...)
			d := &doomed{Sink: memory.Reopen(), effect: true}
			d.left.Store(calls)
			o := fast()
			o.Batch.Records = 3
			sink := &linked{Sink: d, groups: map[string]string{"c": group}}
			if err := r.start(sink, o).ended(); !errors.Is(err, errDead) {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	}
	run := r.start(&linked{Sink: memory.Reopen(), groups: map[string]string{"c": "a"}}, fast())
	run.await(r.log.Durable())
	r.check(memory)
}

// TestGroupsChangeBetweenRuns while lanes are at different points: the old map
// is finished first, also if the start that does so dies.
func TestGroupsChangeBetweenRuns(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	groups := []func(string) string{nil, func(string) string { return "a" }, func(string) string { return "b" }, nil}
	for round, group := range groups {
		for calls := int64(2); calls < 12; calls += 3 { // the claim counts
			r.write(bumps(40, 23)...)
			d := &doomed{Sink: memory.Reopen(), effect: true}
			d.left.Store(calls)
			o := fast()
			o.Batch.Records, o.LaneKey = 3, group
			if err := r.start(d, o).ended(); !contains(err, errDead.Error()) {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	}
	o := fast()
	o.LaneKey = groups[1]
	run := r.start(memory.Reopen(), o)
	run.await(r.log.Durable())
	r.check(memory)
	if stored, err := r.state.LaneMap("main"); err != nil || stored.Places["c"].Group != "a" {
		t.Errorf("stored groups %v, %v", stored, err)
	}
}
