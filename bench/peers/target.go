package peers

import (
	"sync"
	"testing"
)

// target is what is measured.
type target struct {
	name string
	// note says how it is used.
	note string
	// open begins with nothing in dir. It is closed by the cleanup of t.
	open func(t testing.TB, dir string, writers int) *running
	// limit is the largest number of writers it is measured with; 0: any.
	limit int
}

// running is a target that is open. write returns when the record is durable; i is
// the writer, which has one call at a time.
type running struct {
	write  func(i int, payload []byte) error
	groups func() []int // bytes of each group since the last call; nil: not known
	close  func() error
}

// batcher is group commit for libraries that have none: one goroutine that hands
// over all that has arrived meanwhile, as a careful user of them would.
type batcher struct {
	commit func(payloads [][]byte) error
	kick   chan struct{}
	ended  chan struct{}
	mu     sync.Mutex
	next   *batch
}

type batch struct {
	payloads [][]byte
	done     chan struct{}
	err      error
}

func newBatcher(commit func(payloads [][]byte) error) *batcher {
	b := &batcher{commit: commit, kick: make(chan struct{}, 1), ended: make(chan struct{}), next: &batch{done: make(chan struct{})}}
	go b.loop()
	return b
}

func (b *batcher) loop() {
	defer close(b.ended)
	for range b.kick {
		b.mu.Lock()
		now := b.next
		b.next = &batch{done: make(chan struct{})}
		b.mu.Unlock()
		if len(now.payloads) == 0 {
			continue
		}
		now.err = b.commit(now.payloads)
		close(now.done)
	}
}

func (b *batcher) write(_ int, payload []byte) error {
	b.mu.Lock()
	own := b.next
	own.payloads = append(own.payloads, payload)
	first := len(own.payloads) == 1
	b.mu.Unlock()
	if first {
		select {
		case b.kick <- struct{}{}:
		default:
		}
	}
	<-own.done
	return own.err
}

func (b *batcher) close() {
	close(b.kick)
	<-b.ended
}
