package walproxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// run is one sink's loop. When it halts, another takes its place: by itself if
// what ails the store may pass, or it has lost what it had applied, else when
// somebody asks for it. A halt is logged
// here, once; Status keeps showing it until the sink has got further.
func (p *Proxy) run(ctx context.Context, s *sink) {
	defer s.noMore()
	err := s.runLoop(ctx, s.loop())
	for err != nil {
		if errors.Is(err, errTuned) {
			err = p.goOn(ctx, s, true)
			continue
		}
		after, byItself := s.loop().RetryAfter(err)
		s.handedOver() // who waits for the next loop is told about the halt
		log := p.logger.Error
		if errors.Is(err, sinks.ErrRewound) {
			log = p.logger.Warn // no halt: it goes on from the settled point
		} else if again := s.halted(err); again && byItself {
			log = p.logger.Info
		}
		log("sink halted: writes to it are acknowledged and stay in the log", zap.String("sink", s.name),
			zap.Uint64("applied", uint64(s.loop().Applied())), zap.Bool("goes_on_by_itself", byItself), zap.Duration("after", after), zap.Error(err))
		if !p.awaitRetry(ctx, s, after, byItself) {
			return
		}
		err = p.goOn(ctx, s, false)
	}
}

// awaitRetry waits until a halted sink is to be tried again; false: the proxy
// closes.
func (p *Proxy) awaitRetry(ctx context.Context, s *sink, after time.Duration, byItself bool) bool {
	var due <-chan time.Time
	if byItself {
		timer := time.NewTimer(after)
		defer timer.Stop()
		due = timer.C
	}
	if s.retuned() { // while the loop halted, when there was nobody to be asked yet
		return !p.closing.Load()
	}
	select {
	case <-due:
	case <-s.again:
	case <-ctx.Done():
		return false
	case <-p.ending:
		return false
	}
	return !p.closing.Load()
}

// goOn runs another loop of a sink that has halted, or is tuned. It counts from the moment on
// that the store has said where it is, and no longer as halted when it has got
// further than the one before.
func (p *Proxy) goOn(ctx context.Context, s *sink, tuned bool) error {
	var loop *replay.Loop
	resumed := make(chan wal.LSN, 1)
	options := s.nextOptions()
	options.OnResume = func(low wal.LSN) { resumed <- s.adopt(loop, low) }
	loop, err := replay.New(p.log, p.state, s.options.Sink, options)
	if err != nil {
		return err
	}
	s.prepare(loop)
	defer s.prepare(nil)
	watch, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-watch.Done():
			return
		case target := <-resumed:
			err := loop.Wait(watch, target)
			if err != nil && !errors.Is(err, replay.ErrDeadLettersFull) { // that is another halt, which it shows itself
				return
			}
		}
		s.healed()
		if tuned {
			p.logger.Info("sink goes on with other options", zap.String("sink", s.name))
		} else {
			p.logger.Info("sink goes on after a halt", zap.String("sink", s.name))
		}
		p.count(watch, []*lag{s.lag()})
	})
	err = s.runLoop(ctx, loop)
	stop()
	watcher.Wait()
	s.lag().counting.Store(countedAll)
	return err
}

// prepare makes loop, which does not run yet, the next; nil: there is none.
func (s *sink) prepare(loop *replay.Loop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.next = loop
	if loop != nil && s.mu.paused {
		loop.Suspend()
	}
}

// adopt makes loop the one that counts, whose store has everything up to low. The
// one before has ended. It returns how far loop must come to be further than that.
func (s *sink) adopt(loop *replay.Loop, low wal.LSN) (target wal.LSN) {
	s.added.Lock()
	defer s.added.Unlock()
	old := s.attempt.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.past = s.countLocked(old.loop.Status())
	s.mu.next = nil
	s.retries.opened.Store(uint64(s.log.Durable()))
	s.attempt.Store(&attempt{old.turn + 1, loop, lagAgain(s, old, loop, low)})
	s.handedOverLocked()
	target = max(low, old.loop.Applied(), s.from)
	if low < old.loop.Checkpoint() { // an older copy of the store was put back
		target = low
	}
	return min(target+1, s.log.Durable())
}

// halted notes why the sink halted; again says that it had not gone on since the
// last time.
func (s *sink) halted(err error) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again = s.mu.halt != nil
	s.mu.halt = err
	return again
}

func (s *sink) healed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.halt = nil
	select {
	case <-s.again: // it was for this
	default:
	}
}

// ask has a halted sink go on; false: it has not halted. A loop shows its halt a
// moment before run has noted it: who has seen it there is not sent away.
func (s *sink) ask() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.halt == nil && s.loop().Status().State != replay.Halted {
		return false
	}
	select {
	case s.again <- struct{}{}:
	default: // somebody has
	}
	return true
}

// status is the loop's, with what those before it counted.
func (s *sink) status() replay.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.countLocked(s.loop().Status())
	switch {
	case s.mu.halt != nil:
		st.State, st.Err = replay.Halted, s.mu.halt
	case st.State == replay.Stopped && s.mu.handover != nil:
		// No end: another loop is on its way, however long the store takes to answer.
		st.State = replay.Starting
		if s.mu.next != nil {
			next := s.mu.next.Status()
			st.State, st.Err = next.State, next.Err
		}
	case st.State == replay.Halted && errors.Is(st.Err, sinks.ErrRewound):
		// No halt: another loop is on its way, however long the store takes to answer.
		st.State = replay.Retrying
		if s.mu.next != nil {
			if next := s.mu.next.Status(); next.Err != nil {
				st.Err = next.Err
			}
		}
	}
	return st
}

func (s *sink) countLocked(st replay.Status) replay.Status {
	st.Records += s.mu.past.Records
	st.Batches += s.mu.past.Batches
	st.Retries += s.mu.past.Retries
	st.RetriesUnknown += s.mu.past.RetriesUnknown
	st.RetriesStart += s.mu.past.RetriesStart
	st.DeadLettersMade += s.mu.past.DeadLettersMade
	return st
}
