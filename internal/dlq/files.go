package dlq

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// ErrNoSink: the data directory knows of no sink of that name.
var ErrNoSink = errors.New("there is no such sink")

// ErrNoLetter: the sink has no dead letter of that LSN.
var ErrNoLetter = errors.New("there is no such dead letter")

// Files are the dead letters of a data directory that no process has open. It holds
// the log's lock until Close. What a crash left above a sink's checkpoint is there
// too: the next start takes it back and applies it again.
type Files struct {
	lock  io.Closer
	state *state.Store
}

// Open takes the lock of dataDir: *wal.LockedError if somebody has it.
func Open(dataDir string) (*Files, error) {
	lock, err := wal.Lock(filepath.Join(dataDir, "log"))
	if err != nil {
		return nil, err
	}
	st, err := state.Open(filepath.Join(dataDir, "state"), state.Options{})
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Files{lock, st}, nil
}

// Close lets go of the directory.
func (f *Files) Close() error { return errors.Join(f.state.Close(), f.lock.Close()) }

// Stream is the log's; empty if nothing was logged yet.
func (f *Files) Stream() string {
	stream, ok := f.state.Stream()
	if !ok {
		return ""
	}
	return stream.String()
}

// Sinks are the names that the directory knows, sorted.
func (f *Files) Sinks() (names []string, err error) {
	claims, err := f.state.Claims()
	for _, c := range claims {
		names = append(names, c.Sink)
	}
	return names, err
}

func (f *Files) letters(sink string) (*state.DeadLetters, error) {
	_, known, err := f.state.Claim(sink)
	if err == nil && !known {
		err = fmt.Errorf("%w: %q", ErrNoSink, sink)
	}
	if err != nil {
		return nil, err
	}
	return f.state.DeadLetters(sink), nil
}

// Page is Filter.Page of a sink's dead letters.
func (f *Files) Page(sink string, filter *Filter, from position.LSN, limit int) ([]state.DeadLetter, position.LSN, error) {
	letters, err := f.letters(sink)
	if err != nil {
		return nil, 0, err
	}
	return filter.Page(from, limit, letters.List)
}

// Letter is one of them, with its write and its queue.
func (f *Files) Letter(sink string, lsn position.LSN) (Letter, error) {
	letters, err := f.letters(sink)
	if err != nil {
		return Letter{}, err
	}
	d, ok, err := letters.Get(lsn)
	if err == nil && !ok {
		err = fmt.Errorf("%w: LSN %d at sink %s", ErrNoLetter, lsn, sink)
	}
	if err != nil {
		return Letter{}, err
	}
	out, err := WholeOf(&d, f.Stream())
	if err == nil {
		err = out.AddQueue(d.Keys, letters.Of)
	}
	return out, err
}

// Discard gives those of lsns up that are there, all or none, durably.
func (f *Files) Discard(sink string, lsns []position.LSN) ([]state.DeadLetter, error) {
	letters, err := f.letters(sink)
	if err != nil {
		return nil, err
	}
	return letters.DeleteAll(lsns)
}
