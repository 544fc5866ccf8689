package pebblekit_test

import (
	"errors"
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
		err := pebblekit.Checkpoint(db, fs, dir)
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
