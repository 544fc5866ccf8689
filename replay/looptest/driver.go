package looptest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// patience bounds every wait; one for a loop, that in which the loop gets nowhere: how
// long it takes for all that was drawn is up to the machine.
const patience = time.Minute

var (
	errDead   = errors.New("looptest: the process is dead")
	errHalted = errors.New("looptest: the target is wrong")
)

// driver is one history: a log, and the sinks that it is applied to.
type driver struct {
	t       *testing.T
	h       sinktest.Harness
	random  *rand.Rand
	dir     string
	targets []*target
	log     *wal.Log
	state   *state.Store
	clock   int64 // accepted time of the last record, Unix nanoseconds
}

// target is a sink with the model of what it has to come to.
type target struct {
	name  string
	store sinktest.Store
	model *model

	mu      sync.Mutex
	routed  []wal.LSN // to it, retries excepted
	applied map[wal.LSN]bool
	floor   wal.LSN // nobody asks about records up to it
}

// missing reports whether a record before lsn is neither applied nor a dead letter
// nor given up.
func (t *target) missing(lsn wal.LSN, letters *state.DeadLetters) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, before := range t.routed {
		if before >= lsn {
			break
		}
		if before <= t.floor || t.applied[before] {
			continue
		}
		_, dead, err := letters.Get(before)
		_, traced, traceErr := letters.Trace(before)
		if !dead && !traced && err == nil && traceErr == nil {
			return true
		}
	}
	return false
}

func newDriver(t *testing.T, h sinktest.Harness, random *rand.Rand) *driver {
	t.Helper()
	d := &driver{t: t, h: h, random: random, dir: filepath.Join(memoryDir(t), "data"),
		clock: time.Unix(1_600_000_000, 0).UnixNano()}
	for i := range pick(d, 1, 1, 2, 3) {
		store, err := h.New()
		if err != nil {
			t.Fatalf("Harness.New: %v", err)
		}
		t.Cleanup(func() {
			if err := store.Remove(); err != nil {
				t.Errorf("Store.Remove: %v", err)
			}
		})
		d.targets = append(d.targets, &target{name: fmt.Sprint("sink", i), store: store, model: newModel(), applied: map[wal.LSN]bool{}})
	}
	d.open()
	t.Cleanup(d.close)
	return d
}

// open opens log and state store, as a start does.
func (d *driver) open() {
	d.t.Helper()
	var err error
	d.log, err = wal.Open(filepath.Join(d.dir, "log"), wal.Options{
		MinFree: -1, SegmentBytes: 4096,
		Attach: func(stream uuid.UUID, empty bool, newest uint64) (uint64, error) {
			if d.state, err = state.Open(filepath.Join(d.dir, "state"), state.Options{}); err != nil {
				return 0, err
			}
			return d.state.Bind(stream, empty, newest)
		},
	})
	d.must(err)
}

func (d *driver) close() {
	if d.log == nil {
		return
	}
	if err := errors.Join(d.state.Close(), d.log.Close()); err != nil {
		d.t.Errorf("close: %v", err)
	}
	d.log, d.state = nil, nil
}

// kill goes on with copies of the files of log and state store as they are while
// both are open: what kill -9 leaves.
func (d *driver) kill() {
	d.t.Helper()
	next := d.dir + "+"
	for attempt := 0; ; attempt++ {
		err := os.CopyFS(next, os.DirFS(d.dir))
		if err == nil {
			break
		}
		d.must(os.RemoveAll(next))
		if attempt == 100 || !errors.Is(err, fs.ErrNotExist) { // files come and go
			d.t.Fatal(err)
		}
	}
	d.close()
	d.must(errors.Join(os.RemoveAll(d.dir), os.Rename(next, d.dir)))
	d.open()
}

func (d *driver) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// retriesBelow is the LSN from which a history retries no more. Retries that are rejected
// can be retried, all of them again and again: one in some hundred histories had thousands,
// each applied alone, and took minutes.
const retriesBelow = 1000

// writeSome logs some records and retries, durably.
func (d *driver) writeSome() {
	for range d.draw(40) {
		routes := []string{"nobody"}
		for _, t := range d.targets {
			if !d.chance(3) {
				routes = append(routes, t.name)
			}
		}
		d.write(routes, nil, 0, d.drawRecord())
		if d.log.Appended() > retriesBelow {
			continue
		}
		if d.chance(5) {
			d.retrySome(pick(d, d.targets...))
		}
		if d.chance(15) {
			d.retryMany(pick(d, d.targets...))
		}
	}
	d.must(d.log.WaitDurable(context.Background(), d.log.Appended()))
}

func groupOf(ms []*walproxyv1.Mutation) *walproxyv1.Group {
	g := &walproxyv1.Group{}
	for _, m := range ms {
		g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
	}
	return g
}

// write logs one record and tells the models. It may retry a dead letter of a
// target.
func (d *driver) write(routes []string, of *target, origin wal.LSN, ms []*walproxyv1.Mutation) {
	d.t.Helper()
	d.clock++
	body := &walproxyv1.Record{Format: mutation.Format, AcceptedUnixNanos: d.clock, Routes: routes}
	if of != nil {
		body.Origin = &walproxyv1.Origin{Lsn: uint64(origin), Sink: of.name}
	}
	body.Body = &walproxyv1.Record_Group{Group: groupOf(ms)}
	if len(ms) == 1 {
		body.Body = &walproxyv1.Record_Mutation{Mutation: ms[0]}
	}
	payload, err := mutation.Encode(nil, body)
	d.must(err)
	ticket, err := d.log.Enqueue(context.Background(), payload)
	d.must(err)
	for _, t := range d.targets {
		if slices.Contains(routes, t.name) {
			retried := origin
			if t != of { // to any other it is a write like others
				retried = 0
			}
			t.model.record(ticket.LSN, retried, time.Unix(0, d.clock).UTC(), ms)
			if of == nil {
				t.mu.Lock()
				t.routed = append(t.routed, ticket.LSN)
				t.mu.Unlock()
			}
		}
	}
}

// running is a loop under way on an open sink.
type running struct {
	*replay.Loop
	*target
	sink   sinks.Sink
	mortal *mortal
	faulty *sinktest.Faulty
	cancel context.CancelFunc
	done   chan struct{}
	err    error // Run's; read after done
}

// start opens a target's store and runs a loop on it. The loop's process dies
// early if mortal.
func (d *driver) start(t *target, mortal bool, checked func()) *running {
	d.t.Helper()
	sink, err := t.store.Open()
	if err != nil {
		d.t.Fatalf("Store.Open: %v", err)
	}
	run := &running{target: t, sink: sink, done: make(chan struct{})}
	o := d.drawOptions(t.name)
	o.OnCheckpoint = func(wal.LSN) { checked() }
	seen := sink
	if mortal {
		run.mortal = d.newMortal(sink, t)
		run.faulty = sinktest.NewFaulty(run.mortal)
		d.addFaults(run.faulty, &o)
		seen = run.faulty
	}
	seen = settling(seen, sink)
	run.Loop, err = replay.New(d.log, d.state, seen, o)
	d.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	run.cancel = cancel
	go func() {
		defer close(run.done)
		run.err = run.Run(ctx)
	}()
	return run
}

// fleet is the loops of all targets, of which some are not under way.
type fleet struct {
	log   *wal.Log
	mu    sync.Mutex
	loops []*replay.Loop
	runs  []*running
}

// free releases the log below what every loop needs.
func (f *fleet) free() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.loops) == 0 {
		return // not all are there yet
	}
	low := f.loops[0].Needs()
	for _, l := range f.loops {
		low = min(low, l.Needs())
	}
	f.log.Release(low)
}

// startAll starts a loop on every target but those left out: their store is away.
func (d *driver) startAll(mortal bool, leaveOut *target) *fleet {
	d.t.Helper()
	f := &fleet{log: d.log}
	var loops []*replay.Loop
	for _, t := range d.targets {
		if t == leaveOut {
			away, err := replay.New(d.log, d.state, t.nowhere(), replay.Options{Name: t.name})
			d.must(err)
			loops = append(loops, away)
			continue
		}
		run := d.start(t, mortal, f.free)
		f.runs, loops = append(f.runs, run), append(loops, run.Loop)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loops = loops
	return f
}

// nowhere is the sink of a loop that is not run.
func (t *target) nowhere() sinks.Sink { return sinktest.NewMemory() }

// hold takes the records of some sink out of the log, which may then be freed.
func (d *driver) hold(f *fleet) {
	d.t.Helper()
	var sealed []wal.LSN
	for _, e := range d.log.Extents() {
		if e.Sealed && e.Last >= e.First {
			sealed = append(sealed, e.Last)
		}
	}
	if len(sealed) == 0 || d.chance(3) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, through := pick(d, f.loops...), pick(d, sealed...)
	if err := l.Hold(ctx, through); err != nil && !errors.Is(err, wal.ErrBelowFirst) {
		d.t.Fatalf("Hold(%d): %v", through, err)
	} else if err == nil && l.Needs() <= through {
		d.t.Fatalf("Needs() = %d after Hold(%d)", l.Needs(), through)
	}
	f.free()
}

// stop ends the loop and returns Run's error.
func (d *driver) stop(run *running) error {
	d.t.Helper()
	run.cancel()
	select {
	case <-run.done:
		return run.err
	case <-time.After(patience):
		d.t.Fatalf("Run did not end: %+v", run.Status())
		return nil
	}
}

func (d *driver) await(run *running) error {
	return run.whileItGoesOn(func(ctx context.Context) error { return run.Wait(ctx, d.log.Durable()) })
}

// whileItGoesOn waits, again where the time is out but the loop has done something
// in it.
func (run *running) whileItGoesOn(wait func(ctx context.Context) error) error {
	for {
		before := run.progress()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := wait(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || run.progress() == before {
			return err
		}
	}
}

// progress is different whenever the loop has got further.
func (run *running) progress() [4]uint64 {
	s := run.Status()
	return [4]uint64{s.Records, s.Batches, s.DeadLettersMade, uint64(s.Applied)}
}

// expected reports whether a loop may end so, or keep its callers waiting so,
// because of what was drawn.
func expected(err error) bool {
	return errors.Is(err, sinks.ErrRewound) || errors.Is(err, errDead) || errors.Is(err, errHalted) || errors.Is(err, replay.ErrDeadLettersFull)
}

// live is one life of the process: writes before and beside the loops, and its
// end.
func (d *driver) live() {
	d.t.Helper()
	d.writeSome()
	var leaveOut *target
	if len(d.targets) > 1 && d.chance(4) {
		leaveOut = pick(d, d.targets...)
	}
	f := d.startAll(true, leaveOut)
	runs := f.runs
	d.writeSome()
	for range d.draw(3) {
		d.hold(f)
	}
	if d.chance(4) {
		d.pauseAndResume(pick(d, runs...))
	}
	d.giveUp(pick(d, runs...))
	var restarted *running
	if run := pick(d, runs...); d.chance(2) && d.restart(run) {
		restarted = run
		d.writeSome()
	}
	if run := pick(d, runs...); d.chance(2) && run != restarted {
		if err := d.readOne(run); err != nil && !expected(err) {
			d.t.Fatalf("%s: WaitKey: %v; %+v", run.name, err, run.Status())
		}
	}
	switch d.draw(4) {
	case 0, 1: // everything is applied, or is kept from it
		for _, run := range runs {
			if err := d.await(run); err != nil && !expected(err) {
				d.t.Fatalf("%s: Wait: %v; %+v", run.name, err, run.Status())
			}
		}
	case 2: // all of it dies at one instant, somewhere in the middle
		for _, run := range runs {
			run.mortal.left.Store(0)
		}
	}
	for _, run := range runs {
		if err := d.stop(run); err != nil && !expected(err) {
			d.t.Fatalf("%s: %v; %+v", run.name, err, run.Status())
		}
	}
	for _, run := range runs {
		d.giveUp(run)
		d.endSink(run)
	}
	switch d.draw(3) {
	case 0:
		d.close()
		d.open()
	case 1:
		d.kill()
	}
}

// readOne waits for one key only and compares it.
func (d *driver) readOne(run *running) error {
	d.t.Helper()
	if len(run.model.rows) == 0 {
		return nil
	}
	r := run.model.rows[pick(d, slices.Sorted(maps.Keys(run.model.rows))...)]
	if err := run.whileItGoesOn(func(ctx context.Context) error {
		return run.WaitKey(ctx, r.collection, r.key, d.log.Durable())
	}); err != nil {
		return err
	}
	if at := run.AppliedKey(r.collection, r.key); at < d.log.Durable() {
		d.t.Errorf("AppliedKey %d after a wait for %d", at, d.log.Durable())
	}
	if reader := d.reader(run); reader != nil {
		d.compareRow(run, reader, r)
	}
	return nil
}

// reader of the running store; nil: it has none.
func (d *driver) reader(run *running) sinks.Reader {
	if d.h.Reader != nil {
		return d.h.Reader(run.sink)
	}
	reader, _ := run.sink.(sinks.Reader)
	return reader
}

func (d *driver) pauseAndResume(run *running) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d.must(run.Pause(ctx))
	calls := len(run.faulty.Calls())
	d.writeSome()
	if n := len(run.faulty.Calls()); n != calls {
		d.t.Fatalf("%d calls of a paused loop", n-calls)
	}
	run.Loop.Resume()
}

// giveUp deletes a dead letter: any if the checkpoint covers all of the log, else
// one that no later record of its keys has seen. It stays given up if its record
// comes again.
func (d *driver) giveUp(run *running) {
	d.t.Helper()
	m := run.model
	if len(m.dead) == 0 || !d.chance(2) {
		return
	}
	lsn := pick(d, slices.Sorted(maps.Keys(m.dead))...)
	settled := false
	select {
	case <-run.done:
		settled = run.Checkpoint() >= d.log.Durable()
	default:
	}
	if !settled && !m.isLast(m.dead[lsn]) {
		return
	}
	ok, err := run.Letters().Delete(lsn)
	d.must(err)
	if !ok && settled {
		d.t.Fatalf("%s: Delete(%d): there is none", run.name, lsn)
	}
	if ok {
		delete(m.dead, lsn)
		m.fates[lsn] = replay.Dead
	}
}

// endSink closes the sink, or kills the store under it.
func (d *driver) endSink(run *running) {
	d.t.Helper()
	if d.chance(2) {
		if err := run.store.Crash(run.sink); err != nil {
			d.t.Fatalf("Store.Crash: %v", err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run.sink.Close(ctx); err != nil {
		d.t.Fatalf("Close: %v", err)
	}
}
