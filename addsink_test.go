package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// newcomer adds sink to o, for the collections things and groups beside main.
func newcomer(o walproxy.Options, sink sinks.Sink) walproxy.Options {
	o.Sinks = append([]walproxy.SinkOptions(nil), o.Sinks...)
	o.Routes = nil
	addSink(&o, "new", sink, "things main new", "groups new main", "* main")
	return o
}

// counter is what a store has counted of a record; 0: it has no such record.
func counter(t *testing.T, store sinks.Reader, collection, key string) int64 {
	t.Helper()
	doc, err := store.Read(t.Context(), collection, mutation.String(key))
	if errors.Is(err, mutation.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc.Fields["n"].GetInt64()
}

// A sink that is added from the oldest record on gets, once and in order, what the
// log has of the collections that go to it now, whatever comes between, and what
// is written from then on; nothing else.
func TestAddSinkOldest(t *testing.T) {
	dir := t.TempDir()
	main := sinktest.NewMemory()
	o := options(filepath.Join(dir, "data"), main)
	p := open(t, o)
	for range 7 {
		appendOne(t, p, to("things", "a"))
		appendOne(t, p, to("other", "a"))
	}
	group := &walproxyv1.Group{}
	for _, m := range []*walproxyv1.Mutation{to("other", "b"), to("groups", "b")} {
		group.Members = append(group.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
	}
	if _, err := p.AppendGroup(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	// Rejected, and retried in vain: the newcomer must meet it once, and reject it once.
	appendOne(t, p, text("bad"))
	bad := appendOne(t, p, increment("bad"))
	applied(t, p, "main", bad)
	if _, err := p.RetryDeadLetter(t.Context(), "main", bad); err != nil {
		t.Fatal(err)
	}
	last := appendOne(t, p, to("things", "a"))
	applied(t, p, "main", last)
	closeProxy(t, p)

	store := sinktest.NewMemory()
	with := newcomer(o, store)
	added, err := walproxy.AddSink(t.Context(), with, "new", true)
	if err != nil {
		t.Fatal(err)
	}
	if k := added.Kept; added.From != 0 || k.First != 1 || k.Last != last || k.Records != 11 || k.Retries != 1 ||
		k.Collections["things"] != 10 || k.Collections["groups"] != 1 || len(k.Collections) != 2 {
		t.Errorf("got %+v, %+v", added, added.Kept)
	}
	var known *walproxy.SinkKnownError
	if _, err := walproxy.AddSink(t.Context(), with, "new", true); !errors.As(err, &known) || !errors.Is(err, walproxy.ErrSinkKnown) {
		t.Errorf("added twice: %v", err)
	}
	p = open(t, with)
	if err := p.PauseSink(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	appendOne(t, p, to("things", "a"))
	appendOne(t, p, to("other", "a"))
	_ = p.Close(context.Background()) // records stay
	p = open(t, with)
	if err := p.ResumeSink("new"); err != nil {
		t.Fatal(err)
	}
	applied(t, p, "new", appendOne(t, p, to("things", "a")))
	if got, other := counter(t, store, "things", "a"), counter(t, store, "other", "a"); got != 10 || other != 0 {
		t.Errorf("the newcomer counts %d things and %d others, want 10 and 0", got, other)
	}
	if b, in := counter(t, store, "groups", "b"), counter(t, store, "other", "b"); b != 1 || in != 1 {
		t.Errorf("a group is taken whole: %d, %d", b, in)
	}
	st := sinkStatus(t, p, "new")
	if st.DeadLetters != 1 || st.Lag != 0 {
		t.Errorf("got %+v", st)
	}
	closeProxy(t, p)
}

// Until the newcomer has them, its records cost their own space and not the log's;
// an older copy of its store that needs them when they are gone is refused,
// though the log has their LSNs.
func TestAddSinkOlderStore(t *testing.T) {
	dir := t.TempDir()
	o := options(filepath.Join(dir, "data"), sinktest.NewMemory())
	o.Log.SegmentBytes, o.Sinks[0].Retain = 64<<10, 1<<30
	p := open(t, o)
	applied(t, p, "main", fill(t, p, "things", 50))
	closeProxy(t, p)

	storeDir := filepath.Join(dir, "store")
	openStore := func() *sinktest.Faulty {
		store, err := pebble.Open(storeDir, pebble.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return sinktest.NewFaulty(store)
	}
	closeStore := func(store *sinktest.Faulty) {
		if err := store.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	store := openStore()
	if _, err := walproxy.AddSink(t.Context(), newcomer(o, store), "new", true); err != nil {
		t.Fatal(err)
	}
	store.Add(sinktest.Rule{Times: sinktest.Always, Do: sinktest.FailBefore(sinks.Retry, errors.New("away"))})
	with := newcomer(o, store)
	with.DrainTimeout = 1
	p = open(t, with)
	until(t, "the store is claimed", func() bool { return sinkStatus(t, p, "new").Retries > 0 })
	if st := sinkStatus(t, p, "new"); st.Lag != 50 || st.HeldRecords != 50 {
		t.Errorf("got lag %d, held %d; want 50", st.Lag, st.HeldRecords)
	}
	_ = p.Close(context.Background())
	closeStore(store)
	old := filepath.Join(dir, "old")
	if err := os.CopyFS(old, os.DirFS(storeDir)); err != nil {
		t.Fatal(err)
	}

	store = openStore()
	p = open(t, newcomer(o, store))
	applied(t, p, "new", appendOne(t, p, to("things", "a")))
	until(t, "nothing is held", func() bool { return sinkStatus(t, p, "new").HeldRecords == 0 })
	closeProxy(t, p)
	closeStore(store)
	if err := errors.Join(os.RemoveAll(storeDir), os.Rename(old, storeDir)); err != nil {
		t.Fatal(err)
	}
	store = openStore()
	defer closeStore(store)
	p = open(t, newcomer(o, store))
	until(t, "it is refused", func() bool { return errors.Is(sinkStatus(t, p, "new").Err, replay.ErrBelowFirst) })
	if n := len(store.Calls()); n != 0 {
		t.Errorf("%d batches were applied", n)
	}
}

// From now on is what an Open does by itself.
func TestAddSinkNow(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, sinktest.NewMemory())
	p := open(t, o)
	last := appendOne(t, p, to("things", "a"))
	if _, err := walproxy.AddSink(t.Context(), o, "new", false); !errors.Is(err, wal.ErrLocked) {
		t.Errorf("while it is open: %v", err)
	}
	closeProxy(t, p)
	store := sinktest.NewMemory()
	with := newcomer(o, store)
	added, err := walproxy.AddSink(t.Context(), with, "new", false)
	if err != nil || added.From != last || added.Kept != nil {
		t.Errorf("got %+v, %v", added, err)
	}
	p = open(t, with)
	applied(t, p, "new", appendOne(t, p, to("things", "a")))
	if got := counter(t, store, "things", "a"); got != 1 {
		t.Errorf("got %d, want 1", got)
	}
	closeProxy(t, p)
}

// What an AddSink that did not come to its end has copied is nobody's; one that has
// no room copies nothing.
func TestAddSinkHalfway(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, sinktest.NewMemory())
	o.Sinks[0].Retain = 1 << 30
	p := open(t, o)
	applied(t, p, "main", fill(t, p, "things", 20))
	closeProxy(t, p)

	small := newcomer(o, sinktest.NewMemory())
	small.Log.MaxBytes = 100 << 10
	if _, err := walproxy.AddSink(t.Context(), small, "new", true); !errors.Is(err, wal.ErrFull) {
		t.Errorf("without room: %v", err)
	}
	st, err := state.Open(filepath.Join(dir, "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	left := []state.HeldRecord{{LSN: 3, Payload: []byte("left by a crash")}}
	if err := errors.Join(st.Held("new").Put(left, 0, 20, []position.Point{{LSN: 1}}), st.Close()); err != nil {
		t.Fatal(err)
	}
	store := sinktest.NewMemory()
	p = open(t, newcomer(o, store))
	applied(t, p, "new", appendOne(t, p, to("things", "a")))
	if got := counter(t, store, "things", "a"); got != 1 || sinkStatus(t, p, "new").HeldRecords != 0 {
		t.Errorf("got %d, %+v", got, sinkStatus(t, p, "new"))
	}
	closeProxy(t, p)

	// And with oldest, over what is left.
	if err := walproxy.Forget(dir, "new"); err != nil {
		t.Fatal(err)
	}
	added, err := walproxy.AddSink(t.Context(), newcomer(o, store), "new", true)
	if err != nil || added.Kept.Records != 21 {
		t.Errorf("got %+v, %v", added, fmt.Sprint(err))
	}
}
