package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/wal"
)

// lockedBy says who has the log of dataDir open; nil: nobody. It is asked after
// something else failed: it takes no part in the locking.
func lockedBy(dataDir string) error {
	f, err := os.Open(filepath.Join(dataDir, "log", "LOCK"))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read only
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	var pid [32]byte
	n, _ := f.Read(pid[:])
	return fmt.Errorf("%w: %s is open in process %s", wal.ErrLocked, dataDir, strings.TrimSpace(string(pid[:n])))
}
