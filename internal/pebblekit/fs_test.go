package pebblekit_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

// TestFSFreezes fails, once and for good, one kind of operation on what Pebble
// recovers from. Without FS each of these ends the process (most of them so that
// no recover helps), so the test passing at all is half of its point. The other
// half: the failure is known before Pebble reports the commit, and the files are
// those of a crash at that moment.
func TestFSFreezes(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails func(op errorfs.Op) bool
	}{
		{"wal reuse", func(op errorfs.Op) bool { return op.Kind == errorfs.OpReuseForWrite }},
		{"wal sync", func(op errorfs.Op) bool {
			return strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo)
		}},
		{"wal write", func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".log") && op.Kind == errorfs.OpFileWrite }},
		{"wal create", func(op errorfs.Op) bool {
			return strings.HasSuffix(op.Path, ".log") && op.Kind == errorfs.OpCreate
		}},
		{"manifest write", func(op errorfs.Op) bool {
			return strings.Contains(op.Path, "MANIFEST") && op.Kind == errorfs.OpFileWrite
		}},
		{"manifest sync", func(op errorfs.Op) bool {
			return strings.Contains(op.Path, "MANIFEST") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData)
		}},
		{"manifest create", func(op errorfs.Op) bool { return strings.Contains(op.Path, "MANIFEST") && op.Kind == errorfs.OpCreate }},
		{"marker create", func(op errorfs.Op) bool { return strings.Contains(op.Path, "marker.") && op.Kind == errorfs.OpCreate }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner := func(fs *errorfs.FS) vfs.FS { return neverReuse{fs} }
			if c.name == "wal reuse" {
				inner = func(fs *errorfs.FS) vfs.FS { return fs }
			}
			freezes(t, c.fails, inner)
		})
	}
}

// neverReuse creates files instead: errorfs does not see what happens to a file
// that is reused.
type neverReuse struct{ *errorfs.FS }

func (fs neverReuse) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Remove(oldname); err != nil {
		return nil, err
	}
	return fs.Create(newname, category)
}

func freezes(t *testing.T, fails func(errorfs.Op) bool, inner func(*errorfs.FS) vfs.FS) {
	var on atomic.Bool
	mem := vfs.NewCrashableMem()
	broken := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && fails(op) {
			return errorfs.ErrInjected
		}
		return nil
	}))
	var told atomic.Int32
	fs := pebblekit.NewFS(inner(broken), func(err error) {
		told.Add(1)
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Errorf("told of %v", err)
		}
	})
	options := func(fs vfs.FS) *pebble.Options {
		return &pebble.Options{
			FS: fs, Logger: pebblekit.NewLogger(nil), FormatMajorVersion: pebble.FormatNewest,
			MemTableSize: 64 << 10, MaxManifestFileSize: 1, L0CompactionThreshold: 2,
		}
	}
	db, err := pebble.Open("db", options(fs))
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 8<<10)
	key := func(i int) []byte { return fmt.Appendf(nil, "key%06d", i) }
	set := func(i int) (err error) {
		defer pebblekit.Catch(&err)
		if err := db.Set(key(i), value, pebble.Sync); err != nil {
			return err
		}
		return fs.Err()
	}
	confirmed := 0
	for ; confirmed < 20; confirmed++ {
		if err := set(confirmed); err != nil {
			t.Fatalf("before the fault: %v", err)
		}
	}
	on.Store(true)
	for fs.Err() == nil {
		if err := set(confirmed); err == nil {
			confirmed++
		}
		if confirmed > 1000 {
			t.Fatal("1000 writes and flushes never met the fault")
		}
	}
	for range 50 { // Pebble goes on, with nothing of it reaching the disk
		if err := set(confirmed); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("a write after the failure: %v", err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Logf("flush after the failure: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Logf("close after the failure: %v", err)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("told of the failure %d times, want once", n)
	}

	// As a power cut leaves it, and as the page cache has it: what was removed
	// without a sync of its directory is gone only there.
	for name, fs := range map[string]vfs.FS{"power cut": mem.CrashClone(vfs.CrashCloneCfg{}), "page cache": mem} {
		db, err := pebble.Open("db", options(fs))
		if err != nil {
			t.Fatalf("%s: open after the failure: %v", name, err)
		}
		for i := range confirmed {
			_, closer, err := db.Get(key(i))
			if err != nil {
				t.Fatalf("%s: write %d of %d confirmed ones: %v", name, i, confirmed, err)
			}
			closer.Close()
		}
		if err := db.Close(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// TestFSTellsBeforeItDrops: a write beside the one that fails is on disk, or its
// owner was told before. (The other order once let a commit be reported that had
// been dropped.)
func TestFSTellsBeforeItDrops(t *testing.T) {
	mem := vfs.NewCrashableMem()
	broken := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.Contains(op.Path, "MANIFEST") && op.Kind == errorfs.OpFileWrite {
			return errorfs.ErrInjected
		}
		return nil
	}))
	create := func(fs vfs.FS, name string) vfs.File {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	write := func(f vfs.File) {
		if _, err := f.Write([]byte("record")); err != nil {
			t.Error(err)
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
	}
	size := func(name string) int64 {
		info, err := mem.CrashClone(vfs.CrashCloneCfg{}).Stat(name)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	var log vfs.File
	fs := pebblekit.NewFS(broken, func(error) {
		write(log) // the owner is being told, so this one may still be believed
		if n := size("000001.log"); n != 6 {
			t.Errorf("the WAL has %d bytes on disk, want the 6 that were synced", n)
		}
	})
	log = create(fs, "000001.log")
	manifest := create(fs, "MANIFEST-000001")
	root, err := fs.OpenDir("")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Sync(); err != nil {
		t.Fatal(err)
	}
	write(manifest)
	if !errors.Is(fs.Err(), errorfs.ErrInjected) {
		t.Fatalf("Err: %v", fs.Err())
	}
	write(log)
	if n := size("000001.log"); n != 6 {
		t.Errorf("the WAL has %d bytes on disk, want the 6 from before it was frozen", n)
	}
}
