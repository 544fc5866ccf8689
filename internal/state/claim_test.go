package state

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
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
	if _, err := s.ChangeClaim("added", func(c *Claim) { c.Filled = 12 }); err != nil {
		t.Fatal(err)
	}
	want := []Claim{{Sink: "added", Filled: 12}, {Sink: "main", Identity: "pg-7", Settled: true, Paused: true, From: 1000, Applied: 1007}}
	for range 2 {
		if got, err := s.Claims(); err != nil || !slices.Equal(got, want) {
			t.Fatalf("Claims = %+v, %v, want %+v", got, err, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, "state", fs)
	}
	for _, bad := range [][]byte{{}, {claimFlags + 1}, {claimFrom}, {claimFilled, 1}, {claimFrom, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if c, err := decodeClaim(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("decodeClaim(%x) = %+v, %v, want ErrCorrupt", bad, c, err)
		}
	}
}

// That every sink has its claim is not so until it was said, and is so from then
// on, over a power cut and whatever is forgotten.
func TestComplete(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, "state", fs)
	want := func(s *Store, complete bool) {
		t.Helper()
		if got, err := s.Complete(); err != nil || got != complete {
			t.Fatalf("Complete = %t, %v, want %t", got, err, complete)
		}
	}
	if _, err := s.ChangeClaim("main", func(*Claim) {}); err != nil {
		t.Fatal(err)
	}
	want(s, false)
	want(mustOpen(t, "state", crash(fs)), false)
	if err := s.SetComplete(); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("main"); err != nil {
		t.Fatal(err)
	}
	want(s, true)
	want(mustOpen(t, "state", crash(fs)), true)
}

// Forget leaves nothing of a sink, at once and after a power cut, and nothing of
// another is gone, whose name begins alike.
func TestForget(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, "state", fs)
	names := []string{"gone", "gone2", "go"}
	entries := func(s *Store) map[string]int {
		counts := map[string]int{}
		it, err := s.db.NewIter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		for it.First(); it.Valid(); it.Next() {
			for _, name := range names {
				after := it.Key()[1:]
				if string(after) == name || len(after) > len(name) && int(after[0]) == len(name) && string(after[1:1+len(name)]) == name {
					counts[name]++
				}
			}
		}
		return counts
	}
	for _, name := range names {
		d := s.DeadLetters(name)
		letters := []DeadLetter{
			{LSN: 5, Position: 5, Kind: Rejected, Parks: true, Keys: [][]byte{[]byte("k")}, Payload: []byte("p")},
			{LSN: 6, Position: 6, Kind: Parked, Parks: true, Keys: [][]byte{[]byte("k")}, Payload: []byte("p")},
			{LSN: 7, Position: 7, Kind: Rejected, Payload: []byte("p")},
		}
		putErr := d.Put(letters, nil, Bounds{})
		_, deleteErr := d.Delete(7)
		asideErr := d.Put(nil, []Retry{{LSN: 6, By: 9}}, Bounds{})
		heldErr := s.Held(name).Put([]HeldRecord{{LSN: 8, Payload: []byte("p")}}, 7, 9, []position.Point{{Incarnation: uuid.New(), LSN: 1}})
		mapErr := s.PutLaneMap(name, LaneMap{Places: map[string]LanePlace{"c": {Group: "g"}}})
		_, claimErr := s.ChangeClaim(name, func(c *Claim) { c.Settled = true })
		if err := errors.Join(putErr, deleteErr, asideErr, heldErr, mapErr, claimErr); err != nil {
			t.Fatal(err)
		}
	}
	before := entries(s)
	if before["gone"] < 8 || before["gone"] != before["gone2"] {
		t.Fatalf("the test puts too little: %v", before)
	}
	if err := s.Forget("gone"); err != nil {
		t.Fatal(err)
	}
	cut := fs.CrashClone(vfs.CrashCloneCfg{})
	for _, s := range []*Store{s, mustOpen(t, "state", cut)} {
		if after := entries(s); after["gone"] != 0 || after["gone2"] != before["gone2"] || after["go"] != before["go"] {
			t.Errorf("%v are left of %v", after, before)
		}
		if totals, err := s.DeadLetters("gone").Totals(); err != nil || totals.Count != 0 {
			t.Errorf("Totals = %+v, %v", totals, err)
		}
		if held, err := s.Held("gone").Range(); err != nil || !held.IsZero() {
			t.Errorf("Range = %+v, %v", held, err)
		}
	}
}
