// Package powerfs is a FUSE file system that can lose its power.
//
// A SIGKILL does not test an fsync: the page cache outlives the process. This
// file system keeps two images apart, the live one that every call sees and the
// durable one that a power cut leaves:
//
//	write, truncate, fallocate  live only, until fsync or fdatasync of the file
//	create, mkdir, link,        live only, until fsync of the directory
//	rename, unlink, rmdir
//	Cut                         live := durable; every later call fails with EIO
//	Restart                     mounted again, on the durable image
//
// It is stricter than ext4 on purpose: fsync of a new file does not make its
// directory entry durable unless Options.EntryWithFile says so. A rename is
// atomic: a power cut shows the old or the new name, never none of them.
//
// Nothing is cached by the kernel (direct I/O, no attribute or entry caching),
// so each call arrives when it is made. Shared writable mmap does not work.
// Data lives in memory, bounded by Options.Capacity.
package powerfs

import (
	"sync"
	"syscall"
	"time"

	"github.com/walproxy/walproxy/internal/crashfs"
)

const rootIno = 1

// Options of NewDisk; the zero value is the default.
type Options struct {
	// Capacity in bytes of file data; more is ENOSPC. Holes count nothing. 1 GiB.
	Capacity int64
	// EntryWithFile makes fsync of a file make its directory entries durable too,
	// as ext4 does for a new file.
	EntryWithFile bool
	// SyncDelay is added to each fsync, before it takes effect: it makes the
	// window between write and fsync wide.
	SyncDelay time.Duration
}

// Stats counts calls since NewDisk.
type Stats struct {
	Writes   uint64 // writes and size changes of files
	Syncs    uint64 // fsync and fdatasync of files
	DirSyncs uint64 // fsync of directories
	Cuts     uint64
	Bytes    int64 // file data now held by the live image
}

// Disk is the state of the file system: it outlives mounts and power cuts.
// Methods may be called concurrently.
type Disk struct {
	opts Options // Capacity is under mu

	mu struct {
		sync.Mutex
		nodes map[uint64]*node
		next  uint64
		// epoch rises with every power cut; a mount of an older one gets EIO.
		epoch  uint64
		stats  Stats
		faults []*armed
		met    int // calls that faults met
		record func(crashfs.Call)
		// loose counts unlinks and forgets since the last sweep.
		loose int
	}
}

// NewDisk returns an empty disk.
func NewDisk(o Options) *Disk {
	if o.Capacity == 0 {
		o.Capacity = 1 << 30
	}
	d := &Disk{opts: o}
	d.mu.nodes = map[uint64]*node{}
	d.mu.next = rootIno
	root := d.newNode(syscall.S_IFDIR|0o755, 0, 0)
	root.parent = rootIno
	root.nlink = 2
	return d
}

// SetCapacity makes the disk larger or smaller; what is on it stays, though it be more.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Capacity = bytes
}

// Stats returns a snapshot.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweep()
	return d.mu.stats
}

// Record hands every call that changes the disk to record before it is made, as a call
// on a crashfs.Disk that is empty now as this one is; nil: no more. record runs under
// the disk's lock.
func (d *Disk) Record(record func(crashfs.Call)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.record = record
}

// note records a call.
func (d *Disk) note(c crashfs.Call) {
	if d.mu.record != nil {
		d.mu.record(c)
	}
}

// newNode makes a node that nothing names yet.
func (d *Disk) newNode(mode, uid, gid uint32) *node {
	now := time.Now()
	n := &node{ino: d.mu.next, mode: mode, uid: uid, gid: gid, atime: now, mtime: now, ctime: now}
	if n.isDir() {
		n.live.names, n.durable.names = map[string]uint64{}, map[string]uint64{}
		n.nlink = 2
	} else {
		n.live.pages, n.durable.pages = map[int64]*page{}, map[int64]*page{}
		n.dirty = map[int64]struct{}{}
	}
	d.mu.nodes[n.ino] = n
	d.mu.next++
	return n
}

// sweepEvery bounds how many dead nodes pile up before sweep looks for them.
const sweepEvery = 64

// loosen notes that a node may have become unreachable.
func (d *Disk) loosen() {
	d.mu.loose++
	if d.mu.loose >= sweepEvery {
		d.sweep()
	}
}

// sweep forgets the nodes that no image, pending change or open file names.
func (d *Disk) sweep() {
	d.mu.loose = 0
	reached := map[uint64]bool{}
	var reach func(ino uint64)
	reach = func(ino uint64) {
		n := d.mu.nodes[ino]
		if n == nil || reached[ino] {
			return
		}
		reached[ino] = true
		for _, child := range n.live.names {
			reach(child)
		}
		for _, child := range n.durable.names {
			reach(child)
		}
		for _, c := range n.pending {
			for _, child := range c {
				reach(child)
			}
		}
	}
	reach(rootIno)
	for ino, n := range d.mu.nodes {
		if n.lookups > 0 {
			reach(ino)
		}
	}
	for ino, n := range d.mu.nodes {
		if !reached[ino] {
			d.mu.stats.Bytes -= int64(len(n.live.pages)) * pageSize
			delete(d.mu.nodes, ino)
		}
	}
}
