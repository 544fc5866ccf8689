package state

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestClock(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, "state", fs)
	if got, err := s.Clock(); got != 0 || err != nil {
		t.Fatalf("Clock of a new store = %d, %v", got, err)
	}
	for _, nanos := range []int64{1 << 60, -5} {
		if err := s.PutClock(nanos); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Clock(); got != nanos || err != nil {
			t.Fatalf("Clock = %d, %v; want %d", got, err, nanos)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, "state", fs)
	if got, err := s.Clock(); got != -5 || err != nil {
		t.Fatalf("Clock after reopening = %d, %v", got, err)
	}
}
