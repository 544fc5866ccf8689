package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// format is the version of the key space. A higher one is refused, a lower one is raised
// when it is opened to be written. 2: request ids in generations.
const format = 2

var (
	keyFormat = []byte("mformat")
	keyBoot   = []byte("mboot")
	keyStream = []byte("mstream")
	keyMark   = []byte("mmark")
	keyClaims = []byte("mclaims")
	// keyOldCount is format 1's number of request ids.
	keyOldCount = []byte("mcount")
)

// load reads the meta values and checks the format.
func (s *Store) load() error {
	version, found, err := s.number(keyFormat)
	if err != nil {
		return err
	}
	switch {
	case !found && s.readOnly:
		return fmt.Errorf("%w: no format mark", ErrFormat)
	case !found:
		if err := s.checkEmpty(); err != nil {
			return err
		}
	default:
		if err := checkFormat(version); err != nil {
			return err
		}
	}
	if s.mu.boot, _, err = s.number(keyBoot); err != nil {
		return err
	}
	mark, _, err := s.number(keyMark)
	if err != nil {
		return err
	}
	gs, err := s.loadGenerations(version)
	if err != nil {
		return err
	}
	s.requests.Store(&gs)
	if s.mu.stream, s.mu.bound, err = s.loadStream(); err != nil {
		return err
	}
	if !s.readOnly {
		b := s.db.NewBatch()
		defer b.Close()
		if found && version < format {
			err = raiseFormat(b, gs)
		}
		if err := errors.Join(err, setNumber(b, keyFormat, format), s.commit(b)); err != nil {
			return err
		}
	}
	// What was read may have come from the page cache of a process that died;
	// Pebble rewrote it durably when it opened, and the commit above came after.
	s.mu.mark, s.mu.durable = position.LSN(mark), position.LSN(mark)
	return nil
}

func checkFormat(version uint64) error {
	if version < 1 || version > format {
		return fmt.Errorf("%w: version %d, this program knows 1 to %d", ErrFormat, version, format)
	}
	return nil
}

// checkEmpty refuses a Pebble database that somebody else made.
func (s *Store) checkEmpty() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	found := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if found {
		return fmt.Errorf("%w: the directory holds a Pebble database without the state store's format mark", ErrFormat)
	}
	return nil
}

func (s *Store) loadStream() (stream uuid.UUID, found bool, err error) {
	value, found, err := s.get(keyStream)
	if err != nil || !found {
		return uuid.UUID{}, false, err
	}
	if stream, err = uuid.FromBytes(value); err != nil {
		return uuid.UUID{}, false, fmt.Errorf("%w: stream: %w", ErrCorrupt, err)
	}
	return stream, true, nil
}

// Stream is the stream the store is bound to; ok is false if to none yet.
func (s *Store) Stream() (stream uuid.UUID, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.stream, s.mu.bound
}

// Bind checks that the store belongs to a log, ties it to the log's stream if it
// has none yet, and returns this start's boot counter, raised durably: together
// they are wal.Options.Attach. empty says that the log never held a record,
// newest is the highest boot counter that the log knows.
//
// An unbound store and a log with records: ErrMissing. Bound to another stream:
// ErrForeign. A store that does not know of the log's newest start: ErrOlder. A
// refusal changes nothing, so that it is repeated until somebody acts.
func (s *Store) Bind(stream uuid.UUID, empty bool, newest uint64) (boot uint64, err error) {
	err = s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.bindable(stream, empty, newest); err != nil {
			return err
		}
		// An unbound store beside an empty log: the log may have seen starts.
		next := max(s.mu.boot, newest) + 1
		b := s.db.NewBatch()
		defer b.Close()
		if err := errors.Join(b.Set(keyStream, stream[:], nil), setNumber(b, keyBoot, next)); err != nil {
			return err
		}
		if err := s.commit(b); err != nil {
			return err
		}
		s.mu.stream, s.mu.bound, s.mu.boot = stream, true, next
		return nil
	})
	if err != nil {
		return 0, err
	}
	return s.Boot(), nil
}

// bindable returns why Bind refuses. Under mu.
func (s *Store) bindable(stream uuid.UUID, empty bool, newest uint64) error {
	switch {
	case s.mu.bound && s.mu.stream != stream:
		return fmt.Errorf("%w: it is %s's, the log is stream %s", ErrForeign, s.mu.stream, stream)
	case !s.mu.bound && !empty:
		return fmt.Errorf("%w: stream %s holds records, this state store is new", ErrMissing, stream)
	case s.mu.bound && s.mu.boot < newest:
		return fmt.Errorf("%w: it knows of %d starts, the log of %d", ErrOlder, s.mu.boot, newest)
	}
	return nil
}

// Boot is the boot counter: how many starts were bound to a log.
func (s *Store) Boot() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.boot
}

// get returns a copy of key's value.
func (s *Store) get(key []byte) (value []byte, found bool, err error) { return read(s.db, key) }

func read(from pebble.Reader, key []byte) (value []byte, found bool, err error) {
	stored, closer, err := from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("state: read: %w", err)
	}
	value = append(make([]byte, 0, len(stored)), stored...)
	return value, true, closer.Close()
}

func (s *Store) number(key []byte) (n uint64, found bool, err error) {
	value, found, err := s.get(key)
	if err != nil || !found {
		return 0, false, err
	}
	if len(value) != 8 {
		return 0, false, fmt.Errorf("%w: %s has %d bytes, want 8", ErrCorrupt, key[1:], len(value))
	}
	return binary.BigEndian.Uint64(value), true, nil
}

func setNumber(b *pebble.Batch, key []byte, n uint64) error {
	return b.Set(key, binary.BigEndian.AppendUint64(nil, n), nil)
}
