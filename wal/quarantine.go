package wal

import (
	"path/filepath"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// Quarantine lists what starts and repairs of the log in dir set aside, by name. It
// needs no lock.
func Quarantine(dir string) ([]Aside, error) {
	in := &Inspection{start: &start{dir: dir, fs: vfs.OS()}}
	if err := in.lookAside(); err != nil {
		return nil, err
	}
	var aside []Aside
	for _, a := range in.Aside {
		if a.State == StateQuarantined {
			aside = append(aside, a)
		}
	}
	return aside, nil
}

// EmptyQuarantine deletes, for good, what was set aside and not changed since
// before. A log may have the directory open; a repair may not. After an error the
// rest is still there.
func EmptyQuarantine(dir string, before time.Time) (deleted []Aside, err error) {
	all, err := Quarantine(dir)
	if err != nil {
		return nil, err
	}
	disk := vfs.OS()
	for _, a := range all {
		if !a.Modified.Before(before) {
			continue
		}
		if err := disk.RemoveAll(filepath.Join(dir, a.Path)); err != nil {
			return deleted, err
		}
		deleted = append(deleted, a)
	}
	if len(deleted) == 0 {
		return nil, nil
	}
	return deleted, disk.SyncDir(filepath.Join(dir, "quarantine"))
}
