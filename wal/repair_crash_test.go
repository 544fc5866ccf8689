package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/walproxy/walproxy/internal/powerfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// ruined damages a copy of a log in many places: a missing segment, one with a
// flipped bit, two that are swapped, FORMAT and the watermark gone.
func ruined(t *testing.T, dir string) {
	t.Helper()
	seqs := segmentsIn(t, dir)
	segment := func(i int) string { return filepath.Join(dir, "segments", segmentName(seqs[i])) }
	b := mustRead(t, segmentFileOf(dir, seqs[1]))
	b[len(b)-20] ^= 4
	mustWrite(t, segmentFileOf(dir, seqs[1]), b)
	err := errors.Join(
		os.RemoveAll(segment(3)),
		os.Rename(segment(4), segment(4)+".x"), os.Rename(segment(5), segment(4)), os.Rename(segment(4)+".x", segment(5)),
		os.Remove(filepath.Join(dir, "FORMAT")), os.Truncate(filepath.Join(dir, "watermark"), 5))
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrashInRepair stops a repair at each of its changes to the disk, then repairs
// again.
func TestCrashInRepair(t *testing.T) {
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	last := smallLog(t, origin, false)
	ledger := ledgerOf(t, origin)
	decided := 0
	n := 1
	for ; ; n += stride() {
		copyDir(t, origin, dir)
		ruined(t, dir)
		kept := undamaged(t, dir, ledger)
		before := contentsOf(t, dir)
		faults := vfs.NewFaults(vfs.OS())
		r, err := OpenRepair(dir, RepairOptions{FS: faults})
		if err != nil {
			t.Fatal(err)
		}
		faults.Arm(vfs.Fault{Op: vfs.OpChange, N: n, Stay: true})
		err = r.Apply()
		if faults.Disarm() == 0 && err != nil {
			t.Fatalf("change %d: failed without a fault: %v", n, err)
		}
		report := r.Report()
		mustClose(t, r)
		if err == nil {
			break
		}
		refused := refusal(t, dir)
		_, statErr := os.Stat(filepath.Join(dir, repairDir))
		if begun := statErr == nil; begun != errors.Is(refused, ErrRepairing) {
			t.Fatalf("change %d: the repair has begun: %v, and a start says: %v", n, begun, refused)
		}
		if in, err := Inspect(dir, InspectOptions{}); err != nil || errors.Is(refused, ErrRepairing) && !slices.ContainsFunc(in.Damage, func(err error) bool { return errors.Is(err, ErrRepairing) }) {
			t.Fatalf("change %d: an inspection says: %v, %v", n, in.Damage, err)
		}
		again := mustRepair(t, dir, RepairOptions{})
		if again.Interrupted {
			decided++
			if again.ID != report.ID || fmt.Sprint(again.Lost) != fmt.Sprint(report.Lost) {
				t.Fatalf("change %d: it is not finished as it was planned: %s", n, textOf(again))
			}
		}
		if again.Needed() {
			report = again
		}
		checkAside(t, dir, before, report)
		checkRepaired(t, dir, last, kept, report)
		for _, left := range []string{repairNew, repairDir} {
			if _, err := os.Stat(filepath.Join(dir, left)); err == nil {
				t.Fatalf("change %d: %s is left", n, left)
			}
		}
	}
	if n < 60 || decided < 30/stride() {
		t.Fatalf("only up to change %d, %d after the decision", n, decided)
	}
}

// TestPowerCutInRepair cuts the power after each change of a repair: what was not
// synced is gone, in part or all of it. The next repair finishes.
func TestPowerCutInRepair(t *testing.T) {
	mount, err := powerfs.NewMount(powerfs.NewDisk(powerfs.Options{Capacity: 1 << 30}), t.TempDir())
	if errors.Is(err, powerfs.ErrUnavailable) {
		t.Skipf("NOT TESTED: a power cut in a repair: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	origin := filepath.Join(memoryDir(t), "origin")
	last := smallLog(t, origin, false)
	ledger := ledgerOf(t, origin)
	apart := 5 * stride()
	if longTest() {
		apart = 1
	}
	for n, keep := 1, 0; ; n, keep = n+apart, (keep+1)%3 {
		dir := filepath.Join(mount.Dir(), fmt.Sprintf("log-%d", n))
		copyDir(t, origin, dir)
		ruined(t, dir)
		kept := undamaged(t, dir, ledger)
		syncTree(t, mount.Dir())
		faults := vfs.NewFaults(vfs.OS())
		r, err := OpenRepair(dir, RepairOptions{FS: faults})
		if err != nil {
			t.Fatal(err)
		}
		faults.Arm(vfs.Fault{Op: vfs.OpChange, N: n, Stay: true})
		err = r.Apply()
		report := r.Report()
		_ = r.Close() // the lock goes with the power
		mount.Cut(powerfs.CutOptions{Keep: float64(keep) / 2, Granularity: 512, Seed: uint64(n)})
		if err := mount.Restart(); err != nil {
			t.Fatal(err)
		}
		if again := mustRepair(t, dir, RepairOptions{}); again.Needed() {
			report = again
		} else if err != nil && n < 20 {
			t.Fatalf("change %d: nothing is left to do", n)
		}
		checkRepaired(t, dir, last, kept, report)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			break
		}
	}
}

// stride is how far apart the changes are that a test stops at.
func stride() int {
	if longTest() {
		return 1
	}
	return 3
}

// syncTree makes everything in dir durable.
func syncTree(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}
