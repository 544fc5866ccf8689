package aerospike

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/sinks"
)

// TestPoints: where a proof may end is kept in order, bounded, and never up to what is
// settled.
func TestPoints(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var points []sinks.Point
		var settled sinks.LSN
		for range rapid.IntRange(1, 3*maxPoints).Draw(t, "times") {
			lsn := sinks.LSN(rapid.Uint64Range(0, 1<<14).Draw(t, "lsn"))
			if rapid.IntRange(0, 50).Draw(t, "settles") == 0 {
				settled = max(settled, lsn/2)
			}
			points = withPoint(points, sinks.Point{LSN: lsn}, settled)
			if len(points) > maxPoints || len(points) > 0 && points[0].LSN <= settled ||
				!slices.IsSortedFunc(points, func(a, b sinks.Point) int { return int(int64(a.LSN) - int64(b.LSN)) }) {
				t.Fatalf("settled %d: %v", settled, points)
			}
		}
	})
}

// TestRestarted: what a node's start says of what was acknowledged before it, and when it
// says nothing.
func TestRestarted(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	claim := uuid.New()
	const name = "A"
	for _, c := range []struct {
		what   string
		change func(o *owner, found nodes, stored *state)
		until  sinks.LSN
		kept   bool
	}{
		{"the only node", func(*owner, nodes, *state) {}, 20, true},
		{"it has run on", func(o *owner, found nodes, _ *state) { found[name] = node{after: at(-60), alone: true} }, 0, false},
		{"another one", func(o *owner, found nodes, _ *state) { found["B"] = found[name]; delete(found, name) }, 0, false},
		{"one of two", func(o *owner, found nodes, _ *state) { found["B"] = found[name] }, 0, false},
		{"one that has joined others", func(o *owner, found nodes, _ *state) { found[name] = node{after: at(0)} }, 0, false},
		{"one that had others", func(o *owner, _ nodes, _ *state) { o.mu.state.Nodes[name] = node{} }, 0, false},
		{"a process that has just begun", func(o *owner, _ nodes, _ *state) { o.mu.state = nil }, 0, false},
		{"a message is still on its way", func(o *owner, _ nodes, _ *state) { o.sink.strays.begun() }, 0, false},
		{"one has ended since", func(o *owner, _ nodes, _ *state) { o.sink.strays.begun()(); o.sink.strays.ended = at(1) }, 0, false},
		{"the record was written since", func(o *owner, _ nodes, _ *state) { o.mu.saved = at(1) }, 20, false},
		{"the record is older", func(_ *owner, _ nodes, stored *state) { stored.generation-- }, 20, false},
		{"the record is another's", func(_ *owner, _ nodes, stored *state) { stored.Claim = uuid.New() }, 20, false},
	} {
		o := newOwner(&Sink{})
		o.mu.state = &state{Claim: claim, generation: 7, Nodes: nodes{name: {after: at(-60), alone: true}}}
		o.mu.saved = at(-5)
		o.mu.sights = []sample{{at(-10), sinks.Point{LSN: 10}}, {at(-5), sinks.Point{LSN: 20}}, {at(5), sinks.Point{LSN: 30}}}
		found, stored := nodes{name: {after: at(0), alone: true}}, &state{Claim: claim, generation: 7}
		c.change(o, found, stored)
		if until, kept := o.restarted(found, stored); until != c.until || kept != c.kept {
			t.Errorf("%s: acknowledged up to %d, kept %v; want %d, %v", c.what, until, kept, c.until, c.kept)
		}
	}
}

// TestUnsettledWarning: a log that only grows is said, with the reason.
func TestUnsettledWarning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stuck, settle time.Duration
		rewinds       int
		want          string
	}{
		{59 * time.Second, 10 * time.Second, 9, ""},
		{61 * time.Second, 10 * time.Second, 9, "nothing was settled for 1m1s, so the log keeps 70 records that are applied, and grows: nodes were restarted, left or joined 9 times"},
		{61 * time.Second, 10 * time.Second, 0, "not all nodes answer"},
		{61 * time.Second, time.Hour, 9, ""},
		{59 * time.Second, -1, 9, ""},
	} {
		if got := unsettledWarning(c.stuck, c.settle, 70, c.rewinds); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%v, settle %v: %q, want %q", c.stuck, c.settle, got, c.want)
		}
	}
}
