package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/vfs"
)

// recover carries out what judge decided. Every step can be the last before a
// crash: the next start judges the same and begins again.
func (s *start) recover() error {
	for _, f := range s.unborn {
		if err := s.removeUnborn(f); err != nil {
			return err
		}
	}
	if len(s.segments) == 0 || s.tail.clean {
		return nil
	}
	return s.rewriteTail(s.segments[len(s.segments)-1])
}

// removeUnborn removes a segment that was prepared but never activated, or sets
// it aside if there is anything in it.
func (s *start) removeUnborn(f *found) error {
	if f.empty() {
		if err := s.fs.RemoveAll(f.dir); err != nil {
			return err
		}
		return s.fs.SyncDir(s.segmentsDir())
	}
	aside, err := s.freeName(segmentName(f.seq) + ".broken")
	if err != nil {
		return err
	}
	s.log.Warn("the last segment was never activated: set aside", zap.String("segment", f.place()),
		zap.String("quarantine", aside), zap.Int64("bytes", f.size), zap.NamedError("reason", f.err))
	if err := s.fs.Rename(f.dir, aside); err != nil {
		return err
	}
	return errors.Join(s.fs.SyncDir(s.quarantineDir()), s.fs.SyncDir(s.segmentsDir()))
}

// freeName returns a path in the quarantine that does not exist.
func (s *start) freeName(name string) (string, error) {
	return freeNameIn(s.fs, s.quarantineDir(), name)
}

// freeNameIn returns a path in dir that does not exist.
func freeNameIn(fsys vfs.FS, dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	for i := 1; ; i++ {
		_, err := fsys.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, fmt.Sprintf("%s.%d", name, i))
	}
}

// rewriteTail replaces the last segment's file by one that holds the judged
// part and is surely on disk: after a failed fsync the page cache may hold what
// the disk does not, and nobody would know. Bytes cut off are kept aside.
func (s *start) rewriteTail(f *found) error {
	return withFile(s.fs, f.path(), func(old vfs.File, size int64) error {
		if s.tail.cut {
			if err := s.setAside(f, old, size); err != nil {
				return err
			}
		}
		fresh := filepath.Join(f.dir, "rewrite.tmp")
		if err := copySynced(s.fs, fresh, old, 0, s.tail.end.offset); err != nil {
			return err
		}
		failpoint.Hit("wal-mid-recovery")
		if err := s.fs.Rename(fresh, f.path()); err != nil {
			return err
		}
		return s.fs.SyncDir(f.dir)
	})
}

// setAside copies what follows the judged end into the quarantine. The name
// says where it was; a start that repeats it writes the same bytes again.
func (s *start) setAside(f *found, old vfs.File, size int64) error {
	size, err := tornEnd(old, f.layout, s.tail.end.offset, size)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%d.broken", segmentName(f.seq), s.tail.end.offset)
	path := filepath.Join(s.quarantineDir(), name)
	s.log.Warn("torn tail: cut off and set aside", zap.String("segment", f.place()),
		zap.Int64("offset", s.tail.end.offset), zap.Int64("bytes", size-s.tail.end.offset),
		zap.Uint64("last_lsn", uint64(s.tail.end.last)), zap.String("quarantine", path))
	if err := copySynced(s.fs, path, old, s.tail.end.offset, size); err != nil {
		return err
	}
	return s.fs.SyncDir(s.quarantineDir())
}

// tornEnd is where the bytes end that follow from in a file of size bytes: the
// room behind them is left out.
func tornEnd(file io.ReaderAt, l layout, from, size int64) (int64, error) {
	if !l.roomy() {
		return size, nil
	}
	b := make([]byte, scanBufferSize)
	for size > from {
		part := b[:min(int64(len(b)), size-from)]
		if n, err := file.ReadAt(part, size-int64(len(part))); n < len(part) {
			return size, err
		}
		content := bytes.TrimRight(part, "\x00")
		size -= int64(len(part) - len(content))
		if len(content) > 0 {
			break
		}
	}
	return size, nil
}

// copySynced makes path the bytes [from, to) of src, durably but for its name.
func copySynced(fsys vfs.FS, path string, src io.ReaderAt, from, to int64) (err error) {
	dst, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	n, err := io.CopyBuffer(onlyWriter{dst}, onlyReader{io.NewSectionReader(src, from, to-from)}, make([]byte, scanBufferSize))
	if err != nil {
		return err
	}
	if n != to-from {
		return fmt.Errorf("%s: copied %d of %d bytes: %w", path, n, to-from, io.ErrUnexpectedEOF)
	}
	return dst.Sync()
}

// onlyWriter and onlyReader hide ReadFrom and WriteTo, so that copies go
// through the vfs and a bounded buffer.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }
