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
	of     atomic.Pointer[map[string]*tracked] // never changed, only replaced
}

// tracked is what is known of a collection that somebody tracks.
type tracked struct {
	lsn  atomic.Uint64 // of its last write, or a higher one
	gate gate
}

func (t *tracked) last() wal.LSN { return wal.LSN(t.lsn.Load()) }

// Track has Newest and Direct know a collection from now on.
func (a *Acceptor) Track(collection string) {
	a.newest.change.Lock()
	defer a.newest.change.Unlock()
	next := map[string]*tracked{}
	if now := a.newest.of.Load(); now != nil {
		next = maps.Clone(*now)
	}
	if next[collection] != nil {
		return
	}
	t := &tracked{}
	next[collection] = t
	a.newest.of.Store(&next)
	// What got its LSN before it could be noted may be to the collection.
	t.raise(a.log.Appended())
}

// Newest is the LSN of the last write to a collection, or a higher one. It covers
// every write that Submit has returned, and may cover some that it has not. The
// collection is tracked; 0 for others.
func (a *Acceptor) Newest(collection string) wal.LSN {
	if t := a.newest.find(collection); t != nil {
		return t.last()
	}
	return 0
}

// find returns nil for a collection that is not tracked.
func (n *newest) find(collection string) *tracked {
	if now := n.of.Load(); now != nil {
		return (*now)[collection]
	}
	return nil
}

// gates of those collections that are tracked, with their names.
func (n *newest) gates(collections []string) (gates []*gate, names []string) {
	for _, c := range collections {
		if t := n.find(c); t != nil {
			gates, names = append(gates, &t.gate), append(names, c)
		}
	}
	return gates, names
}

// tracks reports that there is any.
func (n *newest) tracks() bool { return n.of.Load() != nil }

// note takes note of a write, before Submit returns.
func (n *newest) note(collection string, lsn wal.LSN) {
	if t := n.find(collection); t != nil {
		t.raise(lsn)
	}
}

func (t *tracked) raise(lsn wal.LSN) {
	for {
		old := t.lsn.Load()
		if old >= uint64(lsn) || t.lsn.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}
