package pebblekit

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
)

// Checkpoint makes a copy of db in dir, which does not exist yet, as it is now: tables
// are linked where the file system allows it. It holds what was committed without a sync,
// too, and is durable when Checkpoint returns. A failure leaves db as it is, and
// dir with what there is. fs is db's; one Checkpoint at a time.
func Checkpoint(db *pebble.DB, fs *FS, dir string) (err error) {
	defer Catch(&err)
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	end := fs.beginCopy(dir)
	defer func() { err = errors.Join(err, end()) }()
	if err := db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return err
	}
	return errors.Join(syncAll(dir), fs.Err())
}

// syncAll makes the directory durable: Pebble syncs what it copies, but not the
// entries of what it links.
func syncAll(dir string) error {
	for _, name := range []string{dir, filepath.Dir(dir)} {
		d, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}
