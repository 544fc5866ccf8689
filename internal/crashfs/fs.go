package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/walproxy/walproxy/internal/vfs"
)

var _ vfs.FS = (*Disk)(nil)

// find returns the node at an absolute path. Under mu.
func (d *Disk) find(path string) (number uint64, n *node, err error) {
	number, n = rootNode, d.nodes[rootNode]
	for name := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		switch {
		case name == "":
		case !n.isDir:
			return 0, nil, syscall.ENOTDIR
		case n.names[name] == 0:
			return 0, nil, syscall.ENOENT
		default:
			number = n.names[name]
			n = d.nodes[number]
		}
	}
	return number, n, nil
}

// parent returns the directory that path is in, and its name there.
func (d *Disk) parent(path string) (dir uint64, name string, err error) {
	path = filepath.Clean(path)
	dir, n, err := d.find(filepath.Dir(path))
	if err == nil && !n.isDir {
		err = syscall.ENOTDIR
	}
	return dir, filepath.Base(path), err
}

func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

func (d *Disk) OpenFile(path string, flag int, _ fs.FileMode) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.open(path, flag)
	if err != nil {
		return nil, wrap("open", path, err)
	}
	return f, nil
}

func (d *Disk) open(path string, flag int) (*file, error) {
	number, n, err := d.find(path)
	switch {
	case err != nil:
		if flag&os.O_CREATE == 0 || err != syscall.ENOENT {
			return nil, err
		}
		dir, name, err := d.parent(path)
		if err != nil {
			return nil, err
		}
		number = d.next
		d.next++
		if err := d.do(Call{Kind: Create, Node: number, Path: path, Dir: dir, Name: name}); err != nil {
			return nil, err
		}
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, syscall.EEXIST
	case n.isDir:
		return nil, syscall.EISDIR
	case flag&os.O_TRUNC != 0 && len(n.data) > 0:
		if err := d.do(Call{Kind: Resize, Node: number, Path: path}); err != nil {
			return nil, err
		}
	}
	return &file{disk: d, node: d.nodes[number], number: number, path: path, flag: flag}, nil
}

func (d *Disk) MkdirAll(path string, _ fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := "/"
	for name := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		at = filepath.Join(at, name)
		if _, n, err := d.find(at); err == nil && n.isDir {
			continue
		} else if err == nil {
			return wrap("mkdir", at, syscall.ENOTDIR)
		}
		dir, name, err := d.parent(at)
		if err != nil {
			return wrap("mkdir", at, err)
		}
		d.next++
		if err := d.do(Call{Kind: Mkdir, Node: d.next - 1, Path: at, Dir: dir, Name: name}); err != nil {
			return wrap("mkdir", at, err)
		}
	}
	return nil
}

func (d *Disk) ReadDir(path string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, n, err := d.find(path)
	switch {
	case err != nil:
		return nil, wrap("readdir", path, err)
	case !n.isDir:
		return nil, wrap("readdir", path, syscall.ENOTDIR)
	}
	var list []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		list = append(list, fs.FileInfoToDirEntry(d.nodes[n.names[name]].info(name)))
	}
	return list, nil
}

func (d *Disk) Stat(path string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, n, err := d.find(path)
	if err != nil {
		return nil, wrap("stat", path, err)
	}
	return n.info(filepath.Base(path)), nil
}

func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return wrap("rename", from, d.move(from, to))
}

func (d *Disk) move(from, to string) error {
	fromDir, fromName, err := d.parent(from)
	if err != nil {
		return err
	}
	dir, name, err := d.parent(to)
	if err != nil {
		return err
	}
	number, n, err := d.find(from)
	if err != nil {
		return err
	}
	_, target, err := d.find(to)
	switch {
	case err == nil && target.isDir: // package os replaces none
		return syscall.EEXIST
	case target == n:
		return nil
	case n.isDir && strings.HasPrefix(filepath.Clean(to), filepath.Clean(from)+"/"):
		return syscall.EINVAL
	case err == nil && n.isDir:
		return syscall.ENOTDIR
	}
	return d.do(Call{Kind: Rename, Node: number, Path: from, To: to, Dir: dir, Name: name, FromDir: fromDir, FromName: fromName})
}

func (d *Disk) Link(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return wrap("link", from, d.link(from, to))
}

func (d *Disk) link(from, to string) error {
	number, n, err := d.find(from)
	if err != nil {
		return err
	}
	dir, name, err := d.parent(to)
	if err != nil {
		return err
	}
	if _, _, err := d.find(to); err == nil {
		return syscall.EEXIST
	}
	if n.isDir {
		return syscall.EPERM
	}
	return d.do(Call{Kind: Link, Node: number, Path: from, To: to, Dir: dir, Name: name})
}

func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, n, err := d.find(path)
	if err == nil && len(n.names) > 0 {
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		return wrap("remove", path, err)
	}
	return d.remove(path)
}

func (d *Disk) remove(path string) error {
	dir, name, err := d.parent(path)
	if err != nil {
		return wrap("remove", path, err)
	}
	c := Call{Kind: Remove, Node: d.nodes[dir].names[name], Path: path, Dir: dir, Name: name}
	return wrap("remove", path, d.do(c))
}

// RemoveAll is one call for each name that goes.
func (d *Disk) RemoveAll(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removeAll(filepath.Clean(path))
}

func (d *Disk) removeAll(path string) error {
	_, n, err := d.find(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return wrap("remove", path, err)
	}
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		if err := d.removeAll(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return d.remove(path)
}

func (d *Disk) SyncDir(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	number, n, err := d.find(path)
	if err != nil {
		return wrap("sync", path, err)
	}
	kind := SyncDir
	if !n.isDir {
		kind = Sync
	}
	return wrap("sync", path, d.do(Call{Kind: kind, Node: number, Path: path}))
}

func (d *Disk) Lock(path, text string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, wrap("lock", path, err)
	}
	if d.locked[f.number] {
		return nil, wrap("lock", path, vfs.ErrLocked)
	}
	err = d.do(Call{Kind: Resize, Node: f.number, Path: path})
	if err == nil {
		err = d.do(Call{Kind: Write, Node: f.number, Path: path, Data: []byte(text)})
	}
	if err != nil {
		return nil, wrap("lock", path, err)
	}
	d.locked[f.number] = true
	return &lock{d, f.number}, nil
}

type lock struct {
	disk   *Disk
	number uint64
}

func (l *lock) Close() error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	delete(l.disk.locked, l.number)
	return nil
}

func (d *Disk) Locked(path string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	number, _, err := d.find(path)
	return err == nil && d.locked[number], nil
}

const endless = 1 << 40

func (d *Disk) Space(string) (vfs.Space, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.capacity == 0 {
		return vfs.Space{Free: endless, Kind: "crashfs"}, nil
	}
	return vfs.Space{Free: max(0, d.capacity-d.used), Kind: "crashfs"}, nil
}
