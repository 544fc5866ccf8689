package vfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var errDisk = errors.New("the disk failed")

// TestFaults: each kind of call fails when it is told to, and only then.
func TestFaults(t *testing.T) {
	calls := []struct {
		op   Op
		name string
		do   func(fs FS, dir string) error
	}{
		{OpCreate, "new", func(fs FS, dir string) error { return create(fs, filepath.Join(dir, "new"), nil) }},
		{OpWrite, "new", func(fs FS, dir string) error { return create(fs, filepath.Join(dir, "new"), []byte("x")) }},
		{OpOpen, "file", func(fs FS, dir string) error {
			_, err := ReadFile(fs, filepath.Join(dir, "file"), 100)
			return err
		}},
		{OpRead, "file", func(fs FS, dir string) error {
			f, err := fs.OpenFile(filepath.Join(dir, "file"), os.O_RDONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.ReadAt(make([]byte, 1), 0)
			return errors.Join(err, f.Close())
		}},
		{OpSync, "new", func(fs FS, dir string) error { return create(fs, filepath.Join(dir, "new"), []byte("x")) }},
		{OpMkdir, "sub", func(fs FS, dir string) error { return fs.MkdirAll(filepath.Join(dir, "sub"), 0o755) }},
		{OpRename, "file", func(fs FS, dir string) error {
			return fs.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "other"))
		}},
		{OpRemove, "file", func(fs FS, dir string) error { return fs.Remove(filepath.Join(dir, "file")) }},
		{OpRemove, "file", func(fs FS, dir string) error { return fs.RemoveAll(filepath.Join(dir, "file")) }},
		{OpSyncDir, "*", func(fs FS, dir string) error { return fs.SyncDir(dir) }},
		{OpReadDir, "*", func(fs FS, dir string) error { _, err := fs.ReadDir(dir); return err }},
		{OpSpace, "*", func(fs FS, dir string) error { _, err := fs.Space(dir); return err }},
	}
	for _, c := range calls {
		t.Run(string(c.op), func(t *testing.T) {
			fs := NewFaults(OS())
			prepare := func() string {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
				return dir
			}
			fs.Arm(Fault{Op: c.op, Path: c.name, N: 2, Err: errDisk})
			fs.Arm(Fault{Op: c.op, Path: "elsewhere", Err: errDisk})
			for i, want := range []error{nil, errDisk, nil} {
				if err := c.do(fs, prepare()); !errors.Is(err, want) {
					t.Fatalf("call %d: %v, want %v", i+1, err, want)
				}
			}
			if n := fs.Disarm(); n != 1 {
				t.Fatalf("%d calls failed, want 1", n)
			}
			if c.op.changes() {
				fs.Arm(Fault{Op: OpChange, Stay: true})
				for range 2 {
					if err := c.do(fs, prepare()); !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func create(fs FS, name string, b []byte) error {
	f, err := fs.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		_, err = f.WriteAt(b, 0)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "LOCK")
	lock, err := OS().Lock(name, "mine")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OS().Lock(name, "yours"); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if b, err := ReadFile(OS(), name, 100); err != nil || string(b) != "mine" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err = OS().Lock(name, "yours")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReadFileLimit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, 11), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(OS(), name, 10); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if b, err := ReadFile(OS(), name, 11); err != nil || len(b) != 11 {
		t.Fatal(len(b), err)
	}
}

// TestMkdirAllSync: each new name is durable before the next is made, and so is the
// lowest that is there, which somebody may have made and not synced.
func TestMkdirAllSync(t *testing.T) {
	for made := range 4 {
		fs := NewFaults(OS())
		dir := t.TempDir()
		levels := []string{dir, filepath.Join(dir, "a"), filepath.Join(dir, "a", "b"), filepath.Join(dir, "a", "b", "c")}
		fs.Arm(Fault{Op: OpSyncDir, N: made + 1, Err: errDisk})
		if err := MkdirAllSync(fs, levels[3], 0o755); !errors.Is(err, errDisk) {
			t.Fatalf("sync %d: %v", made+1, err)
		}
		made = max(made-1, 0) // the last one was taken away again
		for i, level := range levels {
			if _, err := os.Stat(level); (err == nil) != (i <= made) {
				t.Fatalf("a sync failed: %s: %v", level, err)
			}
		}
		again := Fault{Op: OpSyncDir, Path: filepath.Base(filepath.Dir(levels[made])), Err: errDisk}
		fs.Arm(again)
		if err := MkdirAllSync(fs, levels[made], 0o755); !errors.Is(err, errDisk) {
			t.Fatalf("%s is there, its name was not synced: %v", levels[made], err)
		}
		fs.Disarm()
		again.Err = unix.EACCES
		fs.Arm(again)
		if err := MkdirAllSync(fs, levels[made], 0o755); err != nil || fs.Disarm() != 1 {
			t.Fatalf("a directory above it that is not ours: %v", err)
		}
	}
}

func TestSpace(t *testing.T) {
	s, err := OS().Space(t.TempDir())
	if err != nil || s.Free <= 0 || s.Kind == "" {
		t.Fatalf("%+v, %v", s, err)
	}
	if shm, err := OS().Space("/dev/shm"); err == nil && shm.Kind == "tmpfs" && shm.Doubt == "" {
		t.Fatal("tmpfs keeps no promise")
	}
}

// TestLockWhileProbed: who looks whether a lock is held keeps nobody from it.
func TestLockWhileProbed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "LOCK")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	probed := make(chan error)
	go func() { // ends with the probes
		defer close(probed)
		for held := 0; held < 30; {
			f, err := os.Open(name)
			if err != nil {
				probed <- err
				return
			}
			if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
				held++
				time.Sleep(100 * time.Microsecond) // long enough to be met
			}
			_ = f.Close()
			time.Sleep(2 * time.Millisecond)
		}
	}()
	for {
		select {
		case err := <-probed:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		lock, err := OS().Lock(name, "me")
		if err != nil {
			t.Error(err)
			for range probed {
			}
			return
		}
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	}
}
