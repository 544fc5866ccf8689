package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// A store that is restored to an older copy finds in what is retained of the log
// what it lacks, each write once; one that is older than that is refused.
func TestRetain(t *testing.T) {
	const retain = 512 << 10
	dir := t.TempDir()
	storeDir, backup := filepath.Join(dir, "store"), filepath.Join(dir, "backup")
	var store *pebble.Sink
	start := func() *walproxy.Proxy {
		var err error
		if store, err = pebble.Open(storeDir, pebble.Options{}); err != nil {
			t.Fatal(err)
		}
		o := options(filepath.Join(dir, "data"), store)
		o.Log.SegmentBytes, o.Log.GroupBytes = 64<<10, 16<<10 // a segment is no larger than a group more
		o.Sinks[0].Retain = retain
		return open(t, o)
	}
	stop := func(p *walproxy.Proxy) {
		closeProxy(t, p)
		if err := store.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	n := int64(0)
	bump := func(p *walproxy.Proxy) {
		for i := range 5 {
			appendOne(t, p, increment(fmt.Sprint("k", i)))
		}
		n++
	}
	replace := func() {
		if err := errors.Join(os.RemoveAll(storeDir), os.CopyFS(storeDir, os.DirFS(backup))); err != nil {
			t.Fatal(err)
		}
	}
	p := start()
	bump(p)
	applied(t, p, "main", fill(t, p, "things", 300)) // more than is retained
	bump(p)
	stop(p)
	if err := os.CopyFS(backup, os.DirFS(storeDir)); err != nil {
		t.Fatal(err)
	}

	p = start()
	at := p.Status().Log.Durable
	bump(p)
	applied(t, p, "main", fill(t, p, "things", 60))
	bump(p)
	var seen walproxy.Status
	defer func() {
		if t.Failed() {
			t.Logf("at the end: %+v", seen)
		}
	}()
	until(t, "what is not retained is freed", func() bool {
		seen = p.Status()
		return seen.Log.First > 100 && seen.Log.Bytes < 2*retain
	})
	if first := p.Status().Log.First; first > at {
		t.Fatalf("the log begins at %d; want %d bytes retained, from %d or before", first, retain, at)
	}
	stop(p)
	replace()
	p = start()
	applied(t, p, "main", p.Status().Log.Durable)
	for i := range 5 {
		if got := readN(t, p, fmt.Sprint("k", i)); got != n {
			t.Errorf("k%d = %d after the older copy was put back, want %d", i, got, n)
		}
	}
	applied(t, p, "main", fill(t, p, "things", 400)) // the backup is beyond reach now
	until(t, "it is freed, on disk", func() bool { st := p.Status().Log; return st.First > at+1 && st.Bytes < 2*retain })
	stop(p)

	replace()
	p = start()
	if err := p.Wait(t.Context(), p.Status().Log.Durable, walproxy.Applied); !errors.Is(err, replay.ErrBelowFirst) {
		t.Fatalf("Wait with a copy that is too old = %v, want ErrBelowFirst", err)
	}
	if err := p.Close(context.Background()); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Fatal(err)
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// What is retained gives way before a write is refused for it.
func TestRetainGivesWay(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Log.SegmentBytes, o.Log.MaxBytes = 128<<10, 4<<20
	o.Sinks[0].Retain = 1 << 30
	p := open(t, o)
	deadline := time.Now().Add(60 * time.Second)
	for range 40 { // 8 MB, at a pace that a release can follow
		_ = fill(t, p, "things", 50)
		until(t, "there is room", func() bool {
			st := p.Status()
			return st.Log.Bytes+st.StateBytes < o.Log.MaxBytes-o.Log.MaxBytes/16
		})
		if time.Now().After(deadline) {
			t.Fatalf("%+v", p.Status().Log)
		}
	}
	if st := p.Status().Log; st.Bytes < o.Log.MaxBytes/2 {
		t.Errorf("the log has %d bytes: more went than had to", st.Bytes)
	}
	if _, err := p.Append(t.Context(), increment("k")); errors.Is(err, wal.ErrFull) {
		t.Errorf("Append = %v", err)
	}
	closeProxy(t, p)
}

// What a sink has not applied gives way to nothing, however little room is left: writes
// are refused.
func TestDueNeverGivesWay(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Log.SegmentBytes, o.Log.MaxBytes = 64<<10, 1<<20
	o.Sinks[0].Retain = 1 // so that the room is looked at every second
	slow := sinktest.NewFaulty(sinktest.NewMemory())
	addSink(&o, "slow", slow)
	p := open(t, o)
	has := fill(t, p, "things", 50) // segments that may go
	applied(t, p, "slow", has)
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn) // before the proxy is closed
	slow.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release)})
	last, refused := has, 0
	payload := strings.Repeat("x", 4<<10)
	for began := time.Now(); refused == 0 || time.Since(began) < 2100*time.Millisecond; time.Sleep(time.Millisecond) {
		a, err := p.Append(t.Context(), must(mutation.Set("things", mutation.String("k"), map[string]any{"p": payload})))
		switch {
		case errors.Is(err, wal.ErrFull):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			last = a.LSN
		}
		if first := p.Status().Log.First; first > has+1 {
			t.Fatalf("the log begins at LSN %d, sink slow has what is below %d", first, has+1)
		}
	}
	goOn()
	applied(t, p, "slow", last)
	closeProxy(t, p)
}
