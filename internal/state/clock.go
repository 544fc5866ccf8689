package state

import "github.com/cockroachdb/pebble/v2"

// keyClock holds the highest accepted time seen, Unix nanoseconds.
var keyClock = []byte("mclock")

// PutClock stores an accepted time, without waiting for the disk; put before a
// mark, it is durable with it. Accepted times never go back, not even when the
// log was emptied and the wall clock was set back: this is what they go on from.
func (s *Store) PutClock(unixNanos int64) error {
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := setNumber(b, keyClock, uint64(unixNanos)); err != nil {
			return err
		}
		return b.Commit(pebble.NoSync)
	})
}

// SyncClock is PutClock, durably.
func (s *Store) SyncClock(unixNanos int64) error {
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		if err := setNumber(b, keyClock, uint64(unixNanos)); err != nil {
			return err
		}
		return s.commit(b)
	})
}

// Clock is the time put last; 0 if there is none.
func (s *Store) Clock() (unixNanos int64, err error) {
	err = s.use(func() error {
		n, _, err := s.number(keyClock)
		unixNanos = int64(n)
		return err
	})
	return unixNanos, err
}
