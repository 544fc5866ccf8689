package wal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// memoryDir is for tests that open hundreds of logs and look at what start makes
// of their bytes, not at the disk: on tmpfs if there is one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "walproxy-wal-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// copyDir copies a log as it is now, while it may be open: what a crash leaves.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatalf("copy %s: %v", from, err)
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustWrite(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func segmentFileOf(dir string, seq uint64) string {
	return filepath.Join(dir, "segments", segmentName(seq), testLayout().file())
}

// segmentsIn lists the segments of dir that hold anything.
func segmentsIn(t testing.TB, dir string) []uint64 {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "segments"))
	if err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for _, e := range entries {
		seq, ok := parseSegmentName(e.Name())
		if !ok {
			continue
		}
		b, err := os.ReadFile(segmentFileOf(dir, seq))
		// What a freed segment left in the file of one that is prepared is nothing.
		if err == nil && len(written(b[:min(len(b), frameHeaderSize)])) > 0 {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

// eventually polls until ok, or fails after 20 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// awaitWatermark waits until the watermark file says everything is durable.
func awaitWatermark(t testing.TB, l *Log) {
	t.Helper()
	eventually(t, "the idle log's watermark", func() bool {
		l.mark.mu.Lock()
		defer l.mark.mu.Unlock()
		return l.mark.last.durable == l.Durable()
	})
}

// written is a segment's file without the room that is left in it.
func written(b []byte) []byte {
	if testLayout().roomy() {
		b = bytes.TrimRight(b, "\x00") // a frame that ends in zeros is cut: not of these tests
	}
	return b
}

// appendPrefixed appends a frame behind its prefix.
func appendPrefixed(b, frame []byte, stamp func(frame []byte, offset int64)) []byte {
	b = testLayout().appendPrefix(b, len(frame))
	stamp(frame, int64(len(b)))
	return append(b, frame...)
}
