package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walproxy/walproxy/internal/crashfs"
	"github.com/walproxy/walproxy/internal/powerfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// recorded is the life of a log whose engine is not behind internal/vfs: it works on a
// mount, and what arrives there is made again on a disk of crashfs.
func recorded(t *testing.T, engine string, seed uint64, steps int) *life {
	t.Helper()
	power := powerfs.NewDisk(powerfs.Options{})
	mount, err := powerfs.NewMount(power, t.TempDir())
	if errors.Is(err, powerfs.ErrUnavailable) {
		t.Skipf("NOT TESTED: power cuts after each call of the engine %s: %v", engine, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	disk := crashfs.New(0)
	l := newLife(engine, disk, seed)
	disk.SetHook(nil)
	var calls []crashfs.Call
	power.Record(func(c crashfs.Call) {
		_ = l.before(c)
		calls = append(calls, c) // under the disk's lock
	})
	l.dir = filepath.Join(mount.Dir(), logDir)
	l.with = func(o *Options) { o.Engine, o.FS = engine, vfs.OS() }
	l.settled = watermarkWritten
	err = l.work(steps)
	power.Record(nil)
	if err != nil {
		t.Fatalf("WALPROXY_SEED=%d: %v", seed, err)
	}
	for _, c := range calls {
		disk.Replay(c)
	}
	l.dir, l.with = logDir, nil
	return l
}

// watermarkWritten waits for the watermark of a log with a real clock.
func watermarkWritten(l *Log) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		l.mark.mu.Lock()
		written := l.mark.last.durable
		l.mark.mu.Unlock()
		if written == l.Durable() || l.Err() != nil {
			return nil
		}
	}
	return fmt.Errorf("no watermark of LSN %d", l.Durable())
}

// TestPowerCutAtEveryCallRecorded is TestPowerCutAtEveryCall for the engine tidwall,
// which makes its calls itself. The starts after it go on with the engine native.
func TestPowerCutAtEveryCallRecorded(t *testing.T) {
	t.Parallel()
	p := cutsOf(cutPlan{1, 7, 60, 1}, cutPlan{seeds: 20, steps: 60, apart: 11})
	everySeed(t, p.seeds, func(seed uint64) {
		l := recorded(t, EngineTidwall, seed, p.steps)
		synctest.Test(t, func(t *testing.T) { p.cutAll(t, seed, l) })
	})
}
