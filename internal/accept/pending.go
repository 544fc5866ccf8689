package accept

import (
	"sync"
	"sync/atomic"

	"github.com/walproxy/walproxy/wal"
)

// buckets is the conservative half of the pending table, in constant memory: by
// hash, the highest LSN appended for any key of the bucket. A key whose bucket
// is applied has no pending write.
type buckets struct {
	lsn [1 << 16]atomic.Uint64
}

// fill raises every bucket to lsn.
func (b *buckets) fill(lsn wal.LSN) {
	for i := range b.lsn {
		b.lsn[i].Store(uint64(lsn))
	}
}

func (b *buckets) of(hash uint64) *atomic.Uint64 {
	return &b.lsn[(hash>>16)%uint64(len(b.lsn))]
}

func (b *buckets) get(hash uint64) wal.LSN { return wal.LSN(b.of(hash).Load()) }

func (b *buckets) raise(hash uint64, lsn wal.LSN) {
	bucket := b.of(hash)
	for {
		old := bucket.Load()
		if old >= uint64(lsn) || bucket.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}

// exactMap is the exact half: what is known of records with pending writes, so
// that conditional writes need not wait for them to be applied. Every entry
// covers all writes to its key, or it is not there; any may be dropped at any
// time. It keeps the last ones put in, bounded in number and in bytes of keys.
type exactMap struct {
	shards [64]exactShard
}

// keyBytesPerEntry bounds the keys' memory, where keys are long: an average.
const keyBytesPerEntry = 128

type exactShard struct {
	sync.Mutex
	entries  map[string]exactEntry
	queue    []string // keys as they were put in, a ring; holds every key of entries
	head     int      // index of the oldest
	length   int
	keyBytes int // of queue
	bytesMax int
}

type exactEntry struct {
	known known
	lsn   wal.LSN // of the last write to the key
}

func newExactMap(size int) *exactMap {
	x := &exactMap{}
	perShard := max(1, size/len(x.shards))
	for i := range x.shards {
		x.shards[i].entries = map[string]exactEntry{}
		x.shards[i].queue = make([]string, perShard)
		x.shards[i].bytesMax = perShard * keyBytesPerEntry
	}
	return x
}

func (x *exactMap) shard(hash uint64) *exactShard { return &x.shards[hash%uint64(len(x.shards))] }

// get returns what is known of key; ok is false if that is nothing. Once the
// write is applied the store knows better, which may have rejected it.
func (x *exactMap) get(hash uint64, key string, applied wal.LSN) (e exactEntry, ok bool) {
	s := x.shard(hash)
	s.Lock()
	defer s.Unlock()
	e, ok = s.entries[key]
	if ok && e.lsn <= applied {
		delete(s.entries, key)
		return exactEntry{}, false
	}
	return e, ok
}

// put replaces what is known of key.
func (x *exactMap) put(hash uint64, key string, e exactEntry) {
	s := x.shard(hash)
	s.Lock()
	defer s.Unlock()
	if e.known.exists == unsure {
		delete(s.entries, key)
		return
	}
	if _, ok := s.entries[key]; !ok && !s.push(key) {
		return
	}
	s.entries[key] = e
}

// push makes room for key and queues it; false if it is too long.
func (s *exactShard) push(key string) bool {
	if len(key) > s.bytesMax {
		return false
	}
	for s.length == len(s.queue) || s.keyBytes+len(key) > s.bytesMax {
		oldest := s.queue[s.head]
		delete(s.entries, oldest)
		s.queue[s.head] = ""
		s.head = (s.head + 1) % len(s.queue)
		s.length--
		s.keyBytes -= len(oldest)
	}
	s.queue[(s.head+s.length)%len(s.queue)] = key
	s.length++
	s.keyBytes += len(key)
	return true
}
