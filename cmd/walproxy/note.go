package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// noteName is the file in the data directory that says how to reach the server
// which has it open.
const noteName = "SERVER"

// noteBytesMax bounds what is read of a note.
const noteBytesMax = 16 << 10

// note is how the server of a data directory is reached. It counts only while the
// log's lock is held under the same pid: one that a crash left says nothing.
type note struct {
	PID     int       `json:"pid"`
	API     string    `json:"api"`   // URL
	Admin   string    `json:"admin"` // URL
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

func notePath(dataDir string) string { return filepath.Join(dataDir, noteName) }

// writeNote replaces the note of dataDir. Readers see the old one or the new one.
func writeNote(dataDir string, n note) (err error) {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	name := notePath(dataDir)
	temporary := name + ".new"
	if err := os.WriteFile(temporary, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// readNote returns the note of dataDir; ok is false if there is none that can be
// read, which is no error: it may be half of one that a power cut left.
func readNote(dataDir string) (n note, ok bool) {
	text, err := vfs.ReadFile(vfs.OS(), notePath(dataDir), noteBytesMax)
	if err != nil || json.Unmarshal(text, &n) != nil {
		return note{}, false
	}
	return n, n.API != ""
}

// removeNote is no error if there is none.
func removeNote(dataDir string) error {
	if err := os.Remove(notePath(dataDir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// urlOf is where a listener is reached from this machine.
func urlOf(l net.Listener, secure bool) string {
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	address, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return scheme + l.Addr().String()
	}
	ip := address.IP
	switch {
	case len(ip) == 0 || ip.Equal(net.IPv4zero):
		ip = net.IPv4(127, 0, 0, 1)
	case ip.Equal(net.IPv6zero):
		ip = net.IPv6loopback
	}
	return scheme + net.JoinHostPort(ip.String(), fmt.Sprint(address.Port))
}
