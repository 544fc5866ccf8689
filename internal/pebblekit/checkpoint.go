package pebblekit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Checkpoint makes a copy of db, whose directory is from, in dir, which does not exist yet, as it is now: tables
// are linked where the file system allows it. It holds what was committed without a sync,
// too, and is durable when Checkpoint returns. A failure leaves db as it is, and
// dir with what there is. fs is db's; one Checkpoint at a time.
func Checkpoint(db *pebble.DB, fs *FS, from, dir string) (err error) {
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
	if err := completeManifest(fs, from, dir); err != nil {
		return err
	}
	return errors.Join(syncAll(dir), fs.Err())
}

// completeManifest copies what Pebble (2.1.7) leaves out: of the MANIFEST it copies as
// much as was written since the database was opened, and that is nothing where the
// open found no WAL to recover from, as after a crash of the open before. Until the
// first change the file is what it was then; later there is another one.
func completeManifest(fs *FS, from, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			return err
		}
		if !strings.HasPrefix(name, "MANIFEST-") || info.Size() > 0 {
			continue
		}
		if err := vfs.Copy(fs, fs.PathJoin(from, name), fs.PathJoin(dir, name)); err != nil {
			return err
		}
	}
	return nil
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
