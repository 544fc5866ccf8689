package wal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// formatVersion is the version of the directory as a whole.
const formatVersion = 1

const formatMaxBytes = 4096

// encodeFormat is the text of FORMAT.
func encodeFormat(version uint64, stream uuid.UUID) []byte {
	b := fmt.Appendf(nil, "walproxy log\nversion %d\nstream %s\n", version, stream)
	return fmt.Appendf(b, "crc32c %08x\n", crc32.Checksum(b, castagnoli))
}

// decodeFormat accepts exactly what encodeFormat writes.
func decodeFormat(b []byte) (uuid.UUID, error) {
	damaged := fmt.Errorf("%w: the file is damaged", ErrFormat)
	lines := bytes.Split(b, []byte("\n"))
	if len(lines) != 5 {
		return uuid.Nil, damaged
	}
	text, isVersion := bytes.CutPrefix(lines[1], []byte("version "))
	id, isStream := bytes.CutPrefix(lines[2], []byte("stream "))
	version, err := strconv.ParseUint(string(text), 10, 32)
	stream, err2 := uuid.ParseBytes(id)
	if !isVersion || !isStream || err != nil || err2 != nil || !bytes.Equal(b, encodeFormat(version, stream)) {
		return uuid.Nil, damaged
	}
	if version != formatVersion {
		return uuid.Nil, fmt.Errorf("%w: %w %d; this program knows version %d", ErrFormat, ErrVersion, version, formatVersion)
	}
	return stream, nil
}

// readFormat returns the stream of the log in dir; fs.ErrNotExist if there is
// no such file.
func readFormat(fsys vfs.FS, path string) (uuid.UUID, error) {
	b, err := vfs.ReadFile(fsys, path, formatMaxBytes)
	if errors.Is(err, vfs.ErrTooLarge) {
		return uuid.Nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err != nil {
		return uuid.Nil, err
	}
	stream, err := decodeFormat(b)
	if err != nil {
		return uuid.Nil, fmt.Errorf("%w: %s", err, path)
	}
	return stream, nil
}

// writeSynced writes a file and makes its contents durable, not its name.
func writeSynced(fsys vfs.FS, path string, b []byte) (err error) {
	f, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

// openFormat finds the stream of the log, or creates the log. The new FORMAT
// gets its name only after Attach agreed and the watermark file exists; until
// then it is FORMAT.new, whose stream an interrupted creation goes on with.
func (s *start) openFormat() error {
	path := filepath.Join(s.dir, "FORMAT")
	stream, err := readFormat(s.fs, path)
	if err == nil {
		s.stream = stream
		return s.renewFormat(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.nothingBeside(path); err != nil {
		return err
	}
	return s.createFormat(path)
}

// renewFormat writes FORMAT again while the log has no segment: the start that made it
// may have ended by a sync that failed, and what the page cache shows is not on disk
// then, nor made so by another sync.
func (s *start) renewFormat(path string) error {
	entries, err := s.fs.ReadDir(s.segmentsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		return err
	}
	return s.placeFormat(path)
}

// placeFormat makes path the FORMAT of s.stream, durably.
func (s *start) placeFormat(path string) error {
	whole := filepath.Join(s.dir, "FORMAT.tmp")
	if err := writeSynced(s.fs, whole, encodeFormat(formatVersion, s.stream)); err != nil {
		return err
	}
	if err := s.fs.Rename(whole, path); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// nothingBeside refuses to create a log over what is left of one.
func (s *start) nothingBeside(path string) error {
	entries, err := s.fs.ReadDir(s.segmentsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: %s is missing beside %d segments", ErrFormat, path, len(entries))
	}
	b, err := vfs.ReadFile(s.fs, s.watermarkPath(), watermarkFileSize)
	if errors.Is(err, vfs.ErrTooLarge) {
		return fmt.Errorf("%w: %s is missing beside a watermark", ErrFormat, path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if m, ok := newestWatermark(b, uuid.Nil); ok && m.segment > 0 {
		return fmt.Errorf("%w: %s is missing beside a watermark of stream %s", ErrFormat, path, m.stream)
	}
	return nil
}

func (s *start) createFormat(path string) error {
	fresh := path + ".new"
	stream, err := readFormat(s.fs, fresh)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFormat) {
		stream = uuid.New()
	} else if err != nil {
		return err
	}
	s.stream, s.created = stream, true
	if err := s.placeFormat(fresh); err != nil {
		return err
	}
	if err := s.attach(true); err != nil {
		return err
	}
	if err := createWatermark(s.fs, s.watermarkPath(), stream); err != nil {
		return err
	}
	if err := s.makeDirs(); err != nil {
		return err
	}
	if err := s.fs.Rename(fresh, path); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}
