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
