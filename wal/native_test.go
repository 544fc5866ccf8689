package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestEnginesTakeOver: each engine goes on with a log that the other one wrote,
// stopped or crashed.
func TestEnginesTakeOver(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			dir := filepath.Join(memoryDir(t), "log")
			last := LSN(0)
			for start := range 6 {
				o := testOptions()
				o.Engine = Engines()[start%2]
				l := mustOpen(t, dir, o)
				checkRecords(t, l, 1, last, 500)
				appendN(t, l, 50, 500) // some segments
				last += 50
				if !clean {
					copyDir(t, dir, dir+".crashed")
				}
				mustClose(t, l)
				if !clean {
					copyDir(t, dir+".crashed", dir)
				}
				if l := layoutOf(t, dir, l.writer.seg.seq); l != o.Engine {
					t.Fatalf("%s wrote a segment of %s", o.Engine, l)
				}
			}
		})
	}
}

func layoutOf(t *testing.T, dir string, seq uint64) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "segments", segmentName(seq)))
	if err != nil {
		t.Fatal(err)
	}
	return layoutIn(entries).name()
}

// nativeLog is a log of the native engine with 10 records that are known to be
// durable and then n more of one group each; it is not stopped.
func nativeLog(t *testing.T, n int) (dir string, ends []segmentEnd, seq uint64) {
	t.Helper()
	open := filepath.Join(memoryDir(t), "log")
	o := testOptions()
	o.Engine = EngineNative
	l := mustOpen(t, open, o)
	appendN(t, l, 10, tornSize)
	awaitWatermark(t, l)
	mark := mustRead(t, filepath.Join(open, "watermark"))
	active := l.mu.segments[len(l.mu.segments)-1]
	ends = append(ends, active.end)
	for range n {
		appendN(t, l, 1, tornSize)
		ends = append(ends, active.end)
	}
	dir = open + ".crashed"
	copyDir(t, open, dir)
	mustWrite(t, filepath.Join(dir, "watermark"), mark)
	mustClose(t, l)
	return dir, ends, active.seq
}

func nativeFileOf(dir string, seq uint64) string {
	return filepath.Join(dir, "segments", segmentName(seq), nativeLayout{}.file())
}

// TestRoomIsNoTornTail: what was never written is nothing that was cut off.
func TestRoomIsNoTornTail(t *testing.T) {
	dir, ends, seq := nativeLog(t, 3)
	if size := len(mustRead(t, nativeFileOf(dir, seq))); int64(size) <= ends[3].offset {
		t.Fatalf("a file of %d bytes has no room behind %d", size, ends[3].offset)
	}
	in := mustInspect(t, dir)
	if in.Refusal != nil || in.Last != 13 || in.Segments[0].Torn != nil || in.Segments[0].State != StateSealed {
		t.Fatalf("%+v", in.Segments[0])
	}
	report, err := in.Verify(testContext(t), VerifyOptions{})
	if err != nil || report.Damaged || report.Torn || report.Records != 13 {
		t.Fatalf("%+v, %v", report, err)
	}
	mustClose(t, mustOpen(t, dir, testOptions()))
	aside, err := os.ReadDir(filepath.Join(dir, "quarantine"))
	if err != nil || len(aside) > 0 {
		t.Fatalf("set aside: %v, %v", aside, err)
	}
}

// TestZerosAreNoRoom: zeros in the place of acknowledged records are damage if
// anything says that the records were durable, and are set aside if others that
// were not stand behind them.
func TestZerosAreNoRoom(t *testing.T) {
	origin, ends, seq := nativeLog(t, 3)
	whole := mustRead(t, nativeFileOf(origin, seq))
	dir := filepath.Join(memoryDir(t), "log")
	zero := func(from, to int) {
		copyDir(t, origin, dir)
		b := append([]byte(nil), whole...)
		clear(b[ends[from].offset:ends[to].offset])
		mustWrite(t, nativeFileOf(dir, seq), b)
	}
	zero(0, 1) // LSN 12 knew of 11
	checkCorrupt(t, dir, 11, 11)
	if in := mustInspect(t, dir); !errors.Is(in.Refusal, ErrCorrupt) {
		t.Fatalf("an inspection says %v", in.Refusal)
	}
	zero(1, 2) // LSN 13 knew of 12
	checkCorrupt(t, dir, 12, 12)

	// Of two records that were never acknowledged the first is not there.
	zero(2, 3)
	b := mustRead(t, nativeFileOf(dir, seq))
	frame := append([]byte(nil), whole[ends[2].offset:ends[3].offset]...)
	le.PutUint64(frame[8:], 14)
	at := ends[3].offset
	in := mustInspect(t, origin)
	newSeed(in.Stream, in.Segments[0].Incarnation, seq).stamp(frame, 12, at)
	copy(b[at:], frame)
	mustWrite(t, nativeFileOf(dir, seq), b)
	if in := mustInspect(t, dir); in.Segments[0].State != StateTorn || in.Last != 12 {
		t.Fatalf("%+v", in.Segments[0])
	}
	l := mustOpen(t, dir, testOptions())
	checkRecords(t, l, 1, 12, tornSize)
	mustClose(t, l)
	aside := mustRead(t, filepath.Join(dir, "quarantine", fmt.Sprintf("%016x-%d.broken", seq, ends[2].offset)))
	if int64(len(aside)) != at+int64(len(frame))-ends[2].offset {
		t.Fatalf("%d bytes were set aside", len(aside))
	}
}

// TestNativeFilesDoNotGrow: an fdatasync of a group has no size to note.
func TestNativeFilesDoNotGrow(t *testing.T) {
	o := testOptions()
	o.Engine = EngineNative
	o.SegmentBytes = nativeFirstRoom * nativeRoomGrowth
	sizes := map[string]int64{}
	o.FS = growthFS{vfs.OS(), func(name string, size int64) {
		if old, ok := sizes[name]; ok && size > old {
			t.Errorf("%s grew from %d to %d bytes at an fdatasync", name, old, size)
		}
		sizes[name] = size
	}}
	l := mustOpen(t, memoryDir(t), o)
	appendN(t, l, 300, 10_000)
	mustClose(t, l)
	if len(sizes) < 2 {
		t.Fatalf("%d files were synced", len(sizes))
	}
}

// growthFS tells the sizes of segments' files when they are synced.
type growthFS struct {
	vfs.FS
	synced func(name string, size int64)
}

func (g growthFS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := g.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(name) != (nativeLayout{}).file() {
		return f, err
	}
	return growthFile{f, g, name}, nil
}

type growthFile struct {
	vfs.File
	fs   growthFS
	name string
}

func (f growthFile) Datasync() error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	f.fs.synced(f.name, info.Size())
	return f.File.Datasync()
}

// TestUnreadableIsNoRoom: what the disk cannot read is not taken for zeros.
func TestUnreadableIsNoRoom(t *testing.T) {
	dir, ends, _ := nativeLog(t, 3)
	in, err := Inspect(dir, InspectOptions{FS: badSectors{vfs.OS(), ends[3].offset, ends[3].offset + 1}})
	if err != nil {
		t.Fatal(err)
	}
	if got := surveyAll(t, in, tornSize); len(got.errs) == 0 || !errors.Is(got.errs[0], errDisk) {
		t.Fatalf("read %v: %v", got.lsns, got.errs)
	}
}
