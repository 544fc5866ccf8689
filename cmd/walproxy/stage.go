package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/vfs"
)

// stagePath is where a server's copy lies until it was sent.
func stagePath(dataDir string) string { return filepath.Join(dataDir, "backup.new") }

// stoppedStagePath is the same for a copy that no server makes. It is locked while
// it is sent, for then a server may run.
func stoppedStagePath(dataDir string) string { return filepath.Join(dataDir, "backup-stopped.new") }

// dropStages removes what an interrupted backup left: its links keep freed segments
// on the disk. The log's lock is held.
func dropStages(dataDir string) error {
	err := vfs.OS().RemoveAll(stagePath(dataDir))
	stopped := stoppedStagePath(dataDir)
	lock, lockErr := lockStage(stopped)
	switch {
	case errors.Is(lockErr, fs.ErrNotExist), errors.Is(lockErr, unix.EWOULDBLOCK):
		return err
	case lockErr != nil:
		return errors.Join(err, lockErr)
	}
	return errors.Join(err, vfs.OS().RemoveAll(stopped), lock.Close())
}

// lockStage locks a copy as long as what it returns is open.
func lockStage(stage string) (io.Closer, error) {
	f, err := os.Open(stage)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: stage, Err: err}, f.Close())
	}
	return f, nil
}
