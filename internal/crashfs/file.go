package crashfs

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// file is an open file. Like the operating system's it stays one when its name goes.
type file struct {
	disk   *Disk
	node   *node
	number uint64
	path   string
	flag   int
	at     int64
	closed bool
}

func (f *file) check(op string) error {
	if f.closed {
		return wrap(op, f.path, fs.ErrClosed)
	}
	return nil
}

func (f *file) Read(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.read(b, f.at)
	f.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.read(b, at)
}

func (f *file) read(b []byte, at int64) (int, error) {
	if err := f.check("read"); err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, nil
	}
	n := 0
	if at < int64(len(f.node.data)) {
		n = copy(b, f.node.data[at:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.flag&os.O_APPEND != 0 {
		f.at = int64(len(f.node.data))
	}
	n, err := f.write(b, f.at)
	f.at += int64(n)
	return n, err
}

func (f *file) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.write(b, at)
}

// write writes what there is room for, and then says ENOSPC.
func (f *file) write(b []byte, at int64) (int, error) {
	if err := f.check("write"); err != nil {
		return 0, err
	}
	if f.flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return 0, wrap("write", f.path, syscall.EBADF)
	}
	fits := b
	if d := f.disk; d.capacity > 0 {
		room := max(0, d.capacity-d.used+int64(len(f.node.data))-at)
		fits = b[:min(int64(len(b)), room)]
	}
	if len(fits) > 0 {
		if err := f.change(Call{Kind: Write, Offset: at, Data: slices.Clone(fits)}); err != nil {
			return len(fits) / 2, err
		}
	}
	if len(fits) < len(b) {
		return len(fits), wrap("write", f.path, syscall.ENOSPC)
	}
	if f.flag&syscall.O_DSYNC != 0 {
		return len(b), f.change(Call{Kind: Sync})
	}
	return len(b), nil
}

// change makes a call on the file.
func (f *file) change(c Call) error {
	c.Node, c.Path = f.number, f.path
	return wrap(string(c.Kind), f.path, f.disk.do(c))
}

func (f *file) locked(op string, c Call) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check(op); err != nil {
		return err
	}
	return f.change(c)
}

func (f *file) Sync() error     { return f.locked("sync", Call{Kind: Sync}) }
func (f *file) Datasync() error { return f.locked("sync", Call{Kind: Sync}) }

func (f *file) Truncate(size int64) error {
	return f.locked("truncate", Call{Kind: Resize, Size: size})
}

func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("close"); err != nil {
		return err
	}
	f.closed = true
	return nil
}

func (f *file) Stat() (fs.FileInfo, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("stat"); err != nil {
		return nil, err
	}
	return f.node.info(filepath.Base(f.path)), nil
}

// info is a node under a name at an instant.
type info struct {
	name  string
	size  int64
	mode  fs.FileMode
	links int
}

func (n *node) info(name string) info {
	if n.isDir {
		return info{name, 0, fs.ModeDir | 0o755, n.links}
	}
	return info{name, int64(len(n.data)), 0o644, n.links}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }

// Sys is a *syscall.Stat_t of which the number of links is set.
func (i info) Sys() any {
	st := &syscall.Stat_t{}
	for range i.links { // its type is not everywhere the same
		st.Nlink++
	}
	return st
}
