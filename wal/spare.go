package wal

import (
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
)

// sparesMax is how many files of freed segments are kept for the next ones: what
// is freed at once is used again one after the other.
const sparesMax = 4

// keepSpare keeps the file of a freed segment, whose directory is now dir, for a
// segment to come; false: it is to be deleted. The segment's absence from
// segments/ is durable: no start will look for what is then written over.
func (l *Log) keepSpare(s *segment, dir string) bool {
	if !l.engine.recycles() || s.layout.name() != l.engine.name() || l.stopping() {
		return false
	}
	if !l.spareRoom() {
		l.dropSpares()
		return false
	}
	path := filepath.Join(dir, s.layout.file())
	info, err := l.o.FS.Stat(path)
	if err != nil || info.Size() > 2*l.o.SegmentBytes || !unshared(info) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.spares) >= sparesMax {
		return false
	}
	l.mu.spares = append(l.mu.spares, path)
	return true
}

// spareRoom: spares count towards no bound, so there are none near one.
func (l *Log) spareRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := 2 * sparesMax * l.o.SegmentBytes
	s := &l.mu.space
	return s.free-max(l.o.MinFree, 0) >= keep && l.o.MaxBytes-s.bytes-s.extra >= keep
}

// unshared reports that a file has no second name: no snapshot has it.
func unshared(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 1
}

// takeSpare returns the oldest spare, for the next segment; "": there is none.
func (l *Log) takeSpare() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.spares) == 0 {
		return ""
	}
	spare := l.mu.spares[0]
	l.mu.spares = slices.Delete(l.mu.spares, 0, 1)
	return spare
}

// dropSpares deletes the spares: the log ends, or the disk is needed.
func (l *Log) dropSpares() {
	for spare := l.takeSpare(); spare != ""; spare = l.takeSpare() {
		l.delete(filepath.Dir(spare))
	}
}
