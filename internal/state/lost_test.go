package state

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// TestLost: what is lost is noted once, durably, with the lowest LSN that it was
// met at; forgetting the sink forgets it.
func TestLost(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, "state", fs)
	for _, r := range []LostRange{{120, 130}, {125, 130}, {7, 7}, {110, 130}, {115, 130}} {
		if err := s.PutLost("main", r); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []LostRange{{0, 3}, {5, 4}} {
		if err := s.PutLost("main", r); err == nil {
			t.Fatalf("%v was taken", r)
		}
	}
	if err := s.PutLost("mai", LostRange{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, "state", fs)
	lost, err := s.Lost("main")
	if want := "[{7 7} {110 130}]"; err != nil || fmt.Sprint(lost) != want {
		t.Fatalf("%v, want %s: %v", lost, want, err)
	}
	if n := lost[1].Count(); n != 21 {
		t.Fatalf("%d LSNs, want 21", n)
	}
	if err := s.Forget("main"); err != nil {
		t.Fatal(err)
	}
	if lost, err := s.Lost("main"); err != nil || len(lost) != 0 {
		t.Fatalf("forgotten: %v, %v", lost, err)
	}
	if lost, err := s.Lost("mai"); err != nil || len(lost) != 1 {
		t.Fatalf("another sink's: %v, %v", lost, err)
	}
}

// TestHighest: every LSN that the store has heard of counts.
func TestHighest(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	check := func(want uint64) {
		t.Helper()
		if got, err := s.Highest(); err != nil || uint64(got) != want {
			t.Fatalf("highest %d, want %d: %v", got, want, err)
		}
	}
	check(0)
	if _, err := s.ChangeClaim("main", func(c *Claim) { c.From, c.Applied = 3, 2 }); err != nil {
		t.Fatal(err)
	}
	check(3)
	if _, err := s.ChangeClaim("main", func(c *Claim) { c.Applied = 5 }); err != nil {
		t.Fatal(err)
	}
	check(5)
	if err := s.PutRequests(nil, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SyncRequests(); err != nil {
		t.Fatal(err)
	}
	check(9)
	if err := s.Held("main").Put([]HeldRecord{{LSN: 11}}, 10, 12, []position.Point{{Incarnation: uuid.New(), LSN: 1}}); err != nil {
		t.Fatal(err)
	}
	check(12)
	letter := DeadLetter{LSN: 20, Position: 20, Kind: Rejected}
	if err := s.DeadLetters("main").Put([]DeadLetter{letter}, nil, Bounds{}); err != nil {
		t.Fatal(err)
	}
	check(20)
	if _, err := s.DeadLetters("main").Delete(20); err != nil {
		t.Fatal(err)
	}
	check(20)
}
