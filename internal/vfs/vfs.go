// Package vfs is the seam between the log and the file system: the operating
// system's, or one that fails where a test wants it to.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
)

// ErrLocked: another process, or another open in this one, holds the lock.
var ErrLocked = errors.New("vfs: locked")

// ErrTooLarge: a file is larger than ReadFile was told to accept.
var ErrTooLarge = errors.New("vfs: file too large")

// FS is a file system. Paths are the operating system's. All methods may be
// called concurrently.
type FS interface {
	// OpenFile opens name; flag and perm as in os.OpenFile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// MkdirAll creates name and its parents; it is no error if they exist.
	MkdirAll(name string, perm fs.FileMode) error
	// ReadDir lists name, sorted.
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	Rename(from, to string) error
	// Link gives the file from a second name, on the same file system.
	Link(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	// SyncDir makes the entries of the directory name durable.
	SyncDir(name string) error
	// Lock takes the exclusive lock on the file name, which it creates and
	// leaves in place, and writes text into it. It waits for a moment only, for
	// who looks whether it is held: ErrLocked.
	// Close of what it returns frees the lock.
	Lock(name, text string) (io.Closer, error)
	// Locked reports whether somebody holds that lock. It writes nothing. For the
	// moment that it takes, Lock fails: see wal.Lock, which tries again. A name
	// that does not exist is not locked.
	Locked(name string) (bool, error)
	// Space describes the file system that holds name.
	Space(name string) (Space, error)
}

// File is an open file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	// Sync makes contents and metadata durable.
	Sync() error
	// Datasync makes contents durable, and of the metadata what is needed to
	// read them back.
	Datasync() error
	// Truncate sets the size.
	Truncate(size int64) error
}

// Mapper is a File that can be read without copying it. The operating system's
// can.
type Mapper interface {
	// Map returns the first size bytes of the file, of which it has that many, and
	// what gives them back. What a failing disk or a file that shrinks takes away
	// is a fault: a panic with a runtime.Error under debug.SetPanicOnFault.
	Map(size int) (b []byte, unmap func() error, err error)
}

// Space of a file system.
type Space struct {
	Free int64  // bytes an ordinary user may still write
	Kind string // "ext4", "tmpfs", ...; a number in hex if unknown
	// Doubt says why fsync's promise may not hold here; empty: no reason known.
	Doubt string
}

// ReadFile reads all of name; ErrTooLarge if that is more than limit bytes.
func ReadFile(fsys FS, name string, limit int64) (b []byte, err error) {
	f, err := fsys.OpenFile(name, readOnly, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, limit+1)); err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrTooLarge}
	}
	return b, nil
}

// MkdirAllSync creates name and its parents one by one, each durably before the next,
// so that whoever was interrupted left one at most whose name is not durable. That is
// the lowest that is there: its name is made durable first.
func MkdirAllSync(fsys FS, name string, perm fs.FileMode) error {
	var missing []string // the lowest first
	dir := filepath.Clean(name)
	for ; ; dir = filepath.Dir(dir) {
		_, err := fsys.Stat(dir)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return err
		}
		missing = append(missing, dir)
	}
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil && !notOurs(err) {
		return err
	}
	for _, dir := range slices.Backward(missing) {
		if err := fsys.MkdirAll(dir, perm); err != nil {
			return err
		}
		if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
			// Another sync might succeed and do nothing: it is to be made again.
			return errors.Join(err, fsys.Remove(dir))
		}
	}
	return nil
}

// notOurs reports an error of who may not read a directory, or cannot sync it: it
// never made anything there.
func notOurs(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EINVAL) ||
		errors.Is(err, errors.ErrUnsupported)
}
