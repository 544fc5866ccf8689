package pebble

import (
	"context"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

// Snapshot implements sinks.Snapshotter: the copy is a store of the same identity.
// Calls come one at a time.
func (s *Sink) Snapshot(ctx context.Context, dir string) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	_, err = run(ctx, s, func() (none struct{}, err error) {
		defer leave()
		return none, pebblekit.Checkpoint(s.db, s.fs, s.dir, dir)
	})
	return err
}
