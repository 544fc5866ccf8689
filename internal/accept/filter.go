package accept

import (
	"hash/maphash"
	"sync/atomic"
)

// filter tells of most ids that are not stored that they are not, without asking the
// state store, which costs as much as all the rest of a write. It is a Bloom filter in two
// generations: the ids of the last one or two times filterIDs. What is older is not
// known, and out of the window.
//
// All methods but may are called by one goroutine at a time.
type filter struct {
	seed maphash.Seed
	size int // ids of a generation
	now  atomic.Pointer[generations]
	// known: every id that is stored and in the window was added.
	known atomic.Bool
	added int // to the newer generation
}

type generations struct{ newer, older bloom }

// bloom has 16 bits for each id, four of which are set: one in 500 others seems to be there.
type bloom []atomic.Uint64

const (
	bloomBits  = 16
	bloomTries = 4
	// filterIDsMost bounds the memory, 4 bytes for each: with larger windows the store is
	// asked.
	filterIDsMost = 8 << 20
)

// newFilter is for a window of so many ids; nil: there is none for that many.
func newFilter(window int) *filter {
	// Those that are stored before the oldest are dropped are in the window, too.
	size := window + expireCount + requestsBatch
	if size > filterIDsMost {
		return nil
	}
	return &filter{seed: maphash.MakeSeed(), size: size}
}

// may is false for an id that is surely not stored.
func (f *filter) may(id requestKey) bool {
	if f == nil || !f.known.Load() {
		return true
	}
	g, h := f.now.Load(), f.hash(id)
	if g == nil { // there has been none
		return false
	}
	return g.newer.has(h) || g.older.has(h)
}

// add adds an id that is about to be stored.
func (f *filter) add(id requestKey) {
	g := f.generations()
	if f.added == f.size {
		g = &generations{newer: make(bloom, len(g.newer)), older: g.newer}
		f.now.Store(g)
		f.added = 0
	}
	g.newer.set(f.hash(id))
	f.added++
}

// addOld adds an id that was stored before the first add.
func (f *filter) addOld(id requestKey) { f.generations().older.set(f.hash(id)) }

// generations makes them when they are needed first.
func (f *filter) generations() *generations {
	if g := f.now.Load(); g != nil {
		return g
	}
	words := f.size*bloomBits/64 + 1
	g := &generations{newer: make(bloom, words), older: make(bloom, words)}
	f.now.Store(g)
	return g
}

func (f *filter) hash(id requestKey) uint64 {
	return maphash.String(f.seed, id.id) + 31*maphash.String(f.seed, id.principal)
}

// bit is the n-th of h.
func (b bloom) bit(h uint64, n uint64) (word *atomic.Uint64, mask uint64) {
	at := (h + n*(h>>32|1)) % (uint64(len(b)) * 64)
	return &b[at/64], 1 << (at % 64)
}

func (b bloom) set(h uint64) {
	for n := range uint64(bloomTries) {
		word, mask := b.bit(h, n)
		word.Or(mask)
	}
}

func (b bloom) has(h uint64) bool {
	for n := range uint64(bloomTries) {
		if word, mask := b.bit(h, n); word.Load()&mask == 0 {
			return false
		}
	}
	return true
}
