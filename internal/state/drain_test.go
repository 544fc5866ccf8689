package state

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestDraining(t *testing.T) {
	fs := vfs.NewCrashableMem()
	for i, draining := range []bool{false, true, true, false} {
		s := mustOpen(t, "state", fs)
		if i > 0 {
			if err := s.SetDraining(draining); err != nil {
				t.Fatal(err)
			}
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{}) // a power cut
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, "state", fs)
		if got, err := s.Draining(); got != draining || err != nil {
			t.Errorf("%d: draining %v, %v; want %v", i, got, err, draining)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
