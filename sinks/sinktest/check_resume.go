package sinktest

import (
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/sinks"
)

func resumeChecks() []check {
	return []check{
		{name: "resume/no-checkpoint", noResume: true, run: missingCheckpoint,
			why: "a lost checkpoint that is silently made anew skips or doubles everything applied before"},
		{name: "resume/fresh", noResume: true, run: freshCheckpoint,
			why: "a new checkpoint starts before the first record, with the lanes that the claim asks for"},
		{name: "resume/existing", lanes: 3, run: existingCheckpoint,
			why: "Fresh and Lanes are for a store without a checkpoint; an existing one is never reset or cut"},
		{name: "resume/foreign-stream", run: foreignStream,
			why: "another log's records drained into this store cannot be told from its own afterwards"},
		{name: "resume/position", noResume: true, run: position,
			why: "who only looks must neither fence the owner nor make a checkpoint, and is told what the next claim would find"},
		{name: "resume/rebase", noResume: true, run: rebase,
			why: "a checkpoint that a person replaces is the one they saw, becomes the one they named, and shuts the owner out"},
		{name: "resume/lanes-invalid", noResume: true, run: noLanes,
			why: "a checkpoint without lanes would count everything as applied"},
	}
}

func missingCheckpoint(r *rig) {
	for _, when := range []string{"first", "second", "after a restart"} {
		if when == "after a restart" {
			r.crash()
		}
		ctx, cancel := r.ctx()
		_, err := r.sink.Resume(ctx, r.claim)
		cancel()
		if !errors.Is(err, sinks.ErrNoCheckpoint) {
			r.t.Fatalf("Resume of an empty store without Fresh, %s: %v; want sinks.ErrNoCheckpoint and nothing created", when, err)
		}
	}
}

func freshCheckpoint(r *rig) {
	r.claim.Lanes = 3
	r.fresh()
	if len(r.cp.Lanes) != 3 {
		r.t.Fatalf("the fresh checkpoint has %d lanes, the claim asked for 3", len(r.cp.Lanes))
	}
	for i, p := range r.cp.Lanes {
		if p != (sinks.Point{}) {
			r.t.Fatalf("lane %d of the fresh checkpoint is at %v, want the zero point", i, p)
		}
	}
	if r.cp.Epoch == 0 {
		r.t.Fatalf("the first epoch is 0; epochs start at 1, so that a batch without one is fenced")
	}
	r.crash()
	r.resume() // a crash right after a fresh claim must not lose it
}

func existingCheckpoint(r *rig) {
	r.mustApply(r.batch(1, r.record(add("a"))))
	r.crash()
	r.claim.Lanes, r.claim.Fresh = 7, true
	r.resume()
	r.check()
}

func foreignStream(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	for _, fresh := range []bool{false, true} {
		foreign := sinks.Claim{Stream: uuid.New(), Owner: "another log", Lanes: 1, Fresh: fresh}
		ctx, cancel := r.ctx()
		_, err := r.sink.Resume(ctx, foreign)
		cancel()
		if !errors.Is(err, sinks.ErrForeignStream) {
			r.t.Fatalf("Resume for another stream (fresh %v): %v; want sinks.ErrForeignStream", fresh, err)
		}
	}
	// It changed nothing: the owner before goes on with its epoch.
	r.mustApply(r.batch(0, r.record(add("a"))))
	r.mustStay()
}

// position is for sinks that are a sinks.Positioner.
func position(r *rig) {
	if _, ok := r.sink.(sinks.Positioner); !ok {
		return
	}
	look := func() (sinks.Checkpoint, error) {
		ctx, cancel := r.ctx()
		defer cancel()
		return r.sink.(sinks.Positioner).Position(ctx)
	}
	same := func(when string) {
		got, err := look()
		if err == nil && r.settles() && len(got.Lanes) == len(r.cp.Lanes) && got.Low().LSN <= r.cp.Low().LSN {
			got.Lanes = r.cp.Lanes // where it is settled
		}
		if err != nil || got.Stream != r.cp.Stream || got.Epoch != r.cp.Epoch || !slices.Equal(got.Lanes, r.cp.Lanes) {
			r.t.Fatalf("Position %s: %+v, %v; want the stored checkpoint %+v", when, got, err, r.cp)
		}
	}
	for range 2 {
		if got, err := look(); !errors.Is(err, sinks.ErrNoCheckpoint) {
			r.t.Fatalf("Position of an empty store: %+v, %v; want sinks.ErrNoCheckpoint and nothing created", got, err)
		}
	}
	r.claim.Lanes = 3
	r.fresh()
	same("after a fresh claim")
	r.mustApply(r.batch(1, r.record(add("a"))))
	same("after an Apply")
	r.mustApply(r.batch(1, r.record(add("b")))) // the owner's epoch is as it was
	r.crash()
	same("after a restart, before the claim")
	r.resume()
	r.check()
}

func noLanes(r *rig) {
	r.claim.Lanes, r.claim.Fresh = 0, true
	ctx, cancel := r.ctx()
	defer cancel()
	cp, err := r.sink.Resume(ctx, r.claim)
	if err == nil {
		r.t.Fatalf("Resume with Fresh and 0 lanes: %+v; want an error", cp)
	}
}

// rebase is for sinks that are a sinks.Rebaser.
func rebase(r *rig) {
	sink, ok := r.sink.(sinks.Rebaser)
	if !ok {
		return
	}
	do := func(from, to sinks.Checkpoint) error {
		ctx, cancel := r.ctx()
		defer cancel()
		return sink.Rebase(ctx, "a person", from, to)
	}
	want := func(when string, err, want error) {
		if !errors.Is(err, want) {
			r.t.Fatalf("Rebase %s: %v; want %v", when, err, want)
		}
	}
	look := func(when string, to sinks.Checkpoint) {
		ctx, cancel := r.ctx()
		defer cancel()
		if got, err := sink.Position(ctx); err != nil || !got.SamePlace(to) {
			r.t.Fatalf("Position after a Rebase %s: %+v, %v; want %+v", when, got, err, to)
		}
	}
	point := func(lsn sinks.LSN) sinks.Point { return sinks.Point{LSN: lsn, Incarnation: uuid.New()} }
	none := sinks.Checkpoint{}
	first := sinks.Checkpoint{Stream: r.claim.Stream, Lanes: []sinks.Point{point(3), point(3), point(4)}}
	want("of what is not there", do(first, sinks.Checkpoint{Stream: first.Stream, Lanes: first.Lanes[:1]}), sinks.ErrMoved)
	want("of an empty store", do(none, first), nil)
	look("of an empty store", first)
	want("once more", do(none, first), nil)
	r.crash()
	if sink, ok = r.sink.(sinks.Rebaser); !ok {
		return
	}
	look("and a restart", first)
	ctx, cancel := r.ctx()
	owned, err := r.sink.Resume(ctx, r.claim)
	cancel()
	if err != nil || !owned.SamePlace(first) {
		r.t.Fatalf("Resume after a Rebase: %+v, %v; want the lanes %v", owned, err, first.Lanes)
	}
	second := sinks.Checkpoint{Stream: uuid.New(), Lanes: []sinks.Point{point(9)}}
	want("of another place", do(sinks.Checkpoint{Stream: first.Stream, Lanes: second.Lanes}, sinks.Checkpoint{Stream: first.Stream, Lanes: first.Lanes[1:]}), sinks.ErrMoved)
	look("that was refused", first)
	want("to another stream", do(first, second), nil)
	look("to another stream", second)
	ctx, cancel = r.ctx()
	defer cancel()
	b := &sinks.Batch{Epoch: owned.Epoch, Moves: []sinks.Move{{Lane: 0, From: second.Lanes[0], To: point(12)}}}
	if _, err := r.sink.Apply(ctx, b); !errors.Is(err, sinks.ErrFenced) {
		r.t.Fatalf("Apply of who owned the stream before a Rebase: %v; want sinks.ErrFenced", err)
	}
}
