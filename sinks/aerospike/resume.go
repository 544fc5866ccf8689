package aerospike

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/sinks"
)

// claimTries is how often a claim is made against others that are made at once.
const claimTries = 5

// Resume implements sinks.Sink. It returns the settled point, for all lanes: what
// was applied above it may be lost, and comes again.
func (s *Sink) Resume(ctx context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer leave()
	s.owner.claims.Lock()
	defer s.owner.claims.Unlock()
	return s.owner.claim(ctx, claim)
}

func (o *owner) claim(ctx context.Context, claim sinks.Claim) (sinks.Checkpoint, error) {
	for range claimTries {
		// Before the claim: a restart that comes after it is seen.
		found, err := o.sink.look(ctx)
		if err != nil {
			return sinks.Checkpoint{}, err
		}
		st, err := o.load(ctx)
		if err != nil {
			return sinks.Checkpoint{}, err
		}
		until, kept := o.restarted(found, st)
		if kept {
			st.Settled = max(st.Settled, st.checkpoint().Low().LSN)
		}
		if st, err = o.claimed(st, claim); err != nil {
			return sinks.Checkpoint{}, err
		}
		if why := found.changed(st.Nodes); why != "" && st.generation > 0 {
			o.sink.log.Warn("the nodes are not as they were: what they may have lost is applied again", zap.String("seen", why))
		}
		st.Nodes = found
		err = o.save(ctx, st)
		if err == nil {
			o.advise(ctx, len(found))
			return o.begun(st, until), nil
		}
		if !errors.Is(err, errMoved) {
			return sinks.Checkpoint{}, err
		}
	}
	return sinks.Checkpoint{}, sinks.WithOutcome(sinks.Retry, errMoved)
}

// claimed is st with a new claim.
func (o *owner) claimed(st *state, claim sinks.Claim) (*state, error) {
	switch {
	case st == nil && !claim.Fresh:
		return nil, sinks.ErrNoCheckpoint
	case st == nil && (claim.Lanes < 1 || claim.Lanes > maxLanes):
		return nil, sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink aerospike: claim: lanes: %d, want 1 to %d", claim.Lanes, maxLanes))
	case st == nil:
		st = &state{Stream: claim.Stream, Lanes: make([]sinks.Point, claim.Lanes)}
	case st.Stream != claim.Stream:
		return nil, fmt.Errorf("%w: %v, of %q; the claim is for %v", sinks.ErrForeignStream, st.Stream, st.Owner, claim.Stream)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.state != nil { // its claim may have been lost
		st.Epoch = max(st.Epoch, o.mu.state.Epoch)
	}
	st.Epoch++
	st.Claim, st.Owner, st.Claimed = uuid.New(), claim.Owner, time.Now().UTC()
	return st, nil
}

func (o *owner) restarted(found nodes, stored *state) (until sinks.LSN, kept bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.restartedLocked(found, stored)
}

// begun takes over what was claimed. What was acknowledged before the node's start is
// known up to an LSN.
func (o *owner) begun(st *state, until sinks.LSN) sinks.Checkpoint {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := &o.mu
	if m.recent != nil && (m.before == nil || m.recent.highest() > 0) {
		m.before = merged(m.before, m.recent)
	}
	m.state, m.at, m.seen, m.refused = st, st.checkpoint(), time.Now(), nil
	m.recent, m.stream, m.sets = newLedger(), guardName(st.Stream), map[Place]bool{}
	m.saved, m.sights, m.proof = m.seen, nil, nil
	if until > m.at.Low().LSN {
		m.proof = newProof(until)
	}
	o.settledLocked(st.Settled)
	if m.before != nil && m.at.Low().LSN >= m.before.highest() {
		m.before = nil
	}
	if m.run != nil {
		m.run()
	}
	if !m.finished {
		ctx, cancel := context.WithCancel(context.Background())
		m.run = cancel
		o.settling.Go(func() { o.settle(ctx, st) })
	}
	c := m.at
	c.Lanes = slices.Clone(c.Lanes)
	return c
}

// merged is what a reader has to find after the store has lost it twice.
func merged(before, recent *ledger) *ledger {
	if before == nil {
		return recent
	}
	recent.mu.Lock()
	defer recent.mu.Unlock()
	for _, a := range before.ages {
		for at, e := range a {
			if recent.ages[0][at].lsn < e.lsn {
				recent.ages[0][at] = e
				recent.high = max(recent.high, e.lsn)
			}
		}
	}
	return recent
}

// Identity implements sinks.Identifier: the cluster, by its name, and where in it
// the checkpoint is.
func (s *Sink) Identity(ctx context.Context) (string, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	name, err := s.clusterName(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("aerospike cluster %q, namespace %q, state %s.%s", name, s.o.Namespace, s.o.State.Namespace, s.o.State.Set), nil
}

// Position implements sinks.Positioner.
func (s *Sink) Position(ctx context.Context) (sinks.Checkpoint, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	defer leave()
	st, err := s.owner.load(ctx)
	if err == nil && st == nil {
		err = sinks.ErrNoCheckpoint
	}
	if err != nil {
		return sinks.Checkpoint{}, err
	}
	return st.checkpoint(), nil
}

// Rebase implements sinks.Rebaser.
func (s *Sink) Rebase(ctx context.Context, owner string, from, to sinks.Checkpoint) error {
	if len(to.Lanes) < 1 || len(to.Lanes) > maxLanes {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink aerospike: rebase: lanes: %d, want 1 to %d", len(to.Lanes), maxLanes))
	}
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.owner.claims.Lock()
	defer s.owner.claims.Unlock()
	for range claimTries {
		st, err := s.owner.load(ctx)
		if err != nil {
			return err
		}
		if st == nil {
			st = &state{Epoch: uint64(time.Now().Unix())} // above all there were
		}
		stored := st.checkpoint()
		switch {
		case stored.SamePlace(to):
			return nil
		case !stored.SamePlace(from):
			return sinks.ErrMoved
		}
		if st.Stream != uuid.Nil && st.Stream != to.Stream {
			st.Former = append(st.Former, st.Stream)
			st.Former = st.Former[max(len(st.Former)-maxFormer, 0):]
		}
		st.Stream, st.Lanes, st.Settled = to.Stream, slices.Clone(to.Lanes), 0
		st.Epoch++
		st.Claim, st.Owner, st.Claimed = uuid.New(), owner, time.Now().UTC()
		if err := s.owner.save(ctx, st); !errors.Is(err, errMoved) {
			s.owner.forget()
			return err
		}
	}
	return sinks.WithOutcome(sinks.Retry, errMoved)
}

// forget has the owner ask the store before the next batch.
func (o *owner) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.seen, o.mu.stream, o.mu.points = time.Time{}, "", nil
}
