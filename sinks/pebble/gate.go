package pebble

import (
	"context"
	"slices"
	"sync"
)

// gate gives an Apply its lanes for itself, and Resume, a relane and the sweep
// all of them. A call that gave up waiting may still be at work in the store;
// whoever comes next waits here until it is done, so its batch is never judged
// by a checkpoint that is about to move.
type gate struct {
	mu      sync.Mutex
	busy    []int         // lanes taken
	whole   bool          // all lanes taken
	waiting int           // callers that want all: new lanes wait behind them
	changed chan struct{} // closed and replaced at every release
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

// lanes waits for the lanes until ctx ends or stop is closed.
func (g *gate) lanes(ctx context.Context, stop <-chan struct{}, lanes []int) (release func(), err error) {
	lanes = slices.Clone(lanes)
	err = g.wait(ctx, stop, func() bool {
		taken := func(lane int) bool { return slices.Contains(g.busy, lane) }
		if g.whole || g.waiting > 0 || slices.ContainsFunc(lanes, taken) {
			return false
		}
		g.busy = append(g.busy, lanes...)
		return true
	})
	if err != nil {
		return nil, err
	}
	return func() {
		g.release(func() {
			g.busy = slices.DeleteFunc(g.busy, func(lane int) bool { return slices.Contains(lanes, lane) })
		})
	}, nil
}

// all waits for every lane.
func (g *gate) all(ctx context.Context, stop <-chan struct{}) (release func(), err error) {
	g.mu.Lock()
	g.waiting++
	g.mu.Unlock()
	err = g.wait(ctx, stop, func() bool {
		if g.whole || len(g.busy) > 0 {
			return false
		}
		g.whole = true
		return true
	})
	g.release(func() { g.waiting-- })
	if err != nil {
		return nil, err
	}
	return func() { g.release(func() { g.whole = false }) }, nil
}

func (g *gate) release(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gate) wait(ctx context.Context, stop <-chan struct{}, take func() bool) error {
	for {
		g.mu.Lock()
		taken, changed := take(), g.changed
		g.mu.Unlock()
		if taken {
			return nil
		}
		select {
		case <-changed:
		case <-stop:
			return errStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
