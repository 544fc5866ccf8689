package aerospike

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/sinks"
)

// contended is how many rounds in a row may lose against somebody else's write.
const contended = 5

// carefulKeys is how many records are in memory at once, each as large as the
// namespace allows.
const carefulKeys = 64

// careful reads the records of works, computes what becomes of them and writes
// that, if they are still as they were read.
func (a *applier) careful(ctx context.Context, works []*work) {
	for part := range slices.Chunk(works, carefulKeys) {
		a.carefully(ctx, part)
	}
}

func (a *applier) carefully(ctx context.Context, works []*work) {
	lost := map[*work]int{} // rounds in a row
	for len(works) > 0 {
		a.sink.metrics.careful.Add(float64(len(works)))
		var next []*work
		for w, again := range a.round(ctx, works) {
			switch {
			case len(w.steps) == 0: // done, or failed
			case !again:
				lost[w] = 0
				next = append(next, w)
			case lost[w]+1 >= contended:
				a.fail(w, sinks.WithOutcome(sinks.Retry, errContended))
			default:
				lost[w]++
				next = append(next, w)
			}
		}
		works = next
	}
}

// round is one attempt. It returns the works, true for those that lost against
// somebody else's write.
func (a *applier) round(ctx context.Context, works []*work) map[*work]bool {
	lost := map[*work]bool{}
	var plans []*plan
	var entries []as.BatchRecordIfc
	var writers []*work
	for w, st := range a.read(ctx, works) {
		if st.guard < w.floor && !a.missing(ctx, w) {
			continue
		}
		lost[w] = false
		p := w.plan(st, a.guard, time.Now())
		if p.covered > 0 && w.steps[0].lsn <= st.guard {
			a.note(w, st.guard, written{dead: st.dead})
		}
		a.advance(w, p.covered)
		if p.write == nil {
			a.reject(w, p)
			continue
		}
		a.window.wrote(first(w.steps))
		plans, entries, writers = append(plans, p), append(entries, p.write), append(writers, w)
	}
	for i, err := range a.send(ctx, entries, writers, true) {
		w, p := writers[i], plans[i]
		switch code := codeOf(err); {
		case err == nil:
			a.note(w, w.steps[p.writes-1].lsn, p.leaves)
			a.advance(w, p.writes)
			a.reject(w, p)
		case overtaken(code):
			lost[w] = true
		case sinks.OutcomeOf(err) == sinks.Rejected && !w.singly && sameRecord(w.steps) < p.writes:
			w.singly = true
		default:
			a.fail(w, err)
		}
	}
	return lost
}

// overtaken reports that the record is not as it was read any more.
func overtaken(code types.ResultCode) bool {
	switch code {
	case types.GENERATION_ERROR, types.KEY_EXISTS_ERROR, types.KEY_NOT_FOUND_ERROR, types.FILTERED_OUT:
		return true
	}
	return false
}

// reject fails w for the record that its plan says can never apply, if any.
func (a *applier) reject(w *work, p *plan) {
	if p.fault != nil {
		a.fail(w, rejected(p.fault))
	}
}

func rejected(err error) error { return sinks.WithOutcome(sinks.Rejected, err) }

// read reads the records of works; those that cannot be read, or cannot be at all,
// fail and are left out.
func (a *applier) read(ctx context.Context, works []*work) map[*work]*stored {
	found := map[*work]*stored{}
	var entries []as.BatchRecordIfc
	var readers []*work
	for _, w := range works {
		if w.fault != nil {
			a.fail(w, rejected(w.fault))
			continue
		}
		entries, readers = append(entries, w.read(a.guard)), append(readers, w)
	}
	for i, err := range a.send(ctx, entries, readers, false) {
		switch {
		case codeOf(err) == types.KEY_NOT_FOUND_ERROR:
			found[readers[i]] = &stored{}
		case err != nil:
			a.fail(readers[i], unread(err))
		default:
			found[readers[i]] = parse(entries[i].BatchRec().Record, a.guard)
		}
	}
	return found
}

// unread is the outcome of a failed read: no record is to blame for it.
func unread(err error) error {
	if sinks.OutcomeOf(err) == sinks.Rejected {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("reading the record: %w", err))
	}
	return err
}

// errHalf: a group was begun and cannot be ended.
var errHalf = errors.New("sink aerospike: some records of the group are written and another one can never be: Aerospike has no transaction over several records, and somebody else writes these; put the records right, then resume the sink")

// group does one record that spans keys: all of it is computed before any of it is
// written, so that it is refused as a whole. A crash between two writes leaves it
// to the retry, which the guards keep from doing anything twice.
func (a *applier) group(ctx context.Context, p *phase) {
	for try := 1; ; try++ {
		err := a.tryGroup(ctx, p.works)
		switch {
		case err == nil:
			a.results[p.first] = sinks.Result{Outcome: sinks.Applied}
			return
		case errors.Is(err, errContended) && try < contended:
			continue
		}
		a.results[p.first] = sinks.Result{Outcome: sinks.OutcomeOf(err), Err: err}
		return
	}
}

func (a *applier) tryGroup(ctx context.Context, works []*work) error {
	all := a.results
	a.results = make([]sinks.Result, len(all)) // of single keys: not the group's
	defer func() { a.results = all }()
	record := works[0].steps[0].record
	todo := make([]*work, len(works)) // a.read takes steps off those that fail
	for i, w := range works {
		c := *w
		if c.fault == nil {
			c.floor = a.window.floor(c.place.Place, c.digest())
		}
		todo[i] = &c
	}
	found := a.read(ctx, todo)
	if len(found) < len(todo) {
		return a.results[record].Err
	}
	begun := false
	var entries []as.BatchRecordIfc
	var writers []*work
	var refused error
	var plans []*plan
	for _, w := range todo {
		if found[w].guard < w.floor && !a.missing(ctx, w) {
			return a.rewound
		}
		plan := w.plan(found[w], a.guard, time.Now())
		begun = begun || found[w].guard >= w.steps[0].lsn
		if plan.fault != nil && refused == nil {
			refused = plan.fault
		}
		if plan.write != nil {
			a.window.wrote(first(w.steps))
			entries, writers, plans = append(entries, plan.write), append(writers, w), append(plans, plan)
		} else if found[w].guard >= w.steps[0].lsn {
			a.note(w, found[w].guard, written{dead: found[w].dead})
		}
	}
	if refused != nil {
		return unless(begun, sinks.WithOutcome(sinks.Halt, fmt.Errorf("%w: %w", errHalf, refused)), rejected(refused))
	}
	return a.writeGroup(ctx, entries, writers, plans, begun)
}

func (a *applier) writeGroup(ctx context.Context, entries []as.BatchRecordIfc, writers []*work, plans []*plan, begun bool) error {
	var worst, refused error
	contends, done := false, begun
	for i, err := range a.send(ctx, entries, writers, true) {
		switch {
		case err == nil:
			a.note(writers[i], last(writers[i].steps), plans[i].leaves)
			done = true
		case overtaken(codeOf(err)):
			contends = true
		case sinks.OutcomeOf(err) == sinks.Rejected:
			refused = err
		case worst == nil || sinks.OutcomeOf(err) == sinks.Halt:
			worst = err
		}
	}
	switch {
	case refused != nil && (done || contends || worst != nil):
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("%w: %w", errHalf, refused))
	case refused != nil:
		return refused
	case worst != nil:
		return worst
	case contends:
		return sinks.WithOutcome(sinks.Retry, errContended)
	}
	return nil
}
