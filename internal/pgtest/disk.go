package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// filler is the file that Fill grows.
const filler = "filler"

func (c *Cluster) mount() error {
	if err := unix.Mount("pgtest", c.dir, "tmpfs", 0, fmt.Sprintf("size=%d", c.options.DiskBytes)); err != nil {
		return fmt.Errorf("pgtest: a small file system needs root: %w", err)
	}
	c.mounted = true
	return give(c.dir)
}

func (c *Cluster) unmount() error {
	if err := unix.Unmount(c.dir, 0); err != nil {
		return unix.Unmount(c.dir, unix.MNT_DETACH)
	}
	return nil
}

// Fill leaves no more than that many bytes on the disk of a cluster made with
// DiskBytes.
func (c *Cluster) Fill(t testing.TB, leave int64) {
	t.Helper()
	if !c.mounted {
		t.Fatal("pgtest: Fill needs Options.DiskBytes")
	}
	f, err := os.OpenFile(filepath.Join(c.dir, filler), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		err := grow(f, leave)
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.ENOSPC) { // the server was faster: measure again
			t.Fatal(err)
		}
	}
}

// grow takes what is free on f's disk but for leave bytes.
func grow(f *os.File, leave int64) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	more := int64(fs.Bavail)*fs.Bsize - leave
	if err != nil || more <= 0 {
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, size, more)
}

// Free takes back what Fill took.
func (c *Cluster) Free(t testing.TB) {
	t.Helper()
	if err := os.Remove(filepath.Join(c.dir, filler)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
