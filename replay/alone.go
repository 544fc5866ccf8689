package replay

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// acceptAlone applies a record of several lanes, or of none, or one that retries
// a dead letter: when all lanes have applied what is before it, in one batch
// that moves all of them, whatever becomes of the record. The feeds meet there;
// the last one to arrive does it.
func (f *feed) acceptAlone(stop, work context.Context, r sinks.Record) bool {
	behind := 0 // lanes whose checkpoint did not cover r when the pipeline began
	for _, ln := range f.pipeline.lanes {
		if ln.from < r.LSN {
			behind++
		}
	}
	switch behind {
	case 0:
		return f.passOwn(stop, &r)
	case len(f.pipeline.lanes):
	default:
		f.halt(f.loop.resumeError(fmt.Errorf("%w: LSN %d is applied alone, but only some of the lanes have passed it", sinks.ErrFenced, r.LSN)))
		return false
	}
	m, last := f.meet()
	if !last {
		select {
		case <-m.over:
			return f.pass(stop, r.LSN) && f.deliver(stop)
		case <-stop.Done():
			return false
		}
	}
	moves, ok := f.gather(stop, r.LSN)
	if !ok {
		return false
	}
	b := &sinks.Batch{Epoch: f.epoch, Records: []sinks.Record{r}, Moves: moves}
	if !f.locateOrHalt(b) || !f.applyAlone(stop, work, &r, b) {
		return false
	}
	f.loop.passed.add(r.LSN, r.Bytes)
	f.finish(nil, b)
	if f.loop.o.Rejects.reached() {
		f.haltAtLimit()
		return false
	}
	f.part(m)
	return f.pass(stop, r.LSN) && f.deliver(stop)
}

// meeting is where feeds wait until a record was applied alone.
type meeting struct {
	arrived int
	over    chan struct{} // closed when it was
}

// meet reports whether all feeds have come to this record. Everything before it
// is with the lanes then. They stop to linger as soon as their feed is here.
func (f *feed) meet() (m *meeting, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.meeting == nil {
		f.meeting = &meeting{over: make(chan struct{})}
	}
	f.meeting.arrived++
	f.flushLocked()
	return f.meeting, f.meeting.arrived == len(f.feeds)
}

// part ends a meeting.
func (p *pipeline) part(m *meeting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alone, p.meeting = false, nil
	for _, f := range p.feeds {
		f.flush = false
	}
	close(m.over)
}

// gather waits until every lane has applied all it has and none moves, keeps
// them so until part, and returns their moves to lsn.
func (p *pipeline) gather(stop context.Context, lsn wal.LSN) (moves []sinks.Move, ok bool) {
	if !p.still(stop) {
		return nil, false
	}
	return p.takeOff(lsn), true
}

// still waits until every lane has applied all it has and none moves, and keeps them
// so until part; false: stop.
func (p *pipeline) still(stop context.Context) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alone = true
	for p.items > 0 || p.flying > 0 {
		p.mu.Unlock()
		select {
		case <-p.quiet:
		case <-stop.Done():
		}
		p.mu.Lock()
		if stop.Err() != nil {
			return false
		}
	}
	return true
}

// takeOff counts a batch that is now made, and returns its moves: all lanes to lsn.
func (p *pipeline) takeOff(lsn wal.LSN) (moves []sinks.Move) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying++
	for _, ln := range p.lanes {
		moves = append(moves, sinks.Move{Lane: ln.index, From: ln.stored, To: sinks.Point{LSN: lsn}})
	}
	return moves
}

// giveBack uncounts a batch of takeOff of which nothing is applied.
func (p *pipeline) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying--
}

// standing is what is known of a record that is applied alone.
type standing struct {
	// position in the queues of its keys: its LSN, or that of what it retries.
	position wal.LSN
	attempts uint64        // of what it retries
	retry    []state.Retry // of one dead letter, or of none
	// repeat: it retries what is no dead letter any more, because another retry
	// came first or it was given up: applying it would be once too often.
	repeat bool
	// again: it has set aside what it retries, and comes again.
	again bool
	// given: it was given up, and comes again.
	given  bool
	behind wal.LSN // dead letter that parks it; 0: none
}

func (p *pipeline) standing(r *sinks.Record) (s standing, ok bool) {
	s.position = r.LSN
	if p.retries(r) {
		named, found, err := p.loop.letters.Get(wal.LSN(r.Body.GetOrigin().GetLsn()))
		if !p.orHalt(err) {
			return s, false
		}
		if found {
			s.position, s.attempts = named.Position, named.Attempts
			s.retry = []state.Retry{{LSN: named.LSN, By: r.LSN}}
		} else if again, ok := p.retriedBefore(r, wal.LSN(r.Body.GetOrigin().GetLsn()), &s); !again {
			s.repeat = true
			return s, ok
		}
	}
	if s.given, ok = p.givenUp(r.LSN); s.given || !ok {
		return s, ok
	}
	first, found, ok := p.parkedBy(r, s.position, nil)
	if found {
		s.behind = first
	}
	return s, ok
}

func (p *pipeline) boundsOf(s *standing) state.Bounds {
	if s.retry != nil || s.again {
		return noBounds
	}
	return p.loop.o.DeadLetters
}

// retries reports whether r retries a dead letter of this sink.
func (p *pipeline) retries(r *sinks.Record) bool {
	return r.Body.GetOrigin().GetSink() == p.loop.o.Name
}

// applyAlone applies b, whose only record r is alone with everything before it
// applied, or makes r a dead letter and applies the moves. What r retries is set
// aside before: from then on r, in the log, stands for it.
func (p *pipeline) applyAlone(stop, work context.Context, r *sinks.Record, b *sinks.Batch) (applied bool) {
	work, spans := p.trace(work, pointers(b.Records))
	defer func() { spans.end(applied) }()
	s, ok := p.standing(r)
	if !ok {
		return false
	}
	switch {
	case s.repeat:
		p.loop.logger.Info("passed a second retry of a dead letter", zap.Uint64("lsn", uint64(r.LSN)),
			zap.Uint64("origin", r.Body.GetOrigin().GetLsn()))
		b.Records = nil
	case s.given:
		if !p.put(nil, s.retry, noBounds) {
			return false
		}
		b.Records = nil
	case s.behind != 0:
		l, ok := p.letterOf(r, s.position, state.Parked, parkedReason(s.behind))
		l.Attempts = s.attempts
		if !ok || !p.put([]letter{l}, s.retry, p.boundsOf(&s)) {
			return false
		}
		spans.record(tracing.Parked, r, nil)
		b.Records = nil
	case s.retry != nil:
		if !p.put(nil, s.retry, noBounds) {
			return false
		}
		// It may have been given up just before it was set aside.
		given, err := p.loop.letters.GivenUp(s.retry[0].LSN)
		if !p.orHalt(err) {
			return false
		}
		if given {
			b.Records = nil
		}
	}
	v, ok := p.apply(stop, work, b)
	if ok && v.outcome == sinks.Rejected {
		dead, letterOK := p.rejection(r, s.position, s.attempts, v.err)
		if !letterOK {
			spans.record(tracing.Halt, r, v.err)
		}
		if !letterOK || !p.mayReject() || !p.store(r, dead, p.boundsOf(&s)) {
			return false
		}
		spans.record(tracing.DeadLetter, r, v.err)
		b.Records = nil
		_, ok = p.apply(stop, work, b) // nothing is left to be rejected
	}
	return ok
}
