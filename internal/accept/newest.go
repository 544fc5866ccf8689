package accept

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/walproxy/walproxy/wal"
)

// newest are the last writes to the collections that somebody tracks.
type newest struct {
	change sync.Mutex
	of     atomic.Pointer[map[string]*atomic.Uint64] // never changed, only replaced
}

// Track has Newest know a collection from now on.
func (a *Acceptor) Track(collection string) {
	a.newest.change.Lock()
	defer a.newest.change.Unlock()
	next := map[string]*atomic.Uint64{}
	if now := a.newest.of.Load(); now != nil {
		next = maps.Clone(*now)
	}
	if next[collection] != nil {
		return
	}
	lsn := &atomic.Uint64{}
	next[collection] = lsn
	a.newest.of.Store(&next)
	// What got its LSN before it could be noted may be to the collection.
	raise(lsn, a.log.Appended())
}

// Newest is the LSN of the last write to a collection, or a higher one. It covers
// every write that Submit has returned, and may cover some that it has not. The
// collection is tracked; 0 for others.
func (a *Acceptor) Newest(collection string) wal.LSN {
	now := a.newest.of.Load()
	if now == nil || (*now)[collection] == nil {
		return 0
	}
	return wal.LSN((*now)[collection].Load())
}

// note takes note of a write, before Submit returns.
func (n *newest) note(collection string, lsn wal.LSN) {
	now := n.of.Load()
	if now == nil {
		return
	}
	if of := (*now)[collection]; of != nil {
		raise(of, lsn)
	}
}

func raise(n *atomic.Uint64, lsn wal.LSN) {
	for {
		old := n.Load()
		if old >= uint64(lsn) || n.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}
