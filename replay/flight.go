package replay

import (
	"context"
	"slices"

	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// flight is one batch of a lane on its way to the sink. It is sent as a whole;
// if that is rejected, in parts, until the record to blame is found.
type flight struct {
	*pipeline
	lane *lane
	rest []item  // neither applied nor in the dead letters, in LSN order
	to   wal.LSN // where the lane's checkpoint goes with the last of rest
	// bad says that one of the first bad of rest was rejected with its
	// neighbours; 0: nothing is known. try is how many of them go next.
	bad, try int
	spans    *spans
	// broken: the record after rest cannot be decoded. The loop halts there.
	broken error
}

// fly applies ln's flight and moves its checkpoint to to. It returns false if
// the loop stops or halts first.
func (p *pipeline) fly(stop, work context.Context, ln *lane, to wal.LSN) (applied bool) {
	f := &flight{pipeline: p, lane: ln, rest: ln.flight, to: to}
	if !f.decode() {
		return false
	}
	if p.loop.tracer != nil {
		work, f.spans = p.trace(work, items(f.rest))
	}
	defer func() { f.spans.end(applied) }()
	if !f.sift() {
		return false
	}
	for {
		n, sure := f.next()
		if f.bad == 1 && !sure {
			if !f.await(stop) {
				return false
			}
			sure = true
		}
		b := f.batch(n)
		if !p.locateOrHalt(b) {
			return false
		}
		v, ok := p.apply(stop, work, b)
		switch {
		case !ok:
			return false
		case v.outcome == sinks.Applied && n == len(f.rest) && f.broken == nil:
			p.finish(ln, b)
			return true
		case v.outcome == sinks.Applied && n == len(f.rest):
			f.land(n, b)
			p.halt(f.broken)
			return false
		case v.outcome == sinks.Applied:
			f.land(n, b)
		case n == 1 && sure:
			if !f.bury(v.err) {
				return false
			}
			if f.loop.o.Rejects.reached() {
				f.leave(stop, work)
				return false
			}
		case n == 1:
			f.bad = 1
		default:
			f.split(n, v.hint)
		}
	}
}

// decode decodes the records that the feed did not. What is before one that
// cannot be decoded is still applied; false: there is nothing.
func (f *flight) decode() bool {
	for i := range f.rest {
		it := &f.rest[i]
		if it.Body != nil {
			continue
		}
		body, err := mutation.DecodeString(it.payload)
		if err != nil {
			f.broken = f.decodeError(it.LSN, err)
			if i == 0 {
				f.halt(f.broken)
				return false
			}
			f.rest, f.to = f.rest[:i], it.previous
			return true
		}
		it.Record, it.payload = recordOf(it.LSN, it.Bytes, body), ""
	}
	return true
}

// next is how many records go next, and whether that is one alone with
// everything before it applied: only then its rejection counts.
func (f *flight) next() (n int, sure bool) {
	switch {
	case f.bad == 1:
		n = 1
	case f.bad > 1:
		n = f.try
	default:
		n = len(f.rest)
	}
	return n, n == 1 && f.loop.marks.appliedNow() >= f.rest[0].LSN-1
}

// split takes the first n, which were rejected, apart: in halves, unless the
// sink named one. It is only a hint: the named record is tried alone as well.
func (f *flight) split(n, hint int) {
	f.bad, f.try = n, n/2
	if hint >= 0 {
		f.bad, f.try = hint+1, max(hint, 1)
	}
}

// batch is the next n records. It moves the checkpoint up to the next of rest.
func (f *flight) batch(n int) *sinks.Batch {
	b := &sinks.Batch{Epoch: f.epoch, Records: make([]sinks.Record, n)}
	for i := range b.Records {
		b.Records[i] = f.rest[i].Record
	}
	to := f.to
	if n < len(f.rest) {
		to = f.rest[n].previous
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b.Moves = []sinks.Move{{Lane: f.lane.index, From: f.lane.stored, To: sinks.Point{LSN: to}}}
	return b
}

// land notes that b, the first n, was applied.
func (f *flight) land(n int, b *sinks.Batch) {
	f.rest = f.rest[n:]
	if f.bad = max(f.bad-n, 0); f.bad > 1 {
		f.try = f.bad / 2
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lane.stored = b.Moves[0].To
	f.countPassedLocked(f.lane)
	f.loop.records.Add(uint64(len(b.Records)))
	f.loop.batches.Add(1)
	f.passedLocked()
}

// passedLocked lets the watermark rise to where rest begins.
func (f *flight) passedLocked() {
	if len(f.rest) > 0 {
		f.lane.passed = f.rest[0].LSN - 1
	}
	f.publishLocked()
}

// await waits until every lane has passed what is before the first of rest. It
// cannot wait for ever: of several lanes that wait, the one with the lowest LSN
// has nothing to wait for, and all it waits for was dispatched before.
func (f *flight) await(stop context.Context) bool {
	before := f.rest[0].LSN - 1
	f.mu.Lock()
	f.publishLocked() // the reader may have got further since
	f.mu.Unlock()
	w, err := f.loop.marks.enter(before, false)
	if w == nil {
		return err == nil
	}
	f.hurry(before)
	select {
	case <-w.done:
		return w.err == nil
	case <-stop.Done():
		_ = f.loop.marks.leave(w, nil) // stopping is why, served or not
		return false
	}
}

// bury makes the first of rest, rejected because of err, a dead letter, and all
// of rest that queue behind it.
func (f *flight) bury(err error) bool {
	r := f.rest[0].Record
	letter, ok := f.rejection(&r, r.LSN, 0, err)
	if !ok {
		f.spans.record(tracing.Halt, &r, err)
	}
	if !ok || !f.mayReject() || !f.store(&r, letter, f.loop.o.DeadLetters) {
		return false
	}
	f.spans.record(tracing.DeadLetter, &r, err)
	f.rest = f.rest[1:]
	f.bad = 0
	return f.sift()
}

// leave moves the checkpoint up to the first of rest, past the dead letters that
// were made, and ends the loop because they are as many as allowed.
func (f *flight) leave(stop, work context.Context) {
	b := f.batch(0)
	if !f.locateOrHalt(b) {
		return
	}
	if _, ok := f.apply(stop, work, b); ok {
		f.land(0, b)
	}
	f.haltAtLimit()
}

// sift moves the records of parked keys from rest to the dead letters, and drops
// what was given up.
func (f *flight) sift() bool {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.passedLocked()
	}()
	gone, ok := f.divert(f.rest)
	if len(gone) > 0 {
		f.rest = slices.DeleteFunc(slices.Clone(f.rest), func(it item) bool {
			_, is := slices.BinarySearch(gone, it.LSN)
			if is {
				f.spans.record(tracing.Parked, &it.Record, nil)
			}
			return is
		})
	}
	return ok
}
