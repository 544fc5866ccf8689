package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/failpoint"
)

const readOnly = os.O_RDONLY

// OS returns the operating system's file system.
func OS() FS { return osFS{} }

type osFS struct{}

// change is the failpoint in front of everything that changes a disk.
const change = "disk-change"

type osFile struct{ *os.File }

func (f osFile) Datasync() error {
	failpoint.Hit(change)
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return wrap("fdatasync", f.Name(), err)
		}
	}
}

func (f osFile) Map(size int) (b []byte, unmap func() error, err error) {
	b, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, wrap("mmap", f.Name(), err)
	}
	return b, func() error { return wrap("munmap", f.Name(), unix.Munmap(b)) }, nil
}

// Populate makes the bytes of b from one offset to another, of what Map returned, ready to
// be looked at, at once instead of some pages at a time. What cannot be made ready, or a
// kernel that does not know how, shows when it is looked at.
func Populate(b []byte, from, to int64) {
	from -= from % int64(os.Getpagesize())
	if to = min(to, int64(len(b))); from < to {
		_ = unix.Madvise(b[from:to], unix.MADV_POPULATE_READ)
	}
}

func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (f osFile) Truncate(size int64) error {
	failpoint.Hit(change)
	return f.File.Truncate(size)
}

func (f osFile) Write(b []byte) (int, error) {
	failpoint.Hit(change)
	return f.File.Write(b)
}

func (f osFile) WriteAt(b []byte, at int64) (int, error) {
	failpoint.Hit(change)
	return f.File.WriteAt(b, at)
}

func (f osFile) Sync() error {
	failpoint.Hit(change)
	return f.File.Sync()
}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if flag&os.O_CREATE != 0 {
		failpoint.Hit(change)
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) MkdirAll(name string, perm fs.FileMode) error {
	failpoint.Hit(change)
	return os.MkdirAll(name, perm)
}

func (osFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)      { return os.Stat(name) }

func (osFS) Rename(from, to string) error {
	failpoint.Hit(change)
	return os.Rename(from, to)
}

func (osFS) Link(from, to string) error {
	failpoint.Hit(change)
	return os.Link(from, to)
}

func (osFS) Remove(name string) error {
	failpoint.Hit(change)
	return os.Remove(name)
}

func (f osFS) RemoveAll(name string) error {
	if failpoint.On { // a crash may come between any two
		entries, _ := os.ReadDir(name)
		for _, e := range entries {
			if err := f.RemoveAll(filepath.Join(name, e.Name())); err != nil {
				return err
			}
		}
		failpoint.Hit(change)
	}
	return os.RemoveAll(name)
}

func (osFS) SyncDir(name string) error {
	failpoint.Hit(change)
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Who looks whether a lock is held has it, shared, for an instant (a command that
// decides whether to talk to a server): that is not taken for an owner.
const (
	lockTries    = 20
	lockInterval = 10 * time.Millisecond
)

func (osFS) Lock(name, text string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for range lockTries {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(lockInterval)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(wrap("flock", name, err), f.Close())
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (osFS) Locked(name string) (held bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, wrap("flock", name, err)
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// Magic numbers of file systems, from statfs(2) and linux/magic.h, that cannot
// keep what fsync promises, or are known not to everywhere.
var doubts = map[int64][2]string{
	unix.TMPFS_MAGIC:           {"tmpfs", "it is memory: nothing survives a reboot"},
	unix.RAMFS_MAGIC:           {"ramfs", "it is memory: nothing survives a reboot"},
	unix.NFS_SUPER_MAGIC:       {"nfs", "locks and fsync depend on the server"},
	unix.SMB_SUPER_MAGIC:       {"smb", "locks and fsync depend on the server"},
	unix.SMB2_SUPER_MAGIC:      {"smb2", "locks and fsync depend on the server"},
	unix.CIFS_SUPER_MAGIC:      {"cifs", "locks and fsync depend on the server"},
	unix.CEPH_SUPER_MAGIC:      {"ceph", "locks and fsync depend on the server"},
	unix.V9FS_MAGIC:            {"9p", "locks and fsync depend on the server"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", "it is a container's layer: it goes when the container goes"},
	unix.FUSE_SUPER_MAGIC:      {"fuse", "fsync does what its daemon makes of it"},
}

var kinds = map[int64]string{
	unix.EXT4_SUPER_MAGIC:  "ext4",
	unix.XFS_SUPER_MAGIC:   "xfs",
	unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.F2FS_SUPER_MAGIC:  "f2fs",
}

func (osFS) Space(name string) (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(name, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return Space{}, wrap("statfs", name, err)
		}
	}
	s := Space{Free: int64(st.Bavail) * int64(st.Bsize)}
	kind := int64(st.Type) & 0xffffffff
	if d, ok := doubts[kind]; ok {
		s.Kind, s.Doubt = d[0], d[1]
	} else if s.Kind, ok = kinds[kind]; !ok {
		s.Kind = fmt.Sprintf("%#x", kind)
	}
	return s, nil
}
