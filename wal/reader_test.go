package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestReadFromAnywhere: a reader that begins within a segment that is being written gets
// what one that begins with the log gets, and does not read all that is before it.
func TestReadFromAnywhere(t *testing.T) {
	o := testOptions()
	o.SegmentBytes, o.GroupBytes = 2<<20, 128<<10
	dir, counted := memoryDir(t), &readCounter{FS: vfs.OS()}
	o.FS = counted
	l := mustOpen(t, dir, o)
	sizes := []int{0, 1, 7, 300, 5000, 100_000, 700_000}
	const records = 60
	want := make([][]byte, records)
	var last Ticket
	for i := range want {
		want[i] = payloadOf(LSN(i+1), sizes[i%len(sizes)]*(i%3)/2)
		var err error
		if last, err = l.Enqueue(testContext(t), want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := last.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	check := func(from LSN) {
		t.Helper()
		got, err := readAll(l, from)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if !bytes.Equal(got[i], want[int(from)-1+i]) {
				t.Fatalf("LSN %d differs", int(from)+i)
			}
		}
	}
	marks := 0
	for _, seg := range l.mu.segments {
		for i, m := range seg.marks {
			if m.lsn > records {
				continue
			}
			marks++
			before := counted.bytes.Load()
			r, err := l.NewReader(m.lsn)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := r.Next(testContext(t))
			if err != nil || rec.LSN != m.lsn || !bytes.Equal(rec.Payload, want[m.lsn-1]) {
				t.Fatalf("LSN %d where %d is due: %v", rec.LSN, m.lsn, err)
			}
			if n := counted.bytes.Load() - before; n > int64(headerReadSize+scanBufferSize+frameHeaderSize+len(rec.Payload)) {
				t.Fatalf("mark %d, at %d: %d bytes were read for a record of %d", i, m.offset, n, len(rec.Payload))
			}
			mustClose(t, r)
		}
	}
	if marks < 5 {
		t.Fatalf("%d marks", marks)
	}
	for range 2 {
		for from := LSN(1); from <= records; from += 13 {
			check(from)
		}
		mustClose(t, l)
		l = mustOpen(t, dir, o) // without marks
	}
	mustClose(t, l)
}

// readCounter counts the bytes that are read of files.
type readCounter struct {
	vfs.FS
	bytes atomic.Int64
}

type countedFile struct {
	vfs.File
	fs *readCounter
}

func (c *readCounter) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := c.FS.OpenFile(name, flag, perm)
	return &countedFile{f, c}, err
}

func (f *countedFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	f.fs.bytes.Add(int64(n))
	return n, err
}

// TestBacklogNeedsNoMemory reads 64 MB, and keeps none of them.
func TestBacklogNeedsNoMemory(t *testing.T) {
	if raceEnabled && !longTest() {
		t.Skip("the race detector's own memory counts: runs without it, and with WALPROXY_LONG")
	}
	o := Options{SegmentBytes: 2 << 20, MinFree: -1}
	dir := t.TempDir()
	l := mustOpen(t, dir, o)
	const records, size = 16_000, 4096
	appendN(t, l, records, size)
	mustClose(t, l)
	l = mustOpen(t, dir, o)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	for lsn := LSN(1); lsn <= records; lsn++ {
		if rec, err := r.Next(ctx); err != nil || rec.LSN != lsn || len(rec.Payload) != size {
			t.Fatalf("LSN %d: %v", rec.LSN, err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Fatalf("reading %d MB allocated %d KB", records*size>>20, grown>>10)
	}
	mustClose(t, r)
	mustClose(t, l)
}

// TestReadersFollow: readers that are fast, slow or late see every record while
// writers go on and segments roll.
func TestReadersFollow(t *testing.T) {
	const records = 3000
	l := mustOpen(t, memoryDir(t), testOptions())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r, err := l.NewReader(1)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = r.Close() }()
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for lsn := LSN(1); lsn <= records; lsn++ {
				rec, err := r.Next(testContext(t))
				if err != nil || rec.LSN != lsn || !bytes.Equal(rec.Payload, payloadOf(lsn, 200)) {
					t.Errorf("reader %d: LSN %d, want %d: %v", i, rec.LSN, lsn, err)
					return
				}
				if rnd.IntN(50) < i {
					runtime.Gosched()
				}
			}
			if _, err := r.Next(testContext(t)); !errors.Is(err, io.EOF) {
				t.Errorf("reader %d: %v, want io.EOF", i, err)
			}
		})
	}
	for range records / 10 {
		appendN(t, l, 10, 200)
	}
	if err := l.Seal(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	mustClose(t, l)
}

// TestReaderDuringRelease: a reader in a segment that is freed reads it to its
// end, then learns that the next is gone.
func TestReaderDuringRelease(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 400, 500)
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := r.Next(testContext(t)); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	end := l.mu.segments[0].end.last
	l.mu.Unlock()
	l.Release(200)
	eventually(t, "the files to be deleted", func() bool { return len(segmentsIn(t, dir)) == l.Stats().Segments })
	for lsn := LSN(2); lsn <= end; lsn++ {
		rec, err := r.Next(testContext(t))
		if err != nil || rec.LSN != lsn || !bytes.Equal(rec.Payload, payloadOf(lsn, 500)) {
			t.Fatalf("LSN %d, want %d: %v", rec.LSN, lsn, err)
		}
	}
	if _, err := r.Next(testContext(t)); !errors.Is(err, ErrBelowFirst) {
		t.Fatalf("%v, want ErrBelowFirst", err)
	}
	if _, err := os.Stat(segmentFileOf(dir, 1)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the reader resurrected its segment: %v", err)
	}
	mustClose(t, l)
}

// TestReadersRaceRelease: whatever is freed under them, readers get the right
// record or ErrBelowFirst.
func TestReadersRaceRelease(t *testing.T) {
	l := mustOpen(t, memoryDir(t), testOptions())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first := l.First()
				r, err := l.NewReader(first)
				if err == nil {
					for lsn := first; lsn < first+100 && err == nil; lsn++ {
						ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
						var rec Record
						if rec, err = r.Next(ctx); err == nil && (rec.LSN != lsn || !bytes.Equal(rec.Payload, payloadOf(lsn, 300))) {
							t.Errorf("LSN %d, want %d", rec.LSN, lsn)
						}
						cancel()
					}
					_ = r.Close()
				}
				if err != nil && !errors.Is(err, ErrBelowFirst) && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			}
		})
	}
	for range 100 {
		appendN(t, l, 20, 300)
		l.Release(l.Durable() - 50)
	}
	close(stop)
	wg.Wait()
	mustClose(t, l)
}

// TestReaderContext: a wait that is given up loses nothing.
func TestReaderContext(t *testing.T) {
	l := mustOpen(t, t.TempDir(), testOptions())
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for i := range LSN(5) {
		ctx, cancel := context.WithCancelCause(context.Background())
		go cancel(errDisk)
		if _, err := r.Next(ctx); !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		appendN(t, l, 1, 20)
		if _, err := r.Next(ctx); !errors.Is(err, errDisk) {
			t.Fatalf("ctx had ended: %v", err)
		}
		if rec, err := r.Next(testContext(t)); err != nil || rec.LSN != i+1 {
			t.Fatalf("LSN %d, %v", rec.LSN, err)
		}
	}
	mustClose(t, l)
}

// TestGap: LSNs that a repair gave up are one gap, whole wherever the reader
// begins, and the others are records.
func TestGap(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 5, 50)
	active := l.mu.segments[len(l.mu.segments)-1]
	seed, end := l.writer.seed, active.end.offset
	copyDir(t, dir, dir+".copy")
	mustClose(t, l)

	// What repair will write: a gap from 6 to 8, and a record after it.
	gap := make([]byte, frameHeaderSize, 64)
	gap = le.AppendUint64(gap, 8)
	file := segmentFileOf(dir+".copy", active.seq)
	b := mustRead(t, file)[:end]
	for _, f := range []struct {
		kind  frameKind
		lsn   LSN
		frame []byte
	}{{kindGap, 6, gap}, {kindRecord, 9, append(make([]byte, frameHeaderSize), payloadOf(9, 50)...)}} {
		payload := f.frame[frameHeaderSize:]
		putFrame(f.frame, f.kind, f.lsn, len(payload), payloadCRC(payload))
		b = appendPrefixed(b, f.frame, func(frame []byte, at int64) { seed.stamp(frame, 5, at) })
	}
	mustWrite(t, file, b)
	l = mustOpen(t, dir+".copy", testOptions())
	if l.Durable() != 9 {
		t.Fatalf("durable %d, want 9", l.Durable())
	}
	appendN(t, l, 1, 50)
	for _, from := range []LSN{1, 5, 6, 7, 8, 9, 10} {
		r, err := l.NewReader(from)
		if err != nil {
			t.Fatal(err)
		}
		var got []LSN
		for len(got) == 0 || got[len(got)-1] < 10 {
			rec, err := r.Next(testContext(t))
			if err == nil && rec.IsGap() {
				if rec.LSN != 6 || rec.Through != 8 || rec.Payload != nil {
					t.Fatalf("from %d, after %v: gap %+v", from, got, rec)
				}
				got = append(got, 0)
				continue
			}
			if err != nil || !bytes.Equal(rec.Payload, payloadOf(rec.LSN, 50)) {
				t.Fatalf("from %d, after %v: %v", from, got, err)
			}
			got = append(got, rec.LSN)
		}
		var want []LSN
		for lsn := from; lsn <= 10; lsn++ {
			switch {
			case lsn == 8:
				want = append(want, 0) // the gap
			case lsn < 6 || lsn > 8:
				want = append(want, lsn)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("from %d: %v, want %v", from, got, want)
		}
		mustClose(t, r)
	}
	mustClose(t, l)
}
