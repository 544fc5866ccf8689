package wal

import (
	"sync"
	"time"

	"github.com/walproxy/walproxy/internal/tally"
)

// Timings are how long what was made durable took, since Open.
type Timings struct {
	// Ack is the time from Enqueue until a record was durable, in nanoseconds: the
	// wait for room in the queue, for the group before and for the fsync.
	Ack tally.Histogram
	// Sync is the time of an fsync of records, in nanoseconds.
	Sync tally.Histogram
	// Group is how many records a group had.
	Group tally.Histogram
}

// timings has a lock of its own: nothing that is durable waits for who looks at them
// any longer than a copy takes.
type timings struct {
	began time.Time // of Open: what the times in batch.queued count from

	mu struct {
		sync.Mutex
		Timings
	}
}

// now is the time since Open.
func (t *timings) now() time.Duration { return time.Since(t.began) }

// settled counts the records of a group that became durable just now.
func (t *timings) settled(g *group) {
	now := t.now()
	records := 0
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range g.batches {
		for _, at := range b.queued {
			t.mu.Ack.Add(uint64(max(now-at, 0)))
		}
		records += len(b.queued)
	}
	t.mu.Sync.Add(uint64(max(g.synced, 0)))
	t.mu.Group.Add(uint64(records))
}

// Timings returns a snapshot.
func (l *Log) Timings() Timings {
	l.timings.mu.Lock()
	defer l.timings.mu.Unlock()
	return l.timings.mu.Timings
}
