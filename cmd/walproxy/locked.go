package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/wal"
)

// lockedBy says who has the log of dataDir open; nil: nobody. It is asked after
// something else failed, or to decide whom to talk to: it takes no part in the
// locking, but for an instant that wal.Open waits out.
func lockedBy(dataDir string) *wal.LockedError {
	name := filepath.Join(dataDir, "log", "LOCK")
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read only
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	var text [32]byte
	n, _ := f.Read(text[:])
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n]))) // 0: not known
	return &wal.LockedError{Path: name, PID: pid}
}
