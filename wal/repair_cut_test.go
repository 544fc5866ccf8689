package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walproxy/walproxy/internal/crashfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// copyToDisk puts a directory on a disk, durably.
func copyToDisk(t *testing.T, from string, disk *crashfs.Disk, to string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(disk.MkdirAll(to, 0o755))
	must(filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		must(err)
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return disk.MkdirAll(target, 0o755)
		}
		f, err := disk.OpenFile(target, os.O_WRONLY|os.O_CREATE, 0o644)
		must(err)
		_, err = f.WriteAt(mustRead(t, path), 0)
		return errors.Join(err, f.Sync(), f.Close())
	}))
	must(filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = disk.SyncDir(filepath.Join(to, strings.TrimPrefix(path, from)))
		}
		return err
	}))
	for dir := to; dir != "/"; dir = filepath.Dir(dir) {
		must(disk.SyncDir(filepath.Dir(dir)))
	}
}

// copyFromDisk puts a directory of a disk where other programs see it.
func copyFromDisk(t *testing.T, disk *crashfs.Disk, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), copyOut(disk, from, to)); err != nil {
		t.Fatal(err)
	}
}

func copyOut(disk *crashfs.Disk, from, to string) error {
	list, err := disk.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, entry := range list {
		name, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		if entry.IsDir() {
			err = copyOut(disk, name, target)
		} else if b, readErr := vfs.ReadFile(disk, name, 1<<20); readErr != nil {
			err = readErr
		} else {
			err = os.WriteFile(target, b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// repairCutter cuts the power in a repair, and in the repairs after it.
type repairCutter struct {
	*testing.T
	out     string // for looking at a disk
	last    LSN
	kept    map[LSN]bool
	before  []string // contentsOf what is repaired
	ways    int
	apart   int // calls between two cuts of a repair after a cut
	repairs int
	at      string
}

// repair repairs what is on disk, and remembers the calls.
func (c *repairCutter) repair(disk *crashfs.Disk) (*RepairReport, error) {
	c.repairs++
	r, err := OpenRepair(logDir, RepairOptions{FS: disk})
	if err != nil {
		return nil, err
	}
	report := r.Report()
	return report, errors.Join(r.Apply(), r.Close())
}

// all cuts the power after each of the calls of a repair that began on base, or those so
// far apart; or ends the repair there, and not the power. done is what it reports.
func (c *repairCutter) all(base *crashfs.Disk, calls []crashfs.Call, done *RepairReport, name string, depth, apart int) {
	c.Helper()
	disk := base.Clone()
	first := c.repairs // spreads those of the repairs after a cut
	for n := 0; ; n++ {
		if (n+first)%apart == 0 || n == len(calls) {
			for i, cut := range cuts {
				if at := n / apart; n == len(calls) && i >= c.ways || n < len(calls) && (at+i)%len(cuts) >= c.ways {
					continue
				}
				cut.Seed = uint64(n)
				c.again(disk.Cut(cut), done, fmt.Sprintf("%s: call %d, %+v", name, n, cut), n == len(calls), depth)
			}
			if n < len(calls) {
				c.again(disk.Clone(), done, fmt.Sprintf("%s: killed at call %d", name, n), false, depth)
			}
		}
		if n > 0 && depth > 1 && calls[n-1].Kind == crashfs.Rename { // the next one finds it done, and not durable
			c.again(disk.Clone(), done, fmt.Sprintf("%s: killed at call %d", name, n), false, 1)
		}
		if n == len(calls) {
			return
		}
		disk.Replay(calls[n])
	}
}

// again repairs what a power cut left of a repair. A start before that is refused,
// unless the repair had come to its end: whole says that it had.
func (c *repairCutter) again(left *crashfs.Disk, done *RepairReport, name string, whole bool, depth int) {
	c.Helper()
	c.at = name
	o := testOptions()
	o.Engine, o.FS = EngineNative, left.Clone() // tidwall knows the real files only
	l, refused := Open(logDir, o)
	if refused == nil {
		mustClose(c, l)
	}
	disk := left.Clone()
	report, err := c.repair(disk)
	if err != nil {
		c.Fatalf("%s: %v", name, err)
	}
	if (refused == nil) == report.Needed() || whole && report.Needed() {
		c.Fatalf("%s: a start says: %v; a repair: %s", name, refused, textOf(report))
	}
	if report.Interrupted && (report.ID != done.ID || fmt.Sprint(report.Lost) != fmt.Sprint(done.Lost)) {
		c.Fatalf("%s: it is not finished as it was planned: %s", name, textOf(report))
	}
	if !report.Needed() {
		report = done
	}
	for i, after := range []crashfs.Cut{{}, {Keep: 1}} { // what it did is durable
		if i > 0 && !longTest() {
			continue
		}
		copyFromDisk(c.T, disk.Cut(after), logDir, c.out)
		checkAside(c.T, c.out, c.before, report)
		checkRepaired(c.T, c.out, c.last, c.kept, report)
	}
	if depth > 1 {
		c.all(left, disk.Calls(), report, name, depth-1, c.apart)
	}
}

// TestPowerCutAtEveryCallOfRepair cuts the power after each call of a repair, or ends it
// there, and again in the repair after it: the next one finishes, and what it did is
// durable when it says so.
func TestPowerCutAtEveryCallOfRepair(t *testing.T) {
	t.Parallel()
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	c := &repairCutter{T: t, out: filepath.Join(root, "out"), ways: 1, apart: 71}
	apart := 17
	if longTest() {
		c.ways, c.apart, apart = len(cuts), 5, 1
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.at)
		}
	})
	c.last = smallLog(t, origin, false)
	ledger := ledgerOf(t, origin)
	copyDir(t, origin, dir)
	ruined(t, dir)
	c.kept = undamaged(t, dir, ledger)
	c.before = contentsOf(t, dir)
	base := crashfs.New(0)
	copyToDisk(t, dir, base, logDir)
	base = base.Cut(crashfs.Cut{})
	disk := base.Clone()
	done, err := c.repair(disk)
	if err != nil {
		t.Fatal(err)
	}
	calls := disk.Calls()
	if len(calls) < 60 {
		t.Fatalf("only %d calls", len(calls))
	}
	c.all(base, calls, done, "repair", 2, apart)
	t.Logf("%d calls, %d repairs", len(calls), c.repairs)
}
