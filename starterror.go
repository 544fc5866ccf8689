package walproxy

import (
	"errors"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// StartError is why Open refuses a data directory, and what a person can do. It is
// repeated until somebody has done it.
type StartError struct {
	Err  error
	Next string
}

func (e *StartError) Error() string { return e.Err.Error() + "; " + e.Next }

// Unwrap returns what was found.
func (e *StartError) Unwrap() error { return e.Err }

// remedies are what helps against what Open refuses, the more special ones first.
var remedies = []struct {
	err  error
	next string
}{
	{wal.ErrVersion, "a newer walproxy wrote it: use that one"},
	{wal.ErrLocked, "stop that process, or work with it: one at a time may have the directory"},
	{wal.ErrRepairing, "run `walproxy log repair`, which finishes it"},
	{wal.ErrCorrupt, "`walproxy log repair` shows what is lost, keeps all the rest and sets what is damaged aside"},
	{wal.ErrFormat, "`walproxy log repair` shows what is lost, keeps all the rest and sets what is damaged aside"},
	{state.ErrMissing, "put the state store back that belongs to the log; if it is lost, `walproxy log repair --state rebuild` makes a new one"},
	{state.ErrForeign, "put the state store and the log together that belong to each other; if this log's is lost, `walproxy log repair --state rebuild` makes a new one"},
	{state.ErrOlder, "put the newest copy of the state store back; if this is it, `walproxy log repair --state accept` goes on with it"},
	{accept.ErrRequestsLost, "put the newest copy of log and state store back; `walproxy log repair` shows what is missing and how to go on"},
	{state.ErrCorrupt, "put a copy of the state store back; if there is none, `walproxy log repair --state rebuild` makes a new one"},
	{state.ErrFormat, "put a copy of the state store back; if there is none, `walproxy log repair --state rebuild` makes a new one"},
}

// advise adds what helps to an error of open.
func advise(err error) error {
	for _, r := range remedies {
		if errors.Is(err, r.err) {
			return &StartError{Err: err, Next: r.next}
		}
	}
	return err
}
