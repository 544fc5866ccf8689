package powerfs

import (
	"path"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Op is a kind of call that a Fault is about.
type Op string

const (
	OpCreate  Op = "create" // of a file or directory
	OpWrite   Op = "write"
	OpResize  Op = "resize"
	OpSync    Op = "sync"    // fsync, fdatasync
	OpSyncDir Op = "syncdir" // fsync of a directory
	OpRename  Op = "rename"  // link, too
	OpRemove  Op = "remove"
	OpRead    Op = "read"
	OpChange  Op = "change" // any of the above but OpRead

	opNone Op = ""
)

// Fault makes calls on the mounts fail, wait or tear, or is a power cut.
type Fault struct {
	Op Op
	// Path is matched against the name's last element (path.Match); "" is all.
	Path string
	// N is which matching call it meets, from 1; 0 is the first. Stay: all after it, too.
	N    int
	Stay bool
	// Err is what the call fails with; 0: nothing. What a sync that fails was for is
	// lost: the live image goes on showing it, a later sync does not write it.
	Err syscall.Errno
	// Tear lets a write take half of its bytes: before Err, or as a short write.
	Tear bool
	// Delay is waited for before the call.
	Delay time.Duration
	// Cut is a power cut in place of the call.
	Cut *CutOptions
}

type armed struct {
	Fault
	seen int
}

// Arm adds a fault.
func (d *Disk) Arm(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.faults = append(d.mu.faults, &armed{Fault: f})
}

// Disarm removes all faults and returns how many calls they met.
func (d *Disk) Disarm() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	met := d.mu.met
	d.mu.faults, d.mu.met = nil, 0
	return met
}

// Met is how many calls the faults have met since they were armed.
func (d *Disk) Met() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.met
}

// meet returns what is to happen to a call, after its delay.
func (f *filesystem) meet(op Op, ino uint64, name string) Fault {
	fault := f.disk.fault(op, ino, name)
	time.Sleep(fault.Delay)
	if fault.Cut != nil {
		f.disk.Cut(*fault.Cut)
	}
	return fault
}

func (d *Disk) fault(op Op, ino uint64, name string) Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if op == opNone {
		return Fault{}
	}
	if n := d.mu.nodes[ino]; name == "" && n != nil {
		name = n.name
	}
	for _, a := range d.mu.faults {
		if a.Op != op && (a.Op != OpChange || op == OpRead) {
			continue
		}
		if a.Path != "" {
			if ok, _ := path.Match(a.Path, name); !ok {
				continue
			}
		}
		a.seen++
		if n := max(a.N, 1); a.seen == n || a.Stay && a.seen > n {
			d.mu.met++
			return a.Fault
		}
	}
	return Fault{}
}

// changing runs do, which changes the node, unless a fault is in its way.
func (f *filesystem) changing(op Op, ino uint64, name string, do func(n *node) error) fuse.Status {
	if fault := f.meet(op, ino, name); fault.Err != 0 {
		return fuse.Status(fault.Err)
	}
	return f.with(ino, do)
}

// lose is a failed sync of a file: its pages count as written.
func (n *node) lose() { clear(n.dirty) }
