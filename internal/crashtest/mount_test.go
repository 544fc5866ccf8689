package crashtest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newTmpfs mounts a tmpfs of that many bytes.
func newTmpfs(t *testing.T, size int64) string {
	t.Helper()
	needsRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("crashtest", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)))
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// resizeTmpfs changes the size of a mounted tmpfs.
func resizeTmpfs(t *testing.T, dir string, size int64) {
	t.Helper()
	must(t, unix.Mount("crashtest", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size)))
}

// unmount takes the mount away, whoever still has files in it.
func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, 0); err != nil {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	}
}

// newExt4 mounts an ext4 in a sparse image of that many bytes; features are
// mkfs's -O.
func newExt4(t *testing.T, image string, size int64, features string) string {
	t.Helper()
	needsRoot(t)
	needs(t, "mkfs.ext4", "mount", "losetup")
	must(t, os.WriteFile(image, nil, 0o644), os.Truncate(image, size))
	run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-O", features, "-E", "lazy_itable_init=0,nodiscard", image)
	dir := filepath.Join(t.TempDir(), "ext4")
	must(t, os.Mkdir(dir, 0o755))
	if out, err := exec.Command("mount", "-o", "loop,noatime", image, dir).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: no loop device here: %v\n%s", err, out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// limitRequests makes every request to the loop device of an image one page
// long. It takes a write that its file took in part for a whole one (Linux 6.18,
// and a bare write and fsync loses data on it, too); one page is never taken in
// part.
func limitRequests(t *testing.T, image string) {
	t.Helper()
	out, err := exec.Command("losetup", "-n", "-O", "NAME", "-j", image).Output()
	must(t, err)
	device := filepath.Base(strings.TrimSpace(string(out)))
	must(t, os.WriteFile(filepath.Join("/sys/block", device, "queue", "max_sectors_kb"), []byte("4"), 0))
}
