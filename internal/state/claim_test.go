package state

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Changes of one claim by several callers do not undo each other, and a restart
// finds all of them.
func TestClaimChanges(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, "state", fs)
	changes := []func(*Claim){
		func(c *Claim) { c.Identity, c.Settled = "pg-7", true },
		func(c *Claim) { c.Paused = true },
		func(c *Claim) { c.From, c.Applied = 1000, 1007 },
	}
	var wg sync.WaitGroup
	for _, change := range changes {
		wg.Go(func() {
			if _, err := s.ChangeClaim("main", change); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := s.ChangeClaim("added", func(*Claim) {}); err != nil {
		t.Fatal(err)
	}
	want := []Claim{{Sink: "added"}, {Sink: "main", Identity: "pg-7", Settled: true, Paused: true, From: 1000, Applied: 1007}}
	for range 2 {
		if got, err := s.Claims(); err != nil || !slices.Equal(got, want) {
			t.Fatalf("Claims = %+v, %v, want %+v", got, err, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, "state", fs)
	}
	for _, bad := range [][]byte{{}, {16}, {claimFrom}, {claimFrom, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if c, err := decodeClaim(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeClaim(%x) = %+v, %v, want ErrCorrupt", bad, c, err)
		}
	}
}
