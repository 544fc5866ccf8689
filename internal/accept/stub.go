// Package accept turns a write into a log record: canonical keys, key locks,
// preconditions, request ids, the pending table.
package accept

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// CONTRACT STUBS: replaced by the real thing.

var (
	// ErrConflict: the precondition does not hold; *ConflictError.
	ErrConflict = errors.New("version conflict")
	// ErrRequestMismatch: the request id was used with another payload.
	ErrRequestMismatch = errors.New("request id was used for a different write")
	// ErrUnroutable: no route takes the collection.
	ErrUnroutable = errors.New("no route for collection")
)

// ConflictError says what the record's version is, once that is durable.
type ConflictError struct {
	Version    wal.LSN // 0: the record does not exist
	EventCount uint64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v: the record's version is %d", ErrConflict, e.Version)
}
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Applied is the apply loop, as seen from here.
type Applied interface {
	Applied() wal.LSN
	Wait(ctx context.Context, lsn wal.LSN) error
}

// Route says where the writes of matching collections go.
type Route struct {
	Collections []string // path.Match patterns
	Sinks       []string // the first one answers reads
}

// Target is a sink that may answer reads.
type Target struct {
	Loop   Applied
	Reader sinks.Reader // nil: cannot read
}

// Options of New.
type Options struct {
	Routes   []Route
	Targets  map[string]Target // by sink name
	KeyTypes func(collection string) mutation.KeyType
	Window   struct {
		Age   time.Duration // 24 h
		Count int           // 1,000,000
	}
	PendingExact int // entries in the exact map of pending writes. 65,536
	Now          func() time.Time
	Logger       *zap.Logger
}

// Acceptor accepts writes. All methods may be called concurrently.
type Acceptor struct{}

// New rescans the log above the stored request mark.
func New(ctx context.Context, log *wal.Log, st *state.Store, o Options) (*Acceptor, error) {
	panic("stub")
}

// Result of a write.
type Result struct {
	LSN wal.LSN
	// Repeat: the request id was seen before and LSN is the original's.
	Repeat bool
	// EventCount after an append_event under if_event_count, when known; else 0.
	EventCount uint64
}

// Pending is a write that has its LSN.
type Pending struct{}

// Submit gives w its LSN. w has Mutation, Group, ... and principal set; accepted
// time and routes are filled in here. Errors mean that nothing was logged, and
// are *mutation.InvalidError, *ConflictError, ErrRequestMismatch, ErrUnroutable,
// wal.ErrFull, wal.ErrClosed, wal.ErrPoisoned, wal.ErrTooLarge or ctx's cause.
func (a *Acceptor) Submit(ctx context.Context, w *walproxyv1.Record) (*Pending, error) {
	panic("stub")
}

// Wait returns once the write is durable; see wal.Ticket.
func (p *Pending) Wait(ctx context.Context) (Result, error) { panic("stub") }

// LSN of the write (the original's for a repeat); known at once.
func (p *Pending) LSN() wal.LSN { panic("stub") }

// Done is closed when the outcome is known.
func (p *Pending) Done() <-chan struct{} { panic("stub") }

// Read waits for the key's pending writes to be applied and reads the record.
func (a *Acceptor) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	panic("stub")
}

// ReadEvents is Read for events.
func (a *Acceptor) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	panic("stub")
}

// SyncBelow makes every request id of an LSN below lsn durable in the state
// store; call it before the log's space is released.
func (a *Acceptor) SyncBelow(lsn wal.LSN) error { panic("stub") }

// Close stores the remaining request ids. After it every call is wal.ErrClosed.
func (a *Acceptor) Close() error { panic("stub") }
