package looptest

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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

const (
	sinkName = "main"
	// patience bounds every wait.
	patience = time.Minute
)

var errDead = errors.New("looptest: the process is dead")

// driver is one history.
type driver struct {
	t      *testing.T
	h      sinktest.Harness
	random *rand.Rand
	dir    string
	store  sinktest.Store
	log    *wal.Log
	state  *state.Store
	model  *model
	clock  int64 // accepted time of the last record, Unix nanoseconds
}

func newDriver(t *testing.T, h sinktest.Harness, random *rand.Rand) *driver {
	t.Helper()
	store, err := h.New()
	if err != nil {
		t.Fatalf("Harness.New: %v", err)
	}
	d := &driver{t: t, h: h, random: random, dir: filepath.Join(t.TempDir(), "data"), store: store, model: newModel(),
		clock: time.Unix(1_600_000_000, 0).UnixNano()}
	d.open()
	t.Cleanup(func() {
		d.close()
		if err := store.Remove(); err != nil {
			t.Errorf("Store.Remove: %v", err)
		}
	})
	return d
}

// open opens log and state store, as a start does.
func (d *driver) open() {
	d.t.Helper()
	var err error
	d.log, err = wal.Open(filepath.Join(d.dir, "log"), wal.Options{
		MinFree: -1, RingBytes: 1 << 20, SegmentBytes: 8192,
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

// writeSome logs some records and retries, durably.
func (d *driver) writeSome() {
	for range d.draw(40) {
		d.write(pick(d, []string{sinkName}, []string{"other", sinkName}, []string{sinkName}, []string{"other"}), 0, d.drawRecord())
		if d.chance(5) {
			d.retrySome()
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

// write logs one record and tells the model.
func (d *driver) write(routes []string, origin wal.LSN, ms []*walproxyv1.Mutation) {
	d.t.Helper()
	d.clock++
	body := &walproxyv1.Record{Format: mutation.Format, AcceptedUnixNanos: d.clock, Routes: routes}
	if origin != 0 {
		body.Origin = &walproxyv1.Origin{Lsn: uint64(origin), Sink: sinkName}
	}
	body.Body = &walproxyv1.Record_Group{Group: groupOf(ms)}
	if len(ms) == 1 {
		body.Body = &walproxyv1.Record_Mutation{Mutation: ms[0]}
	}
	payload, err := mutation.Encode(nil, body)
	d.must(err)
	ticket, err := d.log.Enqueue(context.Background(), payload)
	d.must(err)
	if slices.Contains(routes, sinkName) {
		d.model.record(ticket.LSN, origin, time.Unix(0, d.clock).UTC(), ms)
	}
}

// running is a loop under way on an open sink.
type running struct {
	*replay.Loop
	sink   sinks.Sink
	faulty *sinktest.Faulty
	cancel context.CancelFunc
	done   chan error
}

// start opens the store and runs the loop on it. The loop's process dies early
// if mortal.
func (d *driver) start(mortal bool) *running {
	d.t.Helper()
	sink, err := d.store.Open()
	if err != nil {
		d.t.Fatalf("Store.Open: %v", err)
	}
	run := &running{sink: sink, done: make(chan error, 1)}
	seen := sink
	if mortal {
		run.faulty = sinktest.NewFaulty(d.newMortal(sink))
		d.addFaults(run.faulty)
		seen = run.faulty
	}
	o := d.drawOptions()
	log := d.log
	o.OnCheckpoint = func(at wal.LSN) { log.Release(at + 1) }
	run.Loop, err = replay.New(d.log, d.state, seen, o)
	d.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	run.cancel = cancel
	go func() { run.done <- run.Run(ctx) }()
	return run
}

// stop ends the loop and returns Run's error.
func (d *driver) stop(run *running) error {
	d.t.Helper()
	run.cancel()
	select {
	case err := <-run.done:
		return err
	case <-time.After(patience):
		d.t.Fatalf("Run did not end: %+v", run.Status())
		return nil
	}
}

func (d *driver) await(run *running) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return run.Wait(ctx, d.log.Durable())
}

// live is one life of the process: writes before and beside a loop, and its end.
func (d *driver) live() {
	d.t.Helper()
	d.writeSome()
	run := d.start(true)
	d.writeSome()
	if d.chance(4) {
		d.pauseAndResume(run)
	}
	var err error
	if d.chance(2) { // else somewhere in the middle
		err = d.await(run)
	}
	if err := errors.Join(err, d.stop(run)); err != nil && !errors.Is(err, errDead) {
		d.t.Fatalf("%v; %+v", err, run.Status())
	}
	d.giveUp(run)
	d.endSink(run)
	switch d.draw(4) {
	case 0:
		d.close()
		d.open()
	case 1:
		d.kill()
	}
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
	run.Resume()
}

// giveUp deletes a dead letter that the checkpoint covers.
func (d *driver) giveUp(run *running) {
	d.t.Helper()
	if len(d.model.dead) == 0 || !d.chance(4) || run.Checkpoint() < d.log.Durable() {
		return
	}
	lsn := pick(d, slices.Sorted(maps.Keys(d.model.dead))...)
	if ok, err := run.Letters().Delete(lsn); err != nil || !ok {
		d.t.Fatalf("Delete(%d): %v, %v", lsn, ok, err)
	}
	delete(d.model.dead, lsn)
	d.model.fates[lsn] = replay.Dead
}

// endSink closes the sink, or kills the store under it.
func (d *driver) endSink(run *running) {
	d.t.Helper()
	if d.chance(2) {
		if err := d.store.Crash(run.sink); err != nil {
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
