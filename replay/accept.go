package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

var (
	// ErrNothingToAccept: the sink would go on as it is, or what keeps it is no
	// matter of its checkpoint.
	ErrNothingToAccept = errors.New("replay: there is nothing to accept")
	// ErrNotAcceptable: no decision of a person can make it right; the error says why.
	ErrNotAcceptable = errors.New("replay: this cannot be accepted")
	// ErrAfterNeeded: only a person can know up to where the store has the log.
	ErrAfterNeeded = errors.New("replay: it has to be said up to which LSN the store has this log")
	// ErrAfterUnfit: the sink cannot go on after the LSN that was named.
	ErrAfterUnfit = errors.New("replay: the sink cannot go on after this LSN")
)

// acceptance is a decision as the state store keeps it until it is carried out. It
// holds for the store as it was shown, and for no other.
type acceptance struct {
	Identity string           `json:"identity"`
	From     sinks.Checkpoint `json:"from"`
	To       sinks.Checkpoint `json:"to"`
	DropHeld bool             `json:"drop_held,omitempty"`
}

// PlanAccept looks at a sink that is not running, and changes nothing: how it
// stands to the log, and what it would mean to go on with it. after says up to which
// LSN the store has this log, where that is not known; nil: not said.
//
// Errors: ErrNothingToAccept, ErrNotAcceptable, ErrAfterUnfit, what the store says.
// With ErrAfterNeeded the plan tells all but the target.
func (l *Loop) PlanAccept(ctx context.Context, after *wal.LSN) (*Plan, error) {
	p, err := l.look(ctx)
	if err != nil {
		return p, err
	}
	if err := l.aim(p, after); err != nil {
		return p, err
	}
	p.explain()
	return p, nil
}

// look finds out what is, and why the sink is refused.
func (l *Loop) look(ctx context.Context) (*Plan, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.o.ApplyTimeout, errTimeout)
	defer cancel()
	r, ok := l.sink.(sinks.Rebaser)
	if !ok {
		return nil, fmt.Errorf("%w: sink %q: a store of its type cannot be given a checkpoint", ErrNotAcceptable, l.o.Name)
	}
	claim, known, err := l.state.Claim(l.o.Name)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, fmt.Errorf("%w: sink %q is new", ErrNothingToAccept, l.o.Name)
	}
	p := &Plan{
		Sink: l.o.Name, Claimed: claim.Identity, Stream: l.log.Stream(), First: l.log.First(), Last: l.log.Durable(),
		History: l.log.History(l.log.First()-1, l.log.Durable()), NotedApplied: claim.Applied, From: claim.From, settled: claim.Settled,
	}
	if i, ok := l.sink.(sinks.Identifier); ok {
		if p.Identity, err = i.Identity(ctx); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
	}
	p.Found, err = r.Position(ctx)
	missing := errors.Is(err, sinks.ErrNoCheckpoint)
	if err != nil && !missing {
		return nil, err
	}
	p.Missing = missing
	_, err = l.heldRange()
	p.DropHeld = errors.Is(err, wal.ErrDiverged)
	if err != nil && !p.DropHeld {
		return nil, err
	}
	switch {
	case missing && claim.Settled:
		p.Refusal = l.resumeError(sinks.ErrNoCheckpoint)
	case missing && l.settler != nil:
		return p, fmt.Errorf("%w: sink %q: nothing was settled in its store, which gets its checkpoint when it is reached", ErrNothingToAccept, l.o.Name)
	case missing:
		return p, fmt.Errorf("%w: sink %q was never reached: its store gets its checkpoint when it is", ErrNothingToAccept, l.o.Name)
	default:
		p.Refusal = l.check(p.Found)
	}
	if _, err := l.identity(ctx, claim); errors.Is(err, ErrWrongStore) {
		p.WrongStore = true
		p.Refusal = errors.Join(errors.Unwrap(err), p.Refusal) // the outcome's mark is not for people
	}
	var refused *ResumeError
	switch {
	case p.Refusal == nil:
		return p, fmt.Errorf("%w: sink %q: its checkpoint fits this log", ErrNothingToAccept, l.o.Name)
	case !errors.As(p.Refusal, &refused):
		return p, p.Refusal
	}
	return p, nil
}

// aim finds where the lanes are to go on.
func (l *Loop) aim(p *Plan, after *wal.LSN) error {
	p.Target = sinks.Checkpoint{Stream: p.Stream, Lanes: slices.Clone(p.Found.Lanes)}
	if p.Missing || p.Found.Stream != p.Stream || len(p.Found.Lanes) < 1 || len(p.Found.Lanes) > lanesMax {
		lsn := l.start()
		switch {
		case after != nil:
			lsn = *after
		case p.settled || p.Missing:
			return l.needAfter(p)
		}
		point, err := l.fit(p, lsn)
		p.Target.Lanes = slices.Repeat([]sinks.Point{point}, l.o.total())
		return err
	}
	used := after == nil
	for i, at := range p.Found.Lanes {
		lsn, fits, known := l.stands(at, p.DropHeld)
		if fits {
			continue
		}
		if after != nil {
			lsn, known, used = *after, true, true
		}
		if !known {
			return l.needAfter(p)
		}
		point, err := l.fit(p, lsn)
		if err != nil {
			return err
		}
		p.Target.Lanes[i] = point
	}
	if !used {
		return fmt.Errorf("%w: sink %q: every lane of its checkpoint fits this log: they stay where they are", ErrAfterUnfit, l.o.Name)
	}
	return nil
}

func (l *Loop) needAfter(p *Plan) error {
	p.Target = sinks.Checkpoint{}
	p.explain()
	return fmt.Errorf("%w: sink %q", ErrAfterNeeded, l.o.Name)
}

// stands says whether a lane may stay at a point; if not, where it is to go on, if
// that is known.
func (l *Loop) stands(at sinks.Point, dropHeld bool) (lsn wal.LSN, fits, known bool) {
	err := l.contains(at)
	if dropHeld {
		err = l.log.Contains(at)
	}
	first := l.log.First()
	switch {
	case err == nil && l.filled(at.LSN), errors.Is(err, wal.ErrBelowFirst) && first-1 <= l.start():
		return 0, true, true
	case err == nil: // what it was given when it was added is gone, or some of it
		held, heldErr := l.heldRange()
		if heldErr == nil && held.Continues(held.Low) && held.Through >= l.fill() {
			return max(at.LSN, held.Low), false, true
		}
		return max(at.LSN, l.fill()), false, true
	case errors.Is(err, wal.ErrBelowFirst):
		return first - 1, false, true
	}
	return l.parted(at)
}

// parted is the last LSN of this log that is of the point's incarnation: up to there
// both histories are one.
func (l *Loop) parted(at sinks.Point) (lsn wal.LSN, fits, known bool) {
	begins := l.log.History(1, l.log.Durable())
	for i, b := range begins {
		if b.Incarnation != at.Incarnation {
			continue
		}
		lsn = l.log.Durable()
		if i+1 < len(begins) {
			lsn = min(lsn, begins[i+1].LSN-1)
		}
		return max(lsn, l.log.First()-1), false, true
	}
	return 0, false, false
}

// fit is the point of an LSN that a sink may go on after.
func (l *Loop) fit(p *Plan, lsn wal.LSN) (sinks.Point, error) {
	point, err := l.pointOf(lsn)
	if err == nil {
		err = l.contains(point)
		if errors.Is(err, wal.ErrBelowFirst) && l.log.First()-1 <= l.start() {
			err = nil
		}
	}
	switch {
	case err != nil && p.DropHeld && lsn+1 >= l.log.First() && lsn <= l.log.Durable():
		point, err = l.log.PointOf(lsn)
	case err == nil && !l.filled(lsn):
		err = fmt.Errorf("what the sink was given up to LSN %d when it was added is not kept any more", l.fill())
	}
	if err != nil {
		return point, fmt.Errorf("%w: %d; this log can give it what follows LSN %d to %d: %w", ErrAfterUnfit, lsn, max(l.log.First()-1, l.start()), l.log.Durable(), err)
	}
	return point, nil
}

// Accept makes the decision durable. It is carried out by the next loop that resumes
// the sink, before anything else, or by CarryOut; only if the store still is what
// the plan says.
func (l *Loop) Accept(p *Plan) error {
	value, err := json.Marshal(acceptance{Identity: p.Identity, From: p.from(), To: p.Target, DropHeld: p.DropHeld})
	if err != nil {
		return err
	}
	return l.state.PutAcceptance(l.o.Name, value)
}

// CarryOut does what was accepted, if anything was: for a sink that no loop runs on.
// A crash at any point, or an error, leaves it to be done again.
func (l *Loop) CarryOut(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.o.ApplyTimeout, errTimeout)
	defer cancel()
	_, err := l.carryOut(ctx)
	return err
}

// Finish carries out what was accepted by somebody who was interrupted then; done
// is false if nothing was, or if the store has changed since, so that it cannot be.
func (l *Loop) Finish(ctx context.Context) (done bool, err error) {
	value, err := l.state.Acceptance(l.o.Name)
	if err != nil || value == nil {
		return false, err
	}
	err = l.CarryOut(ctx)
	if errors.Is(err, ErrAccepted) {
		return false, nil
	}
	return err == nil, err
}

// carryOut returns the claim as it is then.
func (l *Loop) carryOut(ctx context.Context) (claim state.Claim, err error) {
	if claim, _, err = l.state.Claim(l.o.Name); err != nil {
		return claim, sinks.WithOutcome(sinks.Halt, err)
	}
	value, err := l.state.Acceptance(l.o.Name)
	if err != nil || value == nil {
		return claim, sinks.WithOutcome(sinks.Halt, err)
	}
	var a acceptance
	if err := json.Unmarshal(value, &a); err != nil {
		return claim, sinks.WithOutcome(sinks.Halt, fmt.Errorf("%w: acceptance of sink %q: %w", state.ErrCorrupt, l.o.Name, err))
	}
	if _, err := l.identity(ctx, state.Claim{Identity: a.Identity}); err != nil {
		return claim, l.changed(err)
	}
	r, ok := l.sink.(sinks.Rebaser)
	if !ok {
		return claim, l.changed(errors.ErrUnsupported)
	}
	// Held records go first: the checkpoint would be looked up in their history.
	if a.DropHeld {
		if err := l.state.DropHeld(l.o.Name); err != nil {
			return claim, sinks.WithOutcome(sinks.Halt, err)
		}
	}
	if err := r.Rebase(ctx, l.o.Owner, a.From, a.To); errors.Is(err, sinks.ErrMoved) {
		return claim, l.changed(err)
	} else if err != nil {
		return claim, err
	}
	failpoint.Hit("accept-before-settle")
	claim, err = l.state.SettleAcceptance(l.o.Name, func(c *state.Claim) {
		c.Identity, c.Settled, c.Applied = a.Identity, true, a.To.Low().LSN
	})
	if err == nil {
		l.logger.Warn("the sink goes on as it was accepted", zap.Stringer("checkpoint", a.To.Low()), zap.String("store", a.Identity))
	}
	return claim, sinks.WithOutcome(sinks.Halt, err)
}

// changed is why what was accepted is not done.
func (l *Loop) changed(cause error) error {
	return sinks.WithOutcome(sinks.Halt, &ResumeError{Sink: l.o.Name, Err: ErrAccepted, Cause: cause,
		Found: "its store is not what it was when it was accepted",
		Next:  fmt.Sprintf("nothing was changed; look again with `walproxy sink accept %s`", l.o.Name)})
}
