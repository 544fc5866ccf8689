package pebblekit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

// TestCheckpoint: a copy holds what was committed, synced or not; one that fails,
// wherever that is, is an error and leaves the database as it was.
func TestCheckpoint(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "copy")
	var left atomic.Int64 // operations in dir until one fails
	left.Store(1 << 40)
	broken := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasPrefix(op.Path, dir) && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && left.Add(-1) == 0 {
			return errorfs.ErrInjected
		}
		return nil
	}))
	fs := pebblekit.NewFS(broken, func(err error) { t.Errorf("told of %v", err) })
	options := &pebble.Options{FS: fs, Logger: pebblekit.NewLogger(nil), FormatMajorVersion: pebble.FormatNewest}
	db, err := pebble.Open(filepath.Join(root, "db"), options)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("synced"), []byte("1"), pebble.Sync), db.Flush(), db.Set([]byte("not"), []byte("2"), pebble.NoSync)); err != nil {
		t.Fatal(err)
	}
	failures := 0
	for n := int64(1); ; n++ {
		left.Store(n)
		err := pebblekit.Checkpoint(db, fs, filepath.Join(root, "db"), dir)
		if err == nil {
			break
		}
		failures++
		if fs.Err() != nil || !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("operation %d: %v; the database: %v", n, err, fs.Err())
		}
		if err := vfs.Default.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := db.Set([]byte("after"), []byte("x"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if failures < 3 {
		t.Errorf("%d operations failed", failures)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	copied, err := pebble.Open(dir, &pebble.Options{Logger: pebblekit.NewLogger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"synced": "1", "not": "2", "after": "x"} {
		got, closer, err := copied.Get([]byte(key))
		if err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", key, got, err)
			continue
		}
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCheckpointUnchanged: a copy of a database in which nothing has changed since it
// was opened, and that had no WAL, is one: so it is after a crash of an open.
func TestCheckpointUnchanged(t *testing.T) {
	root := t.TempDir()
	from, dir := filepath.Join(root, "db"), filepath.Join(root, "copy")
	fs := pebblekit.NewFS(vfs.Default, func(err error) { t.Errorf("told of %v", err) })
	options := func() *pebble.Options {
		return &pebble.Options{FS: fs, Logger: pebblekit.NewLogger(nil), FormatMajorVersion: pebble.FormatNewest}
	}
	db, err := pebble.Open(from, options())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("key"), []byte("1"), pebble.Sync), db.Flush(), db.Close()); err != nil {
		t.Fatal(err)
	}
	wals, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range wals { // nothing is in them
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if db, err = pebble.Open(from, options()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pebblekit.Checkpoint(db, fs, from, dir), db.Close()); err != nil {
		t.Fatal(err)
	}
	copied, err := pebble.Open(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	value, closer, err := copied.Get([]byte("key"))
	if err != nil || string(value) != "1" {
		t.Fatalf("key is %q, %v", value, err)
	}
	if err := errors.Join(closer.Close(), copied.Close()); err != nil {
		t.Fatal(err)
	}
}
