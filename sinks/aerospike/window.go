package aerospike

import (
	"sync"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

// ledger is what the store has acknowledged and may still lose: of each record the
// LSN of its last write. So a write can be held to what its record must have, and
// what a node has lost shows in the first record that is looked at. Records are kept
// by when they were written, and leave when that is settled.
type ledger struct {
	mu   sync.Mutex
	ages []age // oldest first; the last is written to
	size int
	high sinks.LSN
}

// age is what was written between two samples.
type age map[spot]entry

// spot is a record: digests are of set and key alone.
type spot struct {
	namespace string
	digest    [20]byte
}

type entry struct {
	lsn     sinks.LSN
	dead    bool
	set     string
	expires time.Time // zero: it does not
}

// maxUnsettled bounds the records in a ledger: about 100 bytes each.
const maxUnsettled = 1 << 20

func newLedger() *ledger { return &ledger{ages: []age{{}}} }

// note says what a record has now. It never has less.
func (l *ledger) note(at spot, e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.ages[len(l.ages)-1]
	was, ok := last[at]
	if ok && was.lsn > e.lsn {
		return
	}
	if !ok {
		l.size++
	}
	last[at] = e
	l.high = max(l.high, e.lsn)
}

// floor is the lowest guard that a record can have; 0: nothing is known.
func (l *ledger) floor(at spot, now time.Time) sinks.LSN {
	e, ok := l.find(at)
	if !ok || !e.expires.IsZero() && !now.Before(e.expires.Add(-expirySlack)) {
		return 0
	}
	return e.lsn
}

// expirySlack: the server counts a life in whole seconds, from when it was written.
const expirySlack = 2 * time.Second

func (l *ledger) find(at spot) (e entry, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.ages) - 1; i >= 0; i-- {
		if found, is := l.ages[i][at]; is && (!ok || found.lsn > e.lsn) {
			e, ok = found, true
		}
	}
	return e, ok
}

// full reports that no more can be applied until something is settled.
func (l *ledger) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size >= maxUnsettled
}

// turn begins a new age.
func (l *ledger) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ages = append(l.ages, age{})
}

// settle forgets the first n ages and returns the tombstones that nothing was written
// over since.
func (l *ledger) settle(n int) map[spot]entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.ages[:n]
	l.ages = append([]age(nil), l.ages[n:]...)
	dead := map[spot]entry{}
	for _, a := range old {
		l.size -= len(a)
		for at, e := range a {
			if e.dead {
				dead[at] = e
			} else if was, ok := dead[at]; ok && was.lsn < e.lsn {
				delete(dead, at)
			}
		}
	}
	for at := range dead {
		for _, a := range l.ages {
			if _, ok := a[at]; ok {
				delete(dead, at)
				break
			}
		}
	}
	return dead
}

func (l *ledger) highest() sinks.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.high
}
