package powerfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/crashfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// TestFaultyCalls: calls fail, tear and wait as they are told to; a sync that failed is
// never made up for; what is recorded is what was done.
func TestFaultyCalls(t *testing.T) {
	disk := NewDisk(Options{})
	mount, err := NewMount(disk, t.TempDir())
	if errors.Is(err, ErrUnavailable) {
		t.Skipf("NOT TESTED: %v", err)
	}
	must(t, err)
	defer func() { must(t, mount.Unmount()) }()
	again := crashfs.New(0)
	disk.Record(again.Replay)
	path := filepath.Join(mount.Dir(), "file")
	must(t, os.WriteFile(path, []byte("old"), 0o644), vfs.OS().SyncDir(mount.Dir()))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, f.Sync())

	disk.Arm(Fault{Op: OpWrite, Path: "f*", N: 2, Err: syscall.EIO, Tear: true})
	_, err = f.WriteAt([]byte("abcd"), 0)
	must(t, err)
	if _, err := f.WriteAt([]byte("EFGH"), 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if disk.Disarm() != 1 {
		t.Fatal("it met no call")
	}
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "EFcd" {
		t.Fatalf("%q, %v", b, err)
	}
	disk.Arm(Fault{Op: OpWrite, Tear: true})
	if n, err := syscall.Pwrite(int(f.Fd()), []byte("1234"), 0); n != 2 || err != nil {
		t.Fatalf("a short write: %d, %v", n, err)
	}
	disk.Arm(Fault{Op: OpRead, Err: syscall.EIO})
	if _, err := f.ReadAt(b, 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	disk.Arm(Fault{Op: OpSync, Err: syscall.EIO, Delay: 20 * time.Millisecond})
	if began := time.Now(); !errors.Is(f.Sync(), syscall.EIO) || time.Since(began) < 20*time.Millisecond {
		t.Fatal("the sync did not fail, or at once")
	}
	must(t, f.Sync())
	for op, do := range map[Op]func() error{
		OpCreate:  func() error { return os.WriteFile(path+"2", nil, 0o644) },
		OpRename:  func() error { return os.Rename(path, path+"2") },
		OpRemove:  func() error { return os.Remove(path) },
		OpResize:  func() error { return os.Truncate(path, 1) },
		OpSyncDir: func() error { return vfs.OS().SyncDir(mount.Dir()) },
	} {
		disk.Arm(Fault{Op: op, Err: syscall.ENOSPC})
		if err := do(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%s: %v", op, err)
		}
	}
	if got, err := vfs.ReadFile(again, "/file", 100); err != nil || string(got) != "12cd" {
		t.Fatalf("recorded: %q, %v", got, err)
	}
	disk.Disarm()
	disk.Arm(Fault{Op: OpChange, Cut: &CutOptions{}})
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	_ = f.Close()
	disk.Disarm()
	must(t, mount.Restart())
	left, err := os.Open(path)
	must(t, err)
	got, err := io.ReadAll(left)
	must(t, err, left.Close())
	if !bytes.HasPrefix(got, []byte("old")) {
		t.Fatalf("%q is left: what the failed sync was for is lost", got)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
