package wal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/vfs"
)

// fillUp appends until the log refuses, and returns its last LSN.
func fillUp(t *testing.T, l *Log) LSN {
	t.Helper()
	for range 100_000 {
		if _, err := l.Append(testContext(t), make([]byte, 500)); errors.Is(err, ErrFull) {
			if l.Err() != nil {
				t.Fatal(l.Err())
			}
			return l.Durable()
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("never full")
	return 0
}

// acceptsAgain waits until the log takes a record.
func acceptsAgain(t *testing.T, l *Log) {
	t.Helper()
	eventually(t, "the log to accept again", func() bool {
		_, err := l.Append(testContext(t), make([]byte, 500))
		if err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// TestFullByMaxBytes: refused, not poisoned; Release makes room.
func TestFullByMaxBytes(t *testing.T) {
	var extra atomic.Int64
	o := testOptions()
	o.MaxBytes = 200_000
	o.ExtraBytes = extra.Load
	l := mustOpen(t, memoryDir(t), o)
	last := fillUp(t, l)
	if s := l.Stats(); s.Bytes > o.MaxBytes || s.Bytes < o.MaxBytes*9/10 {
		t.Fatalf("full at %d bytes of %d", s.Bytes, o.MaxBytes)
	}
	payloads, err := readAll(l, 1)
	if err != nil || LSN(len(payloads)) != last {
		t.Fatalf("%d of %d records, %v", len(payloads), last, err)
	}
	l.Release(last)
	acceptsAgain(t, l)
	if l.First() == 1 {
		t.Fatal("nothing was freed")
	}
	eventually(t, "the bytes to be given back", func() bool { return l.Stats().Bytes < 50_000 })

	extra.Store(190_000) // the state store grows
	fillUp(t, l)
	extra.Store(0)
	acceptsAgain(t, l)
	mustClose(t, l)
}

// disk is a file system of a given size that holds only what is below dir.
type disk struct {
	vfs.FS
	dir  string
	size atomic.Int64
}

func (d *disk) Space(string) (vfs.Space, error) {
	free := d.size.Load()
	err := filepath.WalkDir(d.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				free -= info.Size()
			}
		}
		return nil // files come and go meanwhile
	})
	return vfs.Space{Free: free, Kind: "test"}, err
}

// TestFullByFloor: the same for the file system's free space.
func TestFullByFloor(t *testing.T) {
	dir := memoryDir(t)
	small := &disk{FS: vfs.OS(), dir: dir}
	small.size.Store(100_000)
	o := testOptions()
	o.FS, o.MinFree = small, 40_000
	l := mustOpen(t, dir, o)
	fillUp(t, l)
	most := int64(55_000)
	if testLayout().roomy() {
		most += o.SegmentBytes // room is not free, and what is written into it counts until the disk is asked
	}
	if s := l.Stats(); s.FreeBytes < 40_000 || s.FreeBytes > most {
		t.Fatalf("full with %d bytes free, the floor is 40,000", s.FreeBytes)
	}
	small.size.Store(200_000)
	acceptsAgain(t, l)
	fillUp(t, l)
	l.Release(l.Durable())
	acceptsAgain(t, l)
	mustClose(t, l)
}

// TestQueueCountsAsUsed: records that wait for the disk have their room.
func TestQueueCountsAsUsed(t *testing.T) {
	o, hook := hooked(testOptions())
	o.MaxBytes, o.GroupBytes = 100_000, 1<<20
	l := mustOpen(t, t.TempDir(), o)
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
	var last Ticket
	for {
		ticket, err := l.Enqueue(testContext(t), make([]byte, 1000))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = ticket
	}
	if last.LSN < 80 || last.LSN > 97 {
		t.Fatalf("%d records of 1,000 bytes were queued for 100,000", last.LSN)
	}
	hook.arm(func(h *hookEngine) { h.hold = nil })
	close(hold)
	if err := last.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if n := l.Stats().Bytes; n > o.MaxBytes {
		t.Fatalf("%d bytes", n)
	}
	mustClose(t, l)
}

// TestNoSpaceInStart: a disk that is full while a start repairs the tail refuses
// the start; with space again it succeeds, and nothing is lost.
func TestNoSpaceInStart(t *testing.T) {
	torn := makeTornLog(t)
	for n := 1; ; n++ {
		dir := memoryDir(t)
		copyDir(t, torn.before, dir)
		mustWrite(t, segmentFileOf(dir, torn.seq), torn.data[:torn.ends[1]+20])
		faults := vfs.NewFaults(vfs.OS())
		faults.Arm(vfs.Fault{Op: vfs.OpWrite, N: n, Err: unix.ENOSPC})
		o := testOptions()
		o.FS = faults
		l, err := Open(dir, o)
		if err == nil {
			if _ = l.Close(); faults.Disarm() > 0 {
				continue // only what runs after Open failed
			}
			if n < 3 {
				t.Fatalf("only %d writes", n)
			}
			return
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		l = mustOpen(t, dir, testOptions())
		checkRecords(t, l, 1, 12, tornSize)
		mustClose(t, l)
	}
}

// TestRelease frees whole segments, the oldest first, never the active one, and
// the next start knows.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 300, 500)
	segments := l.Stats().Segments
	l.Release(150)
	first := l.First()
	if first == 1 || first > 150 {
		t.Fatalf("first %d after Release(150)", first)
	}
	if _, err := l.NewReader(first - 1); !errors.Is(err, ErrBelowFirst) {
		t.Fatal(err)
	}
	checkRecords(t, l, first, 300, 500)
	eventually(t, "files to be deleted", func() bool { return len(segmentsIn(t, dir)) == l.Stats().Segments })
	if n := l.Stats().Segments; n >= segments {
		t.Fatalf("%d segments, were %d", n, segments)
	}
	mustClose(t, l)

	l = mustOpen(t, dir, testOptions())
	if l.First() != first {
		t.Fatalf("first %d after the restart, was %d", l.First(), first)
	}
	checkRecords(t, l, first, 300, 500)
	l.Release(1000)
	if l.First() != 301 || l.Stats().Segments != 1 {
		t.Fatalf("first %d, %d segments", l.First(), l.Stats().Segments)
	}
	appendN(t, l, 1, 500)
	checkRecords(t, l, 301, 301, 500)
	mustClose(t, l)
}

// TestReleaseThenDamagedSlot: after a release either slot of the watermark will do.
func TestReleaseThenDamagedSlot(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 200, 500)
	awaitWatermark(t, l)
	l.Release(150)
	first := l.First()
	eventually(t, "files to be deleted", func() bool { return len(segmentsIn(t, dir)) == l.Stats().Segments })
	for slot := range 2 {
		copied := filepath.Join(memoryDir(t), "log")
		copyDir(t, dir, copied)
		b := mustRead(t, filepath.Join(copied, "watermark"))
		b[slot*watermarkSlotSize+50] ^= 1
		mustWrite(t, filepath.Join(copied, "watermark"), b)
		again := mustOpen(t, copied, testOptions())
		if again.First() != first {
			t.Fatalf("slot %d damaged: first %d, want %d", slot, again.First(), first)
		}
		checkRecords(t, again, first, 200, 500)
		mustClose(t, again)
	}
	mustClose(t, l)
}

// TestCrashInRelease stops the janitor at each change; a start finds the
// segments contiguous whatever was done.
func TestCrashInRelease(t *testing.T) {
	for n := 1; ; n++ {
		dir := memoryDir(t)
		faults := vfs.NewFaults(vfs.OS())
		o := testOptions()
		o.FS = faults
		l := mustOpen(t, dir, o)
		appendN(t, l, 200, 500)
		awaitWatermark(t, l)
		eventually(t, "the preparer to rest", func() bool { return len(l.prepared) == 1 })
		faults.Arm(vfs.Fault{Op: vfs.OpChange, N: n, Stay: true})
		l.Release(150)
		first := l.First()
		// Failing to delete what is in the trash is no failure of the log: then the
		// segments are gone from where they were.
		eventually(t, "the release to end", func() bool {
			return l.Err() != nil || len(segmentsIn(t, dir)) == l.Stats().Segments
		})
		_ = l.Close()
		crashed := faults.Disarm() > 0
		l = mustOpen(t, dir, testOptions())
		if l.First() > first {
			t.Fatalf("crash at change %d: first %d, want at most %d", n, l.First(), first)
		}
		checkRecords(t, l, l.First(), 200, 500)
		eventually(t, "the trash to be emptied", func() bool { return trashIsEmpty(t, dir) })
		mustClose(t, l)
		if !crashed {
			if n < 10 {
				t.Fatalf("only %d changes", n)
			}
			return
		}
	}
}

func trashIsEmpty(t *testing.T, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "trash"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}
