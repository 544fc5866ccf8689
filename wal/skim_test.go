package wal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestScanMapped: where the file is mapped a scan finds the same end, the same durable
// LSN and the same fault as where it is read, whatever is flipped, cut off or zeroed.
func TestScanMapped(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	l := mustOpen(t, dir, testOptions())
	for n := range 8 {
		appendN(t, l, 1, 16+40*(n%3))
	}
	mustClose(t, l)
	path := segmentFileOf(dir, 1)
	whole := mustRead(t, path)
	same := func(what string, at int) {
		t.Helper()
		read, mapped := scanOn(t, vfs.NewFaults(vfs.OS()), dir, l.stream), scanOn(t, vfs.OS(), dir, l.stream)
		if read != mapped {
			t.Fatalf("%s at %d: read %+v, mapped %+v", what, at, read, mapped)
		}
	}
	if same("nothing", 0); scanOn(t, vfs.OS(), dir, l.stream).end.last != 8 {
		t.Fatal("not all of it is found")
	}
	b := make([]byte, len(whole))
	for at := range whole {
		copy(b, whole)
		b[at] ^= 1 << (at % 8)
		mustWrite(t, path, b)
		same("a bit flipped", at)
		if at%3 == 0 {
			mustWrite(t, path, whole[:at])
			same("cut", at)
			copy(b, whole)
			clear(b[at:])
			mustWrite(t, path, b)
			same("zeros", at)
		}
	}
}

type scanned struct {
	end     segmentEnd
	durable LSN
	fault   string
}

// scanOn scans the first segment of the log in dir, if its header is good.
func scanOn(t *testing.T, fsys vfs.FS, dir string, stream uuid.UUID) (s scanned) {
	t.Helper()
	f, err := examine(fsys, filepath.Join(dir, "segments", segmentName(1)), 1, stream)
	if err != nil {
		t.Fatal(err)
	}
	if f.err != nil {
		return scanned{fault: f.err.Error()}
	}
	st := &start{dir: dir, fs: fsys, log: zap.NewNop(), stream: stream}
	s.end, s.durable, err = st.scanDurable(f)
	if err != nil {
		s.fault = err.Error()
	}
	return s
}

// TestScanOfShrinkingFile: a file that is cut while it is mapped gives a fault of the
// processor; the scan reads what is left instead.
func TestScanOfShrinkingFile(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 10, 1000)
	mustClose(t, l)
	path := segmentFileOf(dir, 1)
	f, err := examine(vfs.OS(), filepath.Dir(path), 1, l.stream)
	if err != nil || f.err != nil {
		t.Fatal(err, f.err)
	}
	err = withFile(vfs.OS(), path, func(file vfs.File, size int64) error {
		k := mapped(file, size)
		defer k.close()
		if err := os.Truncate(path, int64(os.Getpagesize())); err != nil {
			return err
		}
		sc := f.records(file, size)
		before := *sc
		if _, _, n, intact := k.pass(sc, size, ^LSN(0)); intact || n != (Tally{}) || sc.offset != before.offset || sc.next != before.next {
			t.Errorf("passed %+v, intact %v", n, intact)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
