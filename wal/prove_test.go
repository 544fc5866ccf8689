package wal

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestProve: an idle log writes and syncs something for it, and stays what it was.
func TestProve(t *testing.T) {
	dir := t.TempDir()
	o, hook := hooked(testOptions())
	l := mustOpen(t, dir, o)
	appendN(t, l, 3, 50)
	before, synced := l.Stats(), hook.syncs.Load()
	for range 5 {
		if err := l.Prove(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	after := l.Stats()
	if got := after.WatermarkSyncs - before.WatermarkSyncs; got < 5 {
		t.Errorf("%d watermarks were written for 5 calls: an fsync of nothing proves nothing", got)
	}
	if got := hook.syncs.Load() - synced; got != 5 {
		t.Errorf("%d syncs of the segment, want 5", got)
	}
	if after.Records != before.Records || after.Groups != before.Groups || after.Appended != 3 || after.Durable != 3 {
		t.Errorf("it counts as a write: %+v", after)
	}
	if timings := l.Timings(); timings.Group.Count() != before.Groups {
		t.Errorf("%d groups in the timings, want %d", timings.Group.Count(), before.Groups)
	}
	mustClose(t, l)
	if err := l.Prove(testContext(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	l = mustOpen(t, dir, testOptions())
	checkRecords(t, l, 1, 3, 50)
}

// TestProveWhileDiskHangs: while an fsync does not return there is no proof, one that
// had begun before the call is none either, and records that come meanwhile are one.
func TestProveWhileDiskHangs(t *testing.T) {
	o, hook := hooked(testOptions())
	l := mustOpen(t, t.TempDir(), o)
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
	ticket, err := l.Enqueue(testContext(t), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	<-held
	short, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errDisk)
	defer cancel()
	if err := l.Prove(short); !errors.Is(err, errDisk) {
		t.Fatalf("the disk hangs, and Prove says %v", err)
	}
	proved := make(chan error, 1)
	go func() { proved <- l.Prove(testContext(t)) }()
	close(hold)
	if err := ticket.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-proved; err != nil {
		t.Fatal(err)
	}
	if n := hook.syncs.Load(); n < 2 {
		t.Errorf("%d syncs: that of before the call is no proof", n)
	}
}

// TestProvePoisons: a failed fsync is one whoever asked for it.
func TestProvePoisons(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync} {
		t.Run(string(op), func(t *testing.T) {
			dir := t.TempDir()
			faults := vfs.NewFaults(vfs.OS())
			o := testOptions()
			o.FS = faults
			l := mustOpen(t, dir, o)
			appendN(t, l, 3, 50)
			faults.Arm(vfs.Fault{Op: op, Path: "watermark*", Stay: true, Err: errDisk})
			if err := l.Prove(testContext(t)); !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
				t.Fatalf("got %v", err)
			}
			if err := l.Prove(testContext(t)); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("again: %v", err)
			}
			if _, err := l.Append(testContext(t), nil); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("Append: %v", err)
			}
			if err := l.Close(); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("Close: %v", err)
			}
			l = mustOpen(t, dir, testOptions())
			checkRecords(t, l, 1, 3, 50)
		})
	}
}

// TestProveUnderLoad: beside writers and a Close nobody hangs.
func TestProveUnderLoad(t *testing.T) {
	l := mustOpen(t, t.TempDir(), testOptions())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := l.Append(testContext(t), make([]byte, 100)); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for {
				if err := l.Prove(testContext(t)); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	if err := l.WaitDurable(testContext(t), 200); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
