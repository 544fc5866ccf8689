package powerfs

import (
	"maps"
	"syscall"

	"github.com/walproxy/walproxy/internal/crashfs"
)

// maxPending bounds the changes remembered between two syncs of a directory.
const maxPending = 1024

// change makes c in the live image of directory dir.
func (d *Disk) change(dir *node, c change) {
	for name, ino := range c {
		if ino == 0 {
			delete(dir.live.names, name)
		} else {
			dir.live.names[name] = ino
		}
	}
	dir.pending = append(dir.pending, c)
	if len(dir.pending) > maxPending {
		merged := change{}
		for _, old := range dir.pending {
			maps.Copy(merged, old)
		}
		dir.pending = []change{merged}
	}
	dir.touch()
}

// syncDir makes a directory's entries durable. A name that was moved from here
// to another directory becomes durable there too: a rename is atomic, and no
// file system shows it by half.
func (d *Disk) syncDir(dir *node) {
	d.note(crashfs.Call{Kind: crashfs.SyncDir, Node: dir.ino, Path: dir.name})
	gone := map[uint64]bool{}
	for _, ino := range dir.durable.names {
		gone[ino] = true
	}
	dir.durable.names = maps.Clone(dir.live.names)
	dir.pending = nil
	for _, ino := range dir.live.names {
		delete(gone, ino)
	}
	for ino := range gone {
		d.syncEntriesOf(ino)
	}
}

// syncEntriesOf makes every live name of ino durable.
func (d *Disk) syncEntriesOf(ino uint64) {
	for _, dir := range d.mu.nodes {
		if !dir.isDir() {
			continue
		}
		for name, at := range dir.live.names {
			if at == ino {
				dir.durable.names[name] = ino
				dir.settle(name)
			}
		}
	}
}

// settle drops name, whose last change is durable, from the pending changes.
func (n *node) settle(name string) {
	for _, c := range n.pending {
		delete(c, name)
	}
}

// child looks name up in the live image.
func (d *Disk) child(dir *node, name string) *node { return d.mu.nodes[dir.live.names[name]] }

// add puts a new node under dir.
func (d *Disk) add(dir *node, name string, mode, uid, gid uint32) (*node, error) {
	if len(name) > 255 {
		return nil, syscall.ENAMETOOLONG
	}
	if d.child(dir, name) != nil {
		return nil, syscall.EEXIST
	}
	n := d.newNode(mode, uid, gid)
	n.parent, n.name = dir.ino, name
	kind := crashfs.Create
	if n.isDir() {
		kind = crashfs.Mkdir
	}
	d.note(crashfs.Call{Kind: kind, Node: n.ino, Path: name, Dir: dir.ino, Name: name})
	if n.isDir() {
		dir.nlink++
	} else {
		n.nlink = 1
	}
	d.change(dir, change{name: n.ino})
	return n, nil
}

// remove takes name out of dir.
func (d *Disk) remove(dir *node, name string, wantDir bool) error {
	n := d.child(dir, name)
	if err := removable(n, wantDir); err != nil {
		return err
	}
	d.note(crashfs.Call{Kind: crashfs.Remove, Node: n.ino, Path: name, Dir: dir.ino, Name: name})
	d.unlinked(dir, n)
	d.change(dir, change{name: 0})
	if n.nlink == 0 {
		dir.abandon(n.ino)
	}
	d.loosen()
	return nil
}

// abandon takes ino, which has no live name left, out of the pending changes:
// a new file that was removed again does not come back.
func (n *node) abandon(ino uint64) {
	for _, c := range n.pending {
		maps.DeleteFunc(c, func(_ string, at uint64) bool { return at == ino })
	}
}

func removable(n *node, wantDir bool) error {
	switch {
	case n == nil:
		return syscall.ENOENT
	case wantDir && !n.isDir():
		return syscall.ENOTDIR
	case !wantDir && n.isDir():
		return syscall.EISDIR
	case wantDir && len(n.live.names) > 0:
		return syscall.ENOTEMPTY
	}
	return nil
}

// unlinked counts down the links of n, which leaves dir.
func (d *Disk) unlinked(dir, n *node) {
	if n.isDir() {
		dir.nlink--
		n.nlink = 0
		return
	}
	n.nlink--
}

// rename moves from/oldName to to/newName, replacing what is there.
func (d *Disk) rename(from *node, oldName string, to *node, newName string, noReplace bool) error {
	n := d.child(from, oldName)
	if n == nil {
		return syscall.ENOENT
	}
	if len(newName) > 255 {
		return syscall.ENAMETOOLONG
	}
	if target := d.child(to, newName); target != nil {
		if noReplace {
			return syscall.EEXIST
		}
		if target == n {
			return nil
		}
		if err := removable(target, n.isDir()); err != nil {
			return err
		}
		d.unlinked(to, target)
		d.loosen()
	}
	d.note(crashfs.Call{Kind: crashfs.Rename, Node: n.ino, Path: oldName, To: newName, Dir: to.ino, Name: newName,
		FromDir: from.ino, FromName: oldName})
	n.name = newName
	if n.isDir() {
		from.nlink--
		to.nlink++
		n.parent = to.ino
	}
	if from == to {
		d.change(to, change{oldName: 0, newName: n.ino})
		return nil
	}
	d.change(to, change{newName: n.ino})
	d.change(from, change{oldName: 0})
	return nil
}
