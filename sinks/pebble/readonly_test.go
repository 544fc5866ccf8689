package pebble

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/filetest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// TestReadOnly looks at a store as a kill -9 left it: everything is there, and no
// file changes.
func TestReadOnly(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s := open(t, dir, Options{})
	claim := sinks.Claim{Stream: uuid.New(), Lanes: 2, Fresh: true}
	c := must[sinks.Checkpoint](t)(s.Resume(ctx, claim))
	b := &sinks.Batch{Epoch: c.Epoch, Moves: []sinks.Move{{Lane: 1, To: point(1)}}, Records: []sinks.Record{
		record(1, start, must[*walproxyv1.Mutation](t)(mutation.Increment("c", mutation.String("k"), map[string]any{"n": int64(1)}))),
	}}
	if _, err := s.Apply(ctx, b); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	before := filetest.Hashes(t, killed)
	look := open(t, killed, Options{ReadOnly: true})
	got := must[sinks.Checkpoint](t)(look.Position(ctx))
	if got.Stream != claim.Stream || got.Epoch != c.Epoch || len(got.Lanes) != 2 || got.Lanes[1] != point(1) {
		t.Errorf("position %+v", got)
	}
	if d := must[*mutation.Document](t)(look.Read(ctx, "c", mutation.String("k"))); d.Version != 1 {
		t.Errorf("read %+v", d)
	}
	if _, err := look.Resume(ctx, claim); sinks.OutcomeOf(err) != sinks.Halt {
		t.Errorf("Resume: %v", err)
	}
	if _, err := look.Apply(ctx, &sinks.Batch{Epoch: c.Epoch, Moves: []sinks.Move{{Lane: 0, To: point(1)}}}); sinks.OutcomeOf(err) != sinks.Halt {
		t.Errorf("Apply: %v", err)
	}
	closeSink(t, look)
	if after := filetest.Hashes(t, killed); !maps.Equal(before, after) {
		t.Errorf("files changed: %v, were %v", after, before)
	}

	for _, name := range []string{"absent", "empty"} {
		dir := filepath.Join(t.TempDir(), name)
		if name == "empty" {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(dir, Options{ReadOnly: true}); !errors.Is(err, ErrNoStore) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); name == "absent" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a directory was made: %v", name, err)
		}
	}
}
