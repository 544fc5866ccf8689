// Package replay is the one apply loop.
package replay

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// CONTRACT STUBS: replaced by the real thing.

var (
	// ErrDiverged: the sink's checkpoint is not in this log's history.
	ErrDiverged = errors.New("replay: the sink and the log have diverged")
	// ErrCheckpointMissing: the sink was claimed but holds no checkpoint.
	ErrCheckpointMissing = errors.New("replay: the sink's checkpoint is missing")
	// ErrBelowFirst: the checkpoint lies below the first record kept.
	ErrBelowFirst = errors.New("replay: the sink's checkpoint lies below the first record kept")
	// ErrForeignStream: the sink holds another stream's checkpoint.
	ErrForeignStream = errors.New("replay: the sink belongs to another stream")
	// ErrWrongStore: the sink is another store than the one that was claimed.
	ErrWrongStore = errors.New("replay: the sink is another store than the one claimed")
	// ErrFenced: another owner claimed the stream.
	ErrFenced = errors.New("replay: fenced by another owner")
	// ErrRejected: a record can never apply; *RejectedError names it. Until dead
	// letters exist this halts the sink.
	ErrRejected = errors.New("replay: a record was rejected")
	ErrClosed   = errors.New("replay: closed")
)

// Options of New; zero values are the defaults.
type Options struct {
	Name  string // the sink's name in the configuration
	Lanes int    // 4
	Batch struct {
		Records int           // 1000
		Bytes   int           // 1 MiB
		Linger  time.Duration // 5 ms: how long a batch waits for more; waiters cut it short
	}
	QueueBytes   int           // records read ahead of the lanes, all lanes together. 16 MiB
	RetryMin     time.Duration // 10 ms
	RetryMax     time.Duration // 10 s
	ApplyTimeout time.Duration // one Apply or Resume. 30 s
	Owner        string
	Logger       *zap.Logger
	// OnCheckpoint is called when the lowest durable checkpoint rises.
	OnCheckpoint func(wal.LSN)
}

// Loop applies a log to one sink.
type Loop struct{}

func New(log *wal.Log, st *state.Store, sink sinks.Sink, o Options) (*Loop, error) { panic("stub") }

// Run resumes and applies until ctx ends (nil), the log is sealed and everything
// durable is applied (nil), or the sink halts (why). It is called once.
func (l *Loop) Run(ctx context.Context) error { panic("stub") }

// Applied is the low-water mark: everything up to it is in the sink.
func (l *Loop) Applied() wal.LSN { panic("stub") }

// Checkpoint is the lowest durable lane checkpoint.
func (l *Loop) Checkpoint() wal.LSN { panic("stub") }

// Wait returns nil once Applied() >= lsn. It cuts lingering batches short. It
// returns the loop's error if it halted, ErrClosed if it ended, ctx's cause.
func (l *Loop) Wait(ctx context.Context, lsn wal.LSN) error { panic("stub") }

// State of the loop.
type State string

const (
	Starting State = "starting" // the store has not been reached yet
	Running  State = "running"
	Retrying State = "retrying" // the last apply failed, backing off
	Halted   State = "halted"
	Stopped  State = "stopped"
)

// Status is a snapshot for metrics and status.
type Status struct {
	State      State
	Err        error // why retrying or halted
	Epoch      uint64
	Applied    wal.LSN
	Checkpoint wal.LSN
	Lanes      []wal.LSN
	Records    uint64 // applied since start
	Batches    uint64
	Retries    uint64
	QueueBytes int
}

func (l *Loop) Status() Status { panic("stub") }
