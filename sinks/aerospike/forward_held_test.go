package aerospike

import (
	"context"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// held forwards one message for a record whose last write can have an LSN.
func (f forwarder) held(m *codec.Message, upTo sinks.LSN) string {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	replies, errs := f.s.Forward(ctx, []*codec.Message{m}, []sinks.LSN{upTo})
	if errs[0] != nil {
		return sinks.OutcomeOf(errs[0]).String()
	}
	return said(f, replies[0])
}

// TestForwardHeld: a forwarded write counts as what was written up to its LSN, so that
// nothing of before is applied over it; a late one is not done.
func TestForwardHeld(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	own := mustOwn(t, s, uuid.New(), true)
	f := forwarder{t, s}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	msg := func(name string, info1, info2, info3 byte, ops ...codec.Op) *codec.Message {
		return message(t, s, name, info1, info2, info3, ops...)
	}
	get := func(name string) string { return f.one(msg(name, getAll, 0, 0)) }
	last := func() sinks.LSN { return own.cp.Lanes[0].LSN }

	for _, c := range []struct {
		name string
		info byte
		ops  []codec.Op
		left string
	}{
		{"put", 0, []codec.Op{intOp(codec.OpWrite, "n", 7)}, "aerowire: ok n=7"},
		{"replace", codec.Info3CreateOrReplace, []codec.Op{intOp(codec.OpWrite, "m", 8)}, "aerowire: ok m=8"},
		{"anew", 0, []codec.Op{{Type: codec.OpDelete}, intOp(codec.OpWrite, "m", 9)}, "aerowire: ok m=9"},
		{"remove all", 0, []codec.Op{{Type: codec.OpDelete}}, "aerowire: not found"},
		{"empty", 0, []codec.Op{{Type: codec.OpWrite, Name: []byte("n")}}, "aerowire: not found"},
	} {
		own.must(add(c.name, 1))
		own.must(add("other", 1)) // of the same bucket, say
		want(c.name, f.held(msg(c.name, 0, wr, c.info, c.ops...), last()), "aerowire: ok")
		want(c.name+" left", get(c.name), c.left)
		if doc, err := s.Read(t.Context(), collection, mutation.String(c.name)); err == nil && doc.Version != last() {
			t.Errorf("%s has version %v, want %v", c.name, doc.Version, last())
		}
		exists := "aerowire: ok"
		if c.left == "aerowire: not found" {
			exists = c.left
		}
		want(c.name+" exists", f.one(msg(c.name, codec.Info1Read|codec.Info1NoBins, 0, 0)), exists)
		upTo := last()
		own.must(add(c.name, 100))
		before := get(c.name)
		if got := f.held(msg(c.name, 0, wr, c.info, c.ops...), upTo); got == "aerowire: ok" {
			t.Errorf("%s was done late", c.name)
		}
		want(c.name+", late", get(c.name), before)
	}
	want("to empty what is not there", f.held(msg("never", 0, wr, 0, codec.Op{Type: codec.OpDelete}), last()), "aerowire: not found")
	want("it left", get("never"), "aerowire: not found")

	// All of it again, as after a restart of a node: nothing of before comes back.
	name := "again"
	own.must(add(name, 1))
	own.must(remove(name))
	want("create", f.held(msg(name, 0, wr|codec.Info2CreateOnly, 0, intOp(codec.OpWrite, "n", 5)), last()), "aerowire: ok")
	end := own.cp
	own = mustOwn(t, s, own.cp.Stream, false)
	if own.cp.Lanes[0].LSN >= end.Lanes[0].LSN {
		t.Fatal("there is nothing to apply again")
	}
	for own.cp.Lanes[0].LSN+2 < end.Lanes[0].LSN {
		own.must(add("filler", 1))
	}
	own.must(add(name, 1))
	own.must(remove(name))
	want("after all was applied again", get(name), "aerowire: ok n=5")
}

// TestForwardFloor: a record that was taken away by a restart of its node is not read,
// and not written as if it had never been; one that was only taken away is gone.
func TestForwardFloor(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	own := mustOwn(t, s, uuid.New(), true)
	f := forwarder{t, s}
	takeAway := func(name string) {
		t.Helper()
		key, _, err := s.o.keyOf(collection, mutation.String(name))
		if err != nil {
			t.Fatal(err)
		}
		client, err := s.client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if existed, err := client.Delete(as.NewWritePolicy(0, 0), key); err != nil || !existed {
			t.Fatal(existed, err)
		}
	}
	messages := func(name string) map[string]*codec.Message {
		put := intOp(codec.OpWrite, "n", 7)
		return map[string]*codec.Message{
			"get":     message(t, s, name, getAll, 0, 0),
			"put":     message(t, s, name, 0, wr, 0, put),
			"create":  message(t, s, name, 0, wr|codec.Info2CreateOnly, 0, put),
			"replace": message(t, s, name, 0, wr, codec.Info3CreateOrReplace, put),
			"update":  message(t, s, name, 0, wr, codec.Info3UpdateOnly, put),
		}
	}
	for what, m := range messages("gone") {
		own.must(add("gone", 1))
		takeAway("gone")
		want := "aerowire: ok"
		if what == "get" || what == "update" {
			want = "aerowire: not found"
		}
		if got := f.held(m, own.cp.Lanes[0].LSN); got != want {
			t.Errorf("%s of a record that somebody took away: %s, want %s", what, got, want)
		}
	}
	for _, what := range []string{"get", "put", "create", "replace", "update"} {
		s = open(t, options(t))
		f = forwarder{t, s}
		own := mustOwn(t, s, uuid.New(), true)
		own.must(add("lost", 1))
		takeAway("lost")
		s.owner.mu.Lock()
		state := *s.owner.mu.state
		state.Nodes = nodes{"another": {}}
		s.owner.mu.state = &state
		s.owner.mu.Unlock()
		if got := f.held(messages("lost")[what], own.cp.Lanes[0].LSN); got != sinks.Retry.String() {
			t.Errorf("%s of a record that a node has lost: %s, want %s", what, got, sinks.Retry)
		}
	}
}
