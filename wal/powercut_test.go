package wal

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/walproxy/walproxy/internal/crashfs"
)

// cuts are the ways in which a power cut goes.
var cuts = []crashfs.Cut{
	{},
	{Keep: 1},
	{Keep: 0.5},
	{Keep: 0.1, Stale: true},
	{Keep: 0.5, Ordered: true, Stale: true},
	{Keep: 0.9, Sector: 4096},
}

// powerCutter cuts the power in a life, and in the lives after it.
type powerCutter struct {
	tb    testing.TB
	seed  uint64
	apart int // calls between two cuts of a second life
	ways  int // of cuts, in turn, after a call
	lives int
}

func (c *powerCutter) fail(l *life, n int, cut crashfs.Cut, err error) {
	c.tb.Helper()
	calls := l.disk.Calls()
	var tail strings.Builder
	for i := max(0, n-25); i < n; i++ {
		fmt.Fprintf(&tail, "\n%5d %s", i+1, calls[i])
	}
	c.tb.Fatalf("rerun with WALPROXY_SEED=%d: %s: after call %d, %+v: %v%s", c.seed, l.name, n, cut, err, tail.String())
}

// all cuts the power after each call of l, or those so far apart, which began on the
// disk base. depth is how many of the following lives are cut, too.
func (c *powerCutter) all(l *life, base *crashfs.Disk, depth, apart int) {
	c.tb.Helper()
	disk := base.Clone()
	first := c.lives // spreads those of a second life
	for n, call := range append([]crashfs.Call{{}}, l.disk.Calls()...) {
		if n > 0 {
			disk.Replay(call)
		}
		if (n+first)%apart != 0 {
			continue
		}
		for i, cut := range cuts {
			if (n/apart+i)%len(cuts) < c.ways {
				cut.Seed = c.seed + uint64(n)
				c.cut(l, n, disk, cut, depth)
			}
		}
		if depth > 1 {
			c.names(l, n, disk, call)
			c.kill(l, n, disk)
		}
	}
}

// cut cuts the power in one way after call n of l.
func (c *powerCutter) cut(l *life, n int, disk *crashfs.Disk, cut crashfs.Cut, depth int) {
	c.tb.Helper()
	left := disk.Cut(cut)
	name := fmt.Sprintf("%s.%d", l.name, n)
	if cut.Keep == 0 || cut.Keep == 1 {
		if err := l.next(name, left.Clone(), n).refusesDamage(); err != nil {
			c.fail(l, n, cut, err)
		}
	}
	next := l.next(name, left.Clone(), n)
	c.lives++
	if err := next.restart(); err != nil {
		c.fail(l, n, cut, err)
	}
	if depth > 1 {
		c.all(next, left, depth-1, c.apart)
	}
}

// names lets each of the last pending changes of names survive alone, and all others.
func (c *powerCutter) names(l *life, n int, disk *crashfs.Disk, call crashfs.Call) {
	c.tb.Helper()
	if call.Kind == crashfs.Write || call.Kind == crashfs.Sync || call.Kind == crashfs.Resize {
		return // tried before it
	}
	pending := disk.Pending()
	for one := max(0, pending-4); one < pending; one++ {
		for _, alone := range []bool{true, false} {
			c.cut(l, n, disk, crashfs.Cut{Keep: 0.9, Names: func(i int) bool { return (i == one) == alone }}, 1)
		}
	}
}

// kill ends the log and not the power; that is cut in the life after it.
func (c *powerCutter) kill(l *life, n int, disk *crashfs.Disk) {
	c.tb.Helper()
	next := l.next(fmt.Sprintf("%s.%d", l.name, n), disk.Clone(), n)
	next.cached = true
	c.lives++
	if err := next.restart(); err != nil {
		c.fail(l, n, crashfs.Cut{Keep: 1}, fmt.Errorf("killed: %w", err))
	}
	c.all(next, disk, 1, c.apart)
}

// TestFailureAtEveryCall lets one call fail, each in turn: the log is poisoned or not
// opened, it does not touch again what failed, and a start afterwards, with the page
// cache as it was or after a power cut, has what was acknowledged.
func TestFailureAtEveryCall(t *testing.T) {
	t.Parallel()
	seeds, steps, apart, cutsApart := 1, 12, 4, 12
	if longTest() {
		seeds, steps, apart, cutsApart = 20, 30, 1, 3
	}
	everySeed(t, seeds, func(seed uint64) {
		failEachCall(t, seed, 60, apart, cutsApart, func(l *life) error { return l.work(steps) })
	})
}

// failEachCall lets each of the calls of work fail in turn, of which there are so many at
// least; those far into it only if they are so far apart.
func failEachCall(t *testing.T, seed uint64, atLeast, apart, cutsApart int, work func(*life) error) {
	errnos := []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EINTR}
	synctest.Test(t, func(t *testing.T) {
		c := &powerCutter{tb: t, seed: seed, apart: cutsApart, ways: 2}
		const creation = 30
		tried := 0
		for n := 1; ; n++ {
			if n > creation && n%apart != 0 {
				continue
			}
			tried++
			errno := errnos[tried%len(errnos)]
			l, failed, err := failAt(n, errno, seed, work)
			if failed.Kind == "" {
				if err != nil || n <= atLeast {
					t.Fatalf("call %d: nothing failed: %v", n, err)
				}
				t.Logf("%d calls failed in turn, %d starts", tried-1, c.lives)
				return
			}
			calls := len(l.disk.Calls())
			if err := afterFailure(l, failed, errno, err); err != nil {
				c.fail(l, calls, crashfs.Cut{}, fmt.Errorf("call %d, %s, failed: %w", n, failed, err))
			}
			l.name = fmt.Sprintf("%s (%s)", l.name, failed)
			for i, cut := range cuts {
				cut.Seed = uint64(n + i)
				c.cut(l, calls, l.disk, cut, 1)
			}
			c.kill(l, calls, l.disk)
		}
	})
}

// failedCall is one that failed, and how many were made up to it.
type failedCall struct {
	crashfs.Call
	after int
	ahead bool // it may have been made during a sync
}

// failAt lets call n of some work fail.
func failAt(n int, errno syscall.Errno, seed uint64, work func(*life) error) (l *life, failed failedCall, err error) {
	l = newLife(fmt.Sprintf("fail%d", n), crashfs.New(0), seed)
	seen := 0
	l.fail = func(c crashfs.Call) error {
		if seen++; seen == n {
			failed = failedCall{c, len(l.promises), l.with != nil}
			if c.Kind == crashfs.Write || c.Kind == crashfs.Sync || c.Kind == crashfs.SyncDir {
				failed.after++
			}
			return errno
		}
		return nil
	}
	err = work(l)
	return l, failed, err
}

// afterFailure looks at what a log did after a call failed, and said.
func afterFailure(l *life, failed failedCall, errno syscall.Errno, err error) error {
	if strings.Contains(failed.Path, "/trash/") && failed.Kind == crashfs.Remove {
		return err // space, no data
	}
	if !errors.Is(err, errno) {
		return fmt.Errorf("the log says %w, not %w", err, errno)
	}
	if errors.Is(err, errAcks) {
		return err
	}
	syncing := failed.Kind == crashfs.Write // a sync may have begun before a write ahead failed
	for _, later := range l.disk.Calls()[failed.after:] {
		if later.Node == failed.Node && later.Kind == crashfs.Sync && syncing && failed.ahead {
			syncing = false
			continue
		}
		if later.Node == failed.Node && (later.Kind == crashfs.Write || later.Kind == crashfs.Sync || later.Kind == crashfs.Resize) {
			return fmt.Errorf("it is touched again: %s", later)
		}
		if mark, ok := decodeWatermark(later.Data); ok && mark.clean {
			return fmt.Errorf("a clean stop is noted: %s", later)
		}
	}
	return nil
}

// seedOf is that of WALPROXY_SEED, else fallback.
func seedOf(t testing.TB, fallback uint64) (seed uint64, asked bool) {
	t.Helper()
	text := os.Getenv("WALPROXY_SEED")
	if text == "" {
		return fallback, false
	}
	if _, err := fmt.Sscan(text, &seed); err != nil {
		t.Fatalf("WALPROXY_SEED: %v", err)
	}
	return seed, true
}

// usedAgain counts the files of freed segments that became another one's.
func usedAgain(disk *crashfs.Disk) (n int) {
	for _, c := range disk.Calls() {
		if c.Kind == crashfs.Rename && strings.Contains(c.Path, "/trash/") && strings.Contains(c.To, "/segments/") {
			n++
		}
	}
	return n
}

// everySeed calls f with 1, 2 ..., or with the one seed that was asked for.
func everySeed(t *testing.T, seeds int, f func(seed uint64)) {
	for i := range seeds {
		seed, asked := seedOf(t, uint64(i+1))
		f(seed)
		if asked {
			return
		}
	}
}

// cutPlan is how much of a test with power cuts is done.
type cutPlan struct{ seeds, steps, apart, ways int }

// cutsOf is the long form of a plan, or the short one.
func cutsOf(short, long cutPlan) cutPlan {
	if longTest() {
		long.ways = len(cuts)
		return long
	}
	return short
}

// cutAll cuts the power everywhere in a life, and reports it.
func (p cutPlan) cutAll(t *testing.T, seed uint64, l *life) {
	c := &powerCutter{tb: t, seed: seed, apart: p.apart, ways: p.ways}
	again := usedAgain(l.disk)
	c.all(l, crashfs.New(0), 2, 1)
	t.Logf("seed %d: %d calls, %d files of freed segments used again, %d starts", seed, len(l.disk.Calls()), again, c.lives)
}

// TestPowerCutAtEveryCall cuts the power after each call that changes the disk, of
// random work and of the recoveries after it.
func TestPowerCutAtEveryCall(t *testing.T) {
	t.Parallel()
	p := cutsOf(cutPlan{1, 12, 40, 2}, cutPlan{seeds: 20, steps: 60, apart: 11})
	everySeed(t, p.seeds, func(seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			l := newLife("a", crashfs.New(0), seed)
			if err := l.work(p.steps); err != nil {
				t.Fatal(err)
			}
			p.cutAll(t, seed, l)
		})
	})
}

// TestPowerCutInUsedFiles is TestPowerCutAtEveryCall with segments in files of freed
// ones, which are full of old frames.
func TestPowerCutInUsedFiles(t *testing.T) {
	t.Parallel()
	p := cutsOf(cutPlan{1, 6, 60, 1}, cutPlan{seeds: 20, steps: 40, apart: 11})
	everySeed(t, p.seeds, func(seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			l := newLife("a", crashfs.New(0), seed)
			l.segmentBytes = 12 << 10
			if err := l.workInUsedFiles(p.steps); err != nil {
				t.Fatal(err)
			}
			if usedAgain(l.disk) == 0 {
				t.Fatalf("seed %d: no file was used again", seed)
			}
			p.cutAll(t, seed, l)
		})
	})
}
