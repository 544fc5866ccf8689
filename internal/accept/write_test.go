package accept

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// 42 and "42" are one key: locked, judged, logged and read as one.
func TestCanonicalKeys(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	for _, c := range []struct {
		collection string
		logged     *walproxyv1.Key
	}{{"c", mutation.String("42")}, {"numbers", mutation.Int64(42)}} {
		number, text := mutation.Int64(42), mutation.String("42")
		m := mutation.New(c.collection, number, []*walproxyv1.Op{mutation.IncrementOp(one)}, mutation.IfAbsent(), mutation.WithRequestID(c.collection))
		unchanged := proto.CloneOf(m)
		first := r.must(m)
		if !proto.Equal(m, unchanged) {
			t.Errorf("%s: the caller's mutation was changed to %v", c.collection, m)
		}
		again := proto.CloneOf(m)
		again.Key = text
		if res := r.must(again); !res.Repeat || res.LSN != first.LSN {
			t.Errorf("%s: the same write with the other form of the key: %+v", c.collection, res)
		}
		again.RequestId = ""
		var conflict *ConflictError
		if _, err := r.do(t.Context(), record(again)); !errors.As(err, &conflict) || conflict.Version != first.LSN {
			t.Errorf("%s: got %v", c.collection, err)
		}
		for _, key := range []*walproxyv1.Key{number, text} {
			if doc, err := r.Read(t.Context(), c.collection, key); err != nil || doc.Version != first.LSN {
				t.Errorf("%s: read by %v: %+v, %v", c.collection, key, doc, err)
			}
		}
		if got := r.records()[first.LSN-1].GetMutation().GetKey(); !proto.Equal(got, c.logged) {
			t.Errorf("%s: logged as %v", c.collection, got)
		}
	}
	var invalid *mutation.InvalidError
	bad := mutation.New("numbers", mutation.String("042"), []*walproxyv1.Op{mutation.SetOp(nil)})
	if _, err := r.do(t.Context(), record(bad)); !errors.As(err, &invalid) || invalid.Field != "key" {
		t.Errorf("got %v", err)
	}
	if _, err := r.do(t.Context(), group("", set("a"), bad)); !errors.As(err, &invalid) || invalid.Field != "members[1].mutation.key" {
		t.Errorf("got %v", err)
	}
	if _, err := r.Read(t.Context(), "numbers", mutation.String("042")); !errors.As(err, &invalid) {
		t.Errorf("Read: %v", err)
	}
}

// What is no valid write is refused by name, before anything else, and nothing
// is logged.
func TestInvalid(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	unknown := set("k")
	unknown.ProtoReflect().SetUnknown([]byte{0xb8, 0x3e, 1})
	long := record(set("k"))
	long.Principal = string(make([]byte, 300))
	for _, c := range []struct {
		rec   *walproxyv1.Record
		field string
	}{
		{nil, "record"},
		{&walproxyv1.Record{}, "body"},
		{&walproxyv1.Record{Body: &walproxyv1.Record_Statement{Statement: &walproxyv1.Statement{Collection: "c", Key: mutation.String("k")}}}, "text"},
		{record(nil), "key"},
		{record(mutation.New("c", mutation.String("k"), nil)), "ops"},
		{record(unknown), "record"},
		{long, "principal"},
		{group(""), "members"},
		{group("", set("k", mutation.WithRequestID("r"))), "members[0].mutation.request_id"},
		{&walproxyv1.Record{Body: &walproxyv1.Record_Command{Command: &walproxyv1.Command{Collection: "c", Key: mutation.String("k")}}}, "message"},
	} {
		var invalid *mutation.InvalidError
		if _, err := r.Submit(t.Context(), c.rec); !errors.As(err, &invalid) || invalid.Field != c.field {
			t.Errorf("%v: got %v, want field %s", c.rec, err, c.field)
		}
	}
	if r.log.Appended() != 0 {
		t.Errorf("%d records were logged", r.log.Appended())
	}
}

func TestRoutes(t *testing.T) {
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.opts.Targets["second"] = Target{Loop: r.store}
		r.opts.Routes = []Route{
			{Collections: []string{"both", "b*"}, Sinks: []string{"main", "second"}},
			{Collections: []string{"[cd]"}, Sinks: []string{"main"}},
		}
	})
	in := func(collection string) *walproxyv1.Mutation {
		return mutation.New(collection, mutation.String("k"), []*walproxyv1.Op{mutation.SetOp(nil)})
	}
	r.must(in("bx"))
	r.must(in("d"))
	list := r.records()
	if got := fmt.Sprint(list[0].Routes, list[1].Routes); got != "[main second] [main]" {
		t.Errorf("routes %s", got)
	}
	if _, err := r.do(t.Context(), record(in("x"))); !errors.Is(err, ErrUnroutable) {
		t.Errorf("got %v", err)
	}
	var invalid *mutation.InvalidError
	if _, err := r.do(t.Context(), record(mutation.New("x", nil, nil))); !errors.As(err, &invalid) {
		t.Errorf("invalid and unroutable: %v", err)
	}
	if _, err := r.Read(t.Context(), "x", mutation.String("k")); !errors.Is(err, ErrUnroutable) {
		t.Errorf("Read: %v", err)
	}
	if _, err := r.do(t.Context(), group("", in("c"), in("both"))); !errors.As(err, &invalid) || invalid.Field != "members[1]" {
		t.Errorf("a group that goes two ways: %v", err)
	}
	retry := record(in("c"))
	retry.Origin = &walproxyv1.Origin{Lsn: 1, Sink: "second"}
	if _, err := r.do(t.Context(), retry); err != nil {
		t.Error(err)
	} else if got := r.records()[2]; fmt.Sprint(got.Routes) != "[second]" || got.Origin.GetLsn() != 1 {
		t.Errorf("a retry of a dead letter is logged as %v", got)
	}
	if retry.Origin.Sink = "third"; true {
		if _, err := r.do(t.Context(), retry); !errors.As(err, &invalid) || invalid.Field != "origin.sink" {
			t.Errorf("got %v", err)
		}
	}
}

func TestBadRoutes(t *testing.T) {
	targets := map[string]Target{"main": {Loop: newStore()}}
	for name, routes := range map[string][]Route{
		"pattern": {{Collections: []string{"[a"}, Sinks: []string{"main"}}},
		"sink":    {{Collections: []string{"a"}, Sinks: []string{"other"}}},
		"empty":   {{Collections: []string{"a"}}},
	} {
		if _, err := newRouter(routes, targets, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := newRouter(nil, map[string]Target{"main": {}}, nil); err == nil {
		t.Error("a target without a loop is accepted")
	}
	r, err := newRouter([]Route{{Collections: []string{"*"}, Sinks: []string{"main"}}}, targets, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.find("namespace/set"); err != nil {
		t.Errorf("* does not match a name with a slash: %v", err)
	}
}

// A group is one frame, judged and logged all or none.
func TestGroup(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	a := r.must(set("a")).LSN
	res, err := r.do(t.Context(), group("g", increment("a", mutation.IfVersion(a)), set("b", mutation.IfAbsent()), increment("b")))
	if err != nil || res.LSN != a+1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := len(r.records()[res.LSN-1].GetGroup().GetMembers()); got != 3 {
		t.Fatalf("%d members", got)
	}
	if again, err := r.do(t.Context(), group("g", increment("a", mutation.IfVersion(a)), set("b", mutation.IfAbsent()), increment("b"))); err != nil || !again.Repeat || again.LSN != res.LSN {
		t.Errorf("the repeat: %+v, %v", again, err)
	}
	var conflict *ConflictError
	if _, err := r.do(t.Context(), group("", set("x"), set("b", mutation.IfAbsent()))); !errors.As(err, &conflict) || conflict.Version != res.LSN {
		t.Errorf("one member conflicts: %v", err)
	}
	if r.log.Appended() != res.LSN {
		t.Errorf("%d records", r.log.Appended())
	}
	for key, want := range map[string]int64{"a": 2, "b": 2} {
		if doc, err := r.Read(t.Context(), "c", mutation.String(key)); err != nil || doc.Version != res.LSN || doc.Fields["n"].GetInt64() != want {
			t.Errorf("%s: %+v, %v", key, doc, err)
		}
	}
	if _, err := r.Read(t.Context(), "c", mutation.String("x")); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("x: %v", err)
	}
}

// Overlapping groups in every order do not lock each other out, and conditional
// ones stay one step: each moves a unit, none is made or lost.
func TestOverlappingGroups(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	const keys = 5
	for i := range keys {
		r.must(set(fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 40 {
				var ms []*walproxyv1.Mutation
				for _, k := range rand.Perm(keys)[:3] {
					doc, err := r.Read(t.Context(), "c", mutation.String(fmt.Sprint(k)))
					if err != nil {
						t.Error(err)
						return
					}
					by := int64(1)
					if len(ms) == 1 {
						by = -1
					} else if len(ms) == 2 {
						by = 0
					}
					ms = append(ms, mutation.New("c", mutation.String(fmt.Sprint(k)),
						[]*walproxyv1.Op{mutation.SetOp(map[string]*walproxyv1.Value{"n": mutation.Int64Value(doc.Fields["n"].GetInt64() + by)})},
						mutation.IfVersion(doc.Version)))
				}
				if _, err := r.do(t.Context(), group("", ms...)); err != nil && !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sum := int64(0)
	for k := range keys {
		doc, err := r.Read(t.Context(), "c", mutation.String(fmt.Sprint(k)))
		if err != nil {
			t.Fatal(err)
		}
		sum += doc.Fields["n"].GetInt64()
	}
	if sum != keys {
		t.Errorf("the sum is %d, want %d", sum, keys)
	}
	if r.log.Appended() == keys {
		t.Error("no group ever succeeded")
	}
}

// Kinds whose effect is not known make the key's state unknown, not stale.
func TestCommandForgetsKey(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	first := r.must(set("filler")).LSN
	r.store.holdAt(first)
	r.must(set("k"))
	hash := mutation.Hash("c", mutation.String("k"))
	encoded := string(mutation.AppendKey(nil, "c", mutation.String("k")))
	if _, ok := r.exact.get(hash, encoded, 0); !ok {
		t.Fatal("a set is not known")
	}
	command := &walproxyv1.Command{Collection: "c", Key: mutation.String("k"), Message: []byte{1}}
	res, err := r.do(t.Context(), &walproxyv1.Record{Body: &walproxyv1.Record_Command{Command: command}})
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := r.exact.get(hash, encoded, 0); ok {
		t.Errorf("known after a command: %+v", e)
	}
	if got := r.buckets.get(hash); got < res.LSN {
		t.Errorf("bucket %d, want %d", got, wal.LSN(res.LSN))
	}
}
