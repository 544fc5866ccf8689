package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// TestBackup: a copy made under load, with the embedded store, holds everything that
// was acknowledged before it began, each write once; the original goes on, and frees
// its space again.
func TestBackup(t *testing.T) {
	const writers = 8
	dir := t.TempDir()
	store, err := pebble.Open(filepath.Join(dir, "store"), pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close(context.Background()) }()
	o := options(filepath.Join(dir, "data"), store)
	o.Log.SegmentBytes, o.Log.GroupBytes = 64<<10, 16<<10
	p := open(t, o)
	appendOne(t, p, text("bad"))
	bad := appendOne(t, p, increment("bad")) // a dead letter
	applied(t, p, "main", bad)

	var acked, sent [writers]atomic.Int64
	var load sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for n := range writers {
		load.Go(func() {
			for ctx.Err() == nil {
				sent[n].Add(1)
				if _, err := p.Append(context.WithoutCancel(ctx), increment(fmt.Sprint("k", n))); err != nil {
					t.Error(err)
					return
				}
				acked[n].Add(1)
			}
		})
	}
	type copied struct {
		dir          string
		low, high    [writers]int64
		first, until walproxy.LSN
	}
	var copies []copied
	for i := range 3 {
		c := copied{dir: filepath.Join(dir, "data", fmt.Sprint("copy", i))}
		until(t, "there is load", func() bool { return acked[0].Load() > int64(100*(i+1)) })
		for n := range writers {
			c.low[n] = acked[n].Load()
		}
		s, err := p.Backup(t.Context(), c.dir)
		if err != nil {
			t.Fatal(err)
		}
		for n := range writers {
			c.high[n] = sent[n].Load()
		}
		if len(s.Stores) != 1 || s.Stores[0] != "main" || s.Log.Last <= c.until {
			t.Errorf("got %+v", s)
		}
		c.first, c.until = s.Log.First, s.Log.Last
		copies = append(copies, c)
	}
	stop()
	load.Wait()
	if _, err := p.Backup(t.Context(), copies[0].dir); err == nil {
		t.Error("a backup over another")
	}
	applied(t, p, "main", p.Status().Log.Durable)
	last := fill(t, p, "things", 100)
	until(t, "space is freed again", func() bool { return p.Status().Log.First > last-60 })
	if st := sinkStatus(t, p, "main"); st.State != replay.Running {
		t.Errorf("the original's sink: %+v", st)
	}

	for _, c := range copies {
		if in, err := wal.Inspect(filepath.Join(c.dir, "log"), wal.InspectOptions{}); err != nil || in.Refusal != nil || !in.Clean || in.Last != c.until || in.First != c.first {
			t.Fatalf("the copy's log: %+v, %v", in, err)
		}
		own, err := pebble.Open(filepath.Join(c.dir, "sinks", "main"), pebble.Options{})
		if err != nil {
			t.Fatal(err)
		}
		other := options(c.dir, own)
		q := open(t, other)
		applied(t, q, "main", c.until)
		for n := range writers {
			if got := counter(t, own, "things", fmt.Sprint("k", n)); got < c.low[n] || got > c.high[n] {
				t.Errorf("counter %d of the copy is %d; %d were acknowledged before, %d sent after", n, got, c.low[n], c.high[n])
			}
		}
		if ws := stateOf(t, q, bad); ws.State != walproxy.StateDead || sinkStatus(t, q, "main").DeadLetters != 1 {
			t.Errorf("the dead letter: %+v", ws)
		}
		appendOne(t, q, increment("new"))
		closeProxy(t, q)
		if err := own.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}

	// The store went on with the original: a copy is refused by it, and accepted after
	// where it was made.
	closeProxy(t, p)
	q := open(t, walproxy.Options{Dir: copies[1].dir, Sinks: o.Sinks, Log: o.Log, DrainTimeout: 1})
	until(t, "it is refused", func() bool { return errors.Is(sinkStatus(t, q, "main").Err, replay.ErrDiverged) })
	plan, err := q.PlanAccept(t.Context(), "main", &copies[1].until)
	if err != nil || plan.Target.Low().LSN != copies[1].until {
		t.Errorf("got %+v, %v; want to go on after %d", plan, err, copies[1].until)
	}
	_ = q.Close(context.Background())
}

// A backup needs no running proxy, and no store of ours; what fails leaves nothing.
func TestBackupOffline(t *testing.T) {
	dir := t.TempDir()
	store := sinktest.NewMemory()
	o := options(dir, store)
	p := open(t, o)
	last := appendOne(t, p, set("a", 1))
	applied(t, p, "main", last)
	if _, err := walproxy.Backup(t.Context(), o, filepath.Join(dir, "copy")); !errors.Is(err, wal.ErrLocked) {
		t.Errorf("while it is open: %v", err)
	}
	closeProxy(t, p)
	if _, err := p.Backup(t.Context(), filepath.Join(dir, "copy")); !errors.Is(err, walproxy.ErrClosed) {
		t.Errorf("of a closed proxy: %v", err)
	}
	s, err := walproxy.Backup(t.Context(), o, filepath.Join(dir, "copy"))
	if err != nil || s.Log.Last != last || len(s.Stores) != 0 {
		t.Fatalf("got %+v, %v", s, err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := walproxy.Backup(canceled, o, filepath.Join(dir, "none")); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed backup left %v", err)
	}
	p = open(t, options(filepath.Join(dir, "copy"), store.Reopen())) // the store has not gone on
	applied(t, p, "main", appendOne(t, p, set("a", 2)))
	closeProxy(t, p)
}
