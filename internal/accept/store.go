package accept

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

const (
	// storeInterval is how long logged ids, or a grown log, wait to be stored.
	storeInterval = 100 * time.Millisecond
	// syncInterval and syncBytes bound the rescan at the next start: the mark is
	// made durable that often, whether there are ids or not.
	syncInterval = 5 * time.Second
	syncBytes    = 32 << 20
	// expireInterval is how often old ids are dropped, and expireCount after how
	// many new ones.
	expireInterval = time.Minute
	expireCount    = 1 << 16
)

// lastDone is when what was done last.
type lastDone struct {
	synced  time.Time
	bytes   uint64 // the log's payload by then
	expired time.Time
	stored  int // ids since expired
}

func (r *requests) start() {
	now := time.Now()
	r.last = lastDone{synced: now, bytes: r.log.Stats().PayloadBytes, expired: now}
	r.loop.Go(r.run)
}

// run stores ids in the background until stop.
func (r *requests) run() {
	pause := time.NewTimer(storeInterval)
	defer pause.Stop()
	for {
		select {
		case <-r.stopped:
			return
		case <-r.dirty: // nothing to do until something was logged
		}
		pause.Reset(storeInterval)
		select {
		case <-r.stopped:
			return
		case <-r.full:
		case <-pause.C:
		}
		r.storeSome()
	}
}

// storeSome stores what is durable, and syncs and expires when due.
func (r *requests) storeSome() {
	r.storing.Lock()
	defer r.storing.Unlock()
	err := r.storeDurable()
	if err == nil {
		err = r.scanSome()
	}
	if err == nil {
		err = r.syncIfDue()
	}
	if err == nil {
		err = r.expireIfDue()
	}
	r.mu.Lock()
	first := r.mu.err == nil
	r.mu.err = err
	left := len(r.mu.logged) > 0 || r.mu.mark < r.log.Appended() || r.filter != nil && !r.filter.known.Load()
	r.mu.Unlock()
	if err != nil && first {
		r.logger.Error("request ids could not be stored; the log keeps them", zap.Error(err))
	}
	if left && r.log.Err() == nil {
		r.grown()
	}
}

// scanBatch is how many stored ids of earlier starts the filter gets at once.
const scanBatch = 1 << 16

// scanSome adds some of them, until the filter has all. Under storing.
func (r *requests) scanSome() error {
	if r.filter == nil || r.filter.known.Load() {
		return nil
	}
	next, more, err := r.store.Requests(r.scanned, scanBatch, func(principal, id string) {
		r.filter.addOld(requestKey{principal, id})
	})
	if err != nil {
		return err
	}
	r.scanned = next
	if !more {
		r.filter.known.Store(true)
	}
	return nil
}

// storeDurable puts every durable id into the state store, and the mark. Under
// storing.
func (r *requests) storeDurable() error {
	for {
		batch, mark, more := r.takeDurable()
		entries := make([]state.RequestID, len(batch))
		for i, req := range batch {
			entries[i] = state.RequestID{Principal: req.key.principal, ID: req.key.id, LSN: req.ticket.LSN,
				PayloadHash: req.hash, Accepted: unixTime(req.accepted), New: req.isNew}
			if r.filter != nil && !req.filtered { // once, however often this is tried
				r.filter.add(req.key)
				req.filtered = true
			}
		}
		r.mu.Lock()
		unchanged := len(batch) == 0 && mark <= r.mu.mark
		r.mu.Unlock()
		if unchanged {
			return nil
		}
		// Before the mark, and so durable with it.
		if err := r.store.PutClock(r.clock.Load()); err != nil {
			return err
		}
		if err := r.store.PutRequests(entries, mark); err != nil {
			for _, req := range batch {
				req.isNew = false // they may be there now
			}
			return err
		}
		r.last.stored += len(batch)
		r.forget(batch, mark)
		if !more {
			return nil
		}
	}
}

// takeDurable returns the first durable ids and the mark that storing them
// allows. They stay in memory until they are stored.
func (r *requests) takeDurable() (batch []*request, mark wal.LSN, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Whatever is reserved, but not being enqueued, gets an LSN above this.
	mark = r.log.Durable()
	if r.mu.floor != 0 {
		mark = min(mark, r.mu.floor-1)
	}
	for i, req := range r.mu.logged {
		if req.ticket.LSN > mark {
			break
		}
		if i == requestsBatch {
			return batch, batch[i-1].ticket.LSN, true
		}
		batch = append(batch, req)
	}
	return batch, mark, false
}

// forget drops what is stored from memory.
func (r *requests) forget(batch []*request, mark wal.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range batch {
		delete(r.mu.open, req.key)
	}
	rest := copy(r.mu.logged, r.mu.logged[len(batch):])
	clear(r.mu.logged[rest:])
	r.mu.logged = r.mu.logged[:rest]
	r.mu.mark = max(r.mu.mark, mark)
	r.announce()
}

func (r *requests) syncIfDue() error {
	bytes := r.log.Stats().PayloadBytes
	if time.Since(r.last.synced) < syncInterval && bytes-r.last.bytes < syncBytes {
		return nil
	}
	_, err := r.store.SyncRequests()
	if err == nil {
		r.last.synced, r.last.bytes = time.Now(), bytes
	}
	return err
}

func (r *requests) expireIfDue() error {
	if time.Since(r.last.expired) < expireInterval && r.last.stored < min(expireCount, r.keep/8+1) {
		return nil
	}
	err := r.store.ExpireRequests(r.now(), r.age, r.keep)
	if err == nil {
		r.last.expired, r.last.stored = time.Now(), 0
	}
	return err
}

// syncBelow makes the ids of LSNs below lsn durable in the state store.
func (r *requests) syncBelow(lsn wal.LSN) error {
	for {
		r.mu.Lock()
		changed := r.changed()
		r.mu.Unlock()
		mark, err := r.syncNow()
		if err != nil || mark+1 >= lsn {
			return err
		}
		if r.log.Durable()+1 < lsn {
			return errors.New("accept: SyncBelow beyond the durable LSN")
		}
		// A write has its LSN and is about to say so.
		<-changed
	}
}

// syncNow stores what is durable, durably, and returns the durable mark.
func (r *requests) syncNow() (wal.LSN, error) {
	r.storing.Lock()
	defer r.storing.Unlock()
	if err := r.storeDurable(); err != nil {
		return 0, err
	}
	return r.store.SyncRequests()
}

// stop ends the background and stores what is durable.
func (r *requests) stop() error {
	close(r.stopped)
	r.loop.Wait()
	_, err := r.syncNow()
	return err
}
