package replay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

func testPace(lanes, records int) *pace {
	o := Options{Lanes: lanes}
	o.Batch.Records, o.Batch.Bytes, o.Batch.Latency = records, records*100, 100*time.Millisecond
	return newPace(&o)
}

// batchOf n records of 100 bytes.
func batchOf(n int) *sinks.Batch {
	b := &sinks.Batch{}
	for range n {
		b.Records = append(b.Records, sinks.Record{Bytes: 100})
	}
	return b
}

// TestPaceLanes: halved once for all that fail together, one more after as many
// clean ones as there are, never below one nor above the lanes.
func TestPaceLanes(t *testing.T) {
	c := testPace(8, 10)
	try := func(outcomes ...sinks.Outcome) int {
		t.Helper()
		var rounds []int
		for range outcomes {
			round, ok := c.enter(t.Context())
			if !ok {
				t.Fatal("no turn")
			}
			rounds = append(rounds, round)
		}
		for i, o := range outcomes {
			c.leave(rounds[i], batchOf(0), o, 0)
		}
		_, lanes := c.now()
		return lanes
	}
	for i, step := range []struct {
		outcomes []sinks.Outcome
		want     int
	}{
		{[]sinks.Outcome{sinks.Retry, sinks.Unknown, sinks.Retry, sinks.Retry, sinks.Retry, sinks.Retry, sinks.Retry, sinks.Retry}, 4},
		{[]sinks.Outcome{sinks.Applied, sinks.Applied, sinks.Applied, sinks.Applied}, 5},
		{[]sinks.Outcome{sinks.Applied, sinks.Rejected, sinks.Applied, sinks.Applied, sinks.Applied}, 5},
		{[]sinks.Outcome{sinks.Applied}, 6},
		{[]sinks.Outcome{sinks.Applied, sinks.Applied, sinks.Applied, sinks.Applied, sinks.Unknown, sinks.Applied}, 3},
		{[]sinks.Outcome{sinks.Unknown}, 1},
		{[]sinks.Outcome{sinks.Retry}, 1},
		{[]sinks.Outcome{sinks.Applied}, 2},
	} {
		if got := try(step.outcomes...); got != step.want {
			t.Fatalf("step %d: %d lanes, want %d", i, got, step.want)
		}
	}
	for range 100 {
		try(sinks.Applied)
	}
	if _, lanes := c.now(); lanes != 8 {
		t.Errorf("%d lanes after a long good time, want all 8", lanes)
	}
}

// TestPaceTurns: no more at once than allowed, in the order they came, and one
// who gave up takes no turn with him.
func TestPaceTurns(t *testing.T) {
	c := testPace(1, 10)
	if _, ok := c.enter(t.Context()); !ok {
		t.Fatal("the first has to wait")
	}
	queued := func(n int) {
		eventually(t, "they wait", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.waiting) == n })
	}
	var wg sync.WaitGroup
	order := make(chan int, 10)
	gaveUp, cancel := context.WithCancel(t.Context())
	for i := range 4 {
		ctx := t.Context()
		if i == 1 {
			ctx = gaveUp
		}
		wg.Go(func() {
			round, ok := c.enter(ctx)
			if !ok {
				order <- -1
				return
			}
			order <- i
			c.leave(round, batchOf(0), sinks.Halt, 0)
		})
		queued(i + 1)
	}
	cancel()
	if got := <-order; got != -1 {
		t.Fatalf("%d got a turn out of order", got)
	}
	queued(3)
	c.passed()
	for _, want := range []int{0, 2, 3} {
		if got := <-order; got != want {
			t.Errorf("%d came before %d", got, want)
		}
	}
	wg.Wait()
	if c.running != 0 {
		t.Errorf("%d run at the end", c.running)
	}
}

func TestPaceSize(t *testing.T) {
	c := testPace(1, 640)
	applied := func(n int, took time.Duration) size {
		round, _ := c.enter(t.Context())
		c.leave(round, batchOf(n), sinks.Applied, took)
		s, _ := c.now()
		return s
	}
	ms := time.Millisecond
	for i, step := range []struct {
		n    int
		took time.Duration
		want int
	}{
		{640, 100 * ms, 640}, // on target, at the bound
		{640, 125 * ms, 512},
		{512, time.Hour, 256}, // at most halved
		{0, time.Hour, 256},   // moves alone say nothing
		{100, 10 * ms, 256},   // a small one says nothing of larger ones
		{200, 10 * ms, 289},
		{1, 200 * ms, 144}, // but if even a small one takes long
	} {
		if got := applied(step.n, step.took); got != (size{step.want, step.want * 100}) && i < 5 || got.records != step.want {
			t.Fatalf("step %d: %+v, want %d", i, got, step.want)
		}
	}
	for range 20 {
		applied(1000, time.Second)
	}
	if s, _ := c.now(); s.records != 10 || s.bytes != 1000 {
		t.Errorf("%+v in a store that never gets faster, want a 64th", s)
	}
	for range 100 {
		applied(1000, ms)
	}
	if s, _ := c.now(); s != (size{640, 64000}) {
		t.Errorf("%+v after a long good time, want the bounds", s)
	}
}

// gauge counts calls of Apply under way and fails while down.
type gauge struct {
	sinks.Sink
	down     atomic.Bool
	hold     chan struct{} // not nil: calls while up wait for it
	cost     time.Duration // of a record
	now      atomic.Int64
	failed   atomic.Int64
	mu       sync.Mutex
	after    []int64 // calls under way as each began, since the store is back
	recordsN []int
}

func (g *gauge) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	now := g.now.Add(1)
	defer g.now.Add(-1)
	if g.down.Load() {
		g.failed.Add(1)
		return nil, sinks.WithOutcome(sinks.Retry, sinktest.ErrAway)
	}
	g.mu.Lock()
	g.after = append(g.after, now)
	g.recordsN = append(g.recordsN, len(b.Records))
	g.mu.Unlock()
	if g.hold != nil {
		<-g.hold
	}
	pause(ctx, max(time.Millisecond, g.cost*time.Duration(len(b.Records))))
	return g.Sink.Apply(ctx, b)
}

// TestRecoveringStoreIsNotFlooded: the first call after an outage is alone, and
// all lanes are back in the end.
func TestRecoveringStoreIsNotFlooded(t *testing.T) {
	r := newRig(t)
	g := &gauge{Sink: sinktest.NewMemory(), hold: make(chan struct{})}
	g.down.Store(true)
	o := fast()
	o.Lanes, o.Batch.Records, o.Batch.Linger = 8, 5, -1
	last := r.write(bumps(2000, 200)...)
	run := r.start(g, o)
	release := sync.OnceFunc(func() { close(g.hold) })
	t.Cleanup(release)
	eventually(t, "the store is away for long", func() bool { return g.failed.Load() > 20 && run.Status().Concurrency == 1 })
	g.down.Store(false)
	g.oneOfEight(t, run)
	release()
	run.await(last)
	r.check(g.Sink.(*sinktest.Memory))
	if g.after[0] != 1 || g.after[1] > 2 {
		t.Errorf("calls at once %v: flooded", g.after[:10])
	}
	if run.Status().Concurrency != 8 {
		t.Errorf("%d lanes in the end, want 8", run.Status().Concurrency)
	}
}

// oneOfEight waits until seven lanes of run wait for the eighth, which alone may
// be at the store.
func (g *gauge) oneOfEight(t *testing.T, run *running) {
	t.Helper()
	eventually(t, "seven lanes wait for the eighth", func() bool {
		run.pace.mu.Lock()
		defer run.pace.mu.Unlock()
		return len(run.pace.waiting) == 7 && run.pace.running == 1
	})
	if n := g.now.Load(); n != 1 {
		t.Errorf("%d calls at once: flooded", n)
	}
}

// TestStoreAwayAtStartIsNotFlooded: one that could not be claimed at first meets
// one lane first, too.
func TestStoreAwayAtStartIsNotFlooded(t *testing.T) {
	r := newRig(t)
	g := &gauge{Sink: sinktest.NewMemory(), hold: make(chan struct{})}
	f := sinktest.NewFaulty(g)
	f.FailResume(3, sinktest.ErrAway)
	o := fast()
	o.Lanes, o.Batch.Records, o.Batch.Linger = 8, 5, -1
	last := r.write(bumps(2000, 200)...)
	run := r.start(f, o)
	release := sync.OnceFunc(func() { close(g.hold) })
	t.Cleanup(release)
	g.oneOfEight(t, run)
	release()
	run.await(last)
	r.check(g.Sink.(*sinktest.Memory))
}

// TestSlowStoreGetsSmallerBatches: a store that takes a millisecond per record
// gets batches that take about the target.
func TestSlowStoreGetsSmallerBatches(t *testing.T) {
	r := newRig(t)
	g := &gauge{Sink: sinktest.NewMemory(), cost: time.Millisecond}
	o := fast()
	o.Lanes, o.Batch.Records, o.Batch.Linger, o.Batch.Latency = 1, 400, -1, 40*time.Millisecond
	last := r.write(bumps(1500, 200)...)
	run := r.start(g, o)
	run.await(last)
	for _, n := range g.recordsN[len(g.recordsN)/2:] {
		if n > 80 {
			t.Fatalf("batches %v: still of %d records", g.recordsN, n)
		}
	}
}

// TestPause: nothing reaches the sink while the loop is paused, also not at the
// end; what is under way ends first; Resume goes on where it was.
func TestPause(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	f := sinktest.NewFaulty(memory)
	release := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.CallNumber(1), Do: sinktest.HoldBefore(release)})
	o := fast()
	o.Lanes, o.QueueBytes = 2, 5000
	run := r.start(f, o)
	r.write(bumps(10, 5)...)
	awaitCall(t, f, "a call", func(sinktest.Call) bool { return true })
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := run.Pause(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Pause during a call: %v, want that it waits", err)
	}
	close(release)
	if err := run.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls := len(f.Calls())
	last := r.write(bumps(200, 30)...)
	eventually(t, "the queue fills", func() bool { return run.Status().QueueBytes > 3000 })
	if s := run.Status(); s.State != Paused || s.QueueBytes > 5000 || len(f.Calls()) != calls {
		t.Errorf("%+v, %d calls more; want it paused", s, len(f.Calls())-calls)
	}
	run.Resume()
	run.await(last)
	r.check(memory)
	if err := run.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls = len(f.Calls())
	r.write(bumps(5, 3)...)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(f.Calls()); n != calls {
		t.Errorf("%d calls of a paused loop that was stopped", n-calls)
	}
	again := r.loop(f, o)
	if err := again.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- again.Run(ctx) }()
	claims := len(f.Resumes())
	eventually(t, "it runs and waits", func() bool {
		again.pace.mu.Lock()
		defer again.pace.mu.Unlock()
		return len(again.pace.waiting) == 1
	})
	stop()
	if err := <-ended; err != nil || len(f.Resumes()) != claims || len(f.Calls()) != calls {
		t.Errorf("%v, %d claims: a paused loop touched the sink", err, len(f.Resumes())-claims)
	}
}

// TestBackWakesAll: after an outage the lane that gets through first ends the
// backoff of the others, which would otherwise last for hours here.
func TestBackWakesAll(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: 1 << 30})
	o := fast()
	o.Lanes, o.RetryMin, o.RetryMax = 4, 10*time.Millisecond, 24*time.Hour
	last := r.write(bumps(200, 50)...)
	l := r.loop(f, o)
	var failures, asleep atomic.Int64
	sleepers := int64(o.Lanes - 1)
	l.random = func() float64 {
		// First all lanes fail often; then all but one draw a long wait.
		if failures.Add(1) > 100 && asleep.Add(1) <= sleepers {
			return 1
		}
		return 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{Loop: l, t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.err = l.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-run.done })
	eventually(t, "all lanes but one sleep", func() bool { return asleep.Load() > sleepers+5 })
	f.Clear()
	// Not Wait, which would wake them itself.
	eventually(t, "everything is applied", func() bool { return run.Applied() >= last })
	r.check(f)
}

// TestAwaitedBackoff: a backoff is cut to awaitedMax where somebody waits already, and
// awaitedMax after its beginning, or at once, when somebody comes; nobody else shortens it.
func TestAwaitedBackoff(t *testing.T) {
	for _, e := range []struct {
		name       string
		backoff    time.Duration
		comes      time.Duration // when somebody begins to wait, from the backoff's beginning; negative: nobody does
		want, asks time.Duration
	}{
		{"nobody waits", time.Hour, -1, time.Hour, 0},
		{"somebody does", time.Hour, 0, awaitedMax, 0},
		{"somebody comes", time.Hour, awaitedMax / 4, awaitedMax, 0},
		{"somebody comes late", time.Hour, 10 * awaitedMax, 10 * awaitedMax, 0},
		{"short as it is", awaitedMax / 2, 0, awaitedMax / 2, 0},
		{"asked in vain", time.Hour, -1, time.Hour, time.Minute},
	} {
		t.Run(e.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := testPace(1, 10)
				var awaited atomic.Bool
				awaited.Store(e.comes == 0)
				began := time.Now()
				ended := make(chan time.Duration)
				go func() {
					c.wait(t.Context(), e.backoff, awaited.Load)
					ended <- time.Since(began)
				}()
				synctest.Wait()
				if when := max(e.comes, e.asks); when > 0 {
					time.Sleep(when)
					awaited.Store(e.comes > 0)
					c.ask()
				}
				if took := <-ended; took != e.want {
					t.Errorf("it took %v, want %v", took, e.want)
				}
			})
		})
	}
}

// TestWaitCutsBackoff: who waits for what is pending waits no longer than awaitedMax for
// the next attempt, of an Apply and of a claim, whose backoffs last for hours here.
func TestWaitCutsBackoff(t *testing.T) {
	for _, claim := range []bool{false, true} {
		r := newRig(t)
		f := sinktest.NewFaulty(sinktest.NewMemory())
		if claim {
			f.FailResume(3, sinktest.ErrAway)
		} else {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: 1})
		}
		o := fast()
		o.Lanes, o.RetryMin, o.RetryMax = 1, 24*time.Hour, 24*time.Hour
		last := r.write(bumps(10, 5)...)
		run := r.start(f, o)
		eventually(t, "it backs off", func() bool {
			run.pace.mu.Lock()
			defer run.pace.mu.Unlock()
			return run.pace.resting == 1
		})
		run.await(last)
		r.check(f)
	}
}
