package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// A pause holds over restarts until it is undone; who waits meanwhile is told;
// Close does not wait for it and says what remains; other sinks go on.
func TestPauseAndResume(t *testing.T) {
	o, a, _, c := three(t, t.TempDir())
	p := open(t, o)
	applied(t, p, "c", appendOne(t, p, to("shared", "k")))
	if err := p.PauseSink(t.Context(), "nobody"); !errors.Is(err, walproxy.ErrNoSink) {
		t.Fatalf("PauseSink of no sink: %v", err)
	}
	if err := p.PauseSink(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	calls := len(c.Calls())
	var last walproxy.LSN
	for range 10 {
		last = appendOne(t, p, to("shared", "k"))
	}
	applied(t, p, "a", last)
	if _, err := p.Read(t.Context(), "onlyc", mutation.String("k")); !errors.Is(err, walproxy.ErrPaused) && !errors.Is(err, mutation.ErrNotFound) {
		t.Fatalf("Read = %v", err)
	}
	if err := p.Wait(t.Context(), last, walproxy.Applied); !errors.Is(err, walproxy.ErrPaused) {
		t.Fatalf("Wait = %v, want ErrPaused", err)
	}
	for range 2 {
		if s := sinkStatus(t, p, "c"); !s.Paused || s.State != replay.Paused {
			t.Fatalf("Status = %+v", s)
		}
		began := time.Now()
		var remaining *walproxy.RemainingError
		if err := p.Close(context.Background()); !errors.As(err, &remaining) || remaining.Records["c"] != 10 || len(remaining.Records) != 1 {
			t.Fatalf("Close = %v, want 10 records for c", err)
		}
		if took := time.Since(began); took > o.DrainTimeout/2 {
			t.Errorf("Close took %v: it waited for the paused sink", took)
		}
		p = open(t, o)
		until(t, "the backlog is counted", func() bool { return sinkStatus(t, p, "c").Lag == 10 })
	}
	if got := len(c.Calls()); got != calls {
		t.Errorf("%d calls of a paused sink", got-calls)
	}
	if err := p.ResumeSink("c"); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context(), last, walproxy.Applied); err != nil {
		t.Fatalf("Wait after ResumeSink: %v", err)
	}
	if got := sinkStatus(t, p, "c").Records; got != 10 {
		t.Errorf("%d records applied, want the 10", got)
	}
	closeProxy(t, p)
	p = open(t, o)
	if s := sinkStatus(t, p, "c"); s.Paused {
		t.Error("after a resume and a restart it is paused again")
	}
	if x, y := countIn(t, a, "shared", "k"), countIn(t, c, "shared", "k"); x != 11 || y != 11 {
		t.Errorf("n = %d and %d, want 11", x, y)
	}
	closeProxy(t, p)
	if err := p.PauseSink(t.Context(), "c"); !errors.Is(err, walproxy.ErrClosed) {
		t.Errorf("PauseSink after Close: %v", err)
	}
}

// Who waits for a sink when it is paused is told at once.
func TestPauseEndsWaits(t *testing.T) {
	o, _, _, c := three(t, t.TempDir())
	release := make(chan struct{})
	c.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release)})
	p := open(t, o)
	lsn := appendOne(t, p, to("onlyc", "k"))
	waited, read := make(chan error, 1), make(chan error, 1)
	go func() { waited <- p.Wait(t.Context(), lsn, walproxy.Applied) }()
	go func() {
		_, err := p.Read(t.Context(), "onlyc", mutation.String("k"))
		read <- err
	}()
	until(t, "the apply", func() bool { return len(c.Calls()) > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	paused := make(chan error, 1)
	go func() { paused <- p.PauseSink(ctx, "c") }()
	for _, ch := range []chan error{waited, read} {
		if err := <-ch; !errors.Is(err, walproxy.ErrPaused) {
			t.Errorf("got %v, want ErrPaused", err)
		}
	}
	cancel() // the apply hangs: the pause holds, whoever waits for it
	if err := <-paused; !errors.Is(err, context.Canceled) {
		t.Errorf("PauseSink = %v", err)
	}
	if s := sinkStatus(t, p, "c"); !s.Paused {
		t.Error("it is not paused")
	}
	close(release)
	if err := p.ResumeSink("c"); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context(), lsn, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	closeProxy(t, p)
}

// Pauses, resumes, appends and Close from many goroutines: nothing hangs, nothing
// is applied twice or lost.
func TestPauseRaces(t *testing.T) {
	for round := range 4 {
		dir := t.TempDir()
		o, a, _, c := three(t, dir)
		p := open(t, o)
		var acked atomic.Int64
		var wg sync.WaitGroup
		work := func(do func() error) {
			wg.Go(func() {
				for {
					err := do()
					if errors.Is(err, walproxy.ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("round %d: %v", round, err)
						return
					}
				}
			})
		}
		for range 8 {
			work(func() error {
				_, err := p.Append(t.Context(), to("shared", "k"))
				if err == nil {
					acked.Add(1)
				}
				return err
			})
		}
		for _, name := range []string{"a", "c", "c"} {
			work(func() error { return p.PauseSink(t.Context(), name) })
			work(func() error { return p.ResumeSink(name) })
		}
		until(t, "appends", func() bool { return acked.Load() > int64(50*round) })
		if err := p.Close(context.Background()); err != nil && !errors.As(err, new(*walproxy.RemainingError)) {
			t.Fatal(err)
		}
		wg.Wait()
		p = open(t, o)
		for _, name := range []string{"a", "c"} {
			if err := p.ResumeSink(name); err != nil {
				t.Fatal(err)
			}
			applied(t, p, name, p.Status().Log.Durable)
		}
		for _, store := range []sinks.Reader{a, c} {
			if got := countIn(t, store, "shared", "k"); got != acked.Load() {
				t.Errorf("round %d: n = %d, want %d", round, got, acked.Load())
			}
		}
		closeProxy(t, p)
	}
}

// Event order on close with several sinks: one works, one hangs, one is paused,
// one has halted. Close ends by its deadline, counts exactly what each lacks, and
// the next start applies exactly that.
func TestCloseWithEverySortOfSink(t *testing.T) {
	dir := t.TempDir()
	stores := map[string]*sinktest.Memory{}
	open4 := func(faults bool) *walproxy.Proxy {
		o := options(dir, nil)
		o.Sinks = nil
		for _, name := range []string{"works", "hangs", "paused", "halted"} {
			if stores[name] == nil {
				stores[name] = sinktest.NewMemory()
			}
			f := sinktest.NewFaulty(stores[name].Reopen())
			so := walproxy.SinkOptions{Name: name, Sink: f}
			so.Loop.StopTimeout = 50 * time.Millisecond
			so.Loop.RetryMax = 20 * time.Millisecond
			so.Loop.Batch.Records = 8
			behind := func(_ int, b *sinks.Batch) bool {
				n := len(b.Records)
				return faults && n > 0 && b.Records[n-1].LSN > 100
			}
			switch name {
			case "hangs":
				f.Add(sinktest.Rule{When: behind, Do: sinktest.HoldBefore(make(chan struct{})), Times: sinktest.Always})
			case "halted":
				f.Add(sinktest.Rule{When: behind, Do: sinktest.FailBefore(sinks.Halt, sinktest.ErrAway), Times: sinktest.Always})
			}
			o.Sinks = append(o.Sinks, so)
			o.Routes = append(o.Routes, walproxy.Route{Collections: []string{name}, Sinks: []string{name}})
		}
		o.Routes = append(o.Routes, walproxy.Route{Collections: []string{"*"}, Sinks: []string{"works", "hangs", "paused", "halted"}})
		o.DrainTimeout = time.Second
		return open(t, o)
	}
	p := open4(true)
	var acked atomic.Int64
	for i := range 100 {
		appendOne(t, p, to("all", fmt.Sprint(i%5)))
	}
	for name := range stores {
		applied(t, p, name, 100)
	}
	if err := p.PauseSink(t.Context(), "paused"); err != nil {
		t.Fatal(err)
	}
	own := map[string]int64{"works": 10, "hangs": 7, "paused": 9, "halted": 8}
	for name, n := range own {
		for range n {
			appendOne(t, p, to(name, "k"))
		}
	}
	until(t, "the halt", func() bool { return sinkStatus(t, p, "halted").State == replay.Halted })
	var wg sync.WaitGroup
	for range 16 { // F3
		wg.Go(func() {
			for {
				if _, err := p.Append(t.Context(), to("all", "race")); err != nil {
					if !errors.Is(err, walproxy.ErrClosed) {
						t.Errorf("Append: %v", err)
					}
					return
				}
				acked.Add(1)
			}
		})
	}
	until(t, "appends", func() bool { return acked.Load() > 50 })
	began := time.Now()
	err := p.Close(context.Background())
	wg.Wait()
	var remaining *walproxy.RemainingError
	if !errors.As(err, &remaining) || len(remaining.Records) != 3 {
		t.Fatalf("Close = %v, want what remains for three sinks", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	for name, left := range remaining.Records {
		if want := uint64(own[name] + acked.Load()); left != want {
			t.Errorf("%d records remain for %s, want %d", left, name, want)
		}
	}
	if got := countIn(t, stores["works"], "all", "race"); got != acked.Load() {
		t.Errorf("the sink that works has %d, want the %d acked", got, acked.Load())
	}

	p = open4(false)
	if err := p.ResumeSink("paused"); err != nil {
		t.Fatal(err)
	}
	for name := range stores {
		applied(t, p, name, p.Status().Log.Durable)
		if got := sinkStatus(t, p, name).Records; got != remaining.Records[name] {
			t.Errorf("the next start applies %d records to %s, want the %d that remained", got, name, remaining.Records[name])
		}
		if got := countIn(t, stores[name], "all", "race"); got != acked.Load() {
			t.Errorf("%s has %d, want the %d acked", name, got, acked.Load())
		}
		if got := countIn(t, stores[name], name, "k"); got != own[name] {
			t.Errorf("%s has %d of its own, want %d", name, got, own[name])
		}
	}
	closeProxy(t, p)
}
