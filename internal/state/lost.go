package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/position"
)

// LostRange are records that a repair of the log gave up, from First to Last: the
// sink has passed them without having them.
type LostRange struct{ First, Last position.LSN }

// Count is how many they are, for all sinks together: who they were for is lost
// with them.
func (r LostRange) Count() uint64 { return uint64(r.Last-r.First) + 1 }

// PutLost notes, durably, that the sink passes r. A gap that is met again, from a
// higher checkpoint on, changes nothing.
func (s *Store) PutLost(sink string, r LostRange) error {
	if sink == "" || r.First == 0 || r.Last < r.First {
		return fmt.Errorf("state: lost records %d to %d of sink %q", r.First, r.Last, sink)
	}
	s.claims.Lock()
	defer s.claims.Unlock()
	return s.use(func() error {
		key := lostKey(sink, r.Last)
		first, found, err := s.number(key)
		if err != nil || found && first <= uint64(r.First) {
			return err
		}
		b := s.db.NewBatch()
		defer b.Close()
		if err := setNumber(b, key, uint64(r.First)); err != nil {
			return err
		}
		return s.commit(b)
	})
}

// Lost returns what was noted for the sink, in LSN order.
func (s *Store) Lost(sink string) (lost []LostRange, err error) {
	d := &DeadLetters{store: s, sink: sink}
	err = s.use(func() error {
		return d.scan(d.prefix('k'), func(k, value []byte) (bool, error) {
			if len(value) != 8 {
				return false, fmt.Errorf("%w: lost records of sink %q: %d bytes", ErrCorrupt, sink, len(value))
			}
			r := LostRange{position.LSN(binary.BigEndian.Uint64(value)), position.LSN(lastNumber(k))}
			lost = append(lost, r)
			return true, nil
		})
	})
	return lost, err
}

func lostKey(sink string, last position.LSN) []byte {
	return (&DeadLetters{sink: sink}).lsnKey('k', last)
}

// Highest returns the highest LSN that the store has heard of: one was issued, and
// durable, when it was stored. 0: none.
func (s *Store) Highest() (highest position.LSN, err error) {
	claims, err := s.Claims()
	if err != nil {
		return 0, err
	}
	for _, c := range claims {
		held, err := s.Held(c.Sink).Range()
		if err != nil {
			return 0, err
		}
		highest = max(highest, c.From, c.Applied, held.Through)
		d := s.DeadLetters(c.Sink)
		err = d.use(func() error {
			for _, kind := range []byte("dv") {
				last, err := d.last(kind)
				if err != nil {
					return err
				}
				highest = max(highest, last)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	mark, err := s.RequestMark()
	return max(highest, mark), err
}

// last is the highest LSN among the entries of a kind.
func (d *DeadLetters) last(kind byte) (last position.LSN, err error) {
	prefix := d.prefix(kind)
	it, err := d.store.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return 0, err
	}
	if it.Last() {
		last = position.LSN(lastNumber(it.Key()))
	}
	return last, errors.Join(it.Error(), it.Close())
}
