package sinks

import (
	"errors"
	"fmt"
)

// Outcome of one record in an Apply.
type Outcome int

const (
	// Unknown: it may have been applied. Apply again, the sink dedups.
	Unknown Outcome = iota
	// Applied: it is in the store, and so is the checkpoint.
	Applied
	// Retry: surely not applied; back off and try again.
	Retry
	// Halt: the whole target is wrong (credentials, missing table, read-only).
	// The sink pauses; no record is to blame.
	Halt
	// Rejected: this record can never apply.
	Rejected
)

func (o Outcome) String() string {
	switch o {
	case Unknown:
		return "unknown"
	case Applied:
		return "applied"
	case Retry:
		return "retry"
	case Halt:
		return "halt"
	case Rejected:
		return "rejected"
	}
	return fmt.Sprintf("outcome(%d)", int(o))
}

// Result is the outcome of one record and, unless Applied, why.
type Result struct {
	Outcome Outcome
	Err     error
}

var (
	// ErrNoCheckpoint: the store has no checkpoint for this stream.
	ErrNoCheckpoint = errors.New("sink: no checkpoint for this stream")
	// ErrForeignStream: the store belongs to another stream.
	ErrForeignStream = errors.New("sink: the store belongs to another stream")
	// ErrFenced: somebody claimed the stream with a higher epoch, or moved its
	// checkpoint. This owner must stop.
	ErrFenced = errors.New("sink: fenced by another owner")
	// ErrMoved: the checkpoint is not what it was when it was looked at.
	ErrMoved = errors.New("sink: the checkpoint is not what it was when it was looked at")
	// ErrRewound: the store has lost some of what it had applied. The loop resumes at
	// the settled point; see Settler.
	ErrRewound = errors.New("sink: the store has lost what it acknowledged")
	// ErrAway: the store cannot be reached, which is known already: nobody has waited
	// for it and nothing was sent.
	ErrAway = errors.New("sink: the store cannot be reached")
	// ErrFailed: the store that the sink runs itself has failed. It stays so until it is
	// opened anew, which takes a start: no loop that follows would get further.
	ErrFailed = errors.New("the store failed; restart")
	// ErrClosed: the sink was closed.
	ErrClosed = errors.New("sink: closed")
)

// OutcomeError gives an error of a whole Apply or Resume its outcome.
type OutcomeError struct {
	Outcome Outcome
	Err     error
}

func (e *OutcomeError) Error() string { return e.Err.Error() }

func (e *OutcomeError) Unwrap() error { return e.Err }

// WithOutcome marks err; nil stays nil.
func WithOutcome(o Outcome, err error) error {
	if err == nil {
		return nil
	}
	return &OutcomeError{Outcome: o, Err: err}
}

// OutcomeOf says what err means for every record of its batch: Applied for nil,
// Halt for the errors that no retry mends, what the sink marked, else Unknown.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Applied
	}
	var marked *OutcomeError
	if errors.As(err, &marked) {
		return marked.Outcome
	}
	for _, final := range []error{ErrNoCheckpoint, ErrForeignStream, ErrFenced, ErrMoved, ErrRewound, ErrFailed, ErrClosed} {
		if errors.Is(err, final) {
			return Halt
		}
	}
	return Unknown
}
