// Package state is the local state store: what must survive a restart beside
// the log itself. It holds the stream it belongs to, the boot counter, the
// sinks' claims, their dead letters and the request ids.
//
// It is a Pebble database with one key space; the first byte is the kind:
//
//	'm' name                      -> meta value: format, boot, stream, mark, claims
//	'c' sink name                 -> claim
//	'a' sink name                 -> acceptance, until it is carried out
//	'j' generation (8 bytes), principal length, principal, id -> request id: LSN, accepted, payload hash
//	'y' generation (8 bytes)      -> its number of ids, when the first and the last were accepted
//	'g' sink name                 -> collections that share a lane
//	'd' sink length, sink, LSN -> dead letter
//	'q' sink length, sink, record key, position, LSN -> whether it parks the key
//	'p' sink length, sink, record key -> number of dead letters that park it
//	't' sink length, sink -> number and bytes of its dead letters, parked keys, traces
//	'x' sink length, sink, LSN of the retry, LSN -> dead letter set aside
//	'f' sink length, sink, LSN -> LSN of the retry
//	'v' sink length, sink, LSN -> LSN of the retry, 0 if it was given up; kept for good
//	'h' sink length, sink, LSN -> held record
//	'H' sink name                 -> what is held for the sink
//	'k' sink length, sink, LSN    -> first of the lost records up to LSN
//	'i', 'l'                      -> generation 0, request ids of format 1, and their index
//
// Numbers are big endian. What a method calls durable is fsync'd when the
// method returns; the request ids alone wait for SyncRequests. Batches reach
// the disk in the order they were made, so a crash keeps a prefix of them and
// the request mark never runs ahead of the ids it speaks for.
package state

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/pebblekit"
	"github.com/walproxy/walproxy/internal/position"
)

var (
	// ErrMissing: the log has records but the state store that belongs to it is gone.
	ErrMissing = errors.New("state: the log's state store is missing")
	// ErrForeign: the state store belongs to another stream.
	ErrForeign = errors.New("state: belongs to another stream")
	// ErrOlder: the log was started by a newer copy of the state store.
	ErrOlder = errors.New("state: the state store is older than the log")
	// ErrRequests: request ids were in a part of the log that was freed, and are
	// not here.
	ErrRequests = errors.New("state: request ids are missing")
	// ErrClosed: the store was closed before the call.
	ErrClosed = errors.New("state: closed")
	// ErrFormat: the directory holds another format, or no state store at all.
	ErrFormat = errors.New("state: unusable format")
	// ErrCorrupt: a stored value cannot be decoded.
	ErrCorrupt = errors.New("state: corrupt")
)

var errReadOnly = errors.New("state: the store was opened to be looked at")

// Memory and files are bounded: the store is small and its reads are few.
const (
	cacheBytes    = 8 << 20
	memTableBytes = 4 << 20
	openFilesMax  = 256
)

// bytesInterval is how old the answer of Bytes may be.
const bytesInterval = 200 * time.Millisecond

// Store is a Pebble database. All methods may be called concurrently.
type Store struct {
	log *zap.Logger
	dir string

	// life is held for reading during every use of db, for writing by Close.
	life   sync.RWMutex
	db     *pebble.DB
	fs     *pebblekit.FS // hides the disk's first failure from Pebble: see failure
	closed bool
	// readOnly: to be looked at.
	readOnly bool
	failed   atomic.Pointer[pebblekit.FatalError] // first fatal error; never cleared

	bytes   atomic.Int64 // last answer of Bytes
	bytesAt atomic.Int64 // when it was made, Unix nanoseconds

	// mu serialises changes of the meta values and of the request ids.
	mu struct {
		sync.Mutex
		stream  uuid.UUID
		bound   bool
		boot    uint64
		mark    position.LSN // of the last PutRequests
		durable position.LSN // mark known to be on disk
	}
	requests atomic.Pointer[[]generation] // oldest first; changed under mu

	claims sync.Mutex // serialises changes of claims

	letters struct {
		sync.Mutex
		bySink map[string]*DeadLetters
	}

	held struct {
		sync.Mutex
		bySink map[string]*Held
	}
}

// Options of Open.
type Options struct {
	Logger *zap.Logger
	// ReadOnly changes nothing on disk, and makes no store where there is none:
	// ErrMissing. Every method that would change something fails.
	ReadOnly bool
}

// Open opens or creates the store in dir.
// It returns ErrFormat for a directory of another format.
func Open(dir string, o Options) (*Store, error) { return open(dir, o, vfs.Default) }

func open(dir string, o Options, fs vfs.FS) (s *Store, err error) {
	defer pebblekit.Catch(&err)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if _, err := fs.Stat(dir); o.ReadOnly && err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	frozen := pebblekit.NewFS(fs, nil)
	options := &pebble.Options{
		FS:                          frozen,
		FormatMajorVersion:          pebble.FormatNewest,
		ReadOnly:                    o.ReadOnly,
		CacheSize:                   cacheBytes,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                openFilesMax,
		Logger:                      pebblekit.NewLogger(o.Logger),
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(dir, options)
	if o.ReadOnly && errors.Is(err, pebble.ErrDBDoesNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("state: open %s: %w", dir, err)
	}
	s = &Store{log: o.Logger, dir: dir, db: db, fs: frozen, readOnly: o.ReadOnly}
	if err := s.use(s.load); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), db.Close())
	}
	s.measure(time.Now())
	return s, nil
}

// failure is why the store must not be used any more, or nil.
func (s *Store) failure() error {
	if fatal := s.failed.Load(); fatal != nil {
		return fmt.Errorf("state: %w", fatal)
	}
	if err := s.fs.Err(); err != nil {
		return fmt.Errorf("state: %w: %w", pebblekit.ErrFatal, err)
	}
	return nil
}

// use calls f unless the store was closed or failed, and remembers a failure. A
// commit of f counts only if nothing failed until after it.
func (s *Store) use(f func() error) (err error) {
	s.life.RLock()
	defer s.life.RUnlock()
	if err := s.failure(); err != nil {
		return err
	}
	if s.closed {
		return ErrClosed
	}
	defer func() {
		if fatal, ok := errors.AsType[*pebblekit.FatalError](err); ok {
			s.failed.CompareAndSwap(nil, fatal)
		}
		if failure := s.failure(); failure != nil {
			err = failure
		}
	}()
	defer pebblekit.Catch(&err)
	return f()
}

// commit makes b and everything before it durable.
func (s *Store) commit(b *pebble.Batch) error {
	if s.readOnly {
		return errReadOnly
	}
	failpoint.Hit("state-before-sync")
	return b.Commit(pebble.Sync)
}

// Bytes is the store's size on disk, at most 200 ms old. It never waits for the
// disk and may be asked for every write.
func (s *Store) Bytes() int64 {
	now := time.Now()
	at := s.bytesAt.Load()
	if now.UnixNano()-at < int64(bytesInterval) || !s.bytesAt.CompareAndSwap(at, now.UnixNano()) {
		return s.bytes.Load()
	}
	// An error leaves the last answer standing.
	_ = s.use(func() error { s.measure(now); return nil })
	return s.bytes.Load()
}

func (s *Store) measure(now time.Time) {
	s.bytes.Store(int64(s.db.Metrics().DiskSpaceUsage()))
	s.bytesAt.Store(now.UnixNano())
}

// Close waits for calls in progress and closes the database. It may be called
// twice. It returns the failure if the disk failed; after a fatal error that the
// file system could not hide the database is left as it is, for the next start.
func (s *Store) Close() (err error) {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed || s.failed.Load() != nil {
		return s.failure()
	}
	s.closed = true
	defer pebblekit.Catch(&err)
	if !s.readOnly {
		// Request ids that nobody synced are worth keeping: the rescan gets shorter.
		err = s.db.LogData(nil, pebble.Sync)
	}
	err = errors.Join(err, s.db.Close())
	return errors.Join(err, s.failure())
}
