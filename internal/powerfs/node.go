package powerfs

import (
	"slices"
	"syscall"
	"time"

	"github.com/walproxy/walproxy/internal/crashfs"
)

// node is a file or a directory. Disk.mu guards it.
type node struct {
	ino                 uint64
	mode, uid, gid      uint32 // durable at once: no test is about them
	nlink               uint32
	atime, mtime, ctime time.Time
	parent              uint64 // of a directory
	name                string // that it got last
	// lookups is how often the kernel was told of the node, less its forgets.
	lookups uint64

	live, durable image
	// dirty holds the pages in which a file's live image differs from the
	// durable one. A dirty page belongs to live alone and may be written; a clean
	// one is shared.
	dirty map[int64]struct{}
	// pending holds a directory's changes since its last fsync, oldest first.
	pending []change
}

// image of a file (pages, size) or of a directory (names).
type image struct {
	pages map[int64]*page // absent: zeros
	size  int64
	names map[string]uint64
}

// change is one atomic change of a directory: names and what they lead to now;
// 0 removes the name.
type change map[string]uint64

const pageSize = 4096

type page [pageSize]byte

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

func (n *node) touch() {
	n.mtime = time.Now()
	n.ctime = n.mtime
}

// readAt copies the live image into buf and returns how much there was.
func (n *node) readAt(buf []byte, off int64) int {
	if off >= n.live.size {
		return 0
	}
	buf = buf[:min(int64(len(buf)), n.live.size-off)]
	clear(buf)
	for done := 0; done < len(buf); {
		at := off + int64(done)
		part := min(len(buf)-done, int(pageSize-at%pageSize))
		if p := n.live.pages[at/pageSize]; p != nil {
			copy(buf[done:done+part], p[at%pageSize:])
		}
		done += part
	}
	return len(buf)
}

// ownPage returns page i of the live image, ready to be changed, and whether it
// takes new space.
func (n *node) ownPage(i int64) (p *page, added bool) {
	p = n.live.pages[i]
	_, dirty := n.dirty[i]
	switch {
	case p == nil:
		p, added = &page{}, true
	case !dirty:
		clone := *p
		p = &clone
	}
	n.live.pages[i] = p
	n.dirty[i] = struct{}{}
	return p, added
}

// writeAt writes to the live image. It stops with ENOSPC at the first page that
// does not fit, having written what did.
func (d *Disk) writeAt(n *node, data []byte, off int64) (int, error) {
	done := 0
	for done < len(data) {
		at := off + int64(done)
		i := at / pageSize
		if n.live.pages[i] == nil && d.full() {
			break
		}
		p, added := n.ownPage(i)
		if added {
			d.mu.stats.Bytes += pageSize
		}
		done += copy(p[at%pageSize:], data[done:])
		n.live.size = max(n.live.size, off+int64(done))
	}
	d.note(crashfs.Call{Kind: crashfs.Write, Node: n.ino, Path: n.name, Offset: off, Data: slices.Clone(data[:done])})
	d.mu.stats.Writes++
	n.touch()
	if done == 0 && len(data) > 0 {
		return 0, syscall.ENOSPC
	}
	return done, nil
}

// full reports whether no page fits any more, dead files not counted.
func (d *Disk) full() bool {
	if d.mu.stats.Bytes+pageSize <= d.opts.Capacity {
		return false
	}
	d.sweep()
	return d.mu.stats.Bytes+pageSize > d.opts.Capacity
}

// resize cuts or extends the live image.
func (d *Disk) resize(n *node, size int64) {
	d.note(crashfs.Call{Kind: crashfs.Resize, Node: n.ino, Path: n.name, Size: size})
	d.mu.stats.Writes++
	if size < n.live.size {
		d.punch(n, size, n.live.size)
	}
	n.live.size = size
	n.touch()
}

// punch zeroes bytes [from, to) of the live image.
func (d *Disk) punch(n *node, from, to int64) {
	for i := range n.live.pages {
		start, end := max(from, i*pageSize), min(to, (i+1)*pageSize)
		switch {
		case start >= end:
		case end-start == pageSize:
			delete(n.live.pages, i)
			n.dirty[i] = struct{}{}
			d.mu.stats.Bytes -= pageSize
		default:
			p, _ := n.ownPage(i)
			clear(p[start-i*pageSize : end-i*pageSize])
		}
	}
}

// syncFile makes a file's data and size durable.
func (d *Disk) syncFile(n *node) {
	d.note(crashfs.Call{Kind: crashfs.Sync, Node: n.ino, Path: n.name})
	for i := range n.dirty {
		if p := n.live.pages[i]; p != nil {
			n.durable.pages[i] = p
		} else {
			delete(n.durable.pages, i)
		}
	}
	clear(n.dirty)
	n.durable.size = n.live.size
	if d.opts.EntryWithFile {
		d.syncEntriesOf(n.ino)
	}
}
