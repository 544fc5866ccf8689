package aerospike

import (
	"context"
	"errors"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/sinks"
)

// What a node has acknowledged is on its disk after its flush interval; if it runs
// until Options.Settle has passed, that is settled. So a sample of where the lanes
// are is taken every now and then, and once all nodes were seen to be as they were
// Settle later, the sample is the settled point: what is below it is never applied
// again, and what it covers leaves the ledger. The state record that says so is a
// write like any other: only Settle after it was written is the log freed up to it.

// sample is where the lanes were.
type sample struct {
	taken time.Time
	low   sinks.Point
}

// settler is what one claim has to settle.
type settler struct {
	*owner
	claimed *state
	samples []sample // one for each age of the ledger but the last
	low     sinks.Point
	dead    map[spot]entry // tombstones that have left the ledger and are still there
	written []sample       // state records that are not settled yet
	failing bool
}

// interval is how often samples are taken, and nodes and owner looked at.
func (o *owner) interval() time.Duration {
	if o.sink.o.Settle < 0 {
		return time.Second / 5
	}
	return min(max(o.sink.o.Settle/10, 10*time.Millisecond), time.Second)
}

// settle runs until ctx ends, or the store has lost something.
func (o *owner) settle(ctx context.Context, st *state) {
	s := &settler{owner: o, claimed: st, low: st.checkpoint().Low(), dead: map[spot]entry{}}
	ticker := time.NewTicker(o.interval())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		step, cancel := context.WithTimeout(ctx, o.sink.o.Timeouts.Total)
		err := s.step(step)
		cancel()
		switch {
		case ctx.Err() != nil, errors.Is(err, sinks.ErrRewound), errors.Is(err, sinks.ErrFenced):
			return // the loop has been told
		case err != nil && !s.failing:
			o.sink.log.Warn("nothing is settled, so the log is kept, until all nodes answer again", zap.Error(err))
		}
		s.failing = err != nil
	}
}

// step takes a sample, and settles what can be.
func (s *settler) step(ctx context.Context) error {
	began := s.sink.o.now()
	recent, mine, low, err := s.sampled(began)
	if err != nil {
		return err
	}
	sight := sample{time.Now(), low}
	found, err := s.sink.look(ctx)
	if err != nil {
		return err
	}
	if why := found.changed(mine.Nodes); why != "" {
		return s.refuse(mine, &rewound{why})
	}
	if err := s.ask(ctx); err != nil {
		return err
	}
	s.sighted(mine, sight)
	s.idle()
	since := began.Add(-max(s.sink.o.Settle, 0))
	n := 0
	for n < len(s.samples) && !s.samples[n].taken.After(since) && len(s.dead) < maxUnsettled {
		s.low = s.samples[n].low
		n++
	}
	s.samples = s.samples[n:]
	if at := s.proven(); at.LSN > s.low.LSN {
		s.low = at
	}
	for at, e := range recent.settle(n) {
		s.dead[at] = e
	}
	if err := s.store(ctx); err != nil {
		return err
	}
	s.free(since)
	return s.bury(ctx)
}

// rewound says what was seen of a restart.
type rewound struct{ why string }

func (e *rewound) Error() string { return sinks.ErrRewound.Error() + ": " + e.why }

func (e *rewound) Unwrap() error { return sinks.ErrRewound }

// sampled takes a sample and begins a new age of the ledger.
func (s *settler) sampled(now time.Time) (*ledger, *state, sinks.Point, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.state.Claim != s.claimed.Claim: // its ledger is another settler's
		return nil, nil, sinks.Point{}, sinks.ErrFenced
	case s.mu.refused != nil:
		return nil, nil, sinks.Point{}, s.mu.refused
	}
	low := s.mu.at.Low()
	s.samples = append(s.samples, sample{now, low})
	s.mu.recent.turn()
	return s.mu.recent, s.mu.state, low, nil
}

// bury removes the tombstones below the settled point that are still what they were.
// Not before: as long as a crash can bring their deletions back, these have to find
// what they did, and not a record that never was.
func (s *settler) bury(ctx context.Context) error {
	settled := s.sink.Settled()
	var spots []spot
	for at, e := range s.dead {
		if e.lsn <= settled {
			spots = append(spots, at)
		}
	}
	if len(spots) == 0 {
		return nil
	}
	client, err := s.sink.client(ctx)
	if err != nil {
		return err
	}
	guard, err := s.guard(ctx)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(spots, s.sink.o.BatchKeys) {
		policy, err := s.sink.batchPolicy(ctx)
		if err != nil {
			return err
		}
		entries := make([]as.BatchRecordIfc, len(part))
		for i, at := range part {
			e := s.dead[at]
			key, err := as.NewKeyWithDigest(at.namespace, e.set, nil, at.digest[:])
			if err != nil {
				return sinks.WithOutcome(sinks.Halt, err)
			}
			p := as.NewBatchDeletePolicy()
			p.FilterExpression = as.ExpAnd(as.ExpBinExists(binDead), as.ExpEq(as.ExpIntBin(guard), as.ExpIntVal(int64(e.lsn))))
			entries[i] = as.NewBatchDelete(p, key)
		}
		var whole error
		if failed := client.BatchOperate(policy, entries); failed != nil {
			whole = failed
		}
		for i, e := range entries {
			err := judgeEntry(e.BatchRec(), whole, sent)
			switch codeOf(err) {
			case types.KEY_NOT_FOUND_ERROR, types.FILTERED_OUT: // it was written over
				err = nil
			}
			if err != nil {
				return err
			}
			delete(s.dead, part[i])
		}
	}
	return nil
}

// store writes the state record if something has settled since it was written.
func (s *settler) store(ctx context.Context) error {
	s.claims.Lock()
	defer s.claims.Unlock()
	if ctx.Err() != nil { // somebody claims it anew
		return context.Cause(ctx)
	}
	wrote := false
	err := s.change(ctx, func(st *state) bool {
		wrote = false
		lanes := slices.Clone(st.Lanes)
		for i := range lanes {
			if lanes[i].LSN < s.low.LSN {
				lanes[i], wrote = s.low, true
			}
		}
		s.mu.Lock()
		st.Lanes, st.Settled = lanes, s.mu.settled
		s.mu.Unlock()
		return wrote
	})
	if err == nil && wrote {
		s.written = append(s.written, sample{s.sink.o.now(), s.low})
	}
	return err
}

// free lets the log be freed up to where a state record says that is settled itself.
func (s *settler) free(since time.Time) {
	n := 0
	for n < len(s.written) && !s.written[n].taken.After(since) {
		n++
	}
	if n == 0 {
		return
	}
	s.mu.Lock()
	s.settledLocked(s.written[n-1].low.LSN)
	s.mu.Unlock()
	s.written = s.written[n:]
	s.tell()
}

// proven is what is settled though its time has not passed.
func (s *settler) proven() sinks.Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.provenLocked()
}

// settledLocked lets the log be freed up to at.
func (o *owner) settledLocked(at sinks.LSN) {
	if at > o.mu.settled || o.mu.moved.IsZero() {
		o.mu.settled, o.mu.moved, o.mu.rewinds = max(o.mu.settled, at), time.Now(), 0
	}
}

// idle notes that there is nothing to settle, if so.
func (o *owner) idle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unsettledLocked() == 0 {
		o.mu.moved, o.mu.rewinds = time.Now(), 0
	}
}

// stuckLocked is since when something is to be settled and nothing was; 0: nothing is.
func (o *owner) stuckLocked() time.Duration {
	if o.unsettledLocked() == 0 {
		return 0
	}
	return time.Since(o.mu.moved)
}

// unsettled is how many LSNs all lanes have passed above the settled point.
func (o *owner) unsettled() sinks.LSN {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.unsettledLocked()
}

func (o *owner) unsettledLocked() sinks.LSN {
	low := o.mu.at.Low().LSN
	return low - min(low, o.mu.settled)
}

// Settled implements sinks.Settler.
func (s *Sink) Settled() sinks.LSN {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	return s.owner.mu.settled
}

// Rewound implements sinks.Settler.
func (s *Sink) Rewound() error {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	if errors.Is(s.owner.mu.refused, sinks.ErrRewound) {
		return s.owner.mu.refused
	}
	return nil
}

// News implements sinks.Settler.
func (s *Sink) News() <-chan struct{} { return s.owner.news }

var (
	_ sinks.Settler    = (*Sink)(nil)
	_ sinks.Identifier = (*Sink)(nil)
	_ sinks.Rebaser    = (*Sink)(nil)
)
