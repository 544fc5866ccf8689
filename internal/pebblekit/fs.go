package pebblekit

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/walproxy/walproxy/internal/failpoint"
)

// FS is a file system that keeps Pebble from meeting a failure that would end
// the process.
//
// Catch is not enough for that: when a WAL cannot be closed or created, Pebble
// panics with its own mutex unlocked that a deferred call then unlocks again
// (rotateWAL in its db.go), which no recover survives; and a failed MANIFEST is
// fatal in a goroutine of Pebble's where nobody can recover. Both need no more
// than a full disk.
//
// So the first failed write, sync, creation or rename of what a database
// recovers from (WAL, MANIFEST, markers, directories) freezes those files: FS
// keeps the error, calls the function it was made with, tells Pebble that all
// is well, and from then on changes none of them and removes nothing. On disk
// the database is as after a crash at that moment.
//
// A table that cannot be written, in a flush or a compaction, is another case:
// Pebble tries again, at once and for ever. FS lets it have the error after a
// pause, so that a full disk does not take a processor too.
//
// What Pebble reports durable is durable only if Err is nil afterwards: a caller
// has to look, after every commit, before it believes the commit. Errors of
// reads pass.
type FS struct {
	vfs.FS
	failed func(error)

	once   sync.Once
	err    atomic.Pointer[error] // set once
	beside atomic.Pointer[copying]
}

// copying is a copy that Pebble makes.
type copying struct {
	dir string
	err atomic.Pointer[error] // the first sync of a directory that failed
}

// besideDirectory is a directory of a copy. Pebble panics when the sync of one
// fails (Move of its atomicfs), so that is kept for who asked for the copy.
type besideDirectory struct {
	vfs.File
	copying *copying
}

func (d *besideDirectory) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.copying.err.CompareAndSwap(nil, &err)
	}
	return nil
}

// NewFS wraps inner. failed is called once, before the operation that failed
// returns and before the first change is dropped; it must not call into the
// database. It may be nil.
func NewFS(inner vfs.FS, failed func(error)) *FS { return &FS{FS: inner, failed: failed} }

// beginCopy says that what lies in dir is a copy, from which the database does not
// recover: a failure there is an error like any other. end is called behind it, and returns
// what failed and was not told. One at a time.
func (f *FS) beginCopy(dir string) (end func() error) {
	c := &copying{dir: dir}
	f.beside.Store(c)
	return func() error {
		f.beside.Store(nil)
		if err := c.err.Load(); err != nil {
			return *err
		}
		return nil
	}
}

func (f *FS) besideOf(name string) *copying {
	c := f.beside.Load()
	if c != nil && (name == c.dir || strings.HasPrefix(name, c.dir+string(os.PathSeparator))) {
		return c
	}
	return nil
}

// Err is the failure that froze the files, or nil.
func (f *FS) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// freeze keeps the first failure. f is frozen when it returns, so whatever
// Pebble does because it believes that the operation succeeded comes too late.
func (f *FS) freeze(what, name string, err error) {
	f.once.Do(func() {
		err = fmt.Errorf("%s %s: %w", what, name, err)
		if f.failed != nil {
			f.failed(err) // first: a write that is dropped must find its owner told
		}
		f.err.Store(&err)
	})
}

// change runs op unless f is frozen; ok says that it ran and succeeded. A failure
// of something vital freezes f, another one is returned.
func (f *FS) change(what, name string, vital bool, op func() error) (ok bool, err error) {
	if f.Err() != nil {
		return false, nil
	}
	failpoint.Hit("disk-change")
	if err = op(); err == nil {
		return true, nil
	}
	if !vital {
		return false, err
	}
	f.freeze(what, name, err)
	return false, nil
}

// vital reports whether the database recovers from the file.
func (f *FS) vital(name string) bool {
	base := f.PathBase(name)
	if f.besideOf(name) != nil {
		return false
	}
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// open makes a vital file, by op.
func (f *FS) open(what, name string, op func() (vfs.File, error)) (vfs.File, error) {
	var inner vfs.File
	ok, err := f.change(what, name, true, func() (err error) {
		inner, err = op()
		return err
	})
	if err != nil {
		return nil, err
	}
	if !ok {
		return nowhere{}, nil
	}
	return &file{File: inner, fs: f, name: name}, nil
}

// Create implements vfs.FS.
func (f *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if f.besideOf(name) != nil {
		return f.FS.Create(name, category)
	}
	if !f.vital(name) {
		failpoint.Hit("disk-change")
		inner, err := f.FS.Create(name, category)
		if err != nil {
			return nil, pause(err)
		}
		return &table{inner}, nil
	}
	return f.open("create", name, func() (vfs.File, error) { return f.FS.Create(name, category) })
}

// ReuseForWrite implements vfs.FS.
func (f *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("reuse for", newname, func() (vfs.File, error) {
		return f.FS.ReuseForWrite(oldname, newname, category)
	})
}

// OpenReadWrite implements vfs.FS.
func (f *FS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if !f.vital(name) {
		return f.FS.OpenReadWrite(name, category, opts...)
	}
	return f.open("open", name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, category, opts...) })
}

// OpenDir implements vfs.FS. The sync of a directory is vital: it makes new
// WALs and markers findable.
func (f *FS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if c := f.besideOf(name); err == nil && c != nil {
		return &besideDirectory{dir, c}, nil
	}
	if err != nil {
		return nil, err
	}
	return &directory{file{File: dir, fs: f, name: name}}, nil
}

// Link implements vfs.FS.
func (f *FS) Link(oldname, newname string) error {
	_, err := f.change("link", newname, f.vital(newname), func() error { return f.FS.Link(oldname, newname) })
	return err
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldname, newname string) error {
	_, err := f.change("rename", newname, f.vital(oldname) || f.vital(newname), func() error { return f.FS.Rename(oldname, newname) })
	return err
}

// Remove implements vfs.FS. A file that cannot be removed is no failure of
// anything but space.
func (f *FS) Remove(name string) error {
	_, err := f.change("remove", name, false, func() error { return f.FS.Remove(name) })
	return err
}

// RemoveAll implements vfs.FS.
func (f *FS) RemoveAll(name string) error {
	_, err := f.change("remove", name, false, func() error { return f.FS.RemoveAll(name) })
	return err
}

// Unwrap implements vfs.FS.
func (f *FS) Unwrap() vfs.FS { return f.FS }

// file is a vital file.
type file struct {
	vfs.File
	fs   *FS
	name string
}

func (f *file) change(what string, op func() error) {
	_, _ = f.fs.change(what, f.name, true, op) // a vital failure freezes and is never returned
}

func (f *file) Write(p []byte) (int, error) {
	f.change("write", func() error { _, err := f.File.Write(p); return err })
	return len(p), nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.change("write", func() error { _, err := f.File.WriteAt(p, off); return err })
	return len(p), nil
}

func (f *file) Sync() error {
	f.change("sync", f.File.Sync)
	return nil
}

func (f *file) SyncData() error {
	f.change("sync", f.File.SyncData)
	return nil
}

func (f *file) SyncTo(length int64) (full bool, err error) {
	f.change("sync", func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, nil
}

func (f *file) Close() error {
	if err := f.File.Close(); err != nil {
		f.fs.freeze("close", f.name, err)
	}
	return nil
}

// table is a file that Pebble writes again, under another name, if it fails.
type table struct{ vfs.File }

// retryPause is how long the error of a table's write is held back.
const retryPause = 100 * time.Millisecond

func pause(err error) error {
	if err != nil {
		time.Sleep(retryPause)
	}
	return err
}

func (t *table) Write(p []byte) (int, error) {
	failpoint.Hit("disk-change")
	n, err := t.File.Write(p)
	return n, pause(err)
}

func (t *table) Sync() error     { return pause(t.File.Sync()) }
func (t *table) SyncData() error { return pause(t.File.SyncData()) }

// directory is a file whose Close means nothing for what it holds.
type directory struct{ file }

func (d *directory) Close() error { return d.File.Close() }

// nowhere is a file that frozen writes go to.
type nowhere struct{}

var errNowhere = errors.New("pebblekit: the file was never created, for an earlier write failed")

func (nowhere) Close() error                           { return nil }
func (nowhere) Read([]byte) (int, error)               { return 0, errNowhere }
func (nowhere) ReadAt([]byte, int64) (int, error)      { return 0, errNowhere }
func (nowhere) Write(p []byte) (int, error)            { return len(p), nil }
func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Preallocate(int64, int64) error         { return nil }
func (n nowhere) Stat() (vfs.FileInfo, error)          { return n, nil }
func (nowhere) Sync() error                            { return nil }
func (nowhere) SyncTo(int64) (bool, error)             { return true, nil }
func (nowhere) SyncData() error                        { return nil }
func (nowhere) Prefetch(int64, int64) error            { return nil }
func (nowhere) Fd() uintptr                            { return vfs.InvalidFd }

// nowhere is its own vfs.FileInfo: Pebble asks for the size of a WAL it reuses.
func (nowhere) Name() string           { return "" }
func (nowhere) Size() int64            { return 0 }
func (nowhere) Mode() os.FileMode      { return 0 }
func (nowhere) ModTime() time.Time     { return time.Time{} }
func (nowhere) IsDir() bool            { return false }
func (nowhere) Sys() any               { return nil }
func (nowhere) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

var (
	_ vfs.FS   = (*FS)(nil)
	_ vfs.File = nowhere{}
)
