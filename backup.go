package walproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// ErrBackupRunning: one backup at a time.
var ErrBackupRunning = errors.New("walproxy: a backup is being made already")

// Snapshot is a copy of a data directory.
type Snapshot struct {
	// Log is its log: every record up to Log.Last that was kept. What was acknowledged
	// before Backup began is in it, or was applied everywhere and freed.
	Log wal.Snapshot
	// Stores are the sinks whose stores are in it, under sinks/: those that are files
	// of this process.
	Stores []string
}

// Backup makes a copy of log and state store, and of the stores that are files of this
// process, in dir, which does not exist yet and is on the file system of Options.Dir. Writes
// are accepted meanwhile, and applied, but for the moments that a store of ours is
// copied; no space is freed. Files that do not change are linked. ctx bounds it;
// after an error dir is removed. ErrBackupRunning.
//
// The parts are of different moments, in the order in which they fit: a store never has
// more than the state store knows of, nor that more than the log holds. Opened as a data
// directory it is one that was stopped in order at Log.Last, and begins a new
// incarnation: a store that has been fed by this proxy beyond that refuses it as
// diverged.
func (p *Proxy) Backup(ctx context.Context, dir string) (s Snapshot, err error) {
	if p.closing.Load() {
		return s, ErrClosed
	}
	if !p.backup.TryLock() {
		return s, ErrBackupRunning
	}
	defer p.backup.Unlock()
	if _, err := os.Stat(dir); err == nil {
		return s, fmt.Errorf("walproxy: backup: %s exists", dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, vfs.OS().RemoveAll(dir))
		}
	}()
	if err := vfs.MkdirAllSync(vfs.OS(), filepath.Join(dir, "sinks"), 0o755); err != nil {
		return s, err
	}
	// Close waits for it, and what the log has stays.
	p.releasing.Lock()
	defer p.releasing.Unlock()
	if p.closing.Load() {
		return s, ErrClosed
	}
	err = p.copyStores(ctx, &s, dir, 0)
	if err == nil {
		s.Log, err = p.log.Snapshot(filepath.Join(dir, "log"))
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("walproxy: backup: %w", err)
	}
	p.logger.Info("a copy for a backup was made", zap.Uint64("first", uint64(s.Log.First)), zap.Uint64("last", uint64(s.Log.Last)),
		zap.Int64("bytes", s.Log.Bytes), zap.Strings("stores", s.Stores))
	return s, nil
}

// copyStores copies our own stores of the sinks from the n-th on and, while none of
// them gets anything, the state store.
func (p *Proxy) copyStores(ctx context.Context, s *Snapshot, dir string, n int) error {
	for ; n < len(p.sinks); n++ {
		own, ok := p.sinks[n].options.Sink.(sinks.Snapshotter)
		if !ok {
			continue
		}
		return p.sinks[n].whileStill(ctx, func() error {
			if err := own.Snapshot(ctx, filepath.Join(dir, "sinks", p.sinks[n].name)); err != nil {
				return fmt.Errorf("sink %s: %w", p.sinks[n].name, err)
			}
			s.Stores = append(s.Stores, p.sinks[n].name)
			return p.copyStores(ctx, s, dir, n+1)
		})
	}
	return p.state.Snapshot(filepath.Join(dir, "state"))
}

// whileStill calls do while no call of the sink is under way and none begins.
func (s *sink) whileStill(ctx context.Context, do func() error) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	loops := s.loopsLocked()
	if !s.mu.paused {
		for _, loop := range loops {
			loop.Suspend()
			defer loop.Resume()
		}
	}
	s.mu.Unlock()
	for _, loop := range loops {
		if err := loop.Still(ctx); err != nil {
			return err
		}
	}
	return do()
}

// Backup is Proxy.Backup of a data directory that no proxy has open. Of o Dir, Log,
// Logger and Sinks are read; those without Sink are left out.
func Backup(ctx context.Context, o Options, dir string) (s Snapshot, err error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	p := &Proxy{options: o, logger: o.Logger}
	defer func() { err = errors.Join(err, p.release()) }()
	if err := p.openLog(); err != nil {
		return s, err
	}
	for _, so := range o.Sinks {
		if so.Sink == nil {
			continue
		}
		loop, err := p.loopOf(so.Name)
		if err != nil {
			return s, err
		}
		one := &sink{name: so.Name, options: so, log: p.log}
		one.attempt.Store(&attempt{loop: loop})
		p.sinks = append(p.sinks, one)
	}
	return p.Backup(ctx, dir)
}
