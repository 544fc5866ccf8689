package wal

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/walproxy/walproxy/internal/vfs"
)

var errDisk = errors.New("the disk failed")

// hookEngine comes between the log and its engine: it counts, holds and fails.
type hookEngine struct {
	engine
	appends, syncs, seals, creates atomic.Int64
	late                           atomic.Int64 // writes or syncs after a failure

	mu         sync.Mutex
	failAppend int64 // which call fails, from 1; 0: none
	failSync   int64
	failCreate int64
	failed     bool
	hold       chan struct{} // if set, a sync waits until it is closed
	held       chan struct{} // told when one does
	holdAppend chan struct{} // if set, an append waits until it is closed
}

// hooked returns options whose log goes through the hook that comes with them.
func hooked(o Options) (Options, *hookEngine) {
	h := &hookEngine{}
	o.wrapEngine = func(e engine) engine {
		h.engine = e
		return h
	}
	return o, h
}

func (h *hookEngine) arm(change func(*hookEngine)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

// fail reports whether the call counted by n is the one to fail.
func (h *hookEngine) fail(n int64, which *int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed {
		h.late.Add(1)
	}
	if *which == 0 || n != *which {
		return false
	}
	h.failed = true
	return true
}

func (h *hookEngine) create(fsys vfs.FS, dir, spare string) (segmentFile, error) {
	if n := h.creates.Add(1); h.fail(n, &h.failCreate) {
		return nil, errDisk
	}
	f, err := h.engine.create(fsys, dir, spare)
	if err != nil {
		return nil, err
	}
	return &hookFile{f, h}, nil
}

type hookFile struct {
	segmentFile
	hook *hookEngine
}

func (f *hookFile) append(b []byte, ends []int) error {
	f.hook.mu.Lock()
	hold := f.hook.holdAppend
	f.hook.mu.Unlock()
	n := f.hook.appends.Add(1)
	if hold != nil {
		<-hold
	}
	if f.hook.fail(n, &f.hook.failAppend) {
		return errors.Join(errDisk, f.segmentFile.append(b[:ends[0]/2], []int{ends[0] / 2}))
	}
	return f.segmentFile.append(b, ends)
}

func (f *hookFile) sync() error {
	n := f.hook.syncs.Add(1)
	f.hook.mu.Lock()
	hold, held := f.hook.hold, f.hook.held
	f.hook.mu.Unlock()
	if hold != nil {
		held <- struct{}{}
		<-hold
	}
	if f.hook.fail(n, &f.hook.failSync) {
		return errDisk
	}
	return f.segmentFile.sync()
}

func (f *hookFile) seal() error {
	f.hook.seals.Add(1)
	return f.segmentFile.seal()
}
