package state

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/position"
)

// errHeldGap: what is put does not continue what is held.
var errHeldGap = errors.New("state: held records must be put in LSN order and without a gap")

// HeldRecord is a record as the log had it.
type HeldRecord struct {
	LSN     position.LSN
	Payload []byte
}

// HeldRange says what of a sink's records is held. The zero value: nothing.
type HeldRange struct {
	// Low and Through are LSNs of records, of any sink. Every record of the sink
	// above Low up to Through is held.
	Low, Through position.LSN
	// History is where the incarnations begin that hold Low to Through, in order.
	History []position.Point
	// Records that are held, and the bytes of their payloads.
	Records, Bytes uint64
}

// IsZero reports that nothing is held.
func (r HeldRange) IsZero() bool { return r.Through == 0 }

// Continues reports whether a reader that has everything up to lsn finds what
// follows, up to Through, among the held records.
func (r HeldRange) Continues(lsn position.LSN) bool { return r.Low <= lsn && lsn < r.Through }

// Point is the point of the record lsn. ok is false if it does not lie between
// Low and Through. 0 is the zero Point.
func (r HeldRange) Point(lsn position.LSN) (p position.Point, ok bool) {
	if lsn < r.Low || lsn > r.Through {
		return p, false
	}
	if lsn == 0 {
		return p, true
	}
	for _, begin := range slices.Backward(r.History) {
		if begin.LSN <= lsn {
			return position.Point{Incarnation: begin.Incarnation, LSN: lsn}, true
		}
	}
	return p, false
}

// Held are the records of one sink that were copied out of the log, so that the
// log can free them before the sink has them. All methods may be called
// concurrently.
type Held struct {
	store *Store
	sink  string

	// changes serialises Put, Trim and drop. It is held during a sync, mu never is.
	changes sync.Mutex
	ranges  int // that were deleted since the memtable was flushed because of them; under changes
	mu      struct {
		sync.RWMutex
		loaded bool
		mark   heldMark
	}
}

// Held returns those of a sink.
func (s *Store) Held(sink string) *Held {
	s.held.Lock()
	defer s.held.Unlock()
	if s.held.bySink == nil {
		s.held.bySink = map[string]*Held{}
	}
	h := s.held.bySink[sink]
	if h == nil {
		h = &Held{store: s, sink: sink}
		s.held.bySink[sink] = h
	}
	return h
}

// DropHeld gives up all that is held for a sink, durably.
func (s *Store) DropHeld(sink string) error { return s.Held(sink).drop() }

// Range says what is held. It reads the disk at most once.
func (h *Held) Range() (HeldRange, error) {
	mark, err := h.current()
	return mark.HeldRange, err
}

// Put adds records, durably and with through as one step: it says that every
// record of the sink above low up to through is now held. low is what through
// was before, or higher if the sink has everything up to it; then what was held
// before is dropped. records lie above low up to through, in LSN order. history
// is HeldRange.History for low to through.
func (h *Held) Put(records []HeldRecord, low, through position.LSN, history []position.Point) error {
	h.changes.Lock()
	defer h.changes.Unlock()
	mark, err := h.current()
	if err != nil {
		return err
	}
	if through <= low || low < mark.Through {
		return fmt.Errorf("%w: from %d to %d, held up to %d", errHeldGap, low, through, mark.Through)
	}
	return h.commit(pebble.Sync, func(b *pebble.Batch) (heldMark, error) {
		if low != mark.Through || mark.IsZero() {
			mark = heldMark{HeldRange: HeldRange{Low: low}}
			if err := h.remove(b, h.prefix(), prefixEnd(h.prefix())); err != nil {
				return mark, err
			}
		}
		last := low
		for _, r := range records {
			if r.LSN <= last || r.LSN > through {
				return mark, fmt.Errorf("%w: LSN %d after %d, up to %d", errHeldGap, r.LSN, last, through)
			}
			last = r.LSN
			if err := b.Set(h.key(r.LSN), encodeHeld(heldPlace{mark.putRecords, mark.putBytes}, r.Payload), nil); err != nil {
				return mark, err
			}
			mark.putRecords++
			mark.putBytes += uint64(len(r.Payload))
		}
		mark.Through = through
		mark.History = joinHistory(mark.History, history)
		return mark.counted(), nil
	})
}

// joinHistory adds to old what of more begins after it.
func joinHistory(old, more []position.Point) []position.Point {
	joined := slices.Clone(old)
	for _, p := range more {
		if len(joined) == 0 || p.LSN > joined[len(joined)-1].LSN {
			joined = append(joined, p)
		}
	}
	return joined
}

// Read returns the records above after, in LSN order, up to about limit bytes of
// payload but at least one, and the LSN up to which there are no others: that of
// the last one, or Through. It is after if what follows after is not held.
func (h *Held) Read(after position.LSN, limit int) (records []HeldRecord, upTo position.LSN, err error) {
	mark, err := h.current() // before the records are read: those up to Through are there
	if err != nil || !mark.Continues(after) {
		return nil, after, err
	}
	err = h.store.use(func() error {
		bytes := 0
		upTo = mark.Through
		return h.scan(h.key(after+1), h.key(mark.Through+1), func(lsn position.LSN, _ heldPlace, payload []byte) bool {
			if len(records) > 0 && bytes+len(payload) > limit {
				upTo = records[len(records)-1].LSN
				return false
			}
			bytes += len(payload)
			records = append(records, HeldRecord{LSN: lsn, Payload: slices.Clone(payload)})
			return true
		})
	})
	if err != nil {
		return nil, after, err
	}
	return records, upTo, nil
}

// Trim drops the records up to lsn, the sink's lowest checkpoint. It does not
// wait for the disk.
func (h *Held) Trim(lsn position.LSN) error {
	h.changes.Lock()
	defer h.changes.Unlock()
	mark, err := h.current()
	if err != nil || mark.IsZero() || lsn <= mark.Low {
		return err
	}
	if lsn >= mark.Through {
		return h.dropWith(pebble.NoSync)
	}
	return h.commit(pebble.NoSync, func(b *pebble.Batch) (heldMark, error) {
		mark.goneRecords, mark.goneBytes = mark.putRecords, mark.putBytes
		err := h.scan(h.key(lsn+1), prefixEnd(h.prefix()), func(_ position.LSN, place heldPlace, _ []byte) bool {
			mark.goneRecords, mark.goneBytes = place.records, place.bytes
			return false
		})
		if err != nil {
			return mark, err
		}
		from := h.key(mark.Low + 1)
		mark.Low = lsn
		for len(mark.History) > 1 && mark.History[1].LSN <= lsn {
			mark.History = mark.History[1:]
		}
		return mark.counted(), h.remove(b, from, h.key(lsn+1))
	})
}

func (h *Held) drop() error {
	h.changes.Lock()
	defer h.changes.Unlock()
	return h.dropWith(pebble.Sync)
}

func (h *Held) dropWith(sync *pebble.WriteOptions) error {
	return h.commit(sync, func(b *pebble.Batch) (heldMark, error) {
		return heldMark{}, h.remove(b, h.prefix(), prefixEnd(h.prefix()))
	})
}

// rangesMax bounds the deletions of ranges that are left in a memtable: behind each the
// next read of the store puts all of them into order again, and those with one
// beginning in common cost the square of their number.
const rangesMax = 256

// remove drops what is held from from on, before to. Under changes.
func (h *Held) remove(b *pebble.Batch, from, to []byte) error {
	h.ranges++
	return b.DeleteRange(from, to, nil)
}

// commit makes the change that f prepares, with the mark that f returns. Under
// changes.
func (h *Held) commit(sync *pebble.WriteOptions, f func(*pebble.Batch) (heldMark, error)) error {
	return h.store.use(func() error {
		b := h.store.db.NewBatch()
		defer b.Close()
		mark, err := f(b)
		if err != nil {
			return err
		}
		if mark.IsZero() {
			err = b.Delete(heldMarkKey(h.sink), nil)
		} else {
			err = b.Set(heldMarkKey(h.sink), encodeHeldMark(mark), nil)
		}
		if err != nil {
			return err
		}
		if sync == pebble.Sync {
			err = h.store.commit(b)
		} else {
			err = b.Commit(sync)
		}
		if err != nil {
			return err
		}
		h.mu.Lock()
		h.mu.mark, h.mu.loaded = mark, true
		h.mu.Unlock()
		if h.ranges < rangesMax {
			return nil
		}
		h.ranges = 0
		_, err = h.store.db.AsyncFlush()
		return err
	})
}

// current returns the mark, read from the disk the first time.
func (h *Held) current() (mark heldMark, err error) {
	h.mu.RLock()
	mark, loaded := h.mu.mark, h.mu.loaded
	h.mu.RUnlock()
	if loaded {
		return mark, nil
	}
	err = h.store.use(func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.mu.loaded {
			mark = h.mu.mark
			return nil
		}
		value, found, err := h.store.get(heldMarkKey(h.sink))
		if err != nil {
			return err
		}
		if found {
			if mark, err = decodeHeldMark(value); err != nil {
				return fmt.Errorf("held records of sink %q: %w", h.sink, err)
			}
		}
		h.mu.mark, h.mu.loaded = mark, true
		return nil
	})
	return mark, err
}

// scan calls f for the records from key from to before to, until it returns
// false.
func (h *Held) scan(from, to []byte, f func(lsn position.LSN, place heldPlace, payload []byte) (more bool)) (err error) {
	it, err := h.store.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("state: read: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("state: read: %w", err)
		}
		lsn := position.LSN(lastNumber(it.Key()))
		place, payload, err := decodeHeld(value)
		if err != nil {
			return fmt.Errorf("held record %d of sink %q: %w", lsn, h.sink, err)
		}
		if !f(lsn, place, payload) {
			return nil
		}
	}
	return it.Error()
}
