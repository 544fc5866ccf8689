// Package unfinished knows what an interrupted `restore` or `log import` leaves in a
// data directory: a part of a log under a name of its own. A start that took the
// directory for a new one would begin a fresh log beside it.
package unfinished

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names, within the data directory, under which what is not complete lies.
const (
	Import  = "import.tmp"
	Restore = "partial.new"
)

// Err: the directory is to become a data directory, and is not one yet; *Error.
var Err = errors.New("the data directory is not complete")

// Error says what was interrupted.
type Error struct {
	Dir  string
	Name string // Import or Restore
}

func (e *Error) Error() string {
	command := "walproxy log import"
	if e.Name == Restore {
		command = "walproxy restore"
	}
	return fmt.Sprintf("%v: %s holds no log, and %s of a `%s` that was interrupted: run that again; "+
		"or, to give up what was to be restored and begin a new log, empty the directory first", Err, e.Dir, e.Name, command)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return Err }

// Check returns an *Error if dir has no log and a part of one.
func Check(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, "log")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range []string{Import, Restore} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, &Error{Dir: dir, Name: name})
		}
	}
	return nil
}
