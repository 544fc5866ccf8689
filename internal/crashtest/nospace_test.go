package crashtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/wal"
)

// newLoop mounts an image that mkfs made a file system of.
func newLoop(t *testing.T, size int64, mkfs ...string) string {
	t.Helper()
	needsRoot(t)
	needs(t, mkfs[0], "mount", "losetup")
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o644), os.Truncate(image, size))
	run(t, append(mkfs, image)...)
	dir := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(dir, 0o755))
	if out, err := exec.Command("mount", "-o", "loop,noatime", image, dir).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: %s: %v\n%s", mkfs[0], err, out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// TestNoSpaceAtEveryOffset lets the disk be full at every block of a log's files, its
// creation included: the log says so, and has what it acked when there is space again.
func TestNoSpaceAtEveryOffset(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		mount func(t *testing.T) string
		block int64
		slow  bool // not in the short form
	}{
		{"tmpfs", func(t *testing.T) string { return newTmpfs(t, 2*mib) }, 4096, false},
		{"ext4", func(t *testing.T) string {
			return newExt4(t, filepath.Join(t.TempDir(), "image"), 16*mib, "^has_journal")
		}, 4096, false},
		{"ext4-journal", func(t *testing.T) string {
			return newExt4(t, filepath.Join(t.TempDir(), "image"), 16*mib, "has_journal")
		}, 4096, true},
		{"xfs", func(t *testing.T) string { return newLoop(t, 320*mib, "mkfs.xfs", "-q", "-f") }, 16 << 10, true},
		{"btrfs", func(t *testing.T) string { return newLoop(t, 128*mib, "mkfs.btrfs", "-q", "-f", "-M") }, 64 << 10, true},
	} {
		if c.slow && !long() {
			continue
		}
		for _, engine := range wal.Engines() {
			t.Run(c.name+"/"+engine, func(t *testing.T) {
				ctx := timeout(t, 5*time.Minute, time.Hour)
				root, full := c.mount(t), 0
				blocks := times(20, 120)
				for i := range blocks {
					if fillUp(ctx, t, root, engine, int64(i)*c.block) {
						full++
					}
				}
				if full == 0 {
					t.Errorf("the disk was full in %d of %d rounds", full, blocks)
				}
			})
		}
	}
}

// fillUp writes to a log on a disk with so much space, and looks at it with more. It
// reports whether the space was used up.
func fillUp(ctx context.Context, t *testing.T, root, engine string, free int64) (full bool) {
	t.Helper()
	ballast := filepath.Join(root, "ballast")
	leave(t, root, ballast, free)
	dir := filepath.Join(root, "log")
	o := wal.Options{Engine: engine, SegmentBytes: 24 << 10, MinFree: -1, GroupBytes: 4 << 10}
	acked, tried := wal.LSN(0), wal.LSN(0)
	record := func(lsn wal.LSN) []byte { return bytes.Repeat(fmt.Appendf(nil, "%07d|", lsn), 90) }
	l, err := wal.Open(dir, o)
	for err == nil && tried < 120 {
		tried++
		var lsn wal.LSN
		if lsn, err = l.Append(ctx, record(tried)); err == nil {
			acked = lsn
		}
	}
	full = err != nil
	if full && !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%d bytes free: %v", free, err)
	}
	if l != nil {
		if err := l.Close(); full != errors.Is(err, wal.ErrPoisoned) && err != nil {
			t.Fatalf("%d bytes free: close: %v", free, err)
		}
	}
	must(t, os.Remove(ballast))
	freed(t, root)
	l, err = wal.Open(dir, o)
	if err != nil {
		t.Fatalf("%d bytes free, acked %d: with space again: %v", free, acked, err)
	}
	if d := l.Durable(); d < acked || d > tried {
		t.Fatalf("%d bytes free: durable %d, acked %d of %d", free, d, acked, tried)
	}
	r, err := l.NewReader(1)
	must(t, err)
	for lsn := wal.LSN(1); lsn <= l.Durable(); lsn++ {
		rec, err := r.Next(ctx)
		if err != nil || rec.LSN != lsn || !bytes.Equal(rec.Payload, record(lsn)) {
			t.Fatalf("%d bytes free: LSN %d is %d: %v", free, lsn, rec.LSN, err)
		}
	}
	_, err = l.Append(ctx, record(tried))
	must(t, err, r.Close(), l.Close(), os.RemoveAll(dir))
	return full
}

// leave fills the disk up, but for so many bytes.
func leave(t *testing.T, root, ballast string, free int64) {
	t.Helper()
	freed(t, root)
	var st unix.Statfs_t
	must(t, unix.Statfs(root, &st))
	size := int64(st.Bavail)*st.Bsize - free
	f, err := os.Create(ballast)
	must(t, err)
	for step := int64(mib); step >= 4096; {
		at, err := f.Seek(0, 2)
		must(t, err)
		if at+step > size {
			step /= 2
			continue
		}
		if _, err := f.Write(make([]byte, step)); err != nil {
			step /= 2
		}
	}
	_ = f.Sync() // ENOSPC is what is asked for
	must(t, f.Close())
}

// freed: what was removed is free when it returns.
func freed(t *testing.T, root string) {
	t.Helper()
	top, err := os.Open(root)
	must(t, err)
	// That a page of the ballast found no room is told here, once, by file systems that
	// find it out late (btrfs).
	if err := unix.Syncfs(int(top.Fd())); !errors.Is(err, unix.ENOSPC) {
		must(t, err)
	}
	must(t, top.Close())
}
