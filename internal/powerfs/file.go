package powerfs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (f *filesystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	op := opNone
	if in.Flags&syscall.O_TRUNC != 0 {
		op = OpResize
	}
	return f.changing(op, in.NodeId, "", func(n *node) error {
		if in.Flags&syscall.O_TRUNC != 0 {
			f.disk.resize(n, 0)
		}
		return nil
	})
}

func (f *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if fault := f.meet(OpRead, in.NodeId, ""); fault.Err != 0 {
		return nil, fuse.Status(fault.Err)
	}
	read := 0
	status := f.with(in.NodeId, func(n *node) error {
		read = n.readAt(buf, int64(in.Offset))
		return nil
	})
	return fuse.ReadResultData(buf[:read]), status
}

func (f *filesystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	fault := f.meet(OpWrite, in.NodeId, "")
	if fault.Err != 0 && !fault.Tear {
		return 0, fuse.Status(fault.Err)
	}
	if fault.Tear {
		data = data[:len(data)/2]
	}
	written := 0
	status := f.with(in.NodeId, func(n *node) (err error) {
		if written, err = f.disk.writeAt(n, data, int64(in.Offset)); err != nil {
			return err
		}
		if in.Flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0 {
			f.disk.mu.stats.Syncs++
			f.disk.syncFile(n)
		}
		return nil
	})
	if fault.Err != 0 {
		return 0, fuse.Status(fault.Err)
	}
	return uint32(written), status
}

// Flush is a close, not a sync. ENOSYS tells the kernel not to ask again: a
// process that ends with open files would wait for an answer, for ever if it is
// the one that has to give it.
func (f *filesystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (f *filesystem) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func (f *filesystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	time.Sleep(f.disk.opts.SyncDelay)
	fault := f.meet(OpSync, in.NodeId, "")
	return f.with(in.NodeId, func(n *node) error {
		if fault.Err != 0 {
			n.lose()
			return fault.Err
		}
		f.disk.mu.stats.Syncs++
		f.disk.syncFile(n)
		return nil
	})
}

// Fallocate sets the size or makes holes; it reserves no space.
func (f *filesystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return f.changing(OpResize, in.NodeId, "", func(n *node) error {
		end := int64(in.Offset + in.Length)
		switch in.Mode &^ unix.FALLOC_FL_KEEP_SIZE {
		case 0:
		case unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE:
			f.disk.punch(n, int64(in.Offset), min(end, n.live.size))
		default:
			return syscall.EOPNOTSUPP
		}
		if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > n.live.size {
			f.disk.resize(n, end)
		}
		return nil
	})
}
