package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

var errReadOnly = errors.New("the store is read-only")

// healing are options with one faulty sink, which is tried again at that pace.
func healing(dir string, retry time.Duration) (walproxy.Options, *sinktest.Memory, *sinktest.Faulty) {
	store := sinktest.NewMemory()
	f := sinktest.NewFaulty(store)
	o := options(dir, f)
	o.Sinks[0].Loop.HaltRetry = retry
	o.Sinks[0].Loop.StopTimeout = 50 * time.Millisecond
	return o, store, f
}

func readOnly(f *sinktest.Faulty) {
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Halt(errReadOnly), Times: sinktest.Always})
}

func halted(t *testing.T, p *walproxy.Proxy, cause error) {
	t.Helper()
	until(t, fmt.Sprintf("halted: %v", cause), func() bool {
		s := sinkStatus(t, p, "main")
		return s.State == replay.Halted && errors.Is(s.Err, cause)
	})
}

// A halt whose cause lies in the store passes by itself when that is mended. Until
// then status and waits say why, whatever attempt is under way; counters go on.
func TestHaltPasses(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(f *sinktest.Faulty)
	}{
		{"apply", readOnly},
		{"resume", func(f *sinktest.Faulty) {
			f.FailResume(sinktest.Always, sinks.WithOutcome(sinks.Halt, errReadOnly))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, store, f := healing(t.TempDir(), 5*time.Millisecond)
			if c.name == "resume" {
				c.fail(f)
			}
			p := open(t, o)
			before := uint64(0)
			if c.name == "apply" {
				for range 20 {
					appendOne(t, p, increment("k"))
				}
				applied(t, p, "main", 20)
				c.fail(f)
				before = 20
			}
			last := appendOne(t, p, increment("k"))
			halted(t, p, errReadOnly)
			tries := len(f.Resumes())
			for len(f.Resumes()) < tries+5 {
				if s := sinkStatus(t, p, "main"); s.State != replay.Halted || !errors.Is(s.Err, errReadOnly) || s.Records != before || s.Lag != 1 {
					t.Fatalf("while it is tried again: %+v, want it halted", s)
				}
				if err := p.Wait(t.Context(), last, walproxy.Applied); !errors.Is(err, walproxy.ErrHalted) || !errors.Is(err, errReadOnly) {
					t.Fatalf("Wait = %v, want ErrHalted", err)
				}
				if _, err := p.Read(t.Context(), "things", mutation.String("k")); !errors.Is(err, walproxy.ErrHalted) {
					t.Fatalf("Read = %v, want ErrHalted", err)
				}
			}
			for range 10 {
				last = appendOne(t, p, increment("k"))
			}
			f.Clear()
			applied(t, p, "main", last)
			until(t, "it does not count as halted", func() bool { return sinkStatus(t, p, "main").State == replay.Running })
			if got := readN(t, p, "k"); got != int64(last) {
				t.Errorf("n = %d, want %d", got, last)
			}
			if s := sinkStatus(t, p, "main"); s.Records != uint64(last) || s.Lag != 0 || s.LagBytes != 0 || s.Err != nil {
				t.Errorf("Status = %+v, want %d records and no lag", s, last)
			}
			appendOne(t, p, increment("k"))
			closeProxy(t, p)
			if got := countIn(t, store, "things", "k"); got != int64(last)+1 {
				t.Errorf("the store has %d, want %d", got, last+1)
			}
		})
	}
}

// What does not pass by itself, or must not, waits for ResumeSink.
func TestResumeHaltedSink(t *testing.T) {
	for _, c := range []struct {
		name  string
		retry time.Duration
		cause error
		fail  func(f *sinktest.Faulty)
	}{
		{"switched off", -1, errReadOnly, readOnly},
		{"fenced", time.Nanosecond, replay.ErrFenced, func(f *sinktest.Faulty) {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Refuse(sinks.ErrFenced), Times: sinktest.Always})
		}},
		{"diverged", time.Nanosecond, replay.ErrForeignStream, func(f *sinktest.Faulty) {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Refuse(sinks.ErrForeignStream), Times: sinktest.Always})
		}},
		{"its own store failed", time.Nanosecond, sinks.ErrFailed, func(f *sinktest.Faulty) {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Halt(fmt.Errorf("x: %w", sinks.ErrFailed)), Times: sinktest.Always})
		}},
		{"closed", time.Nanosecond, sinks.ErrClosed, func(f *sinktest.Faulty) {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Refuse(sinks.ErrClosed), Times: sinktest.Always})
		}},
		{"panic", time.Nanosecond, errReadOnly, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, store, f := healing(t.TempDir(), c.retry)
			core, logged := observer.New(zap.ErrorLevel)
			o.Logger = zap.New(core)
			var panics atomic.Bool
			if c.fail == nil {
				o.Sinks[0].Sink = panicking{f, &panics}
			}
			p := open(t, o)
			applied(t, p, "main", appendOne(t, p, increment("k")))
			if c.fail == nil {
				panics.Store(true)
			} else {
				c.fail(f)
			}
			last := appendOne(t, p, increment("k"))
			halted(t, p, c.cause)
			until(t, "a line in the log", func() bool { return logged.FilterMessageSnippet("sink halted").Len() > 0 })
			for _, line := range logged.FilterMessageSnippet("sink halted").All() {
				if goesOn, ok := line.ContextMap()["goes_on_by_itself"].(bool); !ok || goesOn {
					t.Errorf("logged of a sink that does not go on by itself: %v", line.ContextMap())
				}
			}
			mend := func() { f.Clear(); panics.Store(false) }
			if c.retry > 0 { // it would have been tried thousands of times
				mend()
				for range 20 {
					last = appendOne(t, p, increment("k"))
				}
				if n := len(f.Resumes()); n != 1 {
					t.Fatalf("it was resumed %d times by itself", n-1)
				}
			} else {
				if err := p.ResumeSink("main"); err != nil { // too early
					t.Fatal(err)
				}
				until(t, "an attempt", func() bool { return len(f.Resumes()) == 2 })
				halted(t, p, c.cause)
				mend()
			}
			if s := sinkStatus(t, p, "main"); s.State != replay.Halted {
				t.Fatalf("before ResumeSink it is %s", s.State)
			}
			if err := p.ResumeSink("main"); err != nil {
				t.Fatal(err)
			}
			applied(t, p, "main", last)
			until(t, "it does not count as halted", func() bool { return sinkStatus(t, p, "main").State == replay.Running })
			if err := p.ResumeSink("main"); err != nil { // of a sink that runs
				t.Fatal(err)
			}
			closeProxy(t, p)
			if got := countIn(t, store, "things", "k"); got != int64(last) {
				t.Errorf("n = %d, want %d", got, last)
			}
			if err := p.ResumeSink("main"); !errors.Is(err, walproxy.ErrClosed) {
				t.Errorf("ResumeSink after Close: %v", err)
			}
		})
	}
}

// panicking is a sink that panics on demand.
type panicking struct {
	*sinktest.Faulty
	on *atomic.Bool
}

func (s panicking) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if s.on.Load() && len(b.Records) > 0 {
		panic(errReadOnly)
	}
	return s.Faulty.Apply(ctx, b)
}

// Close while a halted sink waits for its next attempt, claims its store, or
// applies: it ends by then, counts what is left, and the next start applies that.
func TestCloseOfHaltedSink(t *testing.T) {
	for _, at := range []string{"waiting", "waiting for somebody", "resuming", "applying", "paused"} {
		t.Run(at, func(t *testing.T) {
			dir := t.TempDir()
			retry := time.Millisecond
			switch at {
			case "waiting":
				retry = time.Hour
			case "waiting for somebody":
				retry = -1
			}
			o, store, f := healing(dir, retry)
			o.DrainTimeout = 100 * time.Millisecond
			p := open(t, o)
			for range 10 {
				appendOne(t, p, increment("k"))
			}
			applied(t, p, "main", 10)
			readOnly(f)
			for range 7 {
				appendOne(t, p, increment("k"))
			}
			halted(t, p, errReadOnly)
			never := make(chan struct{})
			switch at {
			case "resuming":
				f.HoldResume(never)
				n := len(f.Resumes())
				until(t, "another claim", func() bool { return len(f.Resumes()) > n })
			case "applying":
				f.Clear()
				f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(never), Times: sinktest.Always})
				until(t, "another apply", func() bool {
					calls := f.Calls()
					return !calls[len(calls)-1].Returned
				})
			case "paused":
				if err := p.PauseSink(t.Context(), "main"); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			err := p.Close(context.Background())
			var remaining *walproxy.RemainingError
			if !errors.As(err, &remaining) || remaining.Records["main"] != 7 {
				t.Errorf("Close = %v, want 7 that remain", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("Close took %v", took)
			}
			calls := len(f.Calls())
			o.Sinks[0].Sink = store.Reopen()
			p = open(t, o)
			if err := p.ResumeSink("main"); err != nil {
				t.Fatal(err)
			}
			applied(t, p, "main", 17)
			if n := sinkStatus(t, p, "main").Records; n != 7 {
				t.Errorf("the next start applies %d, want 7", n)
			}
			closeProxy(t, p)
			if got := countIn(t, store, "things", "k"); got != 17 {
				t.Errorf("n = %d, want 17", got)
			}
			if n := len(f.Calls()); n != calls {
				t.Errorf("%d calls after Close", n-calls)
			}
		})
	}
}

// What a sink lacks is counted after it went on, too: with lanes of which one was
// ahead, and a commit whose answer was lost.
func TestLagAfterHalt(t *testing.T) {
	o, store, f := healing(t.TempDir(), -1)
	o.Sinks[0].Loop.Lanes, o.Sinks[0].Loop.Batch.Records, o.Sinks[0].Loop.Batch.Linger = 4, 3, -1
	o.DrainTimeout = 50 * time.Millisecond
	p := open(t, o)
	var lost atomic.Int64
	f.Add(sinktest.Rule{When: func(n int, b *sinks.Batch) bool {
		return len(b.Records) > 0 && b.Records[0].LSN > 100 && lost.CompareAndSwap(0, 1)
	}, Do: sinktest.LoseAnswer(sinktest.ErrAway)})
	f.Add(sinktest.Rule{When: func(_ int, b *sinks.Batch) bool {
		return len(b.Records) > 0 && b.Records[0].LSN > 100 && b.Moves[0].Lane == 1 && lost.Load() > 0
	}, Do: sinktest.Halt(errReadOnly)})
	f.Add(sinktest.Rule{When: func(_ int, b *sinks.Batch) bool {
		return len(b.Records) > 0 && b.Records[len(b.Records)-1].LSN > 300
	}, Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	const total = 400
	for i := range total {
		appendOne(t, p, increment(fmt.Sprint(i%40)))
	}
	halted(t, p, errReadOnly)
	if err := p.ResumeSink("main"); err != nil {
		t.Fatal(err)
	}
	has := func() (n int64) {
		for i := range 40 {
			n += countIn(t, store, "things", fmt.Sprint(i))
		}
		return n
	}
	until(t, "it is away", func() bool { return sinkStatus(t, p, "main").State == replay.Retrying })
	until(t, "the lag is what it lacks", func() bool { return int64(sinkStatus(t, p, "main").Lag) == total-has() })
	err := p.Close(context.Background())
	var remaining *walproxy.RemainingError
	if !errors.As(err, &remaining) || int64(remaining.Records["main"]) != total-has() || has() < 200 {
		t.Errorf("Close = %v, the store lacks %d", err, total-has())
	}
}

// A dead letter that the store's checkpoint has not passed comes again with the
// records behind it: meanwhile its key is no less parked, and after it neither.
func TestDeadLetterAfterHalt(t *testing.T) {
	o, _, f := healing(t.TempDir(), time.Millisecond)
	o.Sinks[0].Loop.Lanes = 1
	p := open(t, o)
	applied(t, p, "main", appendOne(t, p, increment("k")))
	f.Add(sinktest.Rule{When: sinktest.LSN(2), Do: sinktest.Reject(errReadOnly, 2), Times: sinktest.Always},
		sinktest.Rule{Do: sinktest.Halt(errReadOnly), Times: 20})
	appendOne(t, p, increment("k"))
	until(t, "the dead letter", func() bool { return sinkStatus(t, p, "main").DeadLetters == 1 })
	last := appendOne(t, p, increment("other"))
	for end := false; !end; {
		end = sinkStatus(t, p, "main").Applied >= last
		if doc, err := p.Read(t.Context(), "things", mutation.String("k")); err == nil {
			t.Fatalf("read %v past a dead letter", doc)
		} else if !errors.Is(err, walproxy.ErrHalted) && !errors.Is(err, walproxy.ErrParked) {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context(), 2, walproxy.Applied); !errors.Is(err, walproxy.ErrHalted) && !errors.Is(err, walproxy.ErrDead) {
			t.Fatalf("Wait for a dead letter = %v", err)
		}
	}
	if len(f.Resumes()) < 2 {
		t.Errorf("it never halted")
	}
	if s := sinkStatus(t, p, "main"); s.DeadLetters != 1 || s.Lag != 0 {
		t.Errorf("Status = %+v, want one dead letter and no lag", s)
	}
	closeProxy(t, p)
}

// Halts at random, appends, pauses, resumes, reads and Close: nothing hangs, is
// lost or applied twice.
func TestHaltRaces(t *testing.T) {
	for round := range 3 {
		dir := t.TempDir()
		o, store, f := healing(dir, time.Millisecond)
		o.Sinks[0].Loop.Batch.Records = 5
		o.Sinks[0].MaxLagBytes = 1 << 20
		f.Add(sinktest.Rule{When: func(n int, _ *sinks.Batch) bool { return n%7 == 3 }, Do: sinktest.Halt(errReadOnly), Times: sinktest.Always},
			sinktest.Rule{When: func(n int, _ *sinks.Batch) bool { return n%5 == 1 }, Do: sinktest.LoseAnswer(sinktest.ErrAway), Times: sinktest.Always})
		p := open(t, o)
		var acked atomic.Int64
		var wg sync.WaitGroup
		work := func(do func() error) {
			wg.Go(func() {
				for {
					err := do()
					switch {
					case errors.Is(err, walproxy.ErrClosed):
						return
					case err == nil, errors.Is(err, walproxy.ErrHalted), errors.Is(err, walproxy.ErrPaused),
						errors.Is(err, walproxy.ErrBehind), errors.Is(err, replay.ErrClosed):
					default:
						t.Errorf("round %d: %v", round, err)
						return
					}
				}
			})
		}
		for range 4 {
			work(func() error {
				_, err := p.Append(t.Context(), increment("k"))
				if err == nil {
					acked.Add(1)
				}
				return err
			})
		}
		work(func() error { return p.ResumeSink("main") })
		work(func() error {
			before := acked.Load()
			doc, err := p.Read(t.Context(), "things", mutation.String("k"))
			if errors.Is(err, mutation.ErrNotFound) && before == 0 {
				return nil
			}
			if err == nil && doc.Fields["n"].GetInt64() < before {
				return fmt.Errorf("read %d, acked were %d", doc.Fields["n"].GetInt64(), before)
			}
			return err
		})
		if round > 0 {
			work(func() error { return p.PauseSink(t.Context(), "main") })
		}
		until(t, "halts", func() bool { return len(f.Resumes()) > 10 })
		if err := p.Close(context.Background()); err != nil && !errors.As(err, new(*walproxy.RemainingError)) {
			t.Fatal(err)
		}
		wg.Wait()
		o.Sinks[0].Sink = store.Reopen()
		p = open(t, o)
		if err := p.ResumeSink("main"); err != nil {
			t.Fatal(err)
		}
		applied(t, p, "main", p.Status().Log.Durable)
		if got := countIn(t, store, "things", "k"); got != acked.Load() {
			t.Errorf("round %d: n = %d, want the %d acked", round, got, acked.Load())
		}
		closeProxy(t, p)
	}
}
