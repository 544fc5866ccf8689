package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

// ErrBusy: somebody has the state store open.
var ErrBusy = errors.New("state: in use by another process")

// Dump opens the store in dir for reading alone, also on a disk that takes no
// writes, and calls f with every entry, in order: together they are the store. The
// slices are valid during the call. What the store says of itself comes first. A
// directory without a store is fs.ErrNotExist; ErrBusy; ErrFormat; an error of f
// ends it.
func Dump(dir string, logger *zap.Logger, begin func(stream uuid.UUID, boot uint64) error, f func(key, value []byte) error) (err error) {
	defer pebblekit.Catch(&err)
	if logger == nil {
		logger = zap.NewNop()
	}
	if entries, err := os.ReadDir(dir); err != nil {
		return err
	} else if len(entries) == 0 {
		return &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
	}
	db, err := pebble.Open(dir, &pebble.Options{FS: readFS{vfs.Default}, ReadOnly: true, CacheSize: cacheBytes,
		MaxOpenFiles: openFilesMax, Logger: pebblekit.NewLogger(logger)})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s: %w", ErrBusy, dir, err)
	}
	if err != nil {
		return fmt.Errorf("state: open %s: %w", dir, err)
	}
	s := &Store{log: logger, db: db}
	err = s.dump(begin, f)
	return errors.Join(err, db.Close())
}

func (s *Store) dump(begin func(uuid.UUID, uint64) error, f func(key, value []byte) error) (err error) {
	version, found, err := s.number(keyFormat)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: no format mark", ErrFormat)
	}
	if err := checkFormat(version); err != nil {
		return err
	}
	stream, _, err := s.loadStream()
	if err != nil {
		return err
	}
	boot, _, err := s.number(keyBoot)
	if err != nil {
		return err
	}
	if err := begin(stream, boot); err != nil {
		return err
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("state: read: %w", err)
	}
	defer func() { err = errors.Join(err, it.Error(), it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return nil
}

// readFS is the file system of a store that is only read. Its lock is that of the
// store, unless the disk takes no writes: then nobody else writes either.
type readFS struct{ vfs.FS }

func (r readFS) Lock(name string) (io.Closer, error) {
	lock, err := r.FS.Lock(name)
	if errors.Is(err, unix.EROFS) {
		return io.NopCloser(nil), nil
	}
	return lock, err
}

// loadBatch is how much Load keeps before it writes.
const loadBatch = 4 << 20

// Loader fills a new store with what Dump gave. Not for concurrent use.
type Loader struct {
	db     *pebble.DB
	batch  *pebble.Batch
	format bool
}

// Load makes a store in dir, which must not hold anything.
func Load(dir string, logger *zap.Logger) (l *Loader, err error) {
	defer pebblekit.Catch(&err)
	if logger == nil {
		logger = zap.NewNop()
	}
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, CacheSize: cacheBytes,
		MemTableSize: memTableBytes, ErrorIfExists: true, Logger: pebblekit.NewLogger(logger)})
	if err != nil {
		return nil, fmt.Errorf("state: create %s: %w", dir, err)
	}
	return &Loader{db: db, batch: db.NewBatch()}, nil
}

// Put adds an entry.
func (l *Loader) Put(key, value []byte) (err error) {
	defer pebblekit.Catch(&err)
	if bytes.Equal(key, keyFormat) {
		if len(value) != 8 {
			return fmt.Errorf("%w: a format mark of %d bytes, want 8", ErrFormat, len(value))
		}
		if err := checkFormat(binary.BigEndian.Uint64(value)); err != nil {
			return err
		}
		l.format = true
	}
	if err := l.batch.Set(key, value, nil); err != nil {
		return err
	}
	if l.batch.Len() < loadBatch {
		return nil
	}
	return l.commit()
}

func (l *Loader) commit() error {
	err := errors.Join(l.batch.Commit(pebble.Sync), l.batch.Close())
	l.batch = l.db.NewBatch()
	return err
}

// Close makes the store durable. Without a format mark it was no dump: ErrFormat.
func (l *Loader) Close() (err error) {
	defer pebblekit.Catch(&err)
	err = errors.Join(l.commit(), l.batch.Close(), l.db.Close())
	if err == nil && !l.format {
		return fmt.Errorf("%w: the entries hold no format mark", ErrFormat)
	}
	return err
}

// Kinds of entries that hold acknowledged writes.
const (
	KindDeadLetter = 'd'
	KindHeld       = 'h'
)

// KindOf is the kind of an entry: see the package comment.
func KindOf(key []byte) byte {
	if len(key) == 0 {
		return 0
	}
	return key[0]
}

// ClaimOf decodes an entry that is a sink's claim; ok is false for any other.
func ClaimOf(key, value []byte) (c Claim, ok bool, err error) {
	if KindOf(key) != KindOf(claimKey("")) {
		return c, false, nil
	}
	if c, err = decodeClaim(value); err != nil {
		return c, false, fmt.Errorf("claim of sink %q: %w", key[1:], err)
	}
	c.Sink = string(key[1:])
	return c, true, nil
}
