package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestOlderCopyDiverges: a copy of the directory is put back, be it of a stopped
// or of a running log, and written past a point that a sink has seen.
func TestOlderCopyDiverges(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, testOptions())
			appendN(t, l, 10, 50)
			awaitWatermark(t, l)
			if clean {
				mustClose(t, l)
			}
			copyDir(t, dir, dir+".old")
			if clean {
				l = mustOpen(t, dir, testOptions())
			}
			shared, err := l.PointOf(10)
			if err != nil {
				t.Fatal(err)
			}
			appendN(t, l, 10, 50)
			seen, err := l.PointOf(15)
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, l)

			old := mustOpen(t, dir+".old", testOptions())
			if err := old.Contains(seen); !errors.Is(err, ErrDiverged) {
				t.Fatalf("not there yet: %v", err)
			}
			appendN(t, old, 30, 50)
			if err := old.Contains(seen); !errors.Is(err, ErrDiverged) {
				t.Fatalf("written past it: %v", err)
			}
			if err := old.Contains(shared); err != nil {
				t.Fatalf("what both have: %v", err)
			}
			if _, err := old.NewReader(seen.LSN); err != nil {
				t.Fatal(err)
			}
			mustClose(t, old)
		})
	}
}

// TestPoints: points hold across starts, and First()-1 stays known.
func TestPoints(t *testing.T) {
	dir := t.TempDir()
	points := map[LSN]Point{}
	var durable LSN
	for range 6 {
		l := mustOpen(t, dir, testOptions())
		for lsn, p := range points {
			if got, err := l.PointOf(lsn); lsn+1 >= l.First() && (err != nil || got != p) {
				t.Fatalf("LSN %d is %v, was %v: %v", lsn, got, p, err)
			}
			if err := l.Contains(p); lsn+1 >= l.First() && err != nil {
				t.Fatalf("LSN %d: %v", lsn, err)
			} else if lsn+1 < l.First() && !errors.Is(err, ErrBelowFirst) {
				t.Fatalf("LSN %d below first %d: %v", lsn, l.First(), err)
			}
		}
		appendN(t, l, 70, 500)
		for lsn := durable + 1; lsn <= l.Durable(); lsn++ {
			p, err := l.PointOf(lsn)
			if err != nil {
				t.Fatal(err)
			}
			points[lsn] = p
			other := Point{Incarnation: uuid.New(), LSN: lsn}
			if err := l.Contains(other); !errors.Is(err, ErrDiverged) {
				t.Fatalf("another history's LSN %d: %v", lsn, err)
			}
		}
		durable = l.Durable()
		if _, err := l.PointOf(durable + 1); err == nil {
			t.Fatal("a point beyond the durable")
		}
		l.Release(durable - 100)
		eventually(t, "the files to be deleted", func() bool { return len(segmentsIn(t, dir)) == l.Stats().Segments })
		mustClose(t, l)
	}
	l := mustOpen(t, dir, testOptions())
	if l.First() == 1 {
		t.Fatal("nothing was released")
	}
	if _, err := l.PointOf(l.First() - 2); !errors.Is(err, ErrBelowFirst) {
		t.Fatal(err)
	}
	if err := l.Contains(Point{}); !errors.Is(err, ErrBelowFirst) {
		t.Fatal(err)
	}
	if p, err := l.PointOf(0); err != nil || !p.IsZero() {
		t.Fatal(p, err)
	}
	// Incarnations that nobody can name are dropped.
	if n := len(l.incarnations); n > 4 {
		t.Fatalf("%d incarnations", n)
	}
	l.Release(durable + 1)
	eventually(t, "the files to be deleted", func() bool { return len(segmentsIn(t, dir)) == l.Stats().Segments })
	mustClose(t, l)
	for range 3 { // starts without records leave no trace
		mustClose(t, mustOpen(t, dir, testOptions()))
	}
	l = mustOpen(t, dir, testOptions())
	if n := len(l.incarnations); n != 2 {
		t.Fatalf("%d incarnations, want that of the last record and this one", n)
	}
	mustClose(t, l)
}

func TestContainsZero(t *testing.T) {
	l := mustOpen(t, t.TempDir(), testOptions())
	if err := l.Contains(Point{}); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 1, 10)
	if err := l.Contains(Point{}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
}

// TestAttach: when it is called, with what, and what its answers do.
func TestAttach(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	boot := uint64(0)
	var streams []uuid.UUID
	var empties []bool
	var refuse error
	o := testOptions()
	var newests []uint64
	o.Attach = func(stream uuid.UUID, empty bool, newest uint64) (uint64, error) {
		newests = append(newests, newest)
		streams, empties = append(streams, stream), append(empties, empty)
		return boot, refuse
	}
	refuse, boot = errDisk, 1
	if _, err := Open(dir, o); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "FORMAT")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a refused creation left a log: %v", err)
	}
	refuse = nil
	l := mustOpen(t, dir, o)
	stream := l.Stream()
	mustClose(t, l)
	boot = 2
	l = mustOpen(t, dir, o)
	appendN(t, l, 1, 10)
	mustClose(t, l)
	for _, low := range []uint64{1, 2} {
		boot = low
		if _, err := Open(dir, o); !errors.Is(err, ErrBoot) {
			t.Fatalf("boot %d after 2: %v", low, err)
		}
	}
	boot = 0 // not counted
	mustClose(t, mustOpen(t, dir, o))
	boot = 2 // and not forgotten
	if _, err := Open(dir, o); !errors.Is(err, ErrBoot) {
		t.Fatal(err)
	}
	boot = 3
	mustClose(t, mustOpen(t, dir, o))
	for _, s := range streams {
		if s != stream {
			t.Fatalf("streams %v: a creation that was interrupted must go on with its stream", streams)
		}
	}
	if want := []bool{true, true, true, false, false, false, false, false}; fmt.Sprint(empties) != fmt.Sprint(want) {
		t.Fatalf("empty: %v, want %v", empties, want)
	}
	if want := []uint64{0, 0, 1, 2, 2, 2, 2, 2}; fmt.Sprint(newests) != fmt.Sprint(want) {
		t.Fatalf("newest boots: %v, want %v", newests, want)
	}
}

// TestAttachSeesNoDamage: a log that is refused is not attached.
func TestAttachSeesNoDamage(t *testing.T) {
	torn := makeTornLog(t)
	dir := memoryDir(t)
	copyDir(t, torn.after, dir)
	mustWrite(t, segmentFileOf(dir, torn.seq), torn.data[:torn.ends[1]])
	o := testOptions()
	o.Attach = func(uuid.UUID, bool, uint64) (uint64, error) {
		t.Error("attached")
		return 0, nil
	}
	if _, err := Open(dir, o); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

// TestLock: a second open is refused with the owner's pid, here and in another
// process, and possible after Close.
func TestLock(t *testing.T) {
	if dir := os.Getenv("WALPROXY_TEST_LOCK"); dir != "" {
		_, err := Open(dir, testOptions())
		var locked *LockedError
		if !errors.As(err, &locked) || !errors.Is(err, ErrLocked) {
			t.Fatalf("%v, want a LockedError", err)
		}
		fmt.Printf("held by %d.\n", locked.PID)
		return
	}
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 3, 10)
	var locked *LockedError
	if _, err := Open(dir, testOptions()); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Fatalf("%v, want a LockedError with pid %d", err, os.Getpid())
	}
	cmd := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestLock$")
	cmd.Env = append(os.Environ(), "WALPROXY_TEST_LOCK="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("held by "+strconv.Itoa(os.Getpid())+".")) {
		t.Fatalf("%v: %s", err, out)
	}
	appendN(t, l, 3, 10)
	mustClose(t, l)
	l = mustOpen(t, dir, testOptions())
	checkRecords(t, l, 1, 6, 10)
	mustClose(t, l)
}

// TestDoubtfulFileSystem is said at start.
func TestDoubtfulFileSystem(t *testing.T) {
	for _, doubt := range []string{"", "it forgets"} {
		faults := vfs.NewFaults(vfs.OS())
		faults.SetSpace(&vfs.Space{Free: 1 << 40, Kind: "paperfs", Doubt: doubt})
		core, logs := observer.New(zap.WarnLevel)
		o := testOptions()
		o.FS, o.Logger = faults, zap.New(core)
		mustClose(t, mustOpen(t, t.TempDir(), o))
		warned := logs.FilterField(zap.String("reason", "it forgets")).FilterField(zap.String("file_system", "paperfs")).Len()
		if (warned == 1) != (doubt != "") {
			t.Fatalf("doubt %q: %d warnings", doubt, warned)
		}
	}
}
