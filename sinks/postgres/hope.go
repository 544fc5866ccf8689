package postgres

import (
	"slices"
	"sync/atomic"
)

// hope is what statements take for granted about the rows of a collection because
// they are cheaper then. An INSERT that need not look for a row costs the server a
// third less than an upsert; a MERGE, which finds the rows that are there and
// inserts the others, a tenth. A row that exists after all ends the transaction,
// which is then made without that hope, and so are the next batches: 8, and twice
// as many after each disappointment in a row.
type hope struct {
	missed atomic.Int32 // disappointments in a row
	rest   atomic.Int32 // batches until the next try
}

const maxRest = 1024

// tries reports whether this batch may hope.
func (h *hope) tries() bool { return h.rest.Load() <= 0 || h.rest.Add(-1) < 0 }

func (h *hope) disappoint() { h.rest.Store(min(maxRest, int32(4)<<min(h.missed.Add(1), 8))) }

func (h *hope) fulfil() { h.missed.Store(0) }

// hopes are those of a batch, each asked once.
type hopes struct{ held, given []*hope }

func (l *hopes) try(h *hope) bool {
	switch {
	case slices.Contains(l.held, h):
		return true
	case slices.Contains(l.given, h):
		return false
	case h.tries():
		l.held = append(l.held, h)
		return true
	}
	l.given = append(l.given, h)
	return false
}

func (l *hopes) fulfil() {
	for _, h := range l.held {
		h.fulfil()
	}
}

// disappoint reports whether there was hope.
func (l *hopes) disappoint() bool {
	for _, h := range l.held {
		h.disappoint()
	}
	return len(l.held) > 0
}
