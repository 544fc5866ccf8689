package accept

import (
	"context"
	"time"

	"github.com/walproxy/walproxy/wal"
)

// Horizon returns a time before which nothing above an LSN was accepted or ever
// will be, not even after a crash: how far time has come where nothing is written.
// It costs an fsync of the state store.
func (a *Acceptor) Horizon(ctx context.Context) (above wal.LSN, at time.Time, err error) {
	if err := a.enter(); err != nil {
		return 0, at, err
	}
	defer a.leave()
	if err := a.order.lock.lock(ctx); err != nil {
		return 0, at, err
	}
	at = a.clock()
	a.order.last.Store(at.UnixNano())
	above = a.log.Appended()
	a.order.lock.unlock()
	return above, at, a.requests.keepClock()
}

// keepClock makes the accepted time of the last record, or a later one, durable.
func (r *requests) keepClock() error {
	r.storing.Lock() // or an older one may come behind it
	defer r.storing.Unlock()
	return r.store.SyncClock(r.clock.Load())
}
