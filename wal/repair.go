package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// ErrRepairing: a repair of the log was interrupted after it had begun to change
// it. A repair finishes it.
var ErrRepairing = errors.New("wal: a repair was interrupted")

// RepairOptions of OpenRepair; the zero value is the default.
type RepairOptions struct {
	// FS is what the log's files are on; nil: the operating system's.
	FS vfs.FS
	// Stream returns the one that the caller's own state belongs to, for when
	// nothing in the log says so any more; zero: not known. nil: it knows nothing.
	// It is called with the lock held.
	Stream func() (uuid.UUID, error)
	// Issued returns the highest LSN that the caller knows to have been durable in
	// the log of a stream, from elsewhere; 0: none. nil: it knows nothing.
	Issued func(stream uuid.UUID) (LSN, error)
	// CutTornTail does what the next start would do with a torn tail.
	CutTornTail bool
	// Progress is called now and then with how many of how many bytes were read.
	Progress func(read, total int64)
	Logger   *zap.Logger // nil: none
}

// Repair is a log that is being looked at, and repaired, with its lock held. Not
// for concurrent use.
type Repair struct {
	dir    string
	fs     vfs.FS
	o      RepairOptions
	log    *zap.Logger
	lock   io.Closer
	report *RepairReport
	in     *Inspection // what the report is of; nil: of an interrupted repair
	plan   *repairPlan // nil: nothing to do, or what was begun is to be finished
}

// OpenRepair takes the lock of the log in dir and finds out, by reading all of it,
// what there is to repair; it changes nothing. *LockedError: a process has it
// open. ErrNoLog. ErrVersion: a newer version wrote it, which is no damage.
//
// A repair keeps every record that can still be read, puts a gap in the place of
// those that cannot, and sets what was damaged aside. It never issues an LSN again
// that was, or may have been, given out.
func OpenRepair(dir string, o RepairOptions) (*Repair, error) {
	r := &Repair{fs: o.FS, o: o, log: o.Logger}
	if r.fs == nil {
		r.fs = vfs.OS()
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	var err error
	if r.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if _, err := r.fs.Stat(r.dir); errors.Is(err, fs.ErrNotExist) && o.Stream == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoLog, r.dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if r.lock, err = lockDir(r.fs, r.dir); err != nil {
		return nil, err
	}
	if err := r.look(); err != nil {
		return nil, errors.Join(err, r.lock.Close())
	}
	return r, nil
}

// look finds out what there is to do.
func (r *Repair) look() error {
	begun, err := r.begun()
	if err != nil {
		return err
	}
	if begun != nil {
		begun.Interrupted = true
		r.report, r.plan = begun, nil
		return nil
	}
	r.report, r.plan, err = r.makePlan()
	return err
}

// Report is what was found and will be done, or was done by Apply.
func (r *Repair) Report() *RepairReport { return r.report }

// Apply carries out what Report says, durably. What it does can be interrupted at
// any point and is finished by another repair. It does nothing if there is nothing
// to do. At the end it looks again: an error if the log would still be refused.
func (r *Repair) Apply() error {
	if !r.report.Needed() {
		return r.ended()
	}
	began := time.Now()
	if r.plan != nil {
		if err := r.stage(); err != nil {
			return err
		}
	}
	done := r.report
	if err := r.finish(done); err != nil {
		return err
	}
	done.Done = true
	r.log.Info("log repaired", zap.String("id", done.ID), zap.Duration("took", time.Since(began)))
	in, err := r.view(false)
	if err == nil {
		err = in.Refusal
	}
	if err != nil {
		return fmt.Errorf("wal: the log is refused after its repair: %w", err)
	}
	r.plan = nil
	return nil
}

// Frames yields what can be read of the log before the repair, in order, like
// Inspection.Frames; nothing of one whose repair was interrupted.
func (r *Repair) Frames() iter.Seq2[Frame, error] {
	if r.in == nil {
		return func(func(Frame, error) bool) {}
	}
	return r.in.Frames(1)
}

// Close frees the log's lock.
func (r *Repair) Close() error { return r.lock.Close() }
