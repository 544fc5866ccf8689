// Package wal is the log: records get an LSN, are fsync'd in groups and only
// then acknowledged; readers get them back in order after any crash.
//
// # On disk
//
//	dir/LOCK                 flock; the owner's pid inside
//	dir/FORMAT               version, stream, CRC32C; text
//	dir/watermark            two slots of 4096 bytes: what was durable, at rest
//	dir/segments/<seq>/      one directory per segment, seq as 16 hex digits
//	dir/trash/               segments being deleted
//	dir/quarantine/          what recovery cut off
//
// A segment's file is a row of frames, all numbers little endian. The engine
// may put a prefix before each frame (tidwall: the frame's length as uvarint):
//
//	[prefix][segment header frame][prefix][frame][prefix][frame]...
//
//	frame:  0  magic "WPXF"          4   20  (cont.) durable LSN when written
//	        4  version (1)           1   24  length of the payload   4
//	        5  kind                  1   28  CRC32C of the payload   4
//	        6  reserved, 0           2   32  CRC32C of the header    4
//	        8  LSN                   8   36  payload
//	       16  durable LSN           8
//
// The header's CRC starts from (stream, incarnation, segment, file offset of
// the frame), so that a frame verifies only where it was written: a stale or
// moved one, or one inside a payload, does not. It is checked before the length
// is trusted. Kinds: 1 segment header, 2 record, 3 gap. A gap stands for LSNs
// that a repair gave up: from the frame's LSN to the u64 in its payload.
//
//	segment header payload:
//	        0  format (1)            2   60  predecessor: end offset  8
//	        2  reserved, 0           2   68  predecessor: last LSN    8
//	        4  stream               16   76  predecessor: header CRC
//	       20  incarnation          16       of its last frame        4
//	       36  segment               8   80  number of incarnations   4
//	       44  LSN of first record   8   84  each: uuid 16, first LSN 8
//	       52  boot counter          8
//
// docs/log-format.md has the rest: start, torn and corrupt, the watermark.
//
// # What is assumed of the disk
//
// After fsync of a file returned nil its contents are found again; after fsync
// of a directory its entries. A failed write or fsync leaves any mixture. A
// power cut leaves any mixture of what was not fsync'd, but does not touch what
// was, with one exception that is allowed for: blocks being overwritten (the
// watermark's slot). rename is atomic.
//
// # What it needs of Go
//
// While the log is written to, one goroutine is in an fsync nearly all the time, and
// keeps a processor from the others: GOMAXPROCS is better one more than there are.
package wal

import (
	"errors"
	"fmt"

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
	// ErrVersion: something was written by a program that is newer than this one.
	// What is wrong then is the program, not the disk.
	ErrVersion = errors.New("unknown version")
	// ErrDiverged: a point is not in this log's history.
	ErrDiverged = errors.New("wal: histories diverged")
	// ErrBelowFirst: a point lies below the first record kept.
	ErrBelowFirst = errors.New("wal: below the first record kept")
	// ErrBoot: the caller's boot counter is not above the one in the log.
	ErrBoot = errors.New("wal: the state store is older than the log")
)

// LockedError is ErrLocked with the owner.
type LockedError struct {
	Path string
	PID  int // 0: not known
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%v: %s", ErrLocked, e.Path)
	}
	return fmt.Sprintf("%v: %s is held by pid %d", ErrLocked, e.Path, e.PID)
}

func (e *LockedError) Unwrap() error { return ErrLocked }

// CorruptError says where acknowledged data is damaged or missing.
type CorruptError struct {
	Segment     string // file or directory, relative to the log's directory
	Offset      int64  // first bad byte of it
	End         int64  // where what is good begins again; 0: not known
	First, Last LSN    // what cannot be read for sure; 0: no record is known to be hit
	Err         error  // what is wrong there
}

func (e *CorruptError) Error() string {
	lsns := ""
	if e.First != 0 {
		lsns = fmt.Sprintf(", LSN %d to %d", e.First, max(e.First, e.Last))
	}
	return fmt.Sprintf("%v: %s at offset %d%s: %v", ErrCorrupt, e.Segment, e.Offset, lsns, e.Err)
}

func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, e.Err} }
