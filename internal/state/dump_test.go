package state

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// TestDumpAndLoad: a store made of another's entries is that store, and the one that
// was read is as it was.
func TestDumpAndLoad(t *testing.T) {
	dir, copied := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "copy")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	stream := uuid.New()
	boot, err := s.Bind(stream, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	dead := newLetter(5, 5, true, "k")
	err = errors.Join(
		s.PutClaim(Claim{Sink: "main", Identity: "store", Settled: true, Applied: 7}),
		s.PutRequests([]RequestID{{Principal: "p", ID: "id", LSN: 5}}, 6),
		s.DeadLetters("main").Put([]DeadLetter{dead}, nil, Bounds{}),
		s.Held("main").Put([]HeldRecord{{LSN: 6, Payload: []byte("held")}}, 5, 6, []position.Point{{Incarnation: uuid.New(), LSN: 1}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := Dump(dir, nil, nil, nil); err == nil {
		t.Fatal("dumped a store that is open")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Load(copied, nil)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[byte]int{}
	before := listing(t, dir)
	err = Dump(dir, nil, func(id uuid.UUID, n uint64) error {
		if id != stream || n != boot {
			t.Errorf("stream %s, boot %d", id, n)
		}
		return nil
	}, func(key, value []byte) error {
		kinds[KindOf(key)]++
		return l.Put(key, value)
	})
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	if kinds[KindDeadLetter] != 1 || kinds[KindHeld] != 1 {
		t.Fatalf("%v", kinds)
	}
	if after := listing(t, dir); !slices.Equal(before, after) {
		t.Fatalf("dumping changed the store: %v, %v", before, after)
	}
	if s, err = Open(copied, Options{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	claim, ok, err := s.Claim("main")
	if err != nil || !ok || claim.Applied != 7 {
		t.Fatalf("%+v, %v", claim, err)
	}
	letter, ok, err := s.DeadLetters("main").Get(5)
	if err != nil || !ok || !bytes.Equal(letter.Payload, dead.Payload) {
		t.Fatalf("%+v, %v", letter, err)
	}
	held, _, err := s.Held("main").Read(5, 10)
	if err != nil || len(held) != 1 || string(held[0].Payload) != "held" {
		t.Fatalf("%+v, %v", held, err)
	}
	if next, err := s.Bind(stream, false, boot); err != nil || next != boot+1 {
		t.Fatalf("%d, %v", next, err)
	}
}

// listing lists the files of dir with their sizes.
func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestDumpRefuses: what is no store of this version is not taken for one.
func TestDumpRefuses(t *testing.T) {
	nothing := func(uuid.UUID, uint64) error { return nil }
	for name, dir := range map[string]string{"absent": filepath.Join(t.TempDir(), "none"), "empty": t.TempDir()} {
		if err := Dump(dir, nil, nothing, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, value := range map[string][]byte{"newer": {0, 0, 0, 0, 0, 0, 0, format + 1}, "no number": {1}} {
		l, err := Load(filepath.Join(t.TempDir(), "state"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Put(keyFormat, value); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Close(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: closed with %v", name, err)
		}
	}
}
