package replay

import (
	"errors"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

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
	// ErrAccepted: what a person accepted does not fit the store any more.
	ErrAccepted = errors.New("replay: what was accepted cannot be done")
	// ErrLaneMapLost: the state store was rebuilt, and the sink's lanes are at
	// different points.
	ErrLaneMapLost = errors.New("replay: which lane holds what is not known any more")
	// ErrFenced: another owner claimed the stream.
	ErrFenced = errors.New("replay: fenced by another owner")
	// ErrRejected: a record can never apply and its policy is Halt;
	// *RejectedError names it.
	ErrRejected = errors.New("replay: a record was rejected")
	// ErrUndecodable: a record of the log cannot be decoded; *DecodeError names it.
	ErrUndecodable = errors.New("replay: a record cannot be decoded")
	// ErrDeadLettersFull: the dead letters have reached their bound. Give some up
	// or raise the bound; the sink goes on where it halted.
	ErrDeadLettersFull = state.ErrDeadLettersFull
	// ErrClosed: the loop ended.
	ErrClosed = errors.New("replay: closed")
)

// ResumeError is why a sink must not be continued, and what a person can do.
type ResumeError struct {
	Sink  string
	Found string // what was found, and where
	Next  string // what to do
	Err   error  // one of the sentinels above
	Cause error  // what the sink or the log said; may be nil
}

func (e *ResumeError) Error() string {
	s := fmt.Sprintf("%v: sink %q: %s", e.Err, e.Sink, e.Found)
	if e.Cause != nil {
		s += fmt.Sprintf(" (%v)", e.Cause)
	}
	return s + "; " + e.Next
}

// Unwrap returns the sentinel and the cause.
func (e *ResumeError) Unwrap() []error { return present(e.Err, e.Cause) }

// HaltError says that a sink cannot go on, and that no record is to blame.
type HaltError struct {
	Sink string
	Err  error
	// Passing: the store said so of itself (a role may not, a table is missing, it
	// is read-only), which may be mended where it is.
	Passing bool
}

func (e *HaltError) Error() string { return fmt.Sprintf("replay: sink %q halted: %v", e.Sink, e.Err) }

// Unwrap returns what the sink said.
func (e *HaltError) Unwrap() error { return e.Err }

// RejectedError names a record that can never apply.
type RejectedError struct {
	LSN        wal.LSN
	Sink       string
	Collection string          // of the record's first write
	Key        *walproxyv1.Key // of the record's first write; nil if it has none
	Err        error
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%v: sink %q: LSN %d, collection %q, key %q: %v",
		ErrRejected, e.Sink, e.LSN, e.Collection, mutation.KeyText(e.Key), e.Err)
}

// Unwrap returns ErrRejected and what the sink said.
func (e *RejectedError) Unwrap() []error { return present(ErrRejected, e.Err) }

// DecodeError names a record that cannot be decoded.
type DecodeError struct {
	LSN  wal.LSN
	Sink string
	Err  error
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("%v: sink %q: LSN %d: %v", ErrUndecodable, e.Sink, e.LSN, e.Err)
}

// Unwrap returns ErrUndecodable and why.
func (e *DecodeError) Unwrap() []error { return present(ErrUndecodable, e.Err) }

// PanicError is a panic in a sink.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// present returns those of errs that are not nil.
func present(errs ...error) (list []error) {
	for _, err := range errs {
		if err != nil {
			list = append(list, err)
		}
	}
	return list
}
