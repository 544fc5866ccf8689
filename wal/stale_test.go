package wal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/walproxy/walproxy/internal/crashfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// TestUsedFileIsBlankBeforeItsName: whatever a power cut leaves of a file that is used
// again, under the name of a segment it begins with zeros and has its size.
func TestUsedFileIsBlankBeforeItsName(t *testing.T) {
	base := crashfs.New(0)
	for _, dir := range []string{"/trash/1", "/segments/2"} {
		if err := vfs.MkdirAllSync(base, dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const spare, used = "/trash/1/frames", "/segments/2/frames"
	if err := errors.Join(writeSynced(base, spare, bytes.Repeat([]byte{0xab}, 2000)), base.SyncDir("/trash/1")); err != nil {
		t.Fatal(err)
	}
	disk := base.Clone()
	file, err := (&nativeEngine{segmentBytes: 8 << 10}).create(disk, "/segments/2", spare)
	if err != nil {
		t.Fatal(err)
	}
	file.abandon()
	named, replay := 0, base.Clone()
	for n, call := range disk.Calls() {
		replay.Replay(call)
		left := replay.Cut(crashfs.Cut{Names: func(int) bool { return true }})
		b, err := vfs.ReadFile(left, used, 1<<20)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		named++
		if err != nil || len(b) != 8<<10 || staleBehind(b[:nativeBlank], 0) > 0 || staleBehind(b, 2000) > 0 {
			t.Fatalf("after call %d, %s: %v, %d bytes, the first of them %x", n, call, err, len(b), b[:min(len(b), 8)])
		}
	}
	if named == 0 {
		t.Fatal("it never got its name")
	}
}

// TestStaleFramesThatVerify: should the checksum of a freed segment's frame be right by
// chance where the file is used again (one in 2^32), its LSN tells that it is stale:
// nothing is torn, and a segment that was never begun is blank.
func TestStaleFramesThatVerify(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	o := testOptions()
	o.Engine = EngineNative
	l := mustOpen(t, dir, o)
	appendN(t, l, 60, 500)
	mustClose(t, l)
	last := mustInspect(t, dir).start.segments
	f := last[len(last)-1]
	stale := func(seq uint64, offset int) []byte {
		b := make([]byte, frameHeaderSize)
		putFrame(b, kindRecord, f.header.base-1, 100, 0)
		newSeed(l.stream, f.header.incarnation(), seq).stamp(b, f.header.base-2, int64(offset))
		return slices.Concat(b, bytes.Repeat([]byte{1}, 100))
	}
	whole := mustRead(t, f.path())
	whole = append(whole, zeros[:1000]...)
	mustWrite(t, f.path(), slices.Concat(whole, stale(f.seq, len(whole))))
	next := nativeFileOf(dir, f.seq+1)
	if err := os.MkdirAll(filepath.Dir(next), 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, next, slices.Concat(zeros[:1000], stale(f.seq+1, 1000)))

	l = mustOpen(t, dir, o)
	checkRecords(t, l, 1, 60, 500)
	mustClose(t, l)
	if aside, err := os.ReadDir(filepath.Join(dir, "quarantine")); err != nil || len(aside) > 0 {
		t.Fatalf("set aside: %v, %v", aside, err)
	}
}
