package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// kilobyte is a write of about 1 KiB to a collection.
func kilobyte(collection string, n int) *walproxyv1.Mutation {
	return must(mutation.Set(collection, mutation.String(fmt.Sprint(n%20)), map[string]any{"p": strings.Repeat("x", 1000), "n": n}))
}

// away makes a store apply nothing.
func away(f *sinktest.Faulty) {
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
}

// With max_lag_bytes a sink that is down refuses what is routed to it, to the
// record, and nothing else; so it is after a restart; and once it is back its
// writes are accepted again.
func TestMaxLagBytes(t *testing.T) {
	const bound = 64 << 10
	o, _, _, c := three(t, t.TempDir())
	o.Sinks[2].MaxLagBytes = bound
	o.DrainTimeout = 50 * time.Millisecond
	away(c)
	p := open(t, o)
	var accepted atomic.Int64
	full := func() {
		t.Helper()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for {
					_, err := p.Append(t.Context(), kilobyte("shared", int(accepted.Load())))
					var behind *walproxy.BehindError
					switch {
					case err == nil:
						accepted.Add(1)
						continue
					case !errors.As(err, &behind) || !errors.Is(err, walproxy.ErrBehind):
						t.Errorf("Append = %v, want *BehindError", err)
					case behind.Sink != "c" || behind.MaxLagBytes != bound || behind.LagBytes > bound || behind.LagBytes < bound-1200:
						t.Errorf("refused with %+v, want sink c at %d", behind, bound)
					}
					return
				}
			})
		}
		wg.Wait()
		if lag := sinkStatus(t, p, "c").LagBytes; lag > bound || lag < bound-1200 {
			t.Errorf("the lag is %d bytes, want %d within a record", lag, bound)
		}
	}
	others := func() {
		t.Helper()
		for i := range 20 {
			appendOne(t, p, kilobyte("both", i))
			appendOne(t, p, kilobyte("onlya", i))
		}
	}
	caughtUp := func() { // those that are not away, before a stop that has 50 ms for them
		t.Helper()
		last := p.Status().Log.Durable
		applied(t, p, "a", last)
		applied(t, p, "b", last)
	}
	full()
	others()
	at := sinkStatus(t, p, "c")
	if at.Lag != uint64(accepted.Load()) {
		t.Errorf("it lags by %d records, want the %d accepted", at.Lag, accepted.Load())
	}

	for range 2 { // what remains is exact, and so is the bound after it
		caughtUp()
		var remaining *walproxy.RemainingError
		if err := p.Close(context.Background()); !errors.As(err, &remaining) || len(remaining.Records) != 1 || remaining.Records["c"] != at.Lag {
			t.Fatalf("Close = %v, want %d records for c", err, at.Lag)
		}
		p = open(t, o)
		if _, err := p.Append(t.Context(), kilobyte("onlyc", 0)); !errors.Is(err, walproxy.ErrBehind) {
			t.Fatalf("the first Append after a restart = %v, want ErrBehind", err)
		}
		others()
		until(t, "the backlog is counted", func() bool {
			s := sinkStatus(t, p, "c")
			return s.Lag == at.Lag && s.LagBytes == at.LagBytes
		})
		full()
	}

	c.Clear()
	applied(t, p, "c", p.Status().Log.Durable)
	if s := sinkStatus(t, p, "c"); s.LagBytes != 0 || s.Lag != 0 {
		t.Errorf("after all is applied it lags by %d bytes", s.LagBytes)
	}
	applied(t, p, "c", appendOne(t, p, kilobyte("shared", 1)))
	caughtUp()
	closeProxy(t, p)
}

// A record larger than the bound gets through alone, and a retry of a dead letter
// gets through always: a sink is never shut for good.
func TestMaxLagBytesLetsThrough(t *testing.T) {
	o, _, _, c := three(t, t.TempDir())
	o.Sinks[2].MaxLagBytes = 500
	c.Add(sinktest.Rule{When: sinktest.LSN(1), Do: sinktest.Reject(sinktest.ErrAway, 1), Times: sinktest.Always})
	p := open(t, o)
	lsn := appendOne(t, p, kilobyte("onlyc", 1))
	applied(t, p, "c", lsn)
	away(c)
	appendOne(t, p, kilobyte("onlyc", 2))
	if _, err := p.Append(t.Context(), kilobyte("onlyc", 3)); !errors.Is(err, walproxy.ErrBehind) {
		t.Fatalf("Append = %v, want ErrBehind", err)
	}
	results, err := p.RetryDeadLetter(t.Context(), "c", lsn)
	if err != nil || len(results) != 1 {
		t.Fatalf("RetryDeadLetter = %+v, %v", results, err)
	}
	c.Clear()
	applied(t, p, "c", results[0].LSN)
	appendOne(t, p, kilobyte("onlyc", 4))
	closeProxy(t, p)
}

// A repeat of a write under its request id is answered however far the sink is
// behind: it adds nothing.
func TestMaxLagBytesAnswersRepeats(t *testing.T) {
	o, _, _, c := three(t, t.TempDir())
	o.Sinks[2].MaxLagBytes = 500
	away(c)
	p := open(t, o)
	write := kilobyte("onlyc", 1)
	write.RequestId = "r1"
	lsn := appendOne(t, p, write)
	if r, err := p.Append(t.Context(), write); err != nil || !r.Repeat || r.LSN != lsn {
		t.Fatalf("the repeat: %+v, %v", r, err)
	}
	c.Clear()
	closeProxy(t, p)
}

// A store that is put back older has more to pass than what is counted as its
// backlog: that does not make the lag less than it is.
func TestLagOfAnOlderStore(t *testing.T) {
	dir := t.TempDir()
	storeDir, backup := filepath.Join(dir, "store"), filepath.Join(dir, "backup")
	start := func(paused bool, rules ...sinktest.Rule) (p *walproxy.Proxy, stop func()) {
		store, err := pebble.Open(storeDir, pebble.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := sinktest.NewFaulty(store)
		f.Add(rules...)
		o := options(filepath.Join(dir, "data"), f)
		o.Sinks[0].Paused, o.DrainTimeout = paused, 200*time.Millisecond
		o.Sinks[0].Loop.Batch.Records = 10
		p = open(t, o)
		return p, func() {
			if err := p.Close(context.Background()); err != nil && !errors.As(err, new(*walproxy.RemainingError)) {
				t.Error(err)
			}
			if err := store.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
	write := func(p *walproxy.Proxy) (last walproxy.LSN) {
		for i := range 50 {
			last = appendOne(t, p, kilobyte("things", i))
		}
		return last
	}
	p, stop := start(false)
	applied(t, p, "main", write(p))
	stop()
	if err := os.CopyFS(backup, os.DirFS(storeDir)); err != nil {
		t.Fatal(err)
	}
	p, stop = start(false)
	applied(t, p, "main", write(p)) // noted as applied
	stop()
	p, stop = start(true)
	end := write(p)
	stop()
	if err := errors.Join(os.RemoveAll(storeDir), os.CopyFS(storeDir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	p, stop = start(false, sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always,
		When: func(_ int, b *sinks.Batch) bool { n := len(b.Records); return n > 0 && b.Records[0].LSN > 125 }})
	until(t, "it is away again", func() bool { return sinkStatus(t, p, "main").State == replay.Retrying })
	until(t, "what it lacks is counted", func() bool {
		before := sinkStatus(t, p, "main")
		s := sinkStatus(t, p, "main")
		if lacks := uint64(end) - 50 - s.Records; before.Records == s.Records && s.Lag < lacks {
			t.Fatalf("the lag is %d at LSN %d, it lacks %d", s.Lag, s.Applied, lacks)
		}
		return s.Lag > 0 && s.Lag == uint64(end)-50-s.Records
	})
	stop()
}
