package walproxy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
)

// ErrDraining: the proxy is being drained and takes no new writes. Nothing was
// logged; try again elsewhere, or later.
var ErrDraining = errors.New("walproxy: draining, no new writes are taken")

// intake is the way into the log: how many are on it, and whether it is shut.
type intake struct {
	change sync.Mutex // serialises what shuts it and opens it; held during a sync
	shut   atomic.Bool
	inside atomic.Int64
}

// enter begins a call that may give a write its LSN; leave ends it.
func (i *intake) enter() error {
	i.inside.Add(1) // first: who shuts it sees this call, or this call sees that
	if i.shut.Load() {
		i.leave()
		return ErrDraining
	}
	return nil
}

func (i *intake) leave() { i.inside.Add(-1) }

// intakePoll is how often Drain looks whether calls are still under way.
const intakePoll = 5 * time.Millisecond

// Drain refuses new writes with ErrDraining from now on, over restarts, until
// Undrain: who has seen that the stores have everything may rely on it; retries and imports of dead letters are still taken, and reads are as ever.
// It returns when no other write can get an LSN any more: once every sink's Lag is 0
// then, the stores have everything. ctx bounds the wait alone: after its cause the
// proxy drains all the same. ErrClosed.
func (p *Proxy) Drain(ctx context.Context) error {
	if p.closing.Load() {
		return ErrClosed
	}
	if err := p.shutIntake(); err != nil {
		return err
	}
	ticker := time.NewTicker(intakePoll)
	defer ticker.Stop()
	for p.intake.inside.Load() > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// shutIntake notes it first: what a crash leaves is what was said.
func (p *Proxy) shutIntake() error {
	p.intake.change.Lock()
	defer p.intake.change.Unlock()
	if p.intake.shut.Load() {
		return nil
	}
	if err := p.state.SetDraining(true); err != nil {
		return closedError(err)
	}
	p.intake.shut.Store(true)
	p.logger.Info("draining: no new writes are taken")
	return nil
}

// resumeDrain goes on refusing writes where a drain was not undone.
func (p *Proxy) resumeDrain() error {
	draining, err := p.state.Draining()
	if err != nil || !draining {
		return err
	}
	p.intake.shut.Store(true)
	p.logger.Warn("it is being drained since before this start: no new writes are taken until that is undone (walproxy drain --undo)")
	return nil
}

// SetDraining has the proxy that opens the data directory dir next refuse new
// writes, as Drain does, or take them, durably, and returns what it was before. No
// proxy may have dir open: *wal.LockedError.
func SetDraining(dir string, draining bool) (before bool, err error) {
	err = offline(dir, func(st *state.Store) error {
		if before, err = st.Draining(); err != nil {
			return err
		}
		return st.SetDraining(draining)
	})
	return before, err
}

// Undrain takes writes again. It reports whether the proxy was draining. ErrClosed.
func (p *Proxy) Undrain() (was bool, err error) {
	if p.closing.Load() {
		return false, ErrClosed
	}
	p.intake.change.Lock()
	defer p.intake.change.Unlock()
	if err := p.state.SetDraining(false); err != nil {
		return false, closedError(err)
	}
	if was = p.intake.shut.Swap(false); was {
		p.logger.Info("no longer draining: writes are taken again", zap.Uint64("appended", uint64(p.log.Appended())))
	}
	return was, nil
}
