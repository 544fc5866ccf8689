// Package ledger holds a proxy to its word: it writes, notes every
// acknowledgement, and afterwards compares the store with its notes.
//
// There are three kinds of writes, each showing another fault:
//
//	increment  a lost or doubled one shows in the sums of its counter
//	set        the last one wins: a reordered one shows in the record
//	event      lost, doubled and reordered ones show in the stream, one by one
//
// A write's outcome is acked, refused (surely not written) or unknown. An
// unknown one may be in the store once, or not at all.
package ledger

import (
	"fmt"
	"sync"
)

// Kind of a write.
type Kind int

const (
	// Increment adds Delta to field sum, and 1 to field count.
	Increment Kind = iota
	// Set replaces the record by its token.
	Set
	// Event appends one event that holds its token.
	Event
	kinds
)

// Collection that writes of the kind go to.
func (k Kind) Collection() string {
	switch k {
	case Increment:
		return "counters"
	case Set:
		return "registers"
	case Event:
		return "journals"
	}
	return fmt.Sprintf("kind%d", int(k))
}

// Write is one write. Token is its request id, unique in the ledger.
type Write struct {
	Kind  Kind
	Key   string
	Token string
	Delta int64 // Increment
	// Pad is how many bytes Set and Event carry beside the token.
	Pad int
}

// record of a key.
type record struct {
	kind Kind
	key  string
}

// entry is what is known of a write.
type entry struct {
	write Write
	lsn   uint64 // 0: not acked
	// attempts and those of them that were refused. One without an answer may
	// have been written, whatever became of the later ones.
	attempts, refusals int
	// floor is the highest LSN that was acked for the same record before the
	// write was first sent: its own must lie above.
	floor uint64
}

func (e *entry) acked() bool   { return e.lsn > 0 }
func (e *entry) refused() bool { return e.lsn == 0 && e.attempts == e.refusals }
func (e *entry) unknown() bool { return e.lsn == 0 && e.attempts > e.refusals }

// Ledger notes writes and their outcomes. Methods may be called concurrently.
type Ledger struct {
	mu struct {
		sync.Mutex
		entries map[string]*entry // by token
		records map[record][]*entry
		highest map[record]uint64 // acked LSN
		lsns    map[uint64]string // acked LSN to token
		acked   int
		repeats int
		// broken holds faults that show in the acks alone.
		broken findings
	}
}

// New returns an empty ledger.
func New() *Ledger {
	l := &Ledger{}
	l.mu.entries = map[string]*entry{}
	l.mu.records = map[record][]*entry{}
	l.mu.highest = map[record]uint64{}
	l.mu.lsns = map[uint64]string{}
	return l
}

// Attempt notes that w is about to be sent, for the first time or again.
func (l *Ledger) Attempt(w Write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.mu.entries[w.Token]
	if e == nil {
		r := record{w.Kind, w.Key}
		e = &entry{write: w, floor: l.mu.highest[r]}
		l.mu.entries[w.Token] = e
		l.mu.records[r] = append(l.mu.records[r], e)
	}
	e.attempts++
}

// Ack notes that the write was acknowledged at lsn. repeat: the proxy said that
// it had seen the request id before.
func (l *Ledger) Ack(token string, lsn uint64, repeat bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.mu.entries[token]
	if e == nil {
		l.mu.broken.note(&l.mu.broken.Alien, "ack of %s, which was never sent", token)
		return
	}
	if repeat {
		l.mu.repeats++
	}
	if e.acked() {
		if e.lsn != lsn {
			l.mu.broken.note(&l.mu.broken.Doubled, "%s was acked as LSN %d and as %d", token, e.lsn, lsn)
		}
		return
	}
	if other, taken := l.mu.lsns[lsn]; taken || lsn == 0 {
		l.mu.broken.note(&l.mu.broken.Lost, "LSN %d was acked for %q and for %s", lsn, other, token)
		return
	}
	if lsn <= e.floor {
		l.mu.broken.note(&l.mu.broken.OutOfOrder, "%s was sent after LSN %d of its key was acked, and got LSN %d", token, e.floor, lsn)
	}
	e.lsn = lsn
	l.mu.acked++
	l.mu.lsns[lsn] = token
	r := record{e.write.Kind, e.write.Key}
	l.mu.highest[r] = max(l.mu.highest[r], lsn)
}

// Refuse notes that the last attempt was surely not written.
func (l *Ledger) Refuse(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.mu.entries[token]; e != nil {
		e.refusals++
	}
}

// Acked is how many writes were acknowledged so far.
func (l *Ledger) Acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.acked
}

// Unknown returns the writes of unknown outcome, the oldest of each key first.
func (l *Ledger) Unknown() []Write {
	l.mu.Lock()
	defer l.mu.Unlock()
	var writes []Write
	for _, entries := range l.mu.records {
		for _, e := range entries {
			if e.unknown() {
				writes = append(writes, e.write)
			}
		}
	}
	return writes
}

// Until is the ledger of a copy of the log that ends at lsn: what was acked above it
// is surely not there, and what was acked up to it is.
func (l *Ledger) Until(lsn uint64) *Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := New()
	for r, entries := range l.mu.records {
		for _, e := range entries {
			one := *e
			if one.acked() && one.lsn > lsn {
				one.lsn, one.refusals = 0, one.attempts
			}
			of.mu.entries[one.write.Token] = &one
			of.mu.records[r] = append(of.mu.records[r], &one)
			if one.acked() {
				of.mu.lsns[one.lsn] = one.write.Token
				of.mu.highest[r] = max(of.mu.highest[r], one.lsn)
				of.mu.acked++
			}
		}
	}
	return of
}
