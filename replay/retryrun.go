package replay

import (
	"context"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// A run of retries is applied as one: at most so many records, and so many that
// retry nothing between two that do.
const (
	runRecords = 256
	runBetween = 16
)

// run is what stands in the log behind a retry and is applied with it, while no lane
// works: records of one key each, no two of which have to do with one another, so
// that each finds what it would find alone.
type run struct {
	records []sinks.Record
	passed  wal.LSN // what lies behind the last of records, up to here, is not the sink's
	bytes   int
	between int
	keys    map[string]struct{} // that records write, or that what they retry is of
}

// acceptRetries applies r, which retries a dead letter, and what joins its run. With
// several feeds, which do not have the same at hand, or a group, that is r alone.
func (f *feed) acceptRetries(stop, work context.Context, r sinks.Record) bool {
	began := len(f.feeds) == 1 && r.Body.GetMutation() != nil
	for _, ln := range f.pipeline.lanes {
		began = began && ln.from < r.LSN
	}
	if !began {
		return f.acceptAlone(stop, work, r)
	}
	run := &run{passed: r.LSN, keys: map[string]struct{}{}}
	if joined, ok := f.join(run, r); !ok || !joined {
		return ok && f.acceptAlone(stop, work, r)
	}
	if !f.collect(stop, run) {
		return false
	}
	if len(run.records) == 1 {
		return f.acceptAlone(stop, work, r) && f.pass(stop, max(r.LSN, run.passed))
	}
	m, _ := f.meet() // the only feed is the last
	if !f.still(stop) || !f.applyRun(stop, work, run.records) {
		return false
	}
	f.part(m)
	return f.pass(stop, run.passed) && f.deliver(stop)
}

// collect reads on as long as what is at hand may join; false: stop.
func (f *feed) collect(stop context.Context, run *run) bool {
	o, end := &f.loop.o.Batch, f.end()
	for len(run.records) < min(runRecords, o.Records) && run.bytes < o.Bytes {
		record, ok := f.atHand()
		if !ok {
			return true
		}
		if record.LSN > end || record.IsGap() {
			f.unread = &record
			return true
		}
		joined, ok := f.consider(stop, run, record)
		if !ok {
			return false
		}
		if !joined {
			f.unread = &record
			return true
		}
		f.chunk.records++
		f.chunk.bytes += len(record.Payload)
		run.passed = record.LSN
	}
	return true
}

// consider has a record join the run, or be passed if it is not the sink's; ok is
// false if the loop stops.
func (f *feed) consider(stop context.Context, run *run, record read) (joined, ok bool) {
	if record.skip || f.outline.Read(record.Payload) && !f.outline.Routed(f.loop.o.Name) {
		return true, true
	}
	body, err := mutation.Decode(record.Payload)
	if err != nil || body.GetMutation() == nil {
		return false, true // accept reports what is wrong
	}
	if !f.routed(body) {
		return true, true
	}
	r := recordOf(record.LSN, len(record.Payload), body)
	if !f.retries(&r) && run.between == runBetween {
		return false, true
	}
	if _, _, ok := f.laneOf(body); !ok {
		return false, false
	}
	if joined, ok = f.join(run, r); !joined {
		return false, ok
	}
	return true, f.slow(stop)
}

// join adds r unless one of the run has to do with a key of r's, or of what r retries.
// A record that retries nothing joins only if nothing parks its key.
func (f *feed) join(run *run, r sinks.Record) (joined, ok bool) {
	keys := keysOf(r.Body)
	retries := f.retries(&r)
	if retries {
		letter, _, err := f.loop.letters.Get(wal.LSN(r.Body.GetOrigin().GetLsn()))
		if !f.orHalt(err) {
			return false, false
		}
		keys = append(keys, letter.Keys...)
	}
	for _, key := range keys {
		if _, taken := run.keys[string(key)]; taken || !retries && f.loop.letters.MayPark(mutation.HashEncoded(key)) {
			return false, true
		}
	}
	for _, key := range keys {
		run.keys[string(key)] = struct{}{}
	}
	run.records, run.bytes, run.between = append(run.records, r), run.bytes+r.Bytes, run.between+1
	if retries {
		run.between = 0
	}
	return true, true
}

// alone is a record of a run with what is known of it.
type alone struct {
	*sinks.Record
	standing
	gone bool // it is a dead letter, or given up: only the checkpoint passes it
}

// applyRun is applyAlone for the records of a run.
func (p *pipeline) applyRun(stop, work context.Context, records []sinks.Record) (applied bool) {
	work, spans := p.trace(work, pointers(records))
	defer func() { spans.end(applied) }()
	run := make([]alone, len(records))
	var letters []letter
	var retries []state.Retry
	for i := range records {
		a := &run[i]
		a.Record = &records[i]
		var ok bool
		if a.standing, ok = p.standing(a.Record); !ok {
			return false
		}
		retries = append(retries, a.retry...)
		switch a.gone = a.repeat || a.given || a.behind != 0; {
		case a.repeat:
			p.loop.logger.Info("passed a second retry of a dead letter", zap.Uint64("lsn", uint64(a.LSN)),
				zap.Uint64("origin", a.Body.GetOrigin().GetLsn()))
		case a.behind != 0 && !a.given:
			l, ok := p.letterOf(a.Record, a.position, state.Parked, parkedReason(a.behind))
			if !ok {
				return false
			}
			l.Attempts = a.attempts
			letters = append(letters, l)
			spans.record(tracing.Parked, a.Record, nil)
		}
	}
	if len(letters)+len(retries) > 0 && !p.put(letters, retries, noBounds) {
		return false
	}
	for i := range run { // some may have been given up just before they were set aside
		if a := &run[i]; a.retry != nil && !a.gone {
			given, err := p.loop.letters.GivenUp(a.retry[0].LSN)
			if !p.orHalt(err) {
				return false
			}
			a.gone = given
		}
	}
	return p.applyPart(stop, work, run, spans)
}

// applyPart applies a part of a run, whose retries are set aside, in one batch. If
// one of its records is rejected the halves are applied one after the other, so that
// a rejection counts only with everything before it applied.
func (p *pipeline) applyPart(stop, work context.Context, part []alone, spans *spans) bool {
	b := &sinks.Batch{Epoch: p.epoch, Moves: p.takeOff(part[len(part)-1].LSN)}
	for i := range part {
		if !part[i].gone {
			b.Records = append(b.Records, *part[i].Record)
		}
	}
	if !p.locateOrHalt(b) {
		return false
	}
	v, ok := p.apply(stop, work, b)
	if ok && v.outcome == sinks.Rejected {
		if half := len(part) / 2; half > 0 {
			p.giveBack()
			return p.applyPart(stop, work, part[:half], spans) && p.applyPart(stop, work, part[half:], spans)
		}
		dead, letterOK := p.rejection(part[0].Record, part[0].position, part[0].attempts, v.err)
		if !letterOK {
			spans.record(tracing.Halt, part[0].Record, v.err)
		}
		if !letterOK || !p.mayReject() || !p.store(part[0].Record, dead, p.boundsOf(&part[0].standing)) {
			return false
		}
		spans.record(tracing.DeadLetter, part[0].Record, v.err)
		b.Records = nil
		_, ok = p.apply(stop, work, b) // nothing is left to be rejected
	}
	if !ok {
		return false
	}
	for i := range part {
		p.loop.passed.add(part[i].LSN, part[i].Bytes)
	}
	p.finish(nil, b)
	if p.loop.o.Rejects.reached() {
		p.haltAtLimit()
		return false
	}
	return true
}
