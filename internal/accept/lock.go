package accept

import (
	"context"
	"sync"
	"sync/atomic"
)

// mutex is a lock whose wait a context bounds. Like sync.Mutex it lets a running
// goroutine overtake one that has to be woken first, because handing it over
// would cost a switch per write.
type mutex struct {
	held    atomic.Bool
	waiters atomic.Int32
	wake    chan struct{} // capacity 1: somebody may try again
}

func (m *mutex) init() { m.wake = make(chan struct{}, 1) }

// lock returns ctx's cause if that ends first.
func (m *mutex) lock(ctx context.Context) error {
	if m.held.CompareAndSwap(false, true) {
		return nil
	}
	// The count is raised before the next try, and unlock frees before it looks
	// at the count: one of the two sees the other.
	m.waiters.Add(1)
	defer m.waiters.Add(-1)
	for !m.held.CompareAndSwap(false, true) {
		select {
		case <-m.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (m *mutex) unlock() {
	m.held.Store(false)
	if m.waiters.Load() > 0 {
		select {
		case m.wake <- struct{}{}:
		default: // a wake-up is on its way already
		}
	}
}

// keyLocks locks keys by their hash; two keys of one hash share a lock, which is
// harmless. It holds an entry per key that is locked or waited for, no more.
// Several keys are locked in the order of their hashes.
type keyLocks struct {
	shards [256]struct {
		sync.Mutex
		locks map[uint64]*keyLock
	}
	unused sync.Pool
}

type keyLock struct {
	mutex mutex
	users int // holder and waiters; guarded by the shard
}

func (l *keyLocks) init() {
	for i := range l.shards {
		l.shards[i].locks = map[uint64]*keyLock{}
	}
	l.unused.New = func() any {
		lock := &keyLock{}
		lock.mutex.init()
		return lock
	}
}

// lock locks hashes, which are sorted and differ, all or none.
func (l *keyLocks) lock(ctx context.Context, hashes []uint64) error {
	for i, hash := range hashes {
		lock := l.use(hash)
		if err := lock.mutex.lock(ctx); err != nil {
			l.drop(hash, lock)
			l.unlock(hashes[:i])
			return err
		}
	}
	return nil
}

func (l *keyLocks) unlock(hashes []uint64) {
	for _, hash := range hashes {
		shard := &l.shards[hash%uint64(len(l.shards))]
		shard.Lock()
		lock := shard.locks[hash]
		shard.Unlock()
		lock.mutex.unlock()
		l.drop(hash, lock)
	}
}

func (l *keyLocks) use(hash uint64) *keyLock {
	shard := &l.shards[hash%uint64(len(l.shards))]
	shard.Lock()
	defer shard.Unlock()
	lock := shard.locks[hash]
	if lock == nil {
		lock = l.unused.Get().(*keyLock)
		shard.locks[hash] = lock
	}
	lock.users++
	return lock
}

func (l *keyLocks) drop(hash uint64, lock *keyLock) {
	shard := &l.shards[hash%uint64(len(l.shards))]
	shard.Lock()
	defer shard.Unlock()
	if lock.users--; lock.users == 0 {
		delete(shard.locks, hash)
		l.unused.Put(lock)
	}
}
