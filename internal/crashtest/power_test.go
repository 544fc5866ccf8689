package crashtest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/powerfs"
)

// newPowerMount mounts a disk that can lose its power.
func newPowerMount(t *testing.T) *powerfs.Mount {
	t.Helper()
	mount, err := powerfs.NewMount(powerfs.NewDisk(powerfs.Options{SyncDelay: 300 * time.Microsecond, Capacity: 4 << 30}), t.TempDir())
	if errors.Is(err, powerfs.ErrUnavailable) {
		t.Skipf("POWER CUTS ARE NOT TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return mount
}

// TestPowerCut cuts the power under the real server at random instants, or in the place
// of a call, while clients write, and compares after each restart. The engines take
// turns.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	mount, r := newPowerMount(t), rng(t)
	s := newServer(t, filepath.Join(mount.Dir(), "data"))
	for i := range times(6, 100) {
		s.start(ctx, engine(i/2))
		cut := powerfs.CutOptions{Keep: float64(i%3) / 2, Granularity: 512 << (3 * (i % 2)), Seed: r.Uint64()}
		stop := s.load(ctx)
		if i%2 == 0 {
			s.waitAcked(ctx, 1+r.IntN(1000))
			time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond)))) // a random instant, not a condition
			mount.Cut(cut)
		} else {
			mount.Disk().Arm(powerfs.Fault{Op: powerfs.OpChange, N: 1 + r.IntN(1000), Cut: &cut})
			waitMet(ctx, t, mount, nil)
			mount.Disk().Disarm()
		}
		s.process.Kill()
		stop()
		must(t, mount.Restart())
		s.start(ctx, engine(i/3))
		s.check(ctx)
		if i%2 == 0 { // else: cut again right behind the recovery
			stop := s.load(ctx)
			s.waitAcked(ctx, 100)
			stop()
		}
		mount.Cut(powerfs.CutOptions{Keep: r.Float64(), Granularity: 512, Seed: r.Uint64()})
		s.process.Kill()
		must(t, mount.Restart())
	}
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// TestPowerCutSeesMissingSync takes the log's fsync out of the code: the test
// above would have to fail. First it is the log's own witness, the watermark,
// that refuses to start on what is left; with an older one the ledger tells.
func TestPowerCutSeesMissingSync(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, time.Minute)
	mount := newPowerMount(t)
	// One segment: a roll would sync the one before.
	s := newServer(t, filepath.Join(mount.Dir(), "data"), "WALPROXY_LOG__SEGMENT_BYTES=64MiB")
	// The sink stands still: it syncs on its own and would save some of it.
	s.start(ctx, paused)
	s.fill(ctx, 100, 0)
	s.terminate(exitRemaining, "100 records stay in the log")
	watermark := filepath.Join(s.dir, "log", "watermark")
	older, err := os.ReadFile(watermark)
	must(t, err)
	s.start(ctx, "WALPROXY_FAILPOINTS=wal-skip-sync", paused)
	stop := s.load(ctx)
	s.waitAcked(ctx, 500)
	mount.Cut(powerfs.CutOptions{})
	s.process.Kill()
	stop()
	must(t, mount.Restart())
	if err := s.tryStart(ctx); err == nil {
		t.Error("the server started although its watermark is beyond its log")
	} else if !strings.Contains(err.Error(), "exit code 4") || !strings.Contains(err.Error(), "corrupt") {
		t.Errorf("the start was refused with %v, want exit code 4: corrupt", err)
	}
	must(t, os.WriteFile(watermark, older, 0o644))
	s.start(ctx)
	report, err := s.report(ctx)
	must(t, err)
	if report.Lost == 0 {
		t.Errorf("%d acked writes were not synced, and nothing is lost: %s", report.Acked, report)
	}
	s.process.Kill() // before the disk goes
}
