package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Op is a kind of call that Faults can make fail.
type Op string

const (
	OpOpen    Op = "open"   // OpenFile without O_CREATE
	OpCreate  Op = "create" // OpenFile with O_CREATE
	OpMkdir   Op = "mkdir"
	OpRead    Op = "read"  // Read, ReadAt
	OpWrite   Op = "write" // Write, WriteAt: half of the bytes are written
	OpResize  Op = "resize"
	OpSync    Op = "sync" // Sync, Datasync
	OpSyncDir Op = "syncdir"
	OpReadDir Op = "readdir"
	OpRename  Op = "rename" // by the old name
	OpRemove  Op = "remove" // Remove, RemoveAll
	OpSpace   Op = "space"
	// OpChange is any call that changes the disk: create, mkdir, write, resize,
	// sync, syncdir, rename, remove.
	OpChange Op = "change"
)

func (o Op) changes() bool {
	switch o {
	case OpCreate, OpMkdir, OpWrite, OpResize, OpSync, OpSyncDir, OpRename, OpRemove:
		return true
	}
	return false
}

// Fault makes calls fail.
type Fault struct {
	Op Op
	// Path is matched against the name's last element (path.Match); "" is all.
	Path string
	// Below is the directory that the name is in or is; "" is everywhere.
	Below string
	// N is which matching call fails, from 1; 0 is the first.
	N int
	// Stay makes every matching call after it fail too: with OpChange that is
	// a crash, as far as the disk can tell.
	Stay bool
	Err  error // io.ErrUnexpectedEOF if nil
}

// Faults is a file system that fails on demand.
type Faults struct {
	FS
	mu     sync.Mutex
	faults []*armed
	hits   int
	space  *Space
}

type armed struct {
	Fault
	seen int
}

// NewFaults wraps fsys.
func NewFaults(fsys FS) *Faults { return &Faults{FS: fsys} }

// Arm adds a fault.
func (f *Faults) Arm(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &armed{Fault: fault})
}

// Disarm removes all faults and returns how many calls they made fail.
func (f *Faults) Disarm() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	hits := f.hits
	f.faults, f.hits = nil, 0
	return hits
}

// SetSpace makes Space answer s from now on; nil: ask the real file system.
func (f *Faults) SetSpace(s *Space) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.space = s
}

func (f *Faults) check(op Op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.faults {
		if a.Op != op && (a.Op != OpChange || !op.changes()) {
			continue
		}
		if a.Path != "" {
			if ok, _ := filepath.Match(a.Path, filepath.Base(name)); !ok {
				continue
			}
		}
		if a.Below != "" && name != a.Below && !strings.HasPrefix(name, a.Below+string(filepath.Separator)) {
			continue
		}
		a.seen++
		if n := max(a.N, 1); a.seen == n || a.Stay && a.seen > n {
			f.hits++
			err := a.Err
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return &fs.PathError{Op: string(op), Path: name, Err: err}
		}
	}
	return nil
}

func (f *Faults) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpCreate
	}
	if err := f.check(op, name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, name}, nil
}

func (f *Faults) MkdirAll(name string, perm fs.FileMode) error {
	if err := f.check(OpMkdir, name); err != nil {
		return err
	}
	return f.FS.MkdirAll(name, perm)
}

func (f *Faults) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.check(OpReadDir, name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name)
}

func (f *Faults) Rename(from, to string) error {
	if err := f.check(OpRename, from); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *Faults) Link(from, to string) error {
	if err := f.check(OpCreate, to); err != nil {
		return err
	}
	return f.FS.Link(from, to)
}

func (f *Faults) Remove(name string) error {
	if err := f.check(OpRemove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *Faults) RemoveAll(name string) error {
	if err := f.check(OpRemove, name); err != nil {
		return err
	}
	return f.FS.RemoveAll(name)
}

func (f *Faults) SyncDir(name string) error {
	if err := f.check(OpSyncDir, name); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

func (f *Faults) Space(name string) (Space, error) {
	if err := f.check(OpSpace, name); err != nil {
		return Space{}, err
	}
	f.mu.Lock()
	s := f.space
	f.mu.Unlock()
	if s != nil {
		return *s, nil
	}
	return f.FS.Space(name)
}

type faultyFile struct {
	File
	faults *Faults
	name   string
}

func (f *faultyFile) Read(b []byte) (int, error) {
	if err := f.faults.check(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.Read(b)
}

func (f *faultyFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.faults.check(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, off)
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.faults.check(OpWrite, f.name); err != nil {
		n, werr := f.File.Write(b[:len(b)/2])
		return n, errors.Join(err, werr)
	}
	return f.File.Write(b)
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.faults.check(OpWrite, f.name); err != nil {
		n, werr := f.File.WriteAt(b[:len(b)/2], off)
		return n, errors.Join(err, werr)
	}
	return f.File.WriteAt(b, off)
}

func (f *faultyFile) Sync() error {
	if err := f.faults.check(OpSync, f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Datasync() error {
	if err := f.faults.check(OpSync, f.name); err != nil {
		return err
	}
	return f.File.Datasync()
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.faults.check(OpResize, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}
