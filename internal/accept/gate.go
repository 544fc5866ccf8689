package accept

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/walproxy/walproxy/wal"
)

// ErrDirect: a collection is written past the log just now; nothing was logged.
var ErrDirect = errors.New("the collection is written past the log")

// gate orders the two ways to write a tracked collection: through the log, and past
// it, in a transaction of the store's. They exclude each other. Who writes past it
// first waits until everything that is logged is applied, and while he is at it
// nothing is logged. So an old write from the log never overwrites a newer one past
// it, and nothing from the log ever waits for a lock of a transaction that in turn
// waits for the log.
type gate struct {
	mu      sync.Mutex
	direct  users // who may write past the log
	logging users // writes on their way into it
}

// users are counted, and waited for.
type users struct {
	n    int
	none chan struct{} // closed when n falls to 0; nil: nobody waits for that
}

// gone is closed when there are none any more; nil: there are none.
func (u *users) gone() <-chan struct{} {
	if u.n > 0 && u.none == nil {
		u.none = make(chan struct{})
	}
	return u.none
}

func (u *users) leave() {
	if u.n--; u.n == 0 && u.none != nil {
		close(u.none)
		u.none = nil
	}
}

// enterLog reports whether a write may go through the log now; else it returns what
// to wait for. Behind its LSN, or what came instead, leaveLog is called.
func (g *gate) enterLog() (ok bool, free <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if free := g.direct.gone(); free != nil {
		return false, free
	}
	g.logging.n++
	return true, nil
}

func (g *gate) leaveLog() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.logging.leave()
}

// enterDirect keeps writes out of the log until leaveDirect is called; empty is closed
// when those on their way are in it, nil: there are none.
func (g *gate) enterDirect() (empty <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.direct.n++
	return g.logging.gone()
}

func (g *gate) leaveDirect() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.direct.leave()
}

// gateWait is how long the gate of a collection is held for what was logged last before
// it; twice as long each time that this was in vain.
const gateWait = 500 * time.Millisecond

// errGateWait: what was logged last is not applied within gateWait.
var errGateWait = errors.New("accept: the store is slow")

// Direct waits until nothing is pending of a tracked collection and keeps it so until
// leave is called, once: writes to it wait, or are ErrDirect. applied waits until the
// store has everything up to an LSN. leave is nil with an error, which is applied's,
// or why ctx ended.
func (a *Acceptor) Direct(ctx context.Context, collection string, applied func(context.Context, wal.LSN) error) (leave func(), err error) {
	t := a.newest.find(collection)
	if t == nil {
		return nil, fmt.Errorf("accept: collection %q is not tracked", collection)
	}
	for limit := gateWait; ; limit *= 2 {
		// Most of it goes by while others write on, for it may take its time, or fail
		// because the store is away.
		last := t.last()
		if err := applied(ctx, last); err != nil {
			return nil, err
		}
		err := t.enterDirect(ctx, last, limit, applied)
		if err == nil {
			return sync.OnceFunc(t.gate.leaveDirect), nil
		}
		t.gate.leaveDirect()
		if !errors.Is(err, errGateWait) { // else the store hangs, and others need not wait for that
			return nil, err
		}
	}
}

// enterDirect enters the gate and waits for what was logged behind last, for no longer than
// limit. The gate is to be left behind an error, too.
func (t *tracked) enterDirect(ctx context.Context, last wal.LSN, limit time.Duration, applied func(context.Context, wal.LSN) error) error {
	if empty := t.gate.enterDirect(); empty != nil {
		select {
		case <-empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	now := t.last()
	if now == last {
		return applied(ctx, now)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errGateWait)
	defer cancel()
	return applied(ctx, now)
}

// pass enters the gates of those of the collections that are tracked, or of none: then it
// is ErrDirect. wait: it waits for them, no longer than for a lookup. leave is called when
// the write has its LSN, or there will be none. Where nothing is tracked it enters none and
// returns at once; Submit asks newest.tracks before only to spare itself the list of its
// collections.
func (a *Acceptor) pass(ctx context.Context, collections []string, wait bool) (leave func(), err error) {
	gates, names := a.newest.gates(collections)
	held, free := enterAll(gates)
	if held >= 0 && !wait {
		return nil, fmt.Errorf("%w: %s", ErrDirect, names[held])
	}
	if held >= 0 {
		if err := a.awaitGates(ctx, gates, names, held, free); err != nil {
			return nil, err
		}
	}
	return func() { leaveAll(gates) }, nil
}

// passOne is pass where the write has one key and enters at once, without an allocation:
// leaveLog of the gate is called then. nil: pass says.
func (a *Acceptor) passOne(w *write) *gate {
	if len(w.keys) != 1 {
		return nil
	}
	t := a.newest.find(w.keys[0].collection)
	if t == nil {
		return nil
	}
	if ok, _ := t.gate.enterLog(); !ok {
		return nil
	}
	return &t.gate
}

// awaitGates enters gates of which one is held, once it is free.
func (a *Acceptor) awaitGates(ctx context.Context, gates []*gate, names []string, held int, free <-chan struct{}) error {
	ctx, done := a.bound(ctx)
	defer done()
	ctx, cancel := context.WithTimeoutCause(ctx, a.o.LookupTimeout, context.DeadlineExceeded)
	defer cancel()
	for ; held >= 0; held, free = enterAll(gates) {
		select {
		case <-free:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), wal.ErrClosed) {
				return wal.ErrClosed
			}
			return fmt.Errorf("%w: %s, and writes to it wait: %w", ErrDirect, names[held], context.Cause(ctx))
		}
	}
	return nil
}

// enterAll returns -1, or which of the gates is held: then it has entered none.
func enterAll(gates []*gate) (held int, free <-chan struct{}) {
	for i, g := range gates {
		if ok, free := g.enterLog(); !ok {
			leaveAll(gates[:i])
			return i, free
		}
	}
	return -1, nil
}

func leaveAll(gates []*gate) {
	for _, g := range gates {
		g.leaveLog()
	}
}

// collections of a write, each once.
func (w *write) collections() []string {
	list := make([]string, 0, 1)
	for i := range w.keys {
		if c := w.keys[i].collection; !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}
