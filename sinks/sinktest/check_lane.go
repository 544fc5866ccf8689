package sinktest

import (
	"fmt"
	"sync"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
)

func afterTimeout() <-chan time.Time { return time.After(callTimeout) }

func laneChecks() []check {
	return []check{
		{name: "lanes/relane", lanes: 2, run: relane,
			why: "another number of lanes is switched to in one transaction, with nothing skipped or doubled"},
		{name: "lanes/relane-fenced", lanes: 2, run: relaneFenced,
			why: "an old owner must not put the lanes back"},
		{name: "lanes/parallel", lanes: 4, run: parallel,
			why: "lanes apply at the same time; none may overwrite another's checkpoint or records"},
	}
}

// relaned is the batch that makes all of the new lanes stand at the last record.
func (r *rig) relaned(lanes int) *sinks.Batch {
	b := &sinks.Batch{Epoch: r.cp.Epoch, Relane: true}
	for i := range lanes {
		b.Moves = append(b.Moves, sinks.Move{Lane: i, To: r.point(r.last)})
	}
	return b
}

func relane(r *rig) {
	for _, lanes := range []int{5, 1, 3} {
		r.mustApply(r.batch(0, r.record(add("a"))))
		r.mustApply(r.relaned(lanes))
		again := r.relaned(lanes)
		r.mustReport(again) // its answer was lost
		r.mustStay()
		for i := range lanes {
			r.mustApply(r.batch(i, r.record(add("a"))))
		}
		r.crash()
		r.mustStay()
	}
	b := r.batch(0, r.record(add("a")))
	b.Moves[0].Lane = 4
	r.mustFence(b, "on a lane that the relane took away")
	r.mustStay()
}

func relaneFenced(r *rig) {
	r.mustApply(r.batch(0, r.record(add("a"))))
	old := r.relaned(1)
	r.resume()
	r.mustFence(old, "a relane of the epoch before")
	r.mustStay()
}

// parallel applies on all lanes at once, with retries of what was applied.
func parallel(r *rig) {
	const batches, size = 40, 5
	plan := make([][]*sinks.Batch, len(r.cp.Lanes))
	for range batches {
		for lane := range plan {
			name := fmt.Sprintf("lane%d", lane)
			var records []sinks.Record
			for range size {
				records = append(records, r.record(add(name)))
			}
			if !r.h.NoEvents {
				records = append(records, r.record(event(name, lane)))
			}
			b := r.batch(lane, records...)
			plan[lane] = append(plan[lane], b)
			r.applied(b) // the next batch continues from here
		}
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(plan))
	for _, todo := range plan {
		wg.Go(func() {
			for i, b := range todo {
				for range 1 + i%2 { // every other one twice
					if err := r.applyQuietly(b); err != nil {
						errs <- err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		r.t.Fatalf("%v", err)
	}
	r.check()
	r.crash()
	r.mustStay()
}

// applyQuietly is mustReport for goroutines.
func (r *rig) applyQuietly(b *sinks.Batch) error {
	ctx, cancel := r.ctx()
	defer cancel()
	results, err := r.sink.Apply(ctx, b)
	if err == nil {
		err = shape(b, results, err)
	}
	for i, res := range results {
		if err == nil && res.Outcome != sinks.Applied {
			err = fmt.Errorf("LSN %v is %v (%v)", b.Records[i].LSN, res.Outcome, res.Err)
		}
	}
	if err != nil {
		return fmt.Errorf("Apply of %s: %w", describe(b), err)
	}
	return nil
}

// counter is a batch of one increment, for goroutines.
func counter(r *rig, epoch uint64, from sinks.Point, lsn sinks.LSN) *sinks.Batch {
	return &sinks.Batch{
		Epoch:   epoch,
		Records: []sinks.Record{recordOf(r.t, lsn, r.clock, []*walproxyv1.Mutation{add("a")})},
		Moves:   []sinks.Move{{From: from, To: r.point(lsn)}},
	}
}
