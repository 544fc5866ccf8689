// Package gate counts the calls into something that is closed while they run.
package gate

import (
	"context"
	"errors"
	"sync"
)

// Gate lets calls in until it is shut, and knows when the last one has left. All
// methods may be called concurrently.
type Gate struct {
	closed error // what a call behind Shut gets
	base   context.Context
	cut    context.CancelCauseFunc
	calls  sync.WaitGroup

	mu struct {
		sync.Mutex
		shut bool
	}
}

// New returns an open gate; closed is the error of calls that come too late.
func New(closed error) *Gate {
	g := &Gate{closed: closed}
	g.base, g.cut = context.WithCancelCause(context.Background())
	return g
}

// Enter lets a call in, until leave is called. Its context ends with ctx, and when
// calls are cut off.
func (g *Gate) Enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.shut {
		return nil, nil, g.closed
	}
	g.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.base, func() { cancel(context.Cause(g.base)) })
	return ctx, func() {
		stop()
		cancel(nil)
		g.calls.Done()
	}, nil
}

// Go runs f as a part of the caller's own call, which has entered; Wait waits for
// it also when the call has left.
func (g *Gate) Go(f func()) { g.calls.Go(f) }

// Shut lets no more calls in.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.shut = true
}

// Wait waits, behind Shut, for the calls that are in, and frees what the gate holds.
func (g *Gate) Wait() {
	g.calls.Wait()
	g.cut(nil)
}

// Cut ends the contexts of the calls that are in, for the cause why nobody waits
// for them any more.
func (g *Gate) Cut(cause error) { g.cut(errors.Join(g.closed, cause)) }

// IsCut reports whether Cut was called while calls were in.
func (g *Gate) IsCut() bool { return errors.Is(context.Cause(g.base), g.closed) }
