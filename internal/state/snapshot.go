package state

import "github.com/walproxy/walproxy/internal/pebblekit"

// Snapshot makes a copy of the store in dir, which does not exist yet, as it is now,
// durably. Calls come one at a time.
func (s *Store) Snapshot(dir string) error {
	return s.use(func() error { return pebblekit.Checkpoint(s.db, s.fs, s.dir, dir) })
}
