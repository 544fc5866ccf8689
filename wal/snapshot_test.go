package wal

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestSnapshot: a copy made while records are appended is a log that was stopped in
// order, holds each durable record, goes on in an incarnation of its own, and does not
// change when the original frees what it has.
func TestSnapshot(t *testing.T) {
	root := t.TempDir()
	o := testOptions()
	o.SegmentBytes = 4096
	l := mustOpen(t, filepath.Join(root, "log"), o)
	appendN(t, l, 100, 200)
	var load sync.WaitGroup
	stop := make(chan struct{})
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := l.Append(t.Context(), make([]byte, 100)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	dir := filepath.Join(root, "copy")
	before := l.Durable()
	s, err := l.Snapshot(dir)
	after := l.Durable()
	close(stop)
	load.Wait()
	if err != nil || s.Last < before || s.Last > after || s.First != 1 || s.Stream != l.Stream() || s.Segments < 4 {
		t.Fatalf("got %+v, %v; durable was %d before and %d after", s, err, before, after)
	}
	if p, err := l.PointOf(s.Last); err != nil || p.Incarnation != s.Incarnation {
		t.Errorf("its end is %v, %v, not of %s", p, err, s.Incarnation)
	}
	if _, err := l.Snapshot(dir); err == nil {
		t.Error("a copy over another")
	}
	l.Release(s.Last) // what is linked stays
	mustClose(t, l)

	in, err := Inspect(dir, InspectOptions{})
	if err != nil || in.Refusal != nil || !in.Clean || in.First != s.First || in.Last != s.Last {
		t.Fatalf("got %+v, %v", in, err)
	}
	records := LSN(0)
	for f, err := range in.Frames(1) {
		if records++; err != nil || f.LSN != records {
			t.Fatalf("frame %d: %+v, %v", records, f, err)
		}
	}
	if records != s.Last {
		t.Errorf("%d records, want %d", records, s.Last)
	}
	copied := mustOpen(t, dir, o)
	if lsn, err := copied.Append(t.Context(), []byte("x")); err != nil || lsn != s.Last+1 {
		t.Errorf("it goes on at %d, %v", lsn, err)
	}
	p, err := copied.PointOf(s.Last + 1)
	if err != nil || p.Incarnation == s.Incarnation {
		t.Errorf("it goes on in %v, %v", p, err)
	}
	mustClose(t, copied)
}

// A failure is an error of the copy and nothing of the log's.
func TestSnapshotFails(t *testing.T) {
	root := t.TempDir()
	faults := vfs.NewFaults(vfs.OS())
	o := testOptions()
	o.FS, o.SegmentBytes = faults, 4096
	l := mustOpen(t, filepath.Join(root, "log"), o)
	appendN(t, l, 50, 200)
	parent := filepath.Join(root, "copies") // synced too
	dir := filepath.Join(parent, "copy")
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		// Only there: the log writes its watermark meanwhile, and that is no failure of the copy.
		faults.Arm(vfs.Fault{Op: vfs.OpChange, Below: parent, N: n, Err: os.ErrPermission})
		_, err := l.Snapshot(dir)
		hits := faults.Disarm()
		if hits == 0 && err == nil {
			if n < 10 {
				t.Errorf("%d changes of the disk", n)
			}
			break
		}
		if !errors.Is(err, os.ErrPermission) {
			t.Fatalf("change %d: %v", n, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	appendN(t, l, 1, 10)
	mustClose(t, l)
}
