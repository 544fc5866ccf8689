package sinks

import (
	"fmt"
	"slices"
)

// BatchError says what is wrong with a batch: a defect of its sender, marked
// Halt. A sink that applied such a batch could lose or double records.
type BatchError struct {
	Field  string // path, as "records[3].lsn"
	Reason string
}

func (e *BatchError) Error() string { return fmt.Sprintf("batch: %s: %s", e.Field, e.Reason) }

// Validate checks what every sink may rely on: records ascending, each with a
// body and inside the moves; each lane moved once and forward; the lanes of a
// relane numbered 0, 1, 2 and so on, and no records with it. Errors are
// *BatchError, marked Halt.
func (b *Batch) Validate() error {
	fail := func(reason, format string, args ...any) error {
		return WithOutcome(Halt, &BatchError{Field: fmt.Sprintf(format, args...), Reason: reason})
	}
	if len(b.Moves) == 0 {
		return fail("empty: a batch moves at least one lane", "moves")
	}
	var from, to LSN
	for i, m := range b.Moves {
		switch {
		case m.Lane < 0:
			return fail("negative", "moves[%d].lane", i)
		case b.Relane && m.Lane != i:
			return fail(fmt.Sprintf("%d, want %d: a relane lists every lane in order", m.Lane, i), "moves[%d].lane", i)
		case !b.Relane && m.To.LSN <= m.From.LSN:
			return fail(fmt.Sprintf("%v is not after %v", m.To, m.From), "moves[%d].to", i)
		case slices.ContainsFunc(b.Moves[:i], func(o Move) bool { return o.Lane == m.Lane }):
			return fail(fmt.Sprintf("lane %d is moved twice", m.Lane), "moves[%d].lane", i)
		}
		if i == 0 || m.From.LSN < from {
			from = m.From.LSN
		}
		to = max(to, m.To.LSN)
	}
	if b.Relane && len(b.Records) > 0 {
		return fail("a relane carries no records", "records")
	}
	last := from
	for i := range b.Records {
		r := &b.Records[i]
		switch {
		case r.Body == nil:
			return fail("missing", "records[%d].body", i)
		case r.LSN <= last:
			return fail(fmt.Sprintf("%v is not after %v", r.LSN, last), "records[%d].lsn", i)
		case r.LSN > to:
			return fail(fmt.Sprintf("%v lies behind the checkpoint %v that the batch moves to", r.LSN, to), "records[%d].lsn", i)
		}
		last = r.LSN
	}
	return nil
}

// Begin says what a sink that keeps c has to do with b:
//
//   - done: b was applied before (an answer was lost). Report every record
//     Applied and change nothing.
//   - err: ErrFenced, b comes from another owner or continues from elsewhere.
//     Change nothing.
//   - else: apply the records and store next, in one transaction.
//
// A sink whose store can compare the checkpoint itself, inside the transaction,
// should rather do that. c and b are not changed.
func (c Checkpoint) Begin(b *Batch) (next Checkpoint, done bool, err error) {
	if b.Epoch != c.Epoch {
		return c, false, fmt.Errorf("%w: the batch has epoch %d, the store %d", ErrFenced, b.Epoch, c.Epoch)
	}
	if b.Relane {
		next = c
		next.Lanes = make([]Point, len(b.Moves))
		for i, m := range b.Moves {
			next.Lanes[i] = m.To
		}
		return next, slices.Equal(next.Lanes, c.Lanes), nil
	}
	next, after := c, 0
	next.Lanes = slices.Clone(c.Lanes)
	for _, m := range b.Moves {
		if m.Lane >= len(c.Lanes) {
			return c, false, fmt.Errorf("%w: lane %d of %d", ErrFenced, m.Lane, len(c.Lanes))
		}
		switch c.Lanes[m.Lane] {
		case m.From:
		case m.To:
			after++
		default:
			return c, false, fmt.Errorf("%w: lane %d is at %v, the batch goes from %v to %v",
				ErrFenced, m.Lane, c.Lanes[m.Lane], m.From, m.To)
		}
		next.Lanes[m.Lane] = m.To
	}
	if after > 0 && after < len(b.Moves) {
		return c, false, fmt.Errorf("%w: %d of the batch's %d lanes are already where it goes", ErrFenced, after, len(b.Moves))
	}
	return next, after > 0, nil
}

// Results returns n results with one outcome.
func Results(n int, o Outcome, err error) []Result {
	results := make([]Result, n)
	for i := range results {
		results[i] = Result{Outcome: o, Err: err}
	}
	return results
}
