package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/unfinished"
	"github.com/walproxy/walproxy/wal"
)

// placeFlags say which data directory, or which running server, a command works on.
type placeFlags struct {
	configFlags
	credentials
	server string
}

func (f *placeFlags) register(cmd *cobra.Command) {
	f.registerFiles(cmd)
	f.credentials.register(cmd)
	cmd.Flags().StringVar(&f.server, "server", os.Getenv("WALPROXY_SERVER"),
		"`URL` of a running server's API, instead of the one that has the data directory open (WALPROXY_SERVER)")
}

// registerStopped is register for a command that works on files alone.
func (f *placeFlags) registerStopped(cmd *cobra.Command) { f.registerFiles(cmd) }

// place is where a command works.
type place struct {
	// config is that of the flags; with --server it says nothing of the server's.
	config *config.Config
	dir    string // the data directory; empty with --server
	// server has the directory open. Nil: nobody has, the command works on its files,
	// and takes the log's lock (wal.Lock) while it does.
	server *remote
}

// find says where to work: with the server of --server, or else of the data
// directory if its lock is held, or else on its files.
//
// Errors: a directory that is none (fs.ErrNotExist), one that is in use by somebody
// who cannot be talked to (*busyError). They carry their exit codes.
func (f *placeFlags) find(cmd *cobra.Command) (*place, error) {
	c, err := f.load(cmd)
	if err != nil {
		return nil, err
	}
	shown, err := f.resolved()
	if err != nil {
		return nil, exitWith(exitUsage, err)
	}
	if f.server != "" {
		r, err := newRemote(f.server, "", shown)
		return &place{config: c, server: r}, exitWith(exitUsage, err)
	}
	p := &place{config: c, dir: c.DataDir}
	if err := isDataDir(c.DataDir); err != nil {
		return nil, exitWith(exitStart, err)
	}
	p.server, err = serverOf(c.DataDir, shown)
	return p, exitWith(exitStart, err)
}

// running is find for a command that only a running server can serve.
func (f *placeFlags) running(cmd *cobra.Command) (*remote, error) {
	p, err := f.find(cmd)
	if err != nil {
		return nil, err
	}
	if p.server == nil {
		return nil, exitWith(exitStart, fmt.Errorf("no server runs for %s, and `%s` needs one: "+
			"start it with `walproxy serve`, or name another's API with --server", p.dir, cmd.CommandPath()))
	}
	return p.server, nil
}

// stopped is find for a command that works on the files alone.
func (f *placeFlags) stopped(cmd *cobra.Command) (*place, error) {
	p, err := f.find(cmd)
	if err != nil {
		return nil, err
	}
	if p.server != nil {
		return nil, exitWith(exitStart, fmt.Errorf("a server runs at %s, and `%s` works on the files of a stopped one: stop it first",
			p.server.api, cmd.CommandPath()))
	}
	return p, nil
}

// isDataDir tells a directory that walproxy keeps its data in from any other.
func isDataDir(dir string) error {
	if err := unfinished.Check(dir); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(dir, "log"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is no data directory of walproxy: name it with --data-dir or data_dir in --config: %w", dir, err)
	}
	return err
}

// busyError says that somebody has the data directory open who serves no API.
type busyError struct {
	Dir string
	*wal.LockedError
}

func (e *busyError) Error() string {
	return fmt.Sprintf("%s is in use by pid %d, which serves no API: a command that works on its files, or a server that starts or stops; "+
		"wait until it is done", e.Dir, e.PID)
}

func (e *busyError) Unwrap() error { return e.LockedError }

// serverOf returns the server that has dir open, nil if nobody has, and a
// *busyError if who has it serves no API.
func serverOf(dir string, shown credentials) (*remote, error) {
	locked := lockedBy(dir)
	if locked == nil {
		return nil, nil
	}
	n, ok := readNote(dir)
	if !ok || n.PID != locked.PID {
		return nil, &busyError{Dir: dir, LockedError: locked}
	}
	return newRemote(n.API, n.Admin, shown)
}
