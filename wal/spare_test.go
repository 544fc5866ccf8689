package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// recycled counts the files that become another segment's.
type recycled struct {
	vfs.FS
	files atomic.Int64
}

func (r *recycled) Rename(from, to string) error {
	err := r.FS.Rename(from, to)
	if err == nil && strings.Contains(from, "/trash/") && strings.Contains(to, "/segments/") {
		r.files.Add(1)
	}
	return err
}

func recycleOptions() (Options, *recycled) {
	r := &recycled{FS: vfs.OS()}
	o := testOptions()
	o.Engine, o.FS = EngineNative, r
	return o, r
}

// recycle appends and releases until the writer is well within the file of a freed
// segment, with frames of that one behind its own, and six more were used again.
func recycle(t testing.TB, l *Log, r *recycled, size int) {
	t.Helper()
	ctx := testContext(t)
	files, seq := r.files.Load()+6, uint64(0)
	for {
		if _, err := l.Append(ctx, payloadOf(l.Appended()+1, size)); err != nil {
			t.Fatal(err)
		}
		l.Release(l.Durable())
		l.mu.Lock()
		active := l.mu.segments[len(l.mu.segments)-1]
		now, end := active.seq, active.end.offset
		l.mu.Unlock()
		if r.files.Load() >= files && seq == 0 {
			seq = now + 2 // the next one is prepared; the one after that is of a freed file, too
		}
		if seq != 0 && now >= seq && end > nativeBlank+1000 {
			return
		}
	}
}

// recycleTwo recycles until the segment that is prepared is in such a file as well.
func recycleTwo(t testing.TB, dir string, l *Log, r *recycled, size int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		recycle(t, l, r, size)
		eventually(t, "the preparer to rest", func() bool { return len(l.prepared) == 1 })
		active := l.mu.segments[len(l.mu.segments)-1]
		if staleBehind(mustRead(t, nativeFileOf(dir, active.seq)), active.end.offset) > 1000 &&
			staleBehind(mustRead(t, nativeFileOf(dir, active.seq+1)), 0) > 0 {
			return
		}
	}
	t.Fatal("no two files in a row are used again")
}

// staleBehind is how many bytes that are not zeros follow end in a file.
func staleBehind(b []byte, end int64) int { return len(bytes.TrimRight(b[end:], "\x00")) }

// TestRecycle: files of freed segments are used again; what is behind the frames of
// a segment in such a file is room, and so is a file that is prepared: a start after
// a crash loses nothing and sets nothing aside.
func TestRecycle(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	o, r := recycleOptions()
	l := mustOpen(t, dir, o)
	recycleTwo(t, dir, l, r, tornSize)
	appendN(t, l, 5, tornSize)
	first, last, active := l.First(), l.Durable(), l.mu.segments[len(l.mu.segments)-1]
	crashed := dir + ".crashed"
	copyDir(t, dir, crashed)
	if b := mustRead(t, nativeFileOf(crashed, active.seq+1)); staleBehind(b[:nativeBlank], 0) != 0 {
		t.Fatal("the file that is prepared begins with what was in it")
	}
	mustClose(t, l)
	if !trashIsEmpty(t, dir) {
		t.Fatal("spares are left behind")
	}
	for _, dir := range []string{dir, crashed} {
		in := mustInspect(t, dir)
		report, err := in.Verify(testContext(t), VerifyOptions{})
		if err != nil || in.Refusal != nil || in.Last != last || report.Damaged || report.Torn {
			t.Fatalf("%v; %v; LSN %d, want %d; %+v", err, in.Refusal, in.Last, last, report)
		}
		l := mustOpen(t, dir, o)
		if l.First() > first {
			t.Fatalf("first %d, want at most %d", l.First(), first)
		}
		checkRecords(t, l, first, last, tornSize)
		mustClose(t, l)
		if aside, err := os.ReadDir(filepath.Join(dir, "quarantine")); err != nil || len(aside) > 0 {
			t.Fatalf("set aside: %v, %v", aside, err)
		}
	}
}

// TestTornTailInRecycledFile tears the last groups of a segment where frames of a freed
// one come to light again, at every byte. What was not acknowledged is cut, with or
// without some of it; what was is never cut, and the freed records are never back.
func TestTornTailInRecycledFile(t *testing.T) {
	origin := filepath.Join(memoryDir(t), "log")
	o, r := recycleOptions()
	l := mustOpen(t, origin, o)
	recycleTwo(t, origin, l, r, tornSize)
	appendN(t, l, 3, tornSize)
	awaitWatermark(t, l)
	mark := mustRead(t, filepath.Join(origin, "watermark"))
	active := l.mu.segments[len(l.mu.segments)-1]
	first, good := l.First(), l.Durable()
	ends := []segmentEnd{active.end}
	stale := mustRead(t, nativeFileOf(origin, active.seq))
	for range 3 {
		appendN(t, l, 1, tornSize)
		ends = append(ends, active.end)
	}
	awaitWatermark(t, l)
	before, after := origin+".before", origin+".after"
	copyDir(t, origin, after)
	copyDir(t, origin, before)
	mustWrite(t, filepath.Join(before, "watermark"), mark)
	mustClose(t, l)
	whole := mustRead(t, nativeFileOf(after, active.seq))
	if staleBehind(stale, ends[0].offset+appendSlack) < int(ends[3].offset-ends[0].offset) {
		t.Fatal("no frames of a freed segment are behind")
	}
	dir := origin + ".torn"
	step := int64(3)
	if longTest() {
		step = 1
	}
	for at := ends[0].offset; at < ends[3].offset; at += step {
		torn := append(bytes.Clone(whole[:at]), stale[at:]...)
		kept := good
		for _, end := range ends[1:] {
			if bytes.Equal(torn[:end.offset], whole[:end.offset]) {
				kept = end.last
			}
		}
		copyDir(t, before, dir)
		mustWrite(t, nativeFileOf(dir, active.seq), torn)
		l, err := Open(dir, o)
		if err != nil {
			t.Fatalf("torn at %d: %v", at, err)
		}
		checkRecords(t, l, first, kept, tornSize)
		mustClose(t, l)
		copyDir(t, after, dir)
		mustWrite(t, nativeFileOf(dir, active.seq), torn)
		checkCorrupt(t, dir, kept+1, good+3)
	}
	// A hole that is as old as the file, in front of an acknowledged group.
	copyDir(t, before, dir)
	hole := bytes.Clone(whole)
	copy(hole[ends[0].offset:ends[1].offset], stale[ends[0].offset:])
	mustWrite(t, nativeFileOf(dir, active.seq), hole)
	checkCorrupt(t, dir, good+1, good+1)
}

// TestReaderOfRecycledFile: who still reads a freed segment gets ErrBelowFirst, not
// damage and not the records of the segment that has the file now.
func TestReaderOfRecycledFile(t *testing.T) {
	const size = 300
	dir := filepath.Join(memoryDir(t), "log")
	o, r := recycleOptions()
	o.SegmentBytes, o.GroupBytes = 4*scanBufferSize, 64<<10
	l := mustOpen(t, dir, o)
	for round := range 3 {
		from := l.Durable() + 1
		appendN(t, l, 3*scanBufferSize/size, size)
		reader, err := l.NewReader(from)
		if err != nil {
			t.Fatal(err)
		}
		next := from + LSN(round) + 1 // the file is open, and not all of it read
		if round == 2 {
			next = l.Durable() + 1 // all of it is, and the segment goes on
		}
		for lsn := from; lsn < next; lsn++ {
			if rec, err := reader.Next(testContext(t)); err != nil || !bytes.Equal(rec.Payload, payloadOf(lsn, size)) {
				t.Fatalf("LSN %d: %v", lsn, err)
			}
		}
		recycle(t, l, r, 50_000)
		for {
			rec, err := reader.Next(testContext(t))
			if errors.Is(err, ErrBelowFirst) {
				break
			}
			if err != nil || rec.LSN != next || !bytes.Equal(rec.Payload, payloadOf(next, size)) {
				t.Fatalf("LSN %d where %d is due: %v", rec.LSN, next, err)
			}
			next++
		}
		mustClose(t, reader)
	}
	mustClose(t, l)
}

// TestInspectionOfRecycledFile: what a running log freed and wrote over since it was
// looked at is told as freed.
func TestInspectionOfRecycledFile(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	o, r := recycleOptions()
	l := mustOpen(t, dir, o)
	appendN(t, l, 300, 500)
	awaitWatermark(t, l)
	in := mustInspect(t, dir)
	freed := LSN(0)
	for f, err := range in.Frames(1) {
		if f.LSN == 3 { // its file is open
			recycle(t, l, r, 5000)
		}
		if e, ok := errors.AsType[*FreedError](err); ok {
			freed = max(freed, e.Last)
			continue
		}
		if err != nil || !bytes.Equal(f.Payload, payloadOf(f.LSN, 500)) {
			t.Fatalf("LSN %d: %v", f.LSN, err)
		}
	}
	if freed < 200 {
		t.Fatalf("freed up to LSN %d", freed)
	}
	mustClose(t, l)
}

// TestSnapshotKeepsItsFiles: a file that a snapshot has is never written over.
func TestSnapshotKeepsItsFiles(t *testing.T) {
	root := memoryDir(t)
	o, r := recycleOptions()
	l := mustOpen(t, filepath.Join(root, "log"), o)
	appendN(t, l, 200, 500)
	copied := filepath.Join(root, "snapshot")
	s, err := l.Snapshot(copied)
	if err != nil {
		t.Fatal(err)
	}
	recycle(t, l, r, 5000)
	mustClose(t, l)
	l = mustOpen(t, copied, testOptions())
	checkRecords(t, l, s.First, s.Last, 500)
	mustClose(t, l)
}

// TestCrashInRecycling stops the log at each change to the disk while files are used
// again; a start finds what was acknowledged.
func TestCrashInRecycling(t *testing.T) {
	step := 7
	if longTest() {
		step = 1
	}
	for n := 1; ; n += step {
		dir := filepath.Join(memoryDir(t), fmt.Sprint(n))
		faults := vfs.NewFaults(vfs.OS())
		o, r := recycleOptions()
		r.FS = faults
		l := mustOpen(t, dir, o)
		faults.Arm(vfs.Fault{Op: vfs.OpChange, N: n, Stay: true})
		acked, released := LSN(0), LSN(1)
		for r.files.Load() < 4 && l.Err() == nil {
			if lsn, err := l.Append(testContext(t), payloadOf(l.Appended()+1, 4000)); err == nil {
				acked = lsn
			}
			released = max(released, l.Durable())
			l.Release(released)
		}
		_ = l.Close()
		crashed := faults.Disarm() > 0
		l, err := Open(dir, testOptions())
		if err != nil {
			t.Fatalf("after a crash at change %d: %v", n, err)
		}
		if l.Durable() < acked {
			t.Fatalf("crash at change %d: LSN %d was acknowledged, the log ends at %d", n, acked, l.Durable())
		}
		checkRecords(t, l, l.First(), l.Durable(), 4000)
		mustClose(t, l)
		if !crashed {
			if n < 60 {
				t.Fatalf("only %d changes", n)
			}
			return
		}
	}
}
