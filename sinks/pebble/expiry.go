package pebble

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/horizon"
	"github.com/walproxy/walproxy/internal/pebblekit"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// The sweep removes what ended before the horizon (package horizon), so that
// nobody sees it.

// sweepRecords is how many records one sweep removes while lanes wait.
const sweepRecords = 256

// lookEvery is how often a store that is not written to is looked at for records
// that have ended, and how often at most the log is asked for the time.
const lookEvery = 10 * time.Second

// sweeper is the goroutine that removes expired records.
type sweeper struct {
	signal  chan struct{}
	ask     atomic.Pointer[askHorizon] // nil: nobody can tell the time
	cancel  context.CancelFunc
	joined  sync.WaitGroup
	removed uint64 // records; guarded by Sink.mu
}

func (w *sweeper) start(s *Sink) {
	w.signal = make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.joined.Go(func() {
		ticker := time.NewTicker(s.lookEvery)
		defer ticker.Stop()
		for {
			select {
			case <-w.signal:
				s.sweepAll(ctx)
			case <-ticker.C:
				s.sweepIdle(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
}

// wake asks for a sweep, without waiting.
func (w *sweeper) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

func (w *sweeper) join() {
	w.cancel()
	w.joined.Wait()
}

// askHorizon is what sinks.Expirer's UseHorizon takes.
type askHorizon func(context.Context) (sinks.LSN, time.Time, error)

// UseHorizon implements sinks.Expirer.
func (s *Sink) UseHorizon(f func(context.Context) (sinks.LSN, time.Time, error)) {
	ask := askHorizon(f)
	s.sweep.ask.Store(&ask)
}

// sweepIdle removes what has ended where nothing is written that would tell the time:
// the log is asked for it, if a record has ended by this clock.
func (s *Sink) sweepIdle(ctx context.Context) {
	ask := s.sweep.ask.Load()
	if ask == nil || s.readOnly || s.failure() != nil {
		return
	}
	entries, err := s.expiredBefore(s.now(), 1)
	if err == nil && len(entries) > 0 {
		if err = s.observe(ctx, *ask); err == nil {
			s.sweepAll(ctx)
		}
	}
	if err != nil && ctx.Err() == nil {
		s.log.Debug("expired records were not removed", zap.Error(err))
	}
}

// observe takes over how far time has come, once all lanes are as far.
func (s *Sink) observe(ctx context.Context, ask askHorizon) error {
	above, at, err := ask(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.horizon.Observe(horizon.Sample{LSN: above, Accepted: at}, s.mu.checkpoint.Low().LSN)
	return nil
}

// sweepAll removes all there is to remove, a few records at a time. A failure
// is logged; the next sweep tries again.
func (s *Sink) sweepAll(ctx context.Context) {
	for more := true; more && ctx.Err() == nil && s.failure() == nil; {
		var err error
		if more, err = s.sweepSome(ctx); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("expired records were not removed", zap.Error(err))
			}
			return
		}
	}
}

// sweepSome removes up to sweepRecords records; more says that there may be others.
func (s *Sink) sweepSome(ctx context.Context) (more bool, err error) {
	s.mu.Lock()
	at := s.mu.horizon.At()
	s.mu.Unlock()
	entries, err := s.expiredBefore(at, sweepRecords)
	if err != nil || len(entries) == 0 {
		return false, err
	}
	release, err := s.gate.all(ctx, s.stop)
	if err != nil {
		return false, err
	}
	defer release()
	b := s.db.NewBatch()
	for _, entry := range entries {
		if err := s.removeExpired(b, entry); err != nil {
			return false, err
		}
	}
	if err := s.writeBatch(b, false); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.sweep.removed += uint64(len(entries))
	s.mu.Unlock()
	return len(entries) == sweepRecords, nil
}

// expiredBefore returns index entries of records that ended before at, the first
// ones, so many at most.
func (s *Sink) expiredBefore(at time.Time, most int) (entries [][]byte, err error) {
	if at.IsZero() {
		return nil, nil
	}
	defer pebblekit.Catch(&err)
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{prefixExpiry}, UpperBound: appendExpiry(nil, at),
	})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok && len(entries) < most; ok = it.Next() {
		entries = append(entries, slices.Clone(it.Key()))
	}
	return entries, it.Error()
}

// removeExpired removes an index entry and its record, unless the record was
// given another expiry since the index was read; all lanes are taken.
func (s *Sink) removeExpired(b *pebble.Batch, entry []byte) error {
	key, err := expiredDocument(entry)
	if err != nil {
		return err
	}
	d, _, err := s.document(key)
	if err != nil {
		return s.readFailed(err)
	}
	if err := b.Delete(entry, nil); err != nil {
		return err
	}
	if d == nil || string(expiryKey(d.ExpiresAt, key)) != string(entry) {
		return nil
	}
	return errors.Join(b.Delete(key, nil), dropEvents(b, key, d))
}

// pointDeletes is how many events are deleted one by one: behind a deletion of a
// range in a memtable the next read puts all of those in it into order again.
const pointDeletes = 32

// dropEvents removes the stream of the record at key, whose document is d.
func dropEvents(b *pebble.Batch, key []byte, d *mutation.Document) error {
	if d == nil || d.EventCount == 0 {
		return nil
	}
	prefix := eventPrefix(key)
	if d.EventCount > pointDeletes {
		return b.DeleteRange(prefix, successor(prefix), nil)
	}
	for number := uint64(1); number <= d.EventCount; number++ {
		if err := b.Delete(eventKey(prefix, number), nil); err != nil {
			return err
		}
	}
	return nil
}
