// Package crashfs is a file system in memory that knows what a power cut leaves of
// it, after each call that changes it.
//
//	write, resize                     in the page cache, until fsync of the file
//	create, mkdir, link,              in the page cache, until fsync of the
//	rename, remove                    directory; a rename is atomic
//	Cut                               a new disk: what was fsync'd, and of the rest
//	                                  what chance lets survive
//
// A fsync makes nothing durable but its own file or directory. What was not synced
// survives in any order, sector by sector. A failed fsync loses what it was for: the
// page cache goes on showing it, no later fsync writes it, but for a directory that was
// changed again.
//
// A disk records its calls. Replay makes them again, on the disk they were made on or
// one that was cut, up to any of them: so one run of a program gives the states that
// a power cut can leave behind each of its calls.
package crashfs

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Kind is a kind of call that changes the disk.
type Kind string

const (
	Create  Kind = "create"
	Mkdir   Kind = "mkdir"
	Link    Kind = "link"
	Rename  Kind = "rename"
	Remove  Kind = "remove"
	Write   Kind = "write"
	Resize  Kind = "resize"
	Sync    Kind = "sync"    // fsync or fdatasync of a file
	SyncDir Kind = "syncdir" // fsync of a directory
)

// Call is a call that changes the disk.
type Call struct {
	Kind Kind
	// Node is the number of the file or directory that is made, moved, removed,
	// written or synced.
	Node uint64
	// Path is its path, for people; To the new one of a rename.
	Path, To string
	// Dir and Name are where it gets a name, or loses one by Remove; FromDir and
	// FromName what a rename takes away.
	Dir, FromDir   uint64
	Name, FromName string
	Offset         int64  // of a write
	Data           []byte // of a write
	Size           int64  // of a resize
	Failed         bool   // a sync that failed: what it was for is lost
}

func (c Call) String() string {
	switch c.Kind {
	case Write:
		return fmt.Sprintf("write %s [%d, %d)", c.Path, c.Offset, c.Offset+int64(len(c.Data)))
	case Resize:
		return fmt.Sprintf("resize %s to %d", c.Path, c.Size)
	case Rename, Link:
		return fmt.Sprintf("%s %s to %s", c.Kind, c.Path, c.To)
	case Sync, SyncDir:
		if c.Failed {
			return fmt.Sprintf("%s %s: failed", c.Kind, c.Path)
		}
	}
	return fmt.Sprintf("%s %s", c.Kind, c.Path)
}

// Disk is a file system, a vfs.FS. Methods may be called concurrently.
type Disk struct {
	mu       sync.Mutex
	nodes    map[uint64]*node
	next     uint64
	pending  []entries // not durable, in the order they were made
	lost     []entries // by syncs of directories that failed
	locked   map[uint64]bool
	capacity int64
	used     int64

	hook  func(Call) error
	calls []Call
}

const rootNode = 1

// node is a file or a directory.
type node struct {
	isDir bool
	links int

	data    []byte // of a file, as it is seen
	kept    []byte // as it is on disk
	pending []Call // writes and resizes that are not

	names     map[string]uint64 // of a directory, as they are seen
	keptNames map[string]uint64 // as they are on disk
}

// entries is an atomic change of names.
type entries []entry

// entry is what a name in a directory leads to; 0: nothing.
type entry struct {
	dir  uint64
	name string
	to   uint64
}

// New returns an empty disk of so many bytes for the data of files; 0: endless.
func New(capacity int64) *Disk {
	d := &Disk{nodes: map[uint64]*node{}, next: rootNode + 1, locked: map[uint64]bool{}, capacity: capacity}
	d.nodes[rootNode] = newDir()
	return d
}

func newDir() *node {
	return &node{isDir: true, links: 1, names: map[string]uint64{}, keptNames: map[string]uint64{}}
}

// SetHook lets hook look at every call before it is made; nil: nobody. An error of
// hook is the call's: of a write that fails half of the bytes are written, what a
// sync that fails was for is lost, anything else that fails does nothing. hook runs
// under the disk's lock: it must not use the disk.
func (d *Disk) SetHook(hook func(Call) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

// Calls are those made so far, in order.
func (d *Disk) Calls() []Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Replay makes a recorded call on a disk that is as that one was.
func (d *Disk) Replay(c Call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apply(c)
}

// do makes a call, if hook has nothing against it. Under mu.
func (d *Disk) do(c Call) error {
	var err error
	if d.hook != nil {
		err = d.hook(c)
	}
	if err != nil {
		switch c.Kind {
		case Write:
			c.Data = c.Data[:len(c.Data)/2]
		case Sync, SyncDir:
			c.Failed = true
		default:
			return err
		}
	}
	d.apply(c)
	return err
}

func (d *Disk) apply(c Call) {
	d.calls = append(d.calls, c)
	switch c.Kind {
	case Create, Mkdir:
		n := &node{}
		if c.Kind == Mkdir {
			n = newDir()
		}
		d.nodes[c.Node] = n
		d.next = max(d.next, c.Node+1)
		d.rename(entries{{c.Dir, c.Name, c.Node}})
	case Link:
		d.rename(entries{{c.Dir, c.Name, c.Node}})
	case Rename:
		d.rename(entries{{c.Dir, c.Name, c.Node}, {c.FromDir, c.FromName, 0}})
	case Remove:
		d.rename(entries{{c.Dir, c.Name, 0}})
	case Write, Resize:
		n := d.nodes[c.Node]
		d.used -= int64(len(n.data))
		n.data = change(n.data, c)
		d.used += int64(len(n.data))
		n.pending = append(n.pending, c)
	case Sync:
		d.nodes[c.Node].sync(c.Failed)
	case SyncDir:
		d.syncDir(c.Node, c.Failed)
	}
}

// change makes a write or resize in b, which may be changed.
func change(b []byte, c Call) []byte {
	end := c.Size
	if c.Kind == Write {
		end = max(int64(len(b)), c.Offset+int64(len(c.Data)))
	}
	if end <= int64(len(b)) {
		b = b[:end]
	} else {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	if c.Kind == Write {
		copy(b[c.Offset:], c.Data)
	}
	return b
}

// sync makes a file durable. What a failed one was for was marked as written.
func (n *node) sync(failed bool) {
	if !failed {
		for _, c := range n.pending {
			n.kept = change(n.kept, c)
		}
	}
	n.pending = nil
}

// rename makes the change as it is seen.
func (d *Disk) rename(change entries) {
	for _, e := range change {
		names := d.nodes[e.dir].names
		if was := d.nodes[names[e.name]]; was != nil {
			d.unlink(was)
		}
		if e.to == 0 {
			delete(names, e.name)
			continue
		}
		names[e.name] = e.to
		d.nodes[e.to].links++
	}
	d.pending = append(d.again(change), change)
}

// again returns the pending changes with those that were lost and are in a directory
// of change: it is written again, as it is seen.
func (d *Disk) again(change entries) []entries {
	var back, lost []entries
	for _, old := range d.lost {
		if slices.ContainsFunc(change, func(e entry) bool { return old.in(e.dir) }) {
			back = append(back, old)
		} else {
			lost = append(lost, old)
		}
	}
	d.lost = lost
	return append(back, d.pending...)
}

func (c entries) in(dir uint64) bool {
	return slices.ContainsFunc(c, func(e entry) bool { return e.dir == dir })
}

func (d *Disk) unlink(n *node) {
	if n.links--; n.links == 0 && !n.isDir {
		d.used -= int64(len(n.data)) // that it may be open still is not counted
	}
}

// syncDir makes the changes durable that touch a directory, each of them whole; or
// loses them.
func (d *Disk) syncDir(dir uint64, failed bool) {
	rest := d.pending[:0:0]
	for _, change := range d.pending {
		if !change.in(dir) {
			rest = append(rest, change)
			continue
		}
		if failed {
			d.lost = append(d.lost, change)
			continue
		}
		d.keep(change)
		for _, e := range change { // what came before it does not come back
			for i, old := range rest {
				rest[i] = slices.DeleteFunc(slices.Clone(old), func(o entry) bool { return o.dir == e.dir && o.name == e.name })
			}
		}
	}
	d.pending = rest
}

// keep makes a change of names on disk.
func (d *Disk) keep(change entries) {
	for _, e := range change {
		names := d.nodes[e.dir].keptNames
		if e.to == 0 {
			delete(names, e.name)
		} else {
			names[e.name] = e.to
		}
	}
}

// Clone is a disk like this one, without its calls, hook and locks.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clone()
}

func (d *Disk) clone() *Disk {
	c := &Disk{nodes: make(map[uint64]*node, len(d.nodes)), next: d.next, locked: map[uint64]bool{},
		capacity: d.capacity, used: d.used, pending: slices.Clone(d.pending), lost: slices.Clone(d.lost)}
	for number, n := range d.nodes {
		copied := *n
		copied.data, copied.kept = slices.Clone(n.data), slices.Clone(n.kept)
		copied.pending = slices.Clone(n.pending)
		copied.names, copied.keptNames = maps.Clone(n.names), maps.Clone(n.keptNames)
		c.nodes[number] = &copied
	}
	return c
}
