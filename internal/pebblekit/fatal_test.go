package pebblekit_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

// TestCommitFailureIsAnError fails the sync of Pebble's WAL: with Pebble's own
// logger this test's process would exit.
func TestCommitFailureIsAnError(t *testing.T) {
	var fail errorfs.Toggle
	fail.Injector = errorfs.ErrInjected
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileSync && op.Kind != errorfs.OpFileSyncData && op.Kind != errorfs.OpFileSyncTo {
			return nil
		}
		return fail.MaybeError(op)
	}))
	db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: pebblekit.NewLogger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	set := func() (err error) {
		defer pebblekit.Catch(&err)
		return db.Set([]byte("k"), []byte("v"), pebble.Sync)
	}
	if err := set(); err != nil {
		t.Fatal(err)
	}
	fail.On()
	err = set()
	if _, ok := errors.AsType[*pebblekit.FatalError](err); !ok || !errors.Is(err, pebblekit.ErrFatal) {
		t.Fatalf("Set with a failing sync: %v (%T), want *FatalError", err, err)
	}
}

func TestCatchLeavesOtherPanics(t *testing.T) {
	defer func() {
		if r := recover(); r != "other" {
			t.Fatalf("recovered %v, want the original panic", r)
		}
	}()
	var err error
	defer pebblekit.Catch(&err)
	panic("other")
}
