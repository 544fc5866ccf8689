package replay

import (
	"container/heap"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/wal"
)

// watermarks are what the loop has reached, and who waits for it. Both only
// rise, until the store has lost what was applied, with which the loop ends.
type watermarks struct {
	// wanted is the highest LSN that anybody waits for, 0 if nobody does: lanes
	// look at it to decide whether to linger.
	wanted atomic.Uint64
	// rose holds a token when checkpoint has risen since it was last taken.
	rose chan struct{}

	mu         sync.Mutex
	applied    wal.LSN
	checkpoint wal.LSN
	waiters    waiterHeap // lowest LSN first: an advance wakes only those it serves
	ended      bool
	retracted  bool  // applied was taken back
	err        error // what waiters get once ended
	blocked    error // what callers of Wait get meanwhile; nil: they wait
}

// waiter is one call of Wait.
type waiter struct {
	lsn   wal.LSN
	index int           // in the heap; -1: not in it
	call  bool          // of Wait, not of a lane that waits for others
	done  chan struct{} // closed when err is set
	err   error
}

// awaited reports whether anybody waits.
func (m *watermarks) awaited() bool { return m.wanted.Load() > 0 }

func (m *watermarks) appliedNow() wal.LSN {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied
}

func (m *watermarks) checkpointNow() wal.LSN {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.checkpoint
}

// raise lifts both marks and wakes who waited for that.
func (m *watermarks) raise(applied, checkpoint wal.LSN) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if checkpoint > m.checkpoint {
		m.checkpoint = checkpoint
		signal(m.rose)
	}
	if applied <= m.applied {
		return
	}
	m.applied = applied
	for len(m.waiters) > 0 && m.waiters[0].lsn <= applied {
		close(m.removeLocked(0).done)
	}
}

// enter returns a waiter to wait on, or nil and the answer. call says that
// somebody outside of the loop waits.
func (m *watermarks) enter(lsn wal.LSN, call bool) (*waiter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.applied >= lsn {
		return nil, nil
	}
	if m.ended {
		return nil, m.err
	}
	if call && m.blocked != nil {
		return nil, m.blocked
	}
	w := &waiter{lsn: lsn, call: call, done: make(chan struct{})}
	heap.Push(&m.waiters, w)
	m.wanted.Store(max(m.wanted.Load(), uint64(lsn)))
	return w, nil
}

// leave takes w back, unless it was served meanwhile.
func (m *watermarks) leave(w *waiter, cause error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.index < 0 {
		return w.err
	}
	m.removeLocked(w.index)
	return cause
}

func (m *watermarks) removeLocked(i int) *waiter {
	w := heap.Remove(&m.waiters, i).(*waiter)
	if len(m.waiters) == 0 {
		m.wanted.Store(0)
	}
	return w
}

// block gives err to callers of Wait, until it is nil.
func (m *watermarks) block(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocked = err
	if err == nil {
		return
	}
	for _, w := range slices.Clone(m.waiters) {
		if w.call {
			m.removeLocked(w.index)
			w.err = err
			close(w.done)
		}
	}
}

// retract takes back what was applied: nobody may rely on it any more.
func (m *watermarks) retract() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied, m.retracted = 0, true
}

func (m *watermarks) isRetracted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.retracted
}

// end gives err to everybody who still waits or comes later.
func (m *watermarks) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended, m.err = true, err
	for len(m.waiters) > 0 {
		w := m.removeLocked(0)
		w.err = err
		close(w.done)
	}
}

// notify calls f whenever the checkpoint has risen, until stop is closed, and a
// last time then if it has.
func (m *watermarks) notify(stop <-chan struct{}, f func(wal.LSN)) {
	var last wal.LSN
	call := func() {
		if now := m.checkpointNow(); now > last {
			last = now
			failpoint.Hit("replay-before-checkpoint-release")
			f(now)
		}
	}
	for {
		select {
		case <-m.rose:
			call()
		case <-stop:
			call()
			return
		}
	}
}

// signal leaves a token in c, a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is there already
	}
}

type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].lsn < h[j].lsn }
func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}

// Pop implements heap.Interface.
func (h *waiterHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	w.index = -1
	return w
}
