// Package state is the local state store: what must survive a restart beside
// the log itself. It holds the stream it belongs to, the boot counter, the
// sinks' claims and the request ids.
package state

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/position"
)

// CONTRACT STUBS: replaced by the real thing.

var (
	// ErrMissing: the log has records but the state store that belongs to it is gone.
	ErrMissing = errors.New("state: the log's state store is missing")
	// ErrForeign: the state store belongs to another stream.
	ErrForeign = errors.New("state: belongs to another stream")
	ErrClosed  = errors.New("state: closed")
)

// Store is a Pebble database. All methods may be called concurrently.
type Store struct{}

// Options of Open.
type Options struct {
	Logger *zap.Logger
}

// Open opens or creates the store in dir and raises the boot counter, durably.
func Open(dir string, o Options) (*Store, error) { panic("stub") }

// Boot is this start's boot counter, for wal.Options.
func (s *Store) Boot() uint64 { panic("stub") }

// Stream is the stream the store is bound to; ok is false if to none yet.
func (s *Store) Stream() (stream uuid.UUID, ok bool) { panic("stub") }

// Bind ties the store to stream, durably; empty says that the log never held a
// record. Unbound with a log that is not empty: ErrMissing. Bound to another: ErrForeign.
func (s *Store) Bind(stream uuid.UUID, empty bool) error { panic("stub") }

// Claim is what is known of a sink.
type Claim struct {
	Sink     string
	Identity string // of the store, as the sink says it
	// Settled is set once the sink is known to hold a checkpoint: from then on
	// its absence is an error. Before it nothing was applied.
	Settled bool
}

// Claim returns the sink's claim; ok is false if it was never claimed.
func (s *Store) Claim(sink string) (c Claim, ok bool, err error) { panic("stub") }

// PutClaim stores c, durably.
func (s *Store) PutClaim(c Claim) error { panic("stub") }

// RequestID is the stored trace of a write with a request id.
type RequestID struct {
	Principal, ID string
	LSN           position.LSN
	PayloadHash   [16]byte
	Accepted      time.Time
}

// LookupRequest returns the entry of (principal, id).
func (s *Store) LookupRequest(ctx context.Context, principal, id string) (r RequestID, ok bool, err error) {
	panic("stub")
}

// PutRequests stores entries and the mark (every id of LSN <= mark is stored),
// without waiting for the disk. SyncRequests makes it durable.
func (s *Store) PutRequests(entries []RequestID, mark position.LSN) error { panic("stub") }

// SyncRequests makes everything put so far durable and returns the durable mark.
func (s *Store) SyncRequests() (position.LSN, error) { panic("stub") }

// RequestMark is the durable mark: a start rescans the log above it.
func (s *Store) RequestMark() (position.LSN, error) { panic("stub") }

// ExpireRequests drops the oldest entries until none is older than before and at
// most keep remain.
func (s *Store) ExpireRequests(before time.Time, keep int) error { panic("stub") }

// Bytes is the store's size on disk.
func (s *Store) Bytes() int64 { panic("stub") }

// Close may be called twice.
func (s *Store) Close() error { panic("stub") }
