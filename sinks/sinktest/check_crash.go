package sinktest

import (
	"context"
	"errors"

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
		r.check() // before anybody claims
		r.mustStay()
	}
}

func crashBefore(r *rig) {
	b := r.batch(0, r.record(add("a")))
	r.crash()
	r.resume()
	again := *b
	again.Epoch = r.cp.Epoch
	r.mustApply(&again)
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
