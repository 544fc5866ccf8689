package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
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
