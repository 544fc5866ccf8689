package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
)

func crashChecks() []check {
	return []check{
		{name: "crash/durable", lanes: 2, run: crashDurable,
			why: "Applied means durable: the loop frees the log behind it"},
		{name: "crash/before-apply", run: crashBefore,
			why: "a batch that never arrived is sent again after the restart"},
		{name: "crash/answer-lost", run: crashAfter,
			why: "the commit happened, its answer did not: the new process goes on from the stored checkpoint"},
		{name: "crash/between-lanes", lanes: 3, run: crashBetweenLanes,
			why: "lanes stand at different points when the process dies; each goes on from its own"},
		{name: "crash/during-apply", lanes: 2, run: crashDuring,
			why: "a crash may come between any two steps of an Apply; data and checkpoint then still agree"},
		{name: "unknown/not-committed", run: unknownNot,
			why: "an unknown outcome that turns out not committed is applied by the retry"},
		{name: "unknown/committed", run: unknownDone,
			why: "an unknown outcome that turns out committed is not applied again by the retry"},
		{name: "store/away-at-start", noResume: true, run: awayAtStart,
			why: "a store that is away at the start is claimed when it is back"},
	}
}

func crashDurable(r *rig) {
	for i := range 6 {
		r.mustApply(r.batch(i%2, r.record(add("a")), r.record(write("b", "x"))))
		r.crash()
		if !r.settles() {
			r.check() // before anybody claims
		}
		r.mustStay()
	}
}

func crashBefore(r *rig) {
	b := r.batch(0, r.record(add("a")))
	r.crash()
	r.resume()
	r.mustApply(r.renewed(b))
	r.mustStay()
}

func crashAfter(r *rig) {
	for range 3 {
		f := NewFaulty(r.sink)
		f.Add(Rule{Do: LoseAnswer(ErrAway)})
		b := r.batch(0, r.record(add("a")), r.record(write("b", "x")))
		ctx, cancel := r.ctx()
		if _, err := f.Apply(ctx, b); !errors.Is(err, ErrAway) {
			r.t.Fatalf("Apply of %s: %v; want it applied and its answer lost", describe(b), err)
		}
		cancel()
		r.applied(b)
		r.crash()
		r.mustStay() // the checkpoint has the batch, and so has the data
	}
}

func crashBetweenLanes(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.mustApply(r.batch(2, r.record(add("c")), r.record(add("c"))))
	r.crash()
	r.resume()
	r.mustApply(r.batch(1, r.record(add("b"))))
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.crash()
	r.mustStay()
}

// crashDuring crashes the store at no particular moment while both lanes apply.
func crashDuring(r *rig) {
	for range 12 {
		cp, sink := r.cp, r.sink
		runs := make([]*running, len(cp.Lanes))
		var wg sync.WaitGroup
		for lane := range runs {
			run := &running{lane: lane, at: cp.Lanes[lane], moved: make(chan struct{}, 1)}
			runs[lane] = run
			for i := range 400 { // more than can be applied before the crash
				lsn := r.last + sinks.LSN(2*i+lane+1)
				run.points = append(run.points, r.point(lsn))
			}
			wg.Go(func() { run.err = run.apply(r, sink, cp.Epoch) })
		}
		for _, run := range runs { // both are at it
			select {
			case <-run.moved:
			case <-afterTimeout():
				r.t.Fatalf("lane %d applied nothing for %v", run.lane, callTimeout)
			}
		}
		acked := make([]int64, len(runs))
		for lane, run := range runs {
			acked[lane] = run.acked.Load()
		}
		r.crash()
		got := r.claims()
		wg.Wait() // the old owner is dead or fenced
		if r.settles() {
			r.agreeSettled(runs)
			r.last += 2 * 400
			r.check()
			continue
		}
		for lane, run := range runs {
			if run.err != nil && sinks.OutcomeOf(run.err) == sinks.Rejected {
				r.t.Fatalf("lane %d: %v", lane, run.err)
			}
			r.agree(run, got.Lanes[lane], acked[lane])
		}
		r.last += 2 * 400
		r.check()
	}
}

// running is one lane of an owner that will crash. Each of its batches is one
// increment and one piece of text.
type running struct {
	lane   int
	at     sinks.Point
	points []sinks.Point
	moved  chan struct{} // gets one value after the third batch
	acked  atomic.Int64  // batches reported applied
	err    error
}

func (run *running) name() string { return fmt.Sprintf("lane%d", run.lane) }

func (run *running) record(r *rig, i int) sinks.Record {
	n, text := add(run.name()), write(run.name()+"-text", string(rune('a'+i%26)))
	if r.h.NoGroups {
		return recordOf(r.t, run.points[i].LSN, r.clock, []*walproxyv1.Mutation{n})
	}
	return recordOf(r.t, run.points[i].LSN, r.clock, []*walproxyv1.Mutation{n, text})
}

func (run *running) apply(r *rig, sink sinks.Sink, epoch uint64) error {
	at := run.at
	for i, to := range run.points {
		b := &sinks.Batch{
			Epoch: epoch, Records: []sinks.Record{run.record(r, i)},
			Moves: []sinks.Move{{Lane: run.lane, From: at, To: to}},
		}
		ctx, cancel := r.ctx()
		_, err := sink.Apply(ctx, b)
		cancel()
		if err != nil {
			return err
		}
		at = to
		if run.acked.Add(1) == 3 {
			run.moved <- struct{}{}
		}
	}
	return nil
}

// agree wants a lane's checkpoint to be one of its batches, none below what was
// reported applied before the crash, and takes the model there.
func (r *rig) agree(run *running, at sinks.Point, acked int64) {
	r.t.Helper()
	done := slices.Index(run.points, at) + 1
	if done == 0 && at != run.at {
		r.t.Fatalf("after the crash lane %d is at %v, which is no batch's end", run.lane, at)
	}
	if int64(done) < acked {
		r.t.Fatalf("after the crash lane %d has %d batches, but %d were reported applied: Applied means durable", run.lane, done, acked)
	}
	if r.h.NotTransactional && done < len(run.points) {
		r.goOn(run, at, done)
		done++
	}
	for i := range done {
		rec := run.record(r, i)
		if err := r.model.apply(&rec); err != nil {
			r.t.Fatalf("sinktest: the model rejects LSN %v: %v", rec.LSN, err)
		}
	}
}

// goOn sends the batch after the checkpoint again, as the loop does: all, some or
// nothing of it was applied before the crash.
func (r *rig) goOn(run *running, at sinks.Point, i int) {
	r.t.Helper()
	b := &sinks.Batch{
		Epoch: r.cp.Epoch, Records: []sinks.Record{run.record(r, i)},
		Moves: []sinks.Move{{Lane: run.lane, From: at, To: run.points[i]}},
	}
	r.mustReport(b)
	r.cp.Lanes[run.lane] = run.points[i]
}

// agreeSettled has a Settler apply again what was reported applied, and the batch
// that may have been.
func (r *rig) agreeSettled(runs []*running) {
	r.t.Helper()
	high := r.cp.Low()
	for _, run := range runs {
		if run.err != nil && sinks.OutcomeOf(run.err) == sinks.Rejected {
			r.t.Fatalf("lane %d: %v", run.lane, run.err)
		}
		for i := range min(int(run.acked.Load())+1, len(run.points)) {
			rec := run.record(r, i)
			if err := r.model.apply(&rec); err != nil {
				r.t.Fatalf("sinktest: the model rejects LSN %v: %v", rec.LSN, err)
			}
			r.history = append(r.history, rec)
			if rec.LSN > high.LSN {
				high = r.point(rec.LSN)
			}
		}
	}
	r.again(high)
}

func unknownNot(r *rig) {
	f := NewFaulty(r.sink)
	f.Add(Rule{Do: FailBefore(sinks.Unknown, ErrAway), Times: 2})
	b := r.batch(0, r.record(add("a")))
	r.retry(f, b)
}

func unknownDone(r *rig) {
	f := NewFaulty(r.sink)
	f.Add(Rule{Do: LoseAnswer(ErrAway), Times: 2})
	b := r.batch(0, r.record(add("a")), r.record(write("b", "x")))
	r.retry(f, b)
}

// retry sends b until it is applied, as the loop does.
func (r *rig) retry(f *Faulty, b *sinks.Batch) {
	r.t.Helper()
	for try := 1; ; try++ {
		ctx, cancel := r.ctx()
		results, err := f.Apply(ctx, b)
		cancel()
		if err == nil {
			break
		}
		if o := outcomes(b, results, err)[0]; o != sinks.Unknown || try > 2 {
			r.t.Fatalf("try %d: %v, outcome %v; want two unknowns and then applied", try, err, o)
		}
	}
	r.applied(b)
	r.mustStay()
}

func awayAtStart(r *rig) {
	f := NewFaulty(r.sink)
	f.FailResume(2, ErrAway)
	r.claim.Fresh = true
	for range 2 {
		if _, err := f.Resume(context.Background(), r.claim); !errors.Is(err, ErrAway) {
			r.t.Fatalf("Resume with the store away: %v", err)
		}
	}
	r.fresh()
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.mustStay()
}
