package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// segment is one file of the log. What is below the line changes under Log.mu
// while the segment is active.
type segment struct {
	seq         uint64
	base        LSN // of its first record
	boot        uint64
	incarnation uuid.UUID
	layout      layout
	headerEnd   int64

	end   segmentEnd // of what is durable
	marks []mark     // in order, of what this process wrote; only appended to
}

// mark is where a record begins, so that a reader need not begin with the segment.
type mark struct {
	lsn    LSN
	offset int64
}

// markStep is how far apart marks are, at least.
const markStep = scanBufferSize

// reach counts records up to end as durable. The next one is marked, if it is due.
func (s *segment) reach(end segmentEnd) {
	s.end = end
	last := s.headerEnd
	if n := len(s.marks); n > 0 {
		last = s.marks[n-1].offset
	}
	if end.offset-last >= markStep {
		s.marks = append(s.marks, mark{end.last + 1, end.offset})
	}
}

// markOf is the last mark that is not behind lsn; ok is false if there is none.
func (s *segment) markOf(lsn LSN) (m mark, ok bool) {
	n := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].lsn > lsn })
	if n == 0 {
		return mark{}, false
	}
	return s.marks[n-1], true
}

func segmentName(seq uint64) string { return fmt.Sprintf("%016x", seq) }

// parseSegmentName is the inverse of segmentName, and accepts nothing else.
func parseSegmentName(name string) (uint64, bool) {
	seq, err := strconv.ParseUint(name, 16, 64)
	return seq, err == nil && seq > 0 && segmentName(seq) == name
}

// place names a segment's file relative to the log's directory.
func (s *segment) place() string {
	return filepath.Join("segments", segmentName(s.seq), s.layout.file())
}

// found is a directory in segments/ as a start finds it.
type found struct {
	seq    uint64
	dir    string // absolute
	layout layout // nil: no file
	size   int64
	wrote  time.Time // the file, last
	header segmentHeader
	crc    uint32 // header CRC of the header frame
	end    int64  // of the header frame
	err    error  // what is wrong with the header
	blank  bool   // nothing was written to it as this segment
}

// place is for messages.
func (f *found) place() string {
	if f.layout == nil {
		return filepath.Join("segments", segmentName(f.seq))
	}
	return filepath.Join("segments", segmentName(f.seq), f.layout.file())
}

func (f *found) path() string { return filepath.Join(f.dir, f.layout.file()) }

// headerEnd is where the records begin.
func (f *found) headerEnd() segmentEnd { return segmentEnd{f.end, f.header.base - 1, f.crc} }

// records is a scanner for the records of f, whose header is good.
func (f *found) records(file io.ReaderAt, size int64) *scanner {
	return &scanner{file: file, layout: f.layout, limit: size, seed: f.header.seed(), offset: f.end, next: f.header.base}
}

func (f *found) empty() bool { return f.layout == nil || f.size == 0 || f.blank }

// examine reads the header of the segment in dir. Damage goes to found.err; an
// error means that reading failed.
func examine(fsys vfs.FS, dir string, seq uint64, stream uuid.UUID) (*found, error) {
	f := &found{seq: seq, dir: dir}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if f.layout = layoutIn(entries); f.layout == nil {
		f.err = errNoFile
		return f, nil
	}
	err = withFile(fsys, f.path(), func(file vfs.File, size int64) error {
		f.size = size
		info, err := file.Stat()
		if err != nil {
			return err
		}
		f.wrote = info.ModTime()
		sc := scanner{file: file, layout: f.layout, limit: size}
		// One small read does for a usual header; the scanner's buffer is for tails.
		sc.buf = make([]byte, 0, headerReadSize)
		if err := sc.fillExactly(0, headerReadSize); err != nil {
			return err
		}
		var bad *badFrameError
		f.header, f.crc, err = sc.header(stream, seq)
		f.end = sc.offset
		if errors.As(err, &bad) {
			f.err, err = bad.err, nil
		}
		if errors.Is(f.err, errRoom) {
			f.blank = allZeros(file, size)
		}
		return err
	})
	return f, err
}

// allZeros: what cannot be read is none.
func allZeros(file io.ReaderAt, size int64) bool {
	b := make([]byte, min(size, scanBufferSize))
	for at := int64(0); at < size; at += int64(len(b)) {
		b = b[:min(int64(len(b)), size-at)]
		n, err := file.ReadAt(b, at)
		if n < len(b) && !errors.Is(err, io.EOF) { // who writes it may have cut it meanwhile
			return false
		}
		if len(bytes.TrimLeft(b[:n], "\x00")) > 0 {
			return false
		}
	}
	return true
}

const headerReadSize = 1 << 10

// withFile opens path for reading, for the time of do.
func withFile(fsys vfs.FS, path string, do func(file vfs.File, size int64) error) (err error) {
	file, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeType != 0 {
		return fmt.Errorf("%s is not a regular file", path)
	}
	return do(file, info.Size())
}
