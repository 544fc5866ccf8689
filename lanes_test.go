package walproxy_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestReadOfAColdTable: while the store takes nothing of a hot table that has
// lanes of its own, reads and conditional writes of other tables go on, and one of
// the hot table waits.
func TestReadOfAColdTable(t *testing.T) {
	f := sinktest.NewFaulty(sinktest.NewMemory())
	release := make(chan struct{})
	f.Add(sinktest.Rule{Times: sinktest.Always, Do: sinktest.HoldBefore(release), When: func(_ int, b *sinks.Batch) bool {
		return slices.ContainsFunc(b.Records, func(r sinks.Record) bool { return r.Body.GetMutation().GetCollection() == "hot" })
	}})
	o := options(t.TempDir(), f)
	o.Sinks[0].Loop.Classes = []replay.Class{{Name: "hot"}}
	o.Sinks[0].Loop.OwnLanes = func(collection string) string {
		if collection == "hot" {
			return "hot"
		}
		return ""
	}
	p := open(t, o)
	read := func(key string) int64 {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		doc, err := p.Read(ctx, "things", mutation.String(key))
		if err != nil {
			close(release)
			t.Fatalf("Read %s: %v", key, err)
		}
		return doc.Fields["n"].GetInt64()
	}
	hot := mutation.String("a")
	for n := range 100 {
		appendOne(t, p, must(mutation.Set("hot", hot, map[string]any{"n": n})))
	}
	version := appendOne(t, p, set("b", 7))
	if n := read("b"); n != 7 {
		t.Errorf("n = %d, want 7", n)
	}
	appendOne(t, p, set("b", 8, mutation.IfVersion(version)))
	if n := read("b"); n != 8 {
		t.Errorf("n = %d, want 8", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if doc, err := p.Read(ctx, "hot", hot); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hot: %v, %v; want that it waits", doc, err)
	}
	f.Clear()
	close(release)
	doc, err := p.Read(t.Context(), "hot", hot)
	if err != nil || doc.Fields["n"].GetInt64() != 99 {
		t.Errorf("hot: %v, %v; want 99", doc, err)
	}
	closeProxy(t, p)
}
