package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

// tornLog is a log that stopped in the middle of a group: the watermark says
// that witnessed records were durable, the last segment holds more.
type tornLog struct {
	before, after string // copies, with the watermark before and after the last group
	seq           uint64
	start         int64 // of the last group in the file
	ends          []int64
	data          []byte
	witnessed     LSN
}

const tornSize = 40

func makeTornLog(t *testing.T) tornLog {
	t.Helper()
	root := memoryDir(t)
	dir := filepath.Join(root, "log")
	torn := tornLog{before: filepath.Join(root, "before"), after: filepath.Join(root, "after"), witnessed: 10}
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 10, tornSize)
	awaitWatermark(t, l)
	mark := mustRead(t, filepath.Join(dir, "watermark"))
	active := l.mu.segments[len(l.mu.segments)-1]
	torn.seq, torn.start = active.seq, active.end.offset
	for range 3 {
		appendN(t, l, 1, tornSize)
		torn.ends = append(torn.ends, active.end.offset)
	}
	awaitWatermark(t, l)
	copyDir(t, dir, torn.after)
	copyDir(t, dir, torn.before)
	mustWrite(t, filepath.Join(torn.before, "watermark"), mark)
	torn.data = mustRead(t, segmentFileOf(torn.after, torn.seq))
	if size := int64(len(torn.data)); size != torn.ends[2] && !(testLayout().roomy() && size > torn.ends[2]) {
		t.Fatalf("file of %d bytes, want %d", size, torn.ends[2])
	}
	torn.data = torn.data[:torn.ends[2]]
	mustClose(t, l)
	return torn
}

// fills say what a torn write left from an offset on.
var fills = map[string]func(rest []byte) []byte{
	"truncated": func([]byte) []byte { return nil },
	"zeros":     func(rest []byte) []byte { return make([]byte, len(rest)) },
	"garbage": func(rest []byte) []byte {
		b := bytes.Clone(rest)
		for i := range b {
			b[i] ^= 0x5a
		}
		return b
	},
	"longer": func(rest []byte) []byte { return bytes.Repeat([]byte("WPXF"), 2000) },
}

// TestTornTail tears the last records at every byte. Unwitnessed, those before
// the tear survive; witnessed, the start is refused with the first LSN lost.
func TestTornTail(t *testing.T) {
	torn := makeTornLog(t)
	dir := filepath.Join(memoryDir(t), "log")
	for name, fill := range fills {
		t.Run(name, func(t *testing.T) {
			step := int64(1)
			if !longTest() && name != "truncated" && name != "zeros" {
				step = 3
			}
			for offset := torn.start; offset < int64(len(torn.data)); offset += step {
				damaged := append(bytes.Clone(torn.data[:offset]), fill(torn.data[offset:])...)
				good := torn.witnessed
				for _, end := range torn.ends {
					if bytes.HasPrefix(damaged, torn.data[:end]) {
						good++
					}
				}
				if good == torn.witnessed+3 {
					continue // the fill is what was there
				}

				copyDir(t, torn.before, dir)
				mustWrite(t, segmentFileOf(dir, torn.seq), damaged)
				l, err := Open(dir, testOptions())
				if err != nil {
					t.Fatalf("torn at %d: %v", offset, err)
				}
				checkRecords(t, l, 1, good, tornSize)
				if offset%7 == 0 || longTest() {
					appendN(t, l, 2, tornSize)
					mustClose(t, l)
					l = mustOpen(t, dir, testOptions())
					checkRecords(t, l, 1, good+2, tornSize)
				}
				mustClose(t, l)
				checkQuarantine(t, dir, torn, offset, good, damaged)

				copyDir(t, torn.after, dir)
				mustWrite(t, segmentFileOf(dir, torn.seq), damaged)
				checkCorrupt(t, dir, good+1, torn.witnessed+3)
			}
		})
	}
}

// checkQuarantine: what was cut off is kept.
func checkQuarantine(t *testing.T, dir string, torn tornLog, offset int64, good LSN, damaged []byte) {
	t.Helper()
	end := torn.start
	if n := good - torn.witnessed; n > 0 {
		end = torn.ends[n-1]
	}
	aside, err := os.ReadFile(filepath.Join(dir, "quarantine", fmt.Sprintf("%016x-%d.broken", torn.seq, end)))
	cut := written(damaged[end:])
	if len(cut) == 0 {
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("torn at %d: nothing was cut, but: %v", offset, err)
		}
		return
	}
	if err != nil || !bytes.Equal(aside, cut) {
		t.Fatalf("torn at %d: quarantine holds %d bytes, want %d: %v", offset, len(aside), len(cut), err)
	}
}

// checkCorrupt opens dir and expects the damage to be reported with its LSNs.
func checkCorrupt(t *testing.T, dir string, first, last LSN) {
	t.Helper()
	l, err := Open(dir, testOptions())
	if err == nil {
		_ = l.Close()
		t.Fatalf("opened, though LSN %d to %d are damaged", first, last)
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, ErrCorrupt) {
		t.Fatalf("not a CorruptError: %v", err)
	}
	if corrupt.First != first || corrupt.Last != last {
		t.Fatalf("LSN %d to %d, want %d to %d: %v", corrupt.First, corrupt.Last, first, last, err)
	}
}

// TestLaterFrameIsWitness: the hole was durable when a later group was written.
func TestLaterFrameIsWitness(t *testing.T) {
	torn := makeTornLog(t)
	dir := filepath.Join(memoryDir(t), "log")
	for offset := torn.start; offset < torn.ends[0]; offset++ {
		copyDir(t, torn.before, dir)
		damaged := bytes.Clone(torn.data)
		damaged[offset] ^= 1 << (offset % 8)
		mustWrite(t, segmentFileOf(dir, torn.seq), damaged)
		// LSN 12 was written when 11 was durable, LSN 13 when 12 was.
		l, err := Open(dir, testOptions())
		if err == nil {
			_ = l.Close()
			t.Fatalf("offset %d: opened with a hole before later records", offset)
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.First != 11 || corrupt.Offset != torn.start {
			t.Fatalf("offset %d: %v", offset, err)
		}
	}
}

// TestTornHeader: a segment whose header is bad was never activated, unless a
// frame in it could only be written after its first group was durable.
func TestTornHeader(t *testing.T) {
	root := memoryDir(t)
	dir := filepath.Join(root, "log")
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 3, 10_000)
	awaitWatermark(t, l)
	mark := mustRead(t, filepath.Join(dir, "watermark"))
	durable := l.Durable()
	appendN(t, l, 1, 16_000) // begins the next segment
	oneGroup := filepath.Join(root, "one")
	copyDir(t, dir, oneGroup)
	active := l.mu.segments[len(l.mu.segments)-1]
	if active.base != durable+1 {
		t.Fatalf("segment %d begins at LSN %d", active.seq, active.base)
	}
	appendN(t, l, 1, 100)
	twoGroups := filepath.Join(root, "two")
	copyDir(t, dir, twoGroups)
	mustClose(t, l)
	headerEnd := int(active.headerEnd)
	for at := 0; at < headerEnd; at += 5 {
		for _, origin := range []string{oneGroup, twoGroups} {
			copyDir(t, origin, dir)
			mustWrite(t, filepath.Join(dir, "watermark"), mark)
			b := mustRead(t, segmentFileOf(dir, active.seq))
			b[at] ^= 0x10
			mustWrite(t, segmentFileOf(dir, active.seq), b)
			if origin == twoGroups {
				checkCorrupt(t, dir, durable+1, durable+1)
				continue
			}
			l := mustOpen(t, dir, testOptions())
			if l.Durable() != durable {
				t.Fatalf("byte %d: durable %d, want %d", at, l.Durable(), durable)
			}
			mustClose(t, l)
			aside := filepath.Join(dir, "quarantine", segmentName(active.seq)+".broken", testLayout().file())
			if !bytes.Equal(mustRead(t, aside), b) {
				t.Fatalf("byte %d: the segment is not in the quarantine", at)
			}
		}
	}
}

// TestCrashInRecovery stops the start at each of its changes to the disk, then
// starts again.
func TestCrashInRecovery(t *testing.T) {
	torn := makeTornLog(t)
	tear := torn.ends[1] + 20
	dir := filepath.Join(memoryDir(t), "log")
	damage := func() {
		copyDir(t, torn.before, dir)
		mustWrite(t, segmentFileOf(dir, torn.seq), torn.data[:tear])
		// A segment that was begun when the power went.
		next := filepath.Join(dir, "segments", segmentName(torn.seq+1))
		if err := os.MkdirAll(next, 0o755); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, segmentFileOf(dir, torn.seq+1), []byte("\x80\x01torn header"))
	}
	steps := crashAtEachChange(t, dir, damage, func(l *Log) {
		checkRecords(t, l, 1, 12, tornSize)
		appendN(t, l, 1, tornSize)
		checkRecords(t, l, 1, 13, tornSize)
	})
	if steps < 12 {
		t.Fatalf("only %d changes were interrupted", steps)
	}
}

// TestCrashInCreation stops the creation of a log at each change.
func TestCrashInCreation(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	steps := crashAtEachChange(t, dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}, func(l *Log) {
		appendN(t, l, 3, tornSize)
		checkRecords(t, l, 1, 3, tornSize)
	})
	if steps < 12 {
		t.Fatalf("only %d changes were interrupted", steps)
	}
}

// crashAtEachChange lets Open fail at its n-th change to the disk and all after
// it, for every n; then opens again and checks. It returns how many there are.
func crashAtEachChange(t *testing.T, dir string, prepare func(), check func(*Log)) int {
	t.Helper()
	for n := 1; ; n++ {
		prepare()
		faults := vfs.NewFaults(vfs.OS())
		faults.Arm(vfs.Fault{Op: vfs.OpChange, N: n, Stay: true})
		o := testOptions()
		o.FS = faults
		l, err := Open(dir, o)
		if err == nil {
			// Only what runs after Open failed, if anything.
			_ = l.Close()
			if faults.Disarm() == 0 || n > 200 {
				return n - 1
			}
			continue
		}
		if faults.Disarm() == 0 {
			t.Fatalf("change %d: failed without a fault: %v", n, err)
		}
		if l, err = Open(dir, testOptions()); err != nil {
			t.Fatalf("after a crash at change %d: %v", n, err)
		}
		check(l)
		mustClose(t, l)
	}
}
