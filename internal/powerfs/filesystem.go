package powerfs

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/walproxy/walproxy/internal/crashfs"
)

// filesystem answers the kernel for one mount. Once its disk was cut it answers
// EIO only.
type filesystem struct {
	fuse.RawFileSystem // ENOSYS for what is not here
	disk               *Disk
	epoch              uint64

	dirs struct {
		sync.Mutex
		open map[uint64][]fuse.DirEntry // listings, by handle
		next uint64
	}
}

func newFilesystem(d *Disk) *filesystem {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &filesystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), disk: d, epoch: d.mu.epoch}
	f.dirs.open = map[uint64][]fuse.DirEntry{}
	return f
}

func (f *filesystem) String() string { return "powerfs" }

// with runs do on the node, if there still is power.
func (f *filesystem) with(ino uint64, do func(n *node) error) fuse.Status {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.epoch != f.disk.mu.epoch {
		return fuse.EIO
	}
	n := f.disk.mu.nodes[ino]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	return statusOf(do(n))
}

func statusOf(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

// attr fills out; the size and the blocks are those of the live image.
func (n *node) attr(out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: n.ino, Mode: n.mode, Nlink: n.nlink, Owner: fuse.Owner{Uid: n.uid, Gid: n.gid},
		Size: uint64(n.live.size), Blocks: uint64(len(n.live.pages)) * (pageSize / 512), Blksize: pageSize,
	}
	out.SetTimes(&n.atime, &n.mtime, &n.ctime)
}

// entry tells the kernel of n; the kernel forgets it some day.
func (n *node) entry(out *fuse.EntryOut) {
	n.lookups++
	out.NodeId, out.Generation = n.ino, 1
	n.attr(&out.Attr)
}

func (f *filesystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return f.with(h.NodeId, func(dir *node) error {
		n := f.disk.child(dir, name)
		if n == nil {
			return syscall.ENOENT
		}
		n.entry(out)
		return nil
	})
}

func (f *filesystem) Forget(ino, count uint64) {
	f.with(ino, func(n *node) error {
		n.lookups -= min(count, n.lookups)
		f.disk.loosen()
		return nil
	})
}

func (f *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.with(in.NodeId, func(n *node) error {
		n.attr(&out.Attr)
		return nil
	})
}

func (f *filesystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	op := OpResize
	if _, resizes := in.GetSize(); !resizes {
		op = opNone
	}
	return f.changing(op, in.NodeId, "", func(n *node) error {
		if size, ok := in.GetSize(); ok {
			if n.isDir() {
				return syscall.EISDIR
			}
			f.disk.resize(n, int64(size))
		}
		if mode, ok := in.GetMode(); ok {
			n.mode = n.mode&syscall.S_IFMT | mode&0o7777
		}
		if uid, ok := in.GetUID(); ok {
			n.uid = uid
		}
		if gid, ok := in.GetGID(); ok {
			n.gid = gid
		}
		if t, ok := in.GetATime(); ok {
			n.atime = t
		}
		if t, ok := in.GetMTime(); ok {
			n.mtime = t
		}
		n.ctime = time.Now()
		n.attr(&out.Attr)
		return nil
	})
}

// create puts a new node under directory in and hands it to told.
func (f *filesystem) create(in *fuse.InHeader, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	return f.changing(OpCreate, in.NodeId, name, func(dir *node) error {
		n, err := f.disk.add(dir, name, mode, in.Uid, in.Gid)
		if err != nil {
			return err
		}
		n.entry(out)
		return nil
	})
}

func (f *filesystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.create(&in.InHeader, name, syscall.S_IFDIR|in.Mode&0o7777, out)
}

func (f *filesystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.Status(syscall.EPERM)
	}
	return f.create(&in.InHeader, name, in.Mode, out)
}

func (f *filesystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return f.create(&in.InHeader, name, syscall.S_IFREG|in.Mode&0o7777, &out.EntryOut)
}

func (f *filesystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.changing(OpRemove, h.NodeId, name, func(dir *node) error { return f.disk.remove(dir, name, false) })
}

func (f *filesystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.changing(OpRemove, h.NodeId, name, func(dir *node) error { return f.disk.remove(dir, name, true) })
}

func (f *filesystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	return f.changing(OpRename, in.NodeId, oldName, func(from *node) error {
		const noReplace = 1 // RENAME_NOREPLACE
		if in.Flags&^noReplace != 0 {
			return syscall.EINVAL
		}
		to := f.disk.mu.nodes[in.Newdir]
		if to == nil {
			return syscall.ESTALE
		}
		return f.disk.rename(from, oldName, to, newName, in.Flags&noReplace != 0)
	})
}

func (f *filesystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.changing(OpRename, in.NodeId, name, func(dir *node) error {
		n := f.disk.mu.nodes[in.Oldnodeid]
		if n == nil {
			return syscall.ESTALE
		}
		if f.disk.child(dir, name) != nil {
			return syscall.EEXIST
		}
		f.disk.note(crashfs.Call{Kind: crashfs.Link, Node: n.ino, Path: n.name, To: name, Dir: dir.ino, Name: name})
		n.nlink++
		f.disk.change(dir, change{name: n.ino})
		n.entry(out)
		return nil
	})
}

func (f *filesystem) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	return f.with(in.NodeId, func(*node) error { return nil })
}

func (f *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return f.with(in.NodeId, func(dir *node) error {
		f.dirs.Lock()
		defer f.dirs.Unlock()
		f.dirs.next++
		out.Fh = f.dirs.next
		f.dirs.open[out.Fh] = f.disk.list(dir)
		return nil
	})
}

// list returns the entries of dir, in order of their names.
func (d *Disk) list(dir *node) []fuse.DirEntry {
	entries := []fuse.DirEntry{
		{Name: ".", Ino: dir.ino, Mode: syscall.S_IFDIR},
		{Name: "..", Ino: dir.parent, Mode: syscall.S_IFDIR},
	}
	for _, name := range slices.Sorted(maps.Keys(dir.live.names)) {
		n := d.child(dir, name)
		entries = append(entries, fuse.DirEntry{Name: name, Ino: n.ino, Mode: n.mode})
	}
	return entries
}

func (f *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.with(in.NodeId, func(dir *node) error {
		f.dirs.Lock()
		defer f.dirs.Unlock()
		if in.Offset == 0 { // rewound, or first
			f.dirs.open[in.Fh] = f.disk.list(dir)
		}
		entries := f.dirs.open[in.Fh]
		for i := int(min(in.Offset, uint64(len(entries)))); i < len(entries); i++ {
			entry := entries[i]
			entry.Off = uint64(i) + 1
			if !out.AddDirEntry(entry) {
				break
			}
		}
		return nil
	})
}

func (f *filesystem) ReleaseDir(in *fuse.ReleaseIn) {
	f.dirs.Lock()
	defer f.dirs.Unlock()
	delete(f.dirs.open, in.Fh)
}

func (f *filesystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	time.Sleep(f.disk.opts.SyncDelay)
	return f.changing(OpSyncDir, in.NodeId, "", func(dir *node) error {
		f.disk.mu.stats.DirSyncs++
		f.disk.syncDir(dir)
		return nil
	})
}

func (f *filesystem) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return f.with(rootIno, func(*node) error {
		free := uint64(max(0, f.disk.opts.Capacity-f.disk.mu.stats.Bytes)) / pageSize
		*out = fuse.StatfsOut{
			Blocks: uint64(f.disk.opts.Capacity) / pageSize, Bfree: free, Bavail: free,
			Files: 1 << 20, Ffree: 1 << 20, Bsize: pageSize, Frsize: pageSize, NameLen: 255,
		}
		return nil
	})
}
