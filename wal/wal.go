// Package wal is the log.
package wal

import (
	"errors"

	"github.com/walproxy/walproxy/internal/position"
)

// LSN is the position of a record in its log: from 1, without gaps; 0 = none.
type LSN = position.LSN

// Point is a record in one history of a log.
type Point = position.Point

var (
	// ErrClosed: the log was closed or sealed before the call.
	ErrClosed = errors.New("wal: closed")
	// ErrPoisoned: a write or fsync failed. Nothing is written or acknowledged
	// after it; outcomes of writes in flight are unknown.
	ErrPoisoned = errors.New("wal: poisoned by a failed write or fsync")
	// ErrFull: log.max_bytes or the free-space floor is reached. Nothing was
	// written; try again when the sinks have caught up.
	ErrFull = errors.New("wal: full")
	// ErrTooLarge: the record exceeds the limit. Nothing was written.
	ErrTooLarge = errors.New("wal: record too large")
	// ErrLocked: another process has the log open; *LockedError has its pid.
	ErrLocked = errors.New("wal: in use by another process")
	// ErrCorrupt: acknowledged data is damaged; *CorruptError says where.
	ErrCorrupt = errors.New("wal: corrupt")
	// ErrFormat: the FORMAT file is missing, damaged or of an unknown version.
	ErrFormat = errors.New("wal: unusable FORMAT")
	// ErrDiverged: a point is not in this log's history.
	ErrDiverged = errors.New("wal: histories diverged")
	// ErrBelowFirst: a point lies below the first record kept.
	ErrBelowFirst = errors.New("wal: below the first record kept")
	// ErrBoot: the caller's boot counter is not above the one in the log.
	ErrBoot = errors.New("wal: the state store is older than the log")
)
