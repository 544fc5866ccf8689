// Package pebble is the embedded sink: records, their versions and the
// checkpoint live in one Pebble database and change in one synced batch. It
// serves reads too.
//
// # Exactly once
//
// An Apply reads its lanes' checkpoints and the records it changes, and writes
// records, events and checkpoints as one Pebble batch that it syncs before it
// says Applied. A crash leaves all of the batch or nothing of it, and a batch
// whose moves the store already holds is answered Applied without being looked
// at again.
//
// Lanes apply in parallel, which relies on the apply loop sending a key to one
// lane only (and a group that spans lanes alone, with the moves of all of them):
// two lanes that read and write one record at a time would lose one of the
// writes.
//
// # When the disk fails
//
// After a failed write or sync of its WAL or MANIFEST a Pebble database cannot go
// on, and by itself it would end the process. Here the files are frozen as they
// are (pebblekit.FS) and every call returns ErrFailed, marked sinks.Halt, until
// the store is opened again; acknowledged writes wait in the log meanwhile. A
// full or failing disk during a flush of tables is retried by Pebble: writes
// stall then until there is room, and Apply and Close return when their context
// ends. What is left to end the
// process is a panic in one of Pebble's own goroutines, over an invariant of its
// that does not hold.
package pebble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/horizon"
	"github.com/walproxy/walproxy/internal/pebblekit"
	"github.com/walproxy/walproxy/sinks"
)

// ErrFailed: the store's disk failed and the store must be opened again. It is
// sinks.ErrFailed, too.
var ErrFailed = fmt.Errorf("sink pebble: %w", sinks.ErrFailed)

// ErrNoStore: there is no store to be looked at, with Options.ReadOnly.
var ErrNoStore = errors.New("sink pebble: there is no store")

var errReadOnly = errors.New("sink pebble: the store was opened to be looked at")

// errStopped ends waits that Close cuts short; callers see sinks.ErrClosed.
var errStopped = errors.New("stopped")

// Sink is a store. All methods may be called concurrently.
type Sink struct {
	db       *pebble.DB
	fs       *pebblekit.FS
	dir      string
	log      *zap.Logger
	now      func() time.Time
	identity uuid.UUID
	readOnly bool
	// lookEvery is Options.lookEvery.
	lookEvery time.Duration

	gate  *gate
	reads chan struct{} // a token per running read

	// write serialises the step of a commit that can leave Pebble's own locks
	// held when it fails, so that nobody else ever waits for those; the syncs
	// behind it share fsyncs. It is taken last.
	write sync.Mutex

	background atomic.Pointer[error] // why flushes fail, while they do

	stop  chan struct{} // closed when Close begins
	calls sync.WaitGroup
	sweep sweeper

	mu struct { // held for moments only, never during I/O
		sync.Mutex
		closing    bool
		claimed    bool
		checkpoint sinks.Checkpoint // as synced
		horizon    horizon.Horizon
	}

	failed struct {
		once   sync.Once
		ch     chan struct{} // closed after err is set
		err    error
		wedged bool // Pebble may hold locks: not even Close is safe
	}

	closed struct {
		once sync.Once
		ch   chan struct{} // closed after err is set
		err  error
	}
}

// Open opens or creates the store in dir; a second process, or a second Open in
// this one, is refused. The caller must Close it.
func Open(dir string, o Options) (*Sink, error) {
	o = o.withDefaults()
	s := &Sink{
		dir: dir, log: o.Logger, now: o.Now, readOnly: o.ReadOnly, lookEvery: o.lookEvery,
		gate: newGate(), reads: make(chan struct{}, o.Reads),
		stop: make(chan struct{}),
	}
	s.failed.ch, s.closed.ch = make(chan struct{}), make(chan struct{})
	if err := s.open(o); err != nil {
		return nil, fmt.Errorf("sink pebble: open %s: %w", dir, err)
	}
	s.sweep.start(s)
	return s, nil
}

func (s *Sink) open(o Options) (err error) {
	defer pebblekit.Catch(&err)
	if _, err := o.fs.Stat(s.dir); o.ReadOnly && errors.Is(err, os.ErrNotExist) {
		return ErrNoStore
	}
	fs := pebblekit.NewFS(o.fs, func(err error) { s.fail(err, false) })
	s.fs = fs
	if s.db, err = pebble.Open(s.dir, o.pebbleOptions(fs, s.setBackground)); err != nil {
		if o.ReadOnly && errors.Is(err, pebble.ErrDBDoesNotExist) {
			err = ErrNoStore
		}
		return errors.Join(err, fs.Err())
	}
	if err := errors.Join(s.load(), fs.Err()); err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// Identity implements sinks.Identifier: a UUID made with the store.
func (s *Sink) Identity(context.Context) (string, error) {
	leave, err := s.enter()
	if err != nil {
		return "", err
	}
	defer leave()
	return s.identity.String(), nil
}

// enter counts a call that Close waits for, until leave is called.
func (s *Sink) enter() (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closing {
		return nil, sinks.ErrClosed
	}
	if err := s.failure(); err != nil {
		return nil, err
	}
	s.calls.Add(1)
	return s.calls.Done, nil
}

// failure returns why the store cannot be used any more, or nil.
func (s *Sink) failure() error {
	select {
	case <-s.failed.ch:
		return s.failed.err
	default:
		return nil
	}
}

// fail makes every call from now on return err.
func (s *Sink) fail(err error, wedged bool) error {
	s.failed.once.Do(func() {
		s.failed.err = sinks.WithOutcome(sinks.Halt, fmt.Errorf("%w: %s: %w", ErrFailed, s.dir, err))
		s.failed.wedged = wedged
		close(s.failed.ch)
	})
	return s.failed.err
}

// run calls f on a goroutine of its own and waits for it until ctx ends or the
// store fails. f goes on then, and Close waits for it.
func run[T any](ctx context.Context, s *Sink, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := f()
		answers <- answer{value, err}
	}()
	var none T
	select {
	case a := <-answers:
		return a.value, a.err
	case <-s.failed.ch:
		return none, s.failed.err
	case <-ctx.Done():
		return none, sinks.WithOutcome(sinks.Unknown, s.gaveUp(ctx))
	}
}

func (s *Sink) setBackground(err error) {
	if err == nil {
		s.background.Store(nil)
		return
	}
	s.background.Store(&err)
}

// gaveUp is why ctx ended and, if writes may be waiting for a flush that fails,
// why that is.
func (s *Sink) gaveUp(ctx context.Context) error {
	if err := s.background.Load(); err != nil {
		return fmt.Errorf("%w; the store cannot write its tables: %w", context.Cause(ctx), *err)
	}
	return context.Cause(ctx)
}

// notBegun is the error of a call that gave up before it changed anything.
func notBegun(err error) error {
	if errors.Is(err, errStopped) {
		return sinks.ErrClosed
	}
	return sinks.WithOutcome(sinks.Retry, err)
}

// readFailed gives an error of the store's read path its outcome: damage stays,
// anything else may pass.
func (s *Sink) readFailed(err error) error {
	switch {
	case errors.Is(err, pebblekit.ErrFatal):
		return s.fail(err, true)
	case errors.Is(err, pebble.ErrCorruption), errors.Is(err, ErrCorrupt):
		return sinks.WithOutcome(sinks.Halt, err)
	}
	return sinks.WithOutcome(sinks.Retry, err)
}

// Close ends new calls, waits for those that run and closes the store. It may be
// called again, also while it runs: every call waits for the same end. If ctx
// ends first Close returns its cause and closing goes on behind it.
func (s *Sink) Close(ctx context.Context) error {
	s.closed.once.Do(func() {
		s.mu.Lock()
		s.mu.closing = true
		s.mu.Unlock()
		close(s.stop)
		go func() {
			s.closed.err = s.shutdown()
			close(s.closed.ch)
		}()
	})
	select {
	case <-s.closed.ch:
		return s.closed.err
	default:
	}
	select {
	case <-s.closed.ch:
		return s.closed.err
	case <-ctx.Done():
		return fmt.Errorf("sink pebble: close %s: calls are still running: %w", s.dir, context.Cause(ctx))
	}
}

func (s *Sink) shutdown() (err error) {
	s.sweep.join()
	s.calls.Wait()
	if s.failure() != nil && s.failed.wedged {
		return fmt.Errorf("not closed: %w", s.failed.err)
	}
	defer pebblekit.Catch(&err)
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("sink pebble: close %s: %w", s.dir, err)
	}
	return nil
}

var (
	_ sinks.Sink       = (*Sink)(nil)
	_ sinks.Reader     = (*Sink)(nil)
	_ sinks.Identifier = (*Sink)(nil)
	_ sinks.Expirer    = (*Sink)(nil)
	_ sinks.Positioner = (*Sink)(nil)
)
