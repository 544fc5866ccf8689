package replay

import (
	"fmt"
	"slices"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
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
	m := laneMap{lanes: 16, group: shop}
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
	if stored, err := r.state.LaneGroups("main"); err != nil || stored["c"] != "a" {
		t.Errorf("stored groups %v, %v", stored, err)
	}
}
