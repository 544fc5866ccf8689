// Package pebblekit keeps a Pebble database from ending its host's process.
//
// Pebble reports what it cannot go on from (a failed write or sync of its WAL
// or MANIFEST, a violated invariant) through Logger.Fatalf, and its own logger
// calls os.Exit there. The Logger here panics with a *FatalError instead.
// A caller that reached Fatalf in its own goroutine, and a failed commit always
// does, turns the panic into an error with Catch.
//
// In a goroutine of Pebble's (flush, compaction) nobody can catch it and the
// process ends with the trace. Going on would mean to retry a failed sync, and
// ending is safe, because the log holds every acknowledged write and the
// database recovers when it is opened again. FS keeps failures of the disk from
// ever getting there.
package pebblekit

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// ErrFatal: the database failed and must not be used again by this process, not
// even closed: Pebble may hold locks that Close waits for.
var ErrFatal = errors.New("pebble: fatal error; the database is unusable until it is opened again")

// FatalError is what Pebble said.
type FatalError struct{ Message string }

func (e *FatalError) Error() string { return fmt.Sprintf("%v: %s", ErrFatal, e.Message) }

// Unwrap returns ErrFatal.
func (e *FatalError) Unwrap() error { return ErrFatal }

// NewLogger returns a Pebble logger over l; nil logs nothing.
func NewLogger(l *zap.Logger) pebble.Logger {
	if l == nil {
		l = zap.NewNop()
	}
	return logger{l.WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

type logger struct{ log *zap.SugaredLogger }

func (l logger) Infof(format string, args ...any)  { l.log.Debugf(format, args...) }
func (l logger) Errorf(format string, args ...any) { l.log.Errorf(format, args...) }

// Fatalf panics: it must not return, for Pebble would go on as if the failed
// step had succeeded.
func (l logger) Fatalf(format string, args ...any) {
	panic(&FatalError{Message: fmt.Sprintf(format, args...)})
}

// Catch turns the panic of a Fatalf into *err. Defer it around every call into
// the database:
//
//	defer pebblekit.Catch(&err)
//
// Pebble also panics with a plain error where it cannot go on: the first large
// commit after a failed sync finds the WAL's writer dead and does (commitWrite
// and rotateWAL in its db.go). Such a panic becomes a *FatalError too. Other
// panics, those of the Go runtime among them, go on. The caller has to remember a *FatalError and to leave the
// database alone from then on.
func Catch(err *error) {
	r := recover()
	if r == nil {
		return
	}
	switch r := r.(type) {
	case *FatalError:
		*err = r
	case runtime.Error:
		panic(r)
	case error:
		*err = &FatalError{Message: r.Error()}
	default:
		panic(r)
	}
}
