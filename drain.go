package walproxy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// ErrDraining: the proxy is being drained and takes no new writes. Nothing was
// logged; try again elsewhere, or later.
var ErrDraining = errors.New("walproxy: draining, no new writes are taken")

// intake is the way into the log: how many are on it, and whether it is shut.
type intake struct {
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

// Drain refuses new writes with ErrDraining from now on, until Undrain or the next
// Open; retries and imports of dead letters are still taken, and reads are as ever.
// It returns when no other write can get an LSN any more: once every sink's Lag is 0
// then, the stores have everything. ctx bounds the wait alone: after its cause the
// proxy drains all the same. ErrClosed.
func (p *Proxy) Drain(ctx context.Context) error {
	if p.closing.Load() {
		return ErrClosed
	}
	if !p.intake.shut.Swap(true) {
		p.logger.Info("draining: no new writes are taken")
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

// Undrain takes writes again. It reports whether the proxy was draining. ErrClosed.
func (p *Proxy) Undrain() (was bool, err error) {
	if p.closing.Load() {
		return false, ErrClosed
	}
	if was = p.intake.shut.Swap(false); was {
		p.logger.Info("no longer draining: writes are taken again", zap.Uint64("appended", uint64(p.log.Appended())))
	}
	return was, nil
}
