package wal

import (
	"context"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// CONTRACT STUBS: replaced by the real thing.

// Options of Open; the zero value is the default.
type Options struct {
	// Engine stores the frames: "tidwall" (default).
	Engine string
	// SegmentBytes is where a segment is sealed and the next begun. 16 MiB.
	SegmentBytes int64
	// MaxBytes bounds the log and ExtraBytes together. 64 GiB.
	MaxBytes int64
	// MinFree bytes stay free on the file system; -1: no floor. 2 GiB.
	MinFree int64
	// ExtraBytes returns bytes beside the log that count towards MaxBytes.
	ExtraBytes func() int64
	// RingBytes caps the memory that keeps hot records for readers. 64 MiB.
	RingBytes int
	// GroupBytes caps a group commit, and the queue of records waiting for the
	// next one. 4 MiB.
	GroupBytes int
	// MaxRecordBytes is the largest payload. 16 MiB.
	MaxRecordBytes int
	// Attach, if set, ties the caller's own state to the log. Open calls it
	// once, under the lock, as soon as the stream is known and whether the log
	// ever held a record: for a new log before FORMAT is written (so that an
	// error leaves no new log behind), else after the tail was judged and before
	// the first segment of this start is begun. boot is a counter that the
	// caller keeps durably elsewhere and raises at every start; Open returns
	// ErrBoot unless it is above the one in the newest segment header (then the
	// caller's state is older than the log). An error of Attach ends Open with it.
	//
	// Contract change: Attach replaces MustExist and Boot.
	Attach func(stream uuid.UUID, empty bool) (boot uint64, err error)
	FS     vfs.FS
	Logger *zap.Logger
}

// Log is a log on disk. All methods may be called concurrently.
type Log struct{}

func Open(dir string, o Options) (*Log, error) { panic("stub") }

// Append adds payload and returns its LSN once it is durable. If ctx ends first
// it returns ctx's cause and the outcome is unknown unless the LSN is 0.
func (l *Log) Append(ctx context.Context, payload []byte) (LSN, error) { panic("stub") }

// Enqueue gives payload its LSN and queues it for the next group; it blocks only
// while the queue is full. payload is copied. An error means that nothing was
// queued. Once it returns, ctx's end does not pull the record back.
func (l *Log) Enqueue(ctx context.Context, payload []byte) (Ticket, error) { panic("stub") }

// Ticket stands for a queued record.
type Ticket struct{ LSN LSN }

// Wait returns nil once the record is durable; ErrPoisoned: unknown; ctx's
// cause: unknown.
func (t Ticket) Wait(ctx context.Context) error { panic("stub") }

// Done is closed when the record's group was settled, one way or the other.
func (t Ticket) Done() <-chan struct{} { panic("stub") }

// Err is the outcome after Done: nil is durable.
func (t Ticket) Err() error { panic("stub") }

// WaitDurable returns nil once everything up to lsn is durable.
func (l *Log) WaitDurable(ctx context.Context, lsn LSN) error { panic("stub") }

func (l *Log) Stream() uuid.UUID { panic("stub") }

// Appended is the highest LSN given out, Durable the highest fsync'd, First the
// lowest still kept (Durable+1 when there is none).
func (l *Log) Appended() LSN { panic("stub") }
func (l *Log) Durable() LSN  { panic("stub") }
func (l *Log) First() LSN    { panic("stub") }

// PointOf returns the point of a durable record, by its LSN. lsn 0 is the zero
// Point; First()-1 is known too.
func (l *Log) PointOf(lsn LSN) (Point, error) { panic("stub") }

// Contains returns nil if p is in this log's history and what follows it is
// kept; ErrDiverged; ErrBelowFirst.
func (l *Log) Contains(p Point) error { panic("stub") }

// NewReader reads durable records from lsn on. ErrBelowFirst.
func (l *Log) NewReader(from LSN) (*Reader, error) { panic("stub") }

// Reader reads records in LSN order. Not for concurrent use.
type Reader struct{}

// Record is one record of the log. Payload is valid until the next call.
type Record struct {
	LSN     LSN
	Payload []byte
}

// Next returns the next record, waiting until it is durable. io.EOF: the log is
// sealed, closed or poisoned and everything durable was returned. *CorruptError:
// damage, with its place. ctx's cause when ctx ends; the reader goes on after it.
func (r *Reader) Next(ctx context.Context) (Record, error) { panic("stub") }

// Close frees the reader's file.
func (r *Reader) Close() error { panic("stub") }

// Release says that records below lsn are no longer needed by anybody. Whole
// segments are freed in the background; Release never waits for the disk.
func (l *Log) Release(lsn LSN) { panic("stub") }

// Stats is a snapshot for metrics and status.
type Stats struct {
	Appended, Durable, First LSN
	Bytes, FreeBytes         int64 // log files; file system
	Segments                 int
	Syncs, Groups, Records   uint64 // since Open
	PayloadBytes             uint64
	Err                      error // poisoned by
}

func (l *Log) Stats() Stats { panic("stub") }

// Poisoned is closed at the first failed write or fsync; Err says which.
func (l *Log) Poisoned() <-chan struct{} { panic("stub") }
func (l *Log) Err() error                { panic("stub") }

// Seal refuses further appends with ErrClosed, makes what is queued durable and
// acknowledges it. Reads go on. It may be called twice.
func (l *Log) Seal(ctx context.Context) error { panic("stub") }

// Close seals, ends readers, joins every goroutine and frees the lock.
func (l *Log) Close() error { panic("stub") }
