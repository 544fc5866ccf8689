package crashtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/powerfs"
)

// engine is one of the log's engines, in turn.
func engine(i int) string {
	return "WALPROXY_LOG__ENGINE=" + []string{"tidwall", "native"}[i%2]
}

// waitMet waits until a fault has met a call.
func waitMet(ctx context.Context, t *testing.T, mount *powerfs.Mount, ended <-chan struct{}) (met bool) {
	t.Helper()
	for mount.Disk().Met() == 0 {
		select {
		case <-ended:
			return false
		case <-ctx.Done():
			t.Fatalf("the fault met no call: %v", context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// logFaults are what the disk does to the log's files, by the names that they have.
func logFault(r *rand.Rand) powerfs.Fault {
	f := powerfs.Fault{N: 1 + r.IntN(60), Err: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[r.IntN(2)]}
	switch r.IntN(7) {
	case 0:
		f.Op, f.Path, f.N = powerfs.OpWrite, "watermark", 1+r.IntN(6)
	case 1:
		f.Op, f.Path, f.N = powerfs.OpSync, "watermark", 1+r.IntN(6)
	case 2:
		f.Op, f.Path, f.Tear = powerfs.OpWrite, "[f0]*[s01]", true // frames, or tidwall's file
	case 3:
		f.Op, f.Path = powerfs.OpSync, "[f0]*[s01]"
	case 4:
		f.Op, f.Path, f.N = powerfs.OpCreate, "0000000000??????", 1+r.IntN(6) // the next segment
	case 5:
		f.Op, f.Path, f.N = powerfs.OpSyncDir, "0000000000??????", 1+r.IntN(6)
	case 6:
		f.Op, f.Path, f.N = powerfs.OpSyncDir, "segments", 1+r.IntN(6)
	}
	return f
}

// TestFaultyDisk lets a call on the log's files fail, or be done by half, under the
// real server: it ends with an error, and what it acked is there at the next start, on
// the page cache that it left, and after a power cut behind that one.
func TestFaultyDisk(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	mount, r := newPowerMount(t), rng(t)
	s := newServer(t, filepath.Join(mount.Dir(), "data"))
	for i := range times(2, 90) {
		s.start(ctx, engine(i))
		fault := logFault(r)
		mount.Disk().Arm(fault)
		stop := s.load(ctx)
		waitMet(ctx, t, mount, s.process.Ended())
		code := s.waitEnded(ctx)
		stop()
		if mount.Disk().Disarm() == 0 || code != exitFailed {
			t.Fatalf("%+v: exit code %d, want %d\n%s", fault, code, exitFailed, s.process.Tail())
		}
		s.start(ctx, engine(i/2))
		s.check(ctx)
		mount.Cut(powerfs.CutOptions{Keep: float64(i%2) / 2, Granularity: 512, Seed: r.Uint64()})
		s.process.Kill()
		must(t, mount.Restart())
		s.start(ctx, engine(i+1))
		s.check(ctx)
		s.process.Kill()
	}
}

// TestSlowDisk lets syncs of the log take long: acks wait for them, none is early, and
// nothing else ends by it.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, time.Minute, 5*time.Minute)
	mount := newPowerMount(t)
	s := newServer(t, filepath.Join(mount.Dir(), "data"))
	s.start(ctx, engine(1))
	const delay = 200 * time.Millisecond
	mount.Disk().Arm(powerfs.Fault{Op: powerfs.OpSync, Path: "frames", Stay: true, Delay: delay})
	began := time.Now()
	s.fill(ctx, 3, 0)
	if took := time.Since(began); took < delay {
		t.Errorf("acked after %v, though the fsync takes %v", took, delay)
	}
	mount.Disk().Disarm()
	mount.Cut(powerfs.CutOptions{})
	s.process.Kill()
	must(t, mount.Restart())
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// TestPowerCutEmbedded cuts the power under a process that has walproxy embedded, at
// any of its calls.
func TestPowerCutEmbedded(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	mount, r := newPowerMount(t), rng(t)
	w := newWriter(t)
	w.dir = filepath.Join(mount.Dir(), "data")
	for i := range times(2, 60) {
		mount.Disk().Arm(powerfs.Fault{Op: powerfs.OpChange, N: 1 + r.IntN(1500),
			Cut: &powerfs.CutOptions{Keep: float64(i%3) / 2, Granularity: 512, Seed: r.Uint64()}})
		if err := w.start(ctx); err == nil { // else it was cut while it started
			waitMet(ctx, t, mount, w.process.Ended())
			w.kill()
		}
		if mount.Disk().Disarm() != 1 {
			t.Fatalf("the power was not cut: %s", fmt.Sprint(w.ledger.Acked()))
		}
		must(t, mount.Restart())
		w.check(ctx)
	}
}
