package wal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/vfs"
)

// A repair writes all that is new into repair.new/, in the places that it will
// have. Renaming that to repair/ is the decision: from then on no start takes the
// log, and a repair does nothing but finish: it moves what is damaged to the
// quarantine, puts what is new in its place, one after the other, and at last takes
// repair/ away. Each step can be seen from where the files lie.
const (
	repairNew  = "repair.new"
	repairDir  = "repair"
	repairOld  = "repair.old"
	reportFile = "report.json"
	reportText = "report.txt"
	reportMax  = 1 << 30
)

func (r *Repair) path(names ...string) string {
	return filepath.Join(append([]string{r.dir}, names...)...)
}

// noRepair refuses a log whose repair has begun to change it. What is left of one
// that had not, or was done, goes.
func (s *start) noRepair() error {
	begun, err := s.repairing()
	if begun != nil {
		return begun
	}
	for _, left := range []string{repairNew, repairOld} {
		if _, err := s.fs.Stat(filepath.Join(s.dir, left)); err == nil {
			if err := s.fs.RemoveAll(filepath.Join(s.dir, left)); err != nil {
				return err
			}
		}
	}
	return err
}

// repairing is ErrRepairing, if that is how the log is.
func (s *start) repairing() (begun, err error) {
	path := filepath.Join(s.dir, repairDir)
	_, err = s.fs.Stat(path)
	switch {
	case err == nil:
		return fmt.Errorf("%w: %s", ErrRepairing, path), nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	}
	return nil, err
}

// begun returns the report of a repair that was interrupted, nil if there is none.
// One that cannot be read is set aside: what it left is looked at like any damage.
func (r *Repair) begun() (*RepairReport, error) {
	b, err := vfs.ReadFile(r.fs, r.path(repairDir, reportFile), reportMax)
	if err == nil {
		report := &RepairReport{}
		if err = decodeReport(b, report); err == nil {
			return report, nil
		}
	}
	if _, statErr := r.fs.Stat(r.path(repairDir)); errors.Is(statErr, fs.ErrNotExist) {
		return nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errReport) && !errors.Is(err, vfs.ErrTooLarge) {
		return nil, err
	}
	s := &start{dir: r.dir, fs: r.fs}
	if err := vfs.MkdirAllSync(r.fs, s.quarantineDir(), 0o755); err != nil {
		return nil, err
	}
	aside, nameErr := s.freeName("repair.broken")
	if nameErr != nil {
		return nil, nameErr
	}
	r.log.Warn("what an interrupted repair left cannot be read: set aside", zap.String("quarantine", aside), zap.Error(err))
	return nil, r.move(r.path(repairDir), aside)
}

var errReport = errors.New("the repair's report is damaged")

// encodeReport is the report as JSON.
func encodeReport(report *RepairReport) ([]byte, error) {
	b, err := json.MarshalIndent(report, "", "  ")
	return append(b, '\n'), err
}

func decodeReport(b []byte, report *RepairReport) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(report); err != nil {
		return fmt.Errorf("%w: %w", errReport, err)
	}
	if report.Version != 1 {
		return fmt.Errorf("%w: %w %d", errReport, ErrVersion, report.Version)
	}
	return nil
}

// move renames, durably: the entry is in its new place before it is gone from the
// old one.
func (r *Repair) move(from, to string) error {
	if err := r.fs.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(r.fs.SyncDir(filepath.Dir(to)), r.fs.SyncDir(filepath.Dir(from)))
}

// stage writes what is new, and decides.
func (r *Repair) stage() error {
	for _, left := range []string{repairNew, repairOld} {
		if err := r.fs.RemoveAll(r.path(left)); err != nil {
			return err
		}
	}
	if err := r.room(); err != nil {
		return err
	}
	segments := r.path(repairNew, "segments")
	if err := r.fs.MkdirAll(segments, 0o755); err != nil {
		return err
	}
	for _, s := range r.plan.segments {
		if s.why == "" {
			continue
		}
		if err := r.stageSegment(s, filepath.Join(segments, segmentName(s.seq))); err != nil {
			return err
		}
	}
	if err := r.fs.SyncDir(segments); err != nil {
		return err
	}
	if err := r.stageFiles(); err != nil {
		return err
	}
	if err := errors.Join(r.fs.SyncDir(r.path(repairNew)), r.fs.SyncDir(r.dir)); err != nil {
		return err
	}
	failpoint.Hit("repair-staged")
	if err := r.fs.Rename(r.path(repairNew), r.path(repairDir)); err != nil {
		return err
	}
	if err := r.fs.SyncDir(r.dir); err != nil {
		return err
	}
	failpoint.Hit("repair-decided")
	return nil
}

// room refuses a repair that would fill the disk halfway.
func (r *Repair) room() error {
	space, err := r.fs.Space(r.dir)
	if err != nil {
		return err
	}
	if need := r.report.Bytes + 1<<20; space.Free < need {
		return fmt.Errorf("%w: the repair needs %d bytes, %d are free in %s; nothing was changed", ErrFull, need, space.Free, r.dir)
	}
	return nil
}

func (r *Repair) stageSegment(s *plannedSegment, dir string) (err error) {
	if err := r.fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := r.fs.OpenFile(filepath.Join(dir, s.layout.file()), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(onlyWriter{f}, scanBufferSize)
	was, err := s.write(w, r.plan.in)
	if err != nil {
		return err
	}
	if was != s.built {
		return fmt.Errorf("%w: %s changed while it was read", ErrCorrupt, s.place())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return r.fs.SyncDir(dir)
}

// stageFiles writes FORMAT, the watermark and the report.
func (r *Repair) stageFiles() error {
	if r.plan.format {
		if err := writeSynced(r.fs, r.path(repairNew, "FORMAT"), encodeFormat(formatVersion, r.report.Stream)); err != nil {
			return err
		}
	}
	if m := r.plan.mark; m != nil {
		first, second := *m, *m
		second.slot++
		slots := [2]watermark{}
		slots[first.slot&1], slots[second.slot&1] = first, second
		if err := writeSynced(r.fs, r.path(repairNew, "watermark"), append(slots[0].encode(), slots[1].encode()...)); err != nil {
			return err
		}
	}
	b, err := encodeReport(r.report)
	if err != nil {
		return err
	}
	return writeSynced(r.fs, r.path(repairNew, reportFile), b)
}

// finish puts what was staged in its place. It can be begun again after any of its
// steps.
func (r *Repair) finish(report *RepairReport) error {
	s := &start{dir: r.dir, fs: r.fs}
	if err := s.makeDirs(); err != nil {
		return err
	}
	aside := r.path("quarantine", report.ID)
	if err := vfs.MkdirAllSync(r.fs, filepath.Join(aside, "segments"), 0o755); err != nil {
		return err
	}
	// A crash may have kept the directories and not their entries.
	if err := errors.Join(r.fs.SyncDir(aside), r.fs.SyncDir(r.path("quarantine"))); err != nil {
		return err
	}
	for _, seg := range report.Segments {
		if err := r.install(seg, filepath.Join(aside, "segments")); err != nil {
			return err
		}
	}
	for _, name := range []string{"FORMAT", "watermark"} {
		if err := r.installFile(name, aside); err != nil {
			return err
		}
	}
	if err := r.keepReport(report, aside); err != nil {
		return err
	}
	failpoint.Hit("repair-reported")
	if err := r.fs.Rename(r.path(repairDir), r.path(repairOld)); err != nil {
		return err
	}
	if err := r.fs.SyncDir(r.dir); err != nil {
		return err
	}
	failpoint.Hit("repair-done")
	if err := r.fs.RemoveAll(r.path(repairOld)); err != nil {
		return err
	}
	return r.fs.SyncDir(r.dir)
}

// ended makes the end of a repair durable that was killed right before it was.
func (r *Repair) ended() error {
	if _, err := r.fs.Stat(r.path(repairOld)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(r.fs.RemoveAll(r.path(repairOld)), r.fs.SyncDir(r.dir))
}

// install sets what is in the segment's place aside and puts the new file there.
// It moves files, one by one: of a directory that is renamed a power cut may leave
// both names, and then what is done to one is done to the other. A file of which it
// left both names is set aside once more, which costs nothing.
func (r *Repair) install(seg RepairSegment, aside string) error {
	fresh, here := r.path(repairDir, seg.Place), filepath.Dir(r.path(seg.Place))
	if _, err := r.fs.Stat(fresh); errors.Is(err, fs.ErrNotExist) {
		return r.fs.SyncDir(here) // done, perhaps by one that ended before it was durable
	} else if err != nil {
		return err
	}
	if info, err := r.fs.Stat(here); err == nil && !info.IsDir() {
		to, err := freeNameIn(r.fs, aside, segmentName(seg.Seq)+".file")
		if err != nil {
			return err
		}
		if err := r.move(here, to); err != nil {
			return err
		}
	}
	entries, err := r.fs.ReadDir(here)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		aside = filepath.Join(aside, segmentName(seg.Seq))
		if err := vfs.MkdirAllSync(r.fs, aside, 0o755); err != nil {
			return err
		}
	}
	for _, e := range entries {
		to, err := freeNameIn(r.fs, aside, e.Name())
		if err != nil {
			return err
		}
		if err := r.move(filepath.Join(here, e.Name()), to); err != nil {
			return err
		}
	}
	failpoint.Hit("repair-set-aside")
	if err := r.fs.MkdirAll(here, 0o755); err != nil {
		return err
	}
	if err := r.fs.SyncDir(filepath.Dir(here)); err != nil {
		return err
	}
	if err := r.move(fresh, r.path(seg.Place)); err != nil {
		return err
	}
	failpoint.Hit("repair-installed")
	return nil
}

// installFile keeps a copy of a file and puts the new one in its place.
func (r *Repair) installFile(name, aside string) error {
	fresh, here := r.path(repairDir, name), r.path(name)
	if _, err := r.fs.Stat(fresh); errors.Is(err, fs.ErrNotExist) {
		return r.fs.SyncDir(r.dir) // as in install
	} else if err != nil {
		return err
	}
	err := withFile(r.fs, here, func(old vfs.File, size int64) error {
		if err := copySynced(r.fs, filepath.Join(aside, name), old, 0, size); err != nil {
			return err
		}
		return r.fs.SyncDir(aside)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.move(fresh, here)
}

// keepReport writes the report beside what was set aside.
func (r *Repair) keepReport(report *RepairReport, aside string) error {
	done := *report
	done.Interrupted, done.Done = false, true
	b, err := encodeReport(&done)
	if err != nil {
		return err
	}
	if err := writeSynced(r.fs, filepath.Join(aside, reportFile), b); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := done.WriteText(&text); err != nil {
		return err
	}
	if err := writeSynced(r.fs, filepath.Join(aside, reportText), text.Bytes()); err != nil {
		return err
	}
	return r.fs.SyncDir(aside)
}
