package state

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/filetest"
	"github.com/walproxy/walproxy/internal/position"
)

// TestReadOnly looks at a store as a kill -9 left it: everything is there, and no
// file changes.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	stream := uuid.New()
	if _, err := s.Bind(stream, true, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.PutClaim(Claim{Sink: "main", Settled: true, Applied: 7}); err != nil {
		t.Fatal(err)
	}
	letter := DeadLetter{LSN: 3, Position: 3, Kind: Rejected, Parks: true, Keys: [][]byte{[]byte("k")}, Payload: []byte("p")}
	if err := s.DeadLetters("main").Put([]DeadLetter{letter}, nil, Bounds{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Held("main").Put([]HeldRecord{{LSN: 8, Payload: []byte("h")}}, 7, 9, []position.Point{{Incarnation: uuid.New(), LSN: 1}}); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	before := filetest.Hashes(t, killed)
	look, err := Open(killed, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if bound, ok := look.Stream(); !ok || bound != stream {
		t.Errorf("stream %v, %v", bound, ok)
	}
	if c, ok, err := look.Claim("main"); err != nil || !ok || c.Applied != 7 || !c.Settled {
		t.Errorf("claim %+v, %v, %v", c, ok, err)
	}
	if n, err := look.DeadLetters("main").Totals(); err != nil || n.Count != 1 || n.ParkedKeys != 1 {
		t.Errorf("dead letters %+v, %v", n, err)
	}
	if page, upTo, err := look.Held("main").Read(7, 1<<20); err != nil || len(page) != 1 || upTo != 9 {
		t.Errorf("held %v up to %d, %v", page, upTo, err)
	}
	if _, err := look.ChangeClaim("main", func(c *Claim) { c.Applied = 8 }); err == nil {
		t.Error("a claim was changed")
	}
	if err := errors.Join(look.Close(), look.Close()); err != nil {
		t.Error(err)
	}
	if after := filetest.Hashes(t, killed); !maps.Equal(before, after) {
		t.Errorf("files changed: %v, were %v", after, before)
	}
	absent := filepath.Join(t.TempDir(), "absent")
	if _, err := Open(absent, Options{ReadOnly: true}); !errors.Is(err, ErrMissing) {
		t.Errorf("absent: %v", err)
	}
	if _, err := os.Stat(absent); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
	if _, err := Open(t.TempDir(), Options{ReadOnly: true}); !errors.Is(err, ErrMissing) {
		t.Errorf("empty: %v", err)
	}
}
