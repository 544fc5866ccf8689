package state

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/mutation"
)

// ErrDeadLettersFull: a sink's dead letters have reached their bound in bytes or
// age. Nothing was stored and nothing dropped.
var ErrDeadLettersFull = errors.New("state: the dead letters are full")

// Kind is why a record became a dead letter.
type Kind byte

const (
	// Rejected by the store.
	Rejected Kind = 1
	// Parked behind an earlier dead letter of one of its keys.
	Parked Kind = 2
)

func (k Kind) String() string {
	switch k {
	case Rejected:
		return "rejected"
	case Parked:
		return "parked"
	}
	return fmt.Sprintf("kind(%d)", byte(k))
}

// DeadLetter is a record that a sink could not apply. It needs nothing of the
// log to be understood or retried.
type DeadLetter struct {
	Sink string
	LSN  position.LSN
	// Position is its place in the queues of its keys: the LSN of the first
	// try. It stays when a retry becomes a dead letter again.
	Position position.LSN
	Kind     Kind
	// Parks: later records of its keys queue behind it.
	Parks bool
	// Keys that the record writes, by mutation.AppendKey, without repeats.
	Keys   [][]byte
	Reason string
	// Details of the reason by name, as far as the store gives any.
	Details map[string]string
	// Attempts is how often the store rejected the write when it was tried alone
	// with everything before it applied: those of what it retries count too.
	Attempts uint64
	When     time.Time // it became a dead letter
	Payload  []byte    // mutation.Decode reads it
}

// Key returns the collection and key that the record writes first; a nil key if
// it writes none.
func (d *DeadLetter) Key() (collection string, key *walproxyv1.Key, err error) {
	if len(d.Keys) == 0 {
		return "", nil, nil
	}
	return mutation.ParseKey(d.Keys[0])
}

// IsParked reports whether the record was never tried, because an earlier one of
// its keys is a dead letter.
func (d *DeadLetter) IsParked() bool { return d.Kind == Parked }

// Record decodes the payload.
func (d *DeadLetter) Record() (*walproxyv1.Record, error) { return mutation.Decode(d.Payload) }

// Bounds of a sink's dead letters; zero is no bound.
type Bounds struct {
	Bytes int64
	Age   time.Duration
}

// Totals of a sink's dead letters.
type Totals struct {
	Count, Bytes uint64
	ParkedKeys   int // keys whose later records queue
}

// totals of a sink's dead letters, as stored.
type totals struct {
	count, bytes uint64
	keys         uint64 // that are parked
	traces       uint64 // kept for good
}

// Retry says that the record By retries the dead letter of LSN.
type Retry struct{ LSN, By position.LSN }

// DeadLetters are those of one sink. All methods may be called concurrently.
//
// A change is made by a record of the log and is undone by Resume if the sink's
// checkpoint did not come to cover that record: a retried dead letter is
// therefore only set aside, until Settle. Giving one up is not undone.
type DeadLetters struct {
	store    *Store
	sink     string
	tallyMax uint64 // tallyKeysMax

	// changes serialises what reads before it writes. It is held during a sync,
	// mu never is.
	changes sync.Mutex
	mu      struct {
		sync.RWMutex
		loaded bool
		totals
		tally   *tally                  // of the parked keys; nil: there are none, or nobody knows
		heads   map[string]position.LSN // of some parked keys: where the first that parks is
		version uint64                  // counts changes
		kept    position.LSN            // how far Settle has come
		removed chan struct{}           // closed and replaced when a dead letter goes; nil: nobody waits
	}
}

// DeadLetters returns those of a sink.
func (s *Store) DeadLetters(sink string) *DeadLetters {
	s.letters.Lock()
	defer s.letters.Unlock()
	if s.letters.bySink == nil {
		s.letters.bySink = map[string]*DeadLetters{}
	}
	d := s.letters.bySink[sink]
	if d == nil {
		d = &DeadLetters{store: s, sink: sink, tallyMax: tallyKeysMax}
		s.letters.bySink[sink] = d
	}
	return d
}

// Totals says how much is stored.
func (d *DeadLetters) Totals() (Totals, error) {
	err := d.use(func() error { return nil })
	d.mu.RLock()
	defer d.mu.RUnlock()
	return Totals{Count: d.mu.count, Bytes: d.mu.bytes, ParkedKeys: int(d.mu.keys)}, err
}

// Put stores letters and sets those aside that were retried, durably and as one
// step. Of a retry whose dead letter is not there nothing is changed. It
// returns ErrDeadLettersFull if b does not allow letters; one alone is always
// allowed, however large.
func (d *DeadLetters) Put(letters []DeadLetter, retries []Retry, b Bounds) error {
	return d.change(func(c *change) error {
		for _, r := range retries {
			if err := c.setAside(r); err != nil {
				return err
			}
		}
		for i := range letters {
			if err := c.add(&letters[i]); err != nil {
				return err
			}
		}
		if len(letters) == 0 {
			return nil
		}
		if b.Bytes > 0 && c.bytes > uint64(b.Bytes) && c.count > 1 {
			return fmt.Errorf("%w: sink %q: %d records would take %d bytes, the bound is %d", ErrDeadLettersFull, d.sink, c.count, c.bytes, b.Bytes)
		}
		return d.checkAge(b.Age)
	})
}

// CheckAge returns ErrDeadLettersFull if the oldest is older than age (0: any).
func (d *DeadLetters) CheckAge(age time.Duration) error {
	return d.use(func() error { return d.checkAge(age) })
}

func (d *DeadLetters) checkAge(age time.Duration) error {
	if age <= 0 {
		return nil
	}
	oldest, err := d.list(0, 1)
	if err != nil || len(oldest) == 0 {
		return err
	}
	if since := time.Since(oldest[0].When); since > age {
		return fmt.Errorf("%w: sink %q: LSN %d is there for %v, the bound is %v", ErrDeadLettersFull, d.sink, oldest[0].LSN, since, age)
	}
	return nil
}

// Removed returns a channel that is closed when a dead letter goes next: there
// may be room for another.
func (d *DeadLetters) Removed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.removed == nil {
		d.mu.removed = make(chan struct{})
	}
	return d.mu.removed
}

// Delete gives a dead letter up, durably: its record will never be applied, also
// if it comes again because the sink's checkpoint did not cover it. ok is false
// if there is none.
func (d *DeadLetters) Delete(lsn position.LSN) (ok bool, err error) {
	gone, err := d.DeleteAll([]position.LSN{lsn})
	return len(gone) > 0, err
}

// DeleteAll is Delete of all that are there, as one step. It returns those, without
// their payloads.
func (d *DeadLetters) DeleteAll(lsns []position.LSN) (gone []DeadLetter, err error) {
	err = d.change(func(c *change) error {
		for _, lsn := range slices.Compact(slices.Sorted(slices.Values(lsns))) {
			letter, found, err := d.get(lsn)
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			if err := c.giveUp(&letter); err != nil {
				return err
			}
			letter.Payload = nil
			gone = append(gone, letter)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

func (c *change) giveUp(letter *DeadLetter) error {
	err := errors.Join(c.remove(letter), c.keepTrace(letter.LSN, 0))
	if letter.Position != letter.LSN { // what it retried is given up with it
		err = errors.Join(err, c.keepTrace(letter.Position, 0))
	}
	return err
}

// Get returns the dead letter of lsn.
func (d *DeadLetters) Get(lsn position.LSN) (letter DeadLetter, ok bool, err error) {
	err = d.use(func() error {
		letter, ok, err = d.get(lsn)
		return err
	})
	return letter, ok, err
}

// listBytesMax bounds what List and Of return at once: one letter more.
const listBytesMax = 8 << 20

// List returns up to limit dead letters from LSN from on, in LSN order, fewer if
// they are large: there are no more only if it returns none.
func (d *DeadLetters) List(from position.LSN, limit int) (letters []DeadLetter, err error) {
	err = d.use(func() error {
		letters, err = d.list(from, limit)
		return err
	})
	return letters, err
}

// Of returns up to limit dead letters of a key, by mutation.AppendKey, in the
// order in which they have to be applied, fewer if they are large.
func (d *DeadLetters) Of(key []byte, limit int) (letters []DeadLetter, err error) {
	err = d.use(func() error {
		bytes := 0
		return d.scan(d.queueKey(key), func(k, _ []byte) (bool, error) {
			if len(letters) >= limit || bytes >= listBytesMax {
				return false, nil
			}
			letter, found, err := d.get(position.LSN(lastNumber(k)))
			if err == nil && !found {
				// It may have gone since the scan began, and its place with it.
				if _, found, err = d.store.get(k); found {
					err = fmt.Errorf("%w: the queue of a key names LSN %d, which is no dead letter", ErrCorrupt, lastNumber(k))
				}
				return true, err
			}
			letters = append(letters, letter)
			bytes += len(letter.Payload)
			return true, err
		})
	})
	return letters, err
}

// use calls f with the counters loaded.
func (d *DeadLetters) use(f func() error) error {
	return d.store.use(func() error {
		d.mu.RLock()
		loaded := d.mu.loaded
		d.mu.RUnlock()
		if !loaded {
			if err := d.load(); err != nil {
				return err
			}
		}
		return f()
	})
}

// load reads the totals, and which keys are parked if they are not too many.
func (d *DeadLetters) load() error {
	d.changes.Lock()
	defer d.changes.Unlock()
	if d.mu.loaded { // written under changes alone
		return nil
	}
	t, counted, err := d.storedTotals()
	if err == nil && !counted && !d.store.readOnly { // else unknown: counting changes the store
		t.keys, err = d.countParked()
	}
	if err != nil {
		return err
	}
	if !counted && !d.store.readOnly {
		if err := d.putTotals(t); err != nil {
			return err
		}
	}
	parked, err := d.loadParked(t.keys)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.totals, d.mu.tally, d.mu.loaded = t, parked, true
	return nil
}

// get is Get inside use.
func (d *DeadLetters) get(lsn position.LSN) (DeadLetter, bool, error) {
	value, found, err := d.store.get(d.lsnKey('d', lsn))
	if err != nil || !found {
		return DeadLetter{}, false, err
	}
	letter, err := d.decode(lsn, value)
	return letter, err == nil, err
}

func (d *DeadLetters) list(from position.LSN, limit int) (letters []DeadLetter, err error) {
	bytes := 0
	err = d.scanFrom(d.prefix('d'), d.lsnKey('d', from), func(k, value []byte) (bool, error) {
		if len(letters) >= limit || bytes >= listBytesMax {
			return false, nil
		}
		bytes += len(value)
		letter, err := d.decode(position.LSN(lastNumber(k)), value)
		letters = append(letters, letter)
		return true, err
	})
	return letters, err
}

func (d *DeadLetters) decode(lsn position.LSN, value []byte) (DeadLetter, error) {
	letter, err := decodeLetter(value)
	if err != nil {
		return letter, fmt.Errorf("dead letter %d of sink %q: %w", lsn, d.sink, err)
	}
	letter.Sink, letter.LSN = d.sink, lsn
	return letter, nil
}

// scan calls f for the entries under prefix until it returns false or an error.
func (d *DeadLetters) scan(prefix []byte, f func(key, value []byte) (more bool, err error)) error {
	return d.scanFrom(prefix, prefix, f)
}

func (d *DeadLetters) scanFrom(prefix, from []byte, f func(key, value []byte) (more bool, err error)) (err error) {
	it, err := d.store.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return fmt.Errorf("state: read: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("state: read: %w", err)
		}
		if more, err := f(it.Key(), value); err != nil || !more {
			return err
		}
	}
	return it.Error()
}
