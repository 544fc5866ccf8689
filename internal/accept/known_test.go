package accept

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

var noon = time.Unix(1_700_000_000, 0).UTC()

// genMutation draws valid mutations of one field of one record that never
// conflict in type.
func genMutation(collection string, key *walproxyv1.Key) *rapid.Generator[*walproxyv1.Mutation] {
	fields := map[string]*walproxyv1.Value{"n": mutation.Int64Value(1)}
	event := &walproxyv1.Event{Fields: fields}
	lists := [][]*walproxyv1.Op{
		{mutation.SetOp(fields)},
		{mutation.SetOp(nil), mutation.AppendEventOp(event)},
		{mutation.MergeOp(fields)},
		{mutation.UnsetOp("n")},
		{mutation.UnsetOp("n"), mutation.IncrementOp(fields)},
		{mutation.IncrementOp(fields)},
		{mutation.TouchOp()},
		{mutation.DeleteOp()},
		{mutation.DeleteOp(), mutation.SetOp(fields)},
		{mutation.DeleteOp(), mutation.AppendEventOp(event, event)},
		{mutation.AppendEventOp(event)},
	}
	return rapid.Custom(func(t *rapid.T) *walproxyv1.Mutation {
		m := mutation.New(collection, key, rapid.SampledFrom(lists).Draw(t, "ops"))
		onlyDelete := len(m.Ops) == 1 && m.Ops[0].GetDelete() != nil
		if !onlyDelete && rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
			mutation.ExpiresAt(noon.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "in")) * time.Second))(m)
		}
		return m
	})
}

func genPrecondition(version wal.LSN, events uint64) *rapid.Generator[*walproxyv1.Precondition] {
	return rapid.Custom(func(t *rapid.T) *walproxyv1.Precondition {
		m := &walproxyv1.Mutation{}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			mutation.IfAbsent()(m)
		case 1:
			mutation.IfVersion(version)(m)
		case 2:
			mutation.IfVersion(wal.LSN(rapid.IntRange(0, 9).Draw(t, "version")))(m)
		case 3:
			mutation.IfEventCount(events)(m)
		case 4:
			mutation.IfEventCount(uint64(rapid.IntRange(0, 3).Draw(t, "events")))(m)
		}
		return m.Precondition
	})
}

// Whatever is known of a record, starting from nothing or from the store at any
// point, is what applying the writes says; and preconditions are judged as the
// sink judges them.
func TestKnownAgreesWithApply(t *testing.T) {
	decided := 0
	rapid.Check(t, func(t *rapid.T) {
		var doc *mutation.Document
		var k known
		now := noon
		for i, m := range rapid.SliceOfN(genMutation("c", mutation.String("k")), 1, 10).Draw(t, "history") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 4).Draw(t, "look") == 0 {
				k = knownOf(doc)
			}
			p := genPrecondition(k.version, k.events).Draw(t, "precondition")
			_, err := mutation.Apply(doc, &walproxyv1.Mutation{Ops: []*walproxyv1.Op{mutation.TouchOp()}, Precondition: p}, 1000, now)
			if j := k.judge(p, now); j.decided {
				decided++
				if j.holds != (err == nil) {
					t.Fatalf("%v is judged %v; the sink says %v (known %+v, document %+v)", p, j.holds, err, k, doc)
				}
			} else if j.holds {
				t.Fatal("undecided, but holds")
			}
			lsn := wal.LSN(i + 1)
			e, err := mutation.Apply(doc, m, lsn, now)
			if err != nil {
				t.Fatal(err)
			}
			if !e.Unchanged {
				doc = e.Document
			}
			k = k.after(m, lsn, now)
			if k.exists == unsure {
				continue
			}
			want := knownOf(doc)
			if k.exists != want.exists || k.version != want.version || !k.expires.Equal(want.expires) || k.eventsKnown && k.events != want.events {
				t.Fatalf("after %v: known %+v, the document says %+v", m, k, want)
			}
		}
	})
	if decided == 0 {
		t.Error("nothing was ever decided")
	}
}

// What each op leaves known of a record of which nothing was known.
func TestKnownFromNothing(t *testing.T) {
	fields := map[string]*walproxyv1.Value{"n": mutation.Int64Value(1)}
	event := &walproxyv1.Event{}
	expires := mutation.ExpiresAt(noon.Add(time.Hour))
	for _, c := range []struct {
		name string
		m    *walproxyv1.Mutation
		want known
	}{
		{"set", mutation.New("c", nil, []*walproxyv1.Op{mutation.SetOp(fields)}), known{exists: exists, version: 5}},
		{"merge", mutation.New("c", nil, []*walproxyv1.Op{mutation.MergeOp(fields)}), known{}},
		{"merge that expires", mutation.New("c", nil, []*walproxyv1.Op{mutation.MergeOp(fields)}, expires), known{exists: exists, version: 5, expires: noon.Add(time.Hour)}},
		{"touch", mutation.Touch("c", nil, expires), known{}},
		{"unset", mutation.Unset("c", nil, []string{"n"}, expires), known{}},
		{"delete", mutation.Delete("c", nil), gone},
		{"delete, append", mutation.New("c", nil, []*walproxyv1.Op{mutation.DeleteOp(), mutation.AppendEventOp(event)}), known{exists: exists, version: 5, events: 1, eventsKnown: true}},
		{"born expired", mutation.New("c", nil, []*walproxyv1.Op{mutation.SetOp(fields)}, mutation.ExpiresAt(noon)), gone},
	} {
		got := known{}.after(c.m, 5, noon)
		if !got.expires.Equal(c.want.expires) {
			t.Errorf("%s: expires %v, want %v", c.name, got.expires, c.want.expires)
		}
		got.expires = c.want.expires
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestEventCountAfter(t *testing.T) {
	event := &walproxyv1.Event{}
	for _, c := range []struct {
		ops     []*walproxyv1.Op
		options []mutation.Option
		want    uint64
	}{
		{[]*walproxyv1.Op{mutation.AppendEventOp(event, event)}, []mutation.Option{mutation.IfEventCount(3)}, 5},
		{[]*walproxyv1.Op{mutation.DeleteOp(), mutation.AppendEventOp(event)}, []mutation.Option{mutation.IfEventCount(3)}, 1},
		{[]*walproxyv1.Op{mutation.AppendEventOp(event)}, nil, 0},
		{[]*walproxyv1.Op{mutation.TouchOp()}, []mutation.Option{mutation.IfEventCount(3)}, 0},
	} {
		if got := eventCountAfter(mutation.New("c", nil, c.ops, c.options...)); got != c.want {
			t.Errorf("%v: %d, want %d", c.ops, got, c.want)
		}
	}
	if got := eventCountAfter(nil); got != 0 {
		t.Errorf("nil: %d", got)
	}
}
