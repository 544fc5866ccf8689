package aerowire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/sinks"
)

// A store behind a network may be slow or away. A write that is evaluated needs to
// see the record, so it waits for the store; one that need not be evaluated is
// logged blindly once that has taken too long, and so are those behind it at once,
// until one that looks again finds the store.
const (
	// patienceMax is how long a write waits for the store that can do without it, less
	// if its client waits for less than twice as long.
	patienceMax = 2 * time.Second
	// shapePatience is how long a blind write waits to hear what its table has.
	shapePatience = time.Second
	// lookEvery is how often one request looks whether the store is back.
	lookEvery = time.Second
)

// away is what is known of the store's absence.
type away struct {
	mu   sync.Mutex
	away bool
	next time.Time // when a request is to look again
}

// look reports whether the store is known to be away, and this request is not the one
// to find out.
func (a *away) look(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.away || !now.Before(a.next) {
		a.next = now.Add(lookEvery)
		return false
	}
	return true
}

// note takes over what a request that looked has found.
func (a *away) note(now time.Time, unreachable bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = unreachable
	if unreachable {
		a.next = now.Add(lookEvery)
	}
}

// errNotWaited ends a wait for the store before the client's own end.
var errNotWaited = fmt.Errorf("aerowire: %w: it was not waited for any longer", sinks.ErrAway)

// reach runs f, which asks the store and keeps its error, for as long as the request
// may wait for that; not at all, if the store is known to be away. blind: the request
// can do without. unreachable is what was found.
func (s *Server) reach(ctx context.Context, blind bool, f func(context.Context) error) (unreachable bool) {
	if !s.o.Remote {
		_ = f(ctx)
		return false
	}
	now := time.Now()
	if s.away.look(now) {
		return true
	}
	within, patience := ctx, patienceMax
	if blind {
		if deadline, ok := ctx.Deadline(); ok {
			patience = min(patience, deadline.Sub(now)/2)
		}
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(ctx, patience, errNotWaited)
		defer cancel()
	}
	unreachable = isUnreachable(f(within)) && ctx.Err() == nil
	if hasty := patience < patienceMax && within.Err() != nil; ctx.Err() == nil && !hasty {
		// What a client in a hurry did not wait for may be there.
		s.away.note(time.Now(), unreachable)
	}
	return unreachable
}

// isUnreachable reports whether an error says that the store did not answer, and
// nothing of the record.
func isUnreachable(err error) bool {
	if _, small := errors.AsType[noRoom](err); small || err == nil || isResult(err) || errors.Is(err, walproxy.ErrParked) {
		return false
	}
	for _, known := range []error{walproxy.ErrVersionUnknown, walproxy.ErrHalted, walproxy.ErrPaused, sinks.ErrAway, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return true
		}
	}
	o, ok := errors.AsType[*sinks.OutcomeError](err)
	return ok && o.Outcome != sinks.Rejected
}
