package aerospike

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/sinks"
)

// owner claims the stream and keeps its checkpoints: where the lanes are in memory,
// and what of it is settled in the state record.
type owner struct {
	sink *Sink
	news chan struct{}

	// claims serialises what writes the state record.
	claims sync.Mutex

	mu struct {
		sync.Mutex
		state    *state           // as it was written last by this owner; nil: it has claimed nothing
		at       sinks.Checkpoint // where the lanes are
		seen     time.Time        // when the store said last that this is the owner
		refused  error            // why nothing is applied until the next Resume
		saved    time.Time        // when state was
		sights   []sample         // of this claim, the last ones; see sighted
		points   []sinks.Point    // where the lanes were, above what is settled
		proof    *proof           // nil: this claim can find out nothing
		recent   *ledger          // applied, not settled
		before   *ledger          // what was, before the store lost some of it; nil once that is applied again
		settled  sinks.LSN        // the log may be freed up to it
		moved    time.Time        // when that rose last, or nothing was left to settle
		rewinds  int              // since then
		stream   string           // the guard's name, of the last state record seen
		sets     map[Place]bool   // that are known to be this stream's
		warnings []string         // see advise
		run      context.CancelFunc
		finished bool // end was called
	}
	settling sync.WaitGroup
}

func newOwner(s *Sink) *owner { return &owner{sink: s, news: make(chan struct{}, 1)} }

// turn is a batch's right to apply: the checkpoints are where the batch goes from, or
// where it goes to already.
type turn struct {
	owner   *owner
	recent  *ledger
	proof   *proof // may be nil
	state   *state // of its claim
	done    bool   // it was applied before
	guard   string // the stream's bin
	release func() // always called
}

// errFull: the bound of what may be applied and not settled is reached.
var errFull = fmt.Errorf("sink aerospike: %d records were written that a restart of a node may still take back: waiting until some are settled", maxUnsettled)

// begin gives b its turn, or refuses it (sinks.ErrFenced and the like). Nothing of
// b is applied before.
func (o *owner) begin(ctx context.Context, b *sinks.Batch) (*turn, error) {
	if err := o.confirm(ctx, b.Epoch); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.refusalLocked(b.Epoch); err != nil {
		return nil, err
	}
	_, done, err := o.mu.at.Begin(b)
	if err != nil {
		return nil, err
	}
	if !done && len(b.Records) > 0 && o.mu.recent.full() {
		return nil, sinks.WithOutcome(sinks.Retry, errFull)
	}
	return &turn{owner: o, recent: o.mu.recent, proof: o.mu.proof, state: o.mu.state, done: done,
		guard: guardName(o.mu.at.Stream), release: func() {}}, nil
}

// refusalLocked is why a batch of that epoch is not applied.
func (o *owner) refusalLocked(epoch uint64) error {
	switch {
	case o.mu.state == nil:
		return fmt.Errorf("%w: the stream was not claimed", sinks.ErrFenced)
	case o.mu.at.Epoch != epoch:
		return fmt.Errorf("%w: the batch has epoch %d, the store %d", sinks.ErrFenced, epoch, o.mu.at.Epoch)
	}
	return o.mu.refused
}

// applies reports whether anything is applied under the claim.
func (o *owner) applies() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.refused == nil
}

// advance moves the checkpoints to where b goes, after its records are applied. A
// process that was stopped meanwhile asks whether it still is the owner.
func (o *owner) advance(ctx context.Context, b *sinks.Batch, t *turn) error {
	if err := o.confirm(ctx, b.Epoch); err != nil {
		return err
	}
	if b.Relane {
		if err := o.relane(ctx, b); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.refusalLocked(b.Epoch); err != nil {
		return err
	}
	next, _, err := o.mu.at.Begin(b)
	if err != nil {
		return err
	}
	o.mu.at = next
	if o.mu.before != nil && next.Low().LSN >= o.mu.before.highest() {
		o.mu.before = nil
	}
	return nil
}

// relane makes the state record have as many lanes as b: all at the settled point,
// where every map of keys to lanes says the same.
func (o *owner) relane(ctx context.Context, b *sinks.Batch) error {
	o.claims.Lock()
	defer o.claims.Unlock()
	return o.change(ctx, func(st *state) bool {
		if len(st.Lanes) == len(b.Moves) {
			return false
		}
		low := st.checkpoint().Low()
		st.Lanes = make([]sinks.Point, len(b.Moves))
		for i := range st.Lanes {
			st.Lanes[i] = low
		}
		return true
	})
}

// change writes the state record as f changes it, if it does. The caller has claims.
func (o *owner) change(ctx context.Context, f func(*state) bool) error {
	o.mu.Lock()
	mine := o.mu.state
	o.mu.Unlock()
	if mine == nil {
		return fmt.Errorf("%w: the stream was not claimed", sinks.ErrFenced)
	}
	next := *mine
	for range 3 { // an answer that was lost, or a node that has lost a write
		if !f(&next) {
			return nil
		}
		err := o.save(ctx, &next)
		if err == nil {
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.mu.state == mine {
				o.mu.state, o.mu.seen, o.mu.saved = &next, time.Now(), time.Now()
			}
			return nil
		}
		if !errors.Is(err, errMoved) {
			return err
		}
		stored, err := o.load(ctx)
		if err != nil {
			return err
		}
		if err := o.judge(mine, stored); err != nil {
			return err
		}
		next = *mine
		next.generation = 0
		if stored != nil {
			next.generation = stored.generation
		}
	}
	return sinks.WithOutcome(sinks.Retry, errMoved)
}

// judge says what a state record means for who wrote mine last: ErrFenced if it is
// another's. One that is older was lost by a restart of its node: ErrRewound.
func (o *owner) judge(mine, stored *state) error {
	switch {
	case stored == nil:
		return o.refuse(mine, fmt.Errorf("%w: the state record is gone", sinks.ErrRewound))
	case stored.Epoch > mine.Epoch, stored.Epoch == mine.Epoch && stored.Claim != mine.Claim, stored.Stream != mine.Stream:
		return o.refuse(mine, fmt.Errorf("%w: %q claimed the stream with epoch %d, this owner has %d", sinks.ErrFenced, stored.Owner, stored.Epoch, mine.Epoch))
	case stored.Epoch < mine.Epoch:
		return o.refuse(mine, fmt.Errorf("%w: the claim with epoch %d is gone, that of %q with epoch %d is back", sinks.ErrRewound, mine.Epoch, stored.Owner, stored.Epoch))
	}
	return nil
}

// refuse applies nothing any more until the next Resume, and tells the loop. What was
// found out about a claim says nothing of a later one.
func (o *owner) refuse(mine *state, err error) error {
	o.mu.Lock()
	if o.mu.state.Claim != mine.Claim {
		o.mu.Unlock()
		return err
	}
	if o.mu.refused == nil {
		o.mu.refused = err
		if errors.Is(err, sinks.ErrRewound) {
			o.sink.metrics.rewinds.Inc()
			o.mu.rewinds++
		}
		o.sink.log.Warn("nothing is applied until the stream is claimed again", zap.Error(err))
	}
	err = o.mu.refused
	o.mu.Unlock()
	o.tell()
	return err
}

func (o *owner) tell() {
	select {
	case o.news <- struct{}{}:
	default: // it is known
	}
}

// lease is how long an owner goes on without a word from the store that it is.
func (o *owner) lease() time.Duration { return 3 * o.interval() }

// confirm asks the store whether this still is the owner, if it has not said so for
// the lease: the process may have been stopped meanwhile, by whatever clock shows it.
func (o *owner) confirm(ctx context.Context, epoch uint64) error {
	o.mu.Lock()
	seen := o.mu.seen
	if err := o.refusalLocked(epoch); err != nil {
		o.mu.Unlock()
		return err
	}
	o.mu.Unlock()
	now := time.Now()
	if now.Sub(seen) < o.lease() && now.Round(0).Sub(seen.Round(0)).Abs() < o.lease() {
		return nil
	}
	return o.ask(ctx)
}

// ask has the store say whether this still is the owner.
func (o *owner) ask(ctx context.Context) error {
	o.mu.Lock()
	mine := o.mu.state
	o.mu.Unlock()
	began := time.Now()
	stored, err := o.load(ctx)
	if err != nil {
		return err
	}
	if err := o.judge(mine, stored); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.state == mine && o.mu.seen.Before(began) {
		o.mu.seen = began
	}
	return nil
}

// floor, note, wrote and lost are the window of the turn.
func (t *turn) floor(p Place, digest [20]byte) sinks.LSN {
	return t.recent.floor(spot{p.Namespace, digest}, time.Now())
}

func (t *turn) note(p Place, digest [20]byte, last sinks.LSN, dead bool, expires time.Time) {
	t.recent.note(spot{p.Namespace, digest}, entry{lsn: last, dead: dead, set: p.Set, expires: expires})
}

func (t *turn) wrote(first sinks.LSN) { t.proof.wrote(first) }

// lost is asked when a record has less than it must have. nil: no node was
// restarted, so somebody else took it away.
func (t *turn) lost(ctx context.Context) error {
	found, err := t.owner.sink.look(ctx)
	if err != nil {
		return err
	}
	if why := found.changed(t.state.Nodes); why != "" {
		return t.owner.refuse(t.state, &rewound{why})
	}
	// Or this is no owner any more, and the new one has deleted it.
	if err := t.owner.ask(ctx); err != nil {
		return err
	}
	t.owner.sink.log.Warn("a record that was written is gone or older, though no node was restarted: somebody else changes it")
	return nil
}

// readFloor is floor for readers: also of what the store has lost, until it is
// applied again.
func (s *Sink) readFloor(p Place, digest [20]byte) sinks.LSN {
	o := s.owner
	o.mu.Lock()
	recent, before := o.mu.recent, o.mu.before
	o.mu.Unlock()
	var floor sinks.LSN
	for _, l := range []*ledger{recent, before} {
		if l != nil {
			floor = max(floor, l.floor(spot{p.Namespace, digest}, time.Now()))
		}
	}
	return floor
}

// guard is the bin that holds the versions of the set's records: of the stream that
// owns it, claimed or not. "": nobody has claimed it yet.
func (o *owner) guard(ctx context.Context) (string, error) {
	o.mu.Lock()
	name := o.mu.stream
	o.mu.Unlock()
	if name != "" {
		return name, nil
	}
	st, err := o.load(ctx)
	if err != nil || st == nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.stream = guardName(st.Stream)
	return o.mu.stream, nil
}

// end tells what the owner runs to stop, join waits for it.
func (o *owner) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.finished = true
	if o.mu.run != nil {
		o.mu.run()
	}
}

func (o *owner) join() { o.settling.Wait() }
