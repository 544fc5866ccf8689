package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// Snapshot is a copy of a log as it was at one moment.
type Snapshot struct {
	Stream      uuid.UUID
	Incarnation uuid.UUID // of the last record
	First, Last LSN       // First = Last+1: it has no record
	Segments    int
	Bytes       int64 // of their files
}

// Snapshot makes a copy of the log in dir, which is new, as it is now: every record
// that is kept and durable. Sealed segments are linked, so dir is on the file system
// of the log; the newest one is copied. The copy is durable when Snapshot returns.
// Open takes it as a log that was stopped in order; like every start it begins a new
// incarnation. Appends go on meanwhile; who calls Release waits until it returns.
func (l *Log) Snapshot(dir string) (s Snapshot, err error) {
	l.mu.Lock()
	segments := make([]segment, 0, len(l.mu.segments))
	for _, seg := range l.mu.segments {
		segments = append(segments, *seg)
	}
	l.mu.Unlock()
	active := segments[len(segments)-1]
	s = Snapshot{Stream: l.stream, First: segments[0].base, Last: active.end.last, Segments: len(segments)}
	s.Incarnation, _ = l.incarnations.at(s.Last)
	fsys := l.o.FS
	if err := fsys.MkdirAll(filepath.Join(dir, "segments"), 0o755); err != nil {
		return s, err
	}
	format, err := vfs.ReadFile(fsys, filepath.Join(l.dir, "FORMAT"), 1<<10)
	if err == nil {
		err = writeSynced(fsys, filepath.Join(dir, "FORMAT"), format)
	}
	if err != nil {
		return s, err
	}
	for i := range segments {
		seg := &segments[i]
		to := filepath.Join(dir, seg.place())
		if err := fsys.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return s, err
		}
		if i+1 < len(segments) {
			err = fsys.Link(filepath.Join(l.dir, seg.place()), to)
		} else {
			err = l.copySegment(seg, to)
		}
		if err == nil {
			err = fsys.SyncDir(filepath.Dir(to))
		}
		if err != nil {
			return s, fmt.Errorf("wal: snapshot of %s: %w", seg.place(), err)
		}
		s.Bytes += seg.end.offset
	}
	w := watermark{stream: l.stream, incarnation: l.incarnations[len(l.incarnations)-1].id, slot: 2, durable: s.Last, segment: active.seq,
		end: active.end.offset, first: segments[0].seq, clean: true}
	later := w
	later.slot++
	if err := writeSynced(fsys, filepath.Join(dir, "watermark"), slices.Concat(w.encode(), later.encode())); err != nil {
		return s, err
	}
	return s, errors.Join(fsys.SyncDir(filepath.Join(dir, "segments")), fsys.SyncDir(dir), fsys.SyncDir(filepath.Dir(dir)))
}

// copySegment copies what is durable of a segment that is being written.
func (l *Log) copySegment(seg *segment, to string) (err error) {
	in, err := l.o.FS.OpenFile(filepath.Join(l.dir, seg.place()), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return copySynced(l.o.FS, to, in, 0, seg.end.offset)
}
