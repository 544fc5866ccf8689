// Package mutation is what a write is: its parts, its canonical form, its
// encoding in the log, and what it does to a record.
//
// The in-memory form is the protobuf message of api/proto/walproxy/v1; this
// package adds what the schema cannot say. Nothing here does I/O or reads a
// clock.
package mutation

import (
	"errors"
	"fmt"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/position"
)

// LSN is a record's position in its log and, for the last write of a record,
// its version; see wal.LSN.
type LSN = position.LSN

// ErrNotFound says that a record does not exist (or has expired). It is the one
// sentinel for that everywhere; unknown is never ErrNotFound.
var ErrNotFound = errors.New("not found")

// InvalidError names the part of a write that is wrong. Client's fault: the
// write was not logged.
type InvalidError struct {
	Field  string // path, as "ops[1].increment.total"
	Reason string
}

func (e *InvalidError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Reason) }

// RejectedError says why a write can never apply to the record it found: a type
// mismatch, an overflow, a precondition that does not hold.
type RejectedError struct {
	Field  string
	Reason string
}

func (e *RejectedError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Reason) }

// Document is a record as a store keeps it.
type Document struct {
	Version    LSN
	Fields     map[string]*walproxyv1.Value
	ExpiresAt  time.Time // zero: never
	EventCount uint64
}

// StoredEvent is an event with its number (from 1) and the LSN that wrote it.
type StoredEvent struct {
	Number uint64
	LSN    LSN
	Event  *walproxyv1.Event
}

// KeyType decides the canonical form of a collection's keys.
type KeyType int

const (
	// KeyString, the default: integers become their decimal digits.
	KeyString KeyType = iota
	// KeyBytes: strings become their bytes.
	KeyBytes
	// KeyInt64: strings of canonical decimal digits become numbers.
	KeyInt64
	// KeyComposite: a list of string, bytes and int64 parts, as they are.
	KeyComposite
)
