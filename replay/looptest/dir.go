package looptest

import (
	"os"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

// memoryFree is how much memory there must be for files: of a smaller one, as some
// containers have it, chance may want more.
const memoryFree = 2 << 30

// memoryDir is in memory if possible: a death leaves what was written here, synced or
// not, so that fsyncs only cost time. On a disk with others at work some histories, of
// hundreds of dead letters, each durable before the next, take minutes for them.
func memoryDir(t *testing.T) string {
	t.Helper()
	const shm = "/dev/shm"
	if space, err := vfs.OS().Space(shm); err != nil || space.Free < memoryFree {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "walproxy-looptest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
