package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/walproxy/walproxy/internal/unfinished"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/internal/zstdfile"
)

// What is not complete lies beside a file, or within a directory, which may be a
// mount point, under a name of its own.
const (
	partial    = ".partial"
	partialDir = unfinished.Restore
)

// SaveFile writes a stream to the file name, which does not exist yet, and
// verifies it meanwhile. Without an error it is complete and durable; with one there
// is nothing of that name. A name that ends in .zst has it compressed.
func SaveFile(ctx context.Context, r io.Reader, name string) (m Manifest, err error) {
	if err := vacant(name); err != nil {
		return m, err
	}
	f, err := vfs.OS().OpenFile(name+partial, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, vfs.OS().Remove(name+partial))
		}
	}()
	m, err = saveTo(ctx, f, r, zstdfile.Named(name))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return m, err
	}
	if err := vfs.OS().Rename(name+partial, name); err != nil {
		return m, err
	}
	return m, vfs.OS().SyncDir(filepath.Dir(name))
}

func saveTo(ctx context.Context, f io.Writer, r io.Reader, compress bool) (m Manifest, err error) {
	if compress {
		packed, err := zstdfile.NewWriter(f)
		if err != nil {
			return m, err
		}
		m, err := saveTo(ctx, packed, r, false)
		return m, errors.Join(err, packed.Close())
	}
	in := io.TeeReader(r, f)
	m, err = receive(ctx, tarArchive{in}, discard)
	if err == nil {
		_, err = io.Copy(io.Discard, in) // the stream's own end
	}
	return m, err
}

// SaveDir is SaveFile with a directory.
func SaveDir(ctx context.Context, r io.Reader, dir string) (m Manifest, err error) {
	m, err = fill(ctx, tarArchive{r}, dir, true)
	if err == nil { // it is complete, whatever comes; the sender may wait to be read to its end
		_, _ = io.Copy(io.Discard, r)
	}
	return m, err
}

// Verify reads a backup, a file or a directory, and compares it with its manifest.
func Verify(ctx context.Context, path string) (m Manifest, err error) {
	a, closer, err := open(path)
	if err != nil {
		return m, err
	}
	m, err = receive(ctx, a, discard)
	return m, errors.Join(err, closer.Close())
}

// Restore makes a data directory of a backup. dir does not exist, or is empty; with
// an error it is left empty, or, after a crash, with what cannot be taken for a data directory.
func Restore(ctx context.Context, path, dir string) (m Manifest, err error) {
	a, closer, err := open(path)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	return fill(ctx, a, dir, false)
}

func open(path string) (archive, io.Closer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		return dirArchive(path), io.NopCloser(nil), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	r, err := zstdfile.NewReader(f)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return tarArchive{r}, closers{r, f}, nil
}

type closers []io.Closer

func (c closers) Close() (err error) {
	for _, one := range c {
		err = errors.Join(err, one.Close())
	}
	return err
}

func discard(_ string, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// fill writes a's files into dir, where they get their names when all are there and
// durable.
func fill(ctx context.Context, a archive, dir string, manifest bool) (m Manifest, err error) {
	temporary := filepath.Join(dir, partialDir)
	if err := vfs.MkdirAllSync(vfs.OS(), dir, 0o755); err != nil {
		return m, err
	}
	if err := removeInterrupted(dir, manifest); err != nil {
		return m, err
	}
	if err := vacant(dir); err != nil {
		return m, err
	}
	if err := vfs.OS().MkdirAll(temporary, 0o755); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, vfs.OS().RemoveAll(temporary)) }()
	m, err = receive(ctx, a, func(name string, r io.Reader) error {
		return writeFile(filepath.Join(temporary, filepath.FromSlash(name)), r)
	})
	if err == nil && manifest {
		err = writeManifest(filepath.Join(temporary, ManifestName), m)
	}
	if err == nil {
		err = syncTree(temporary)
	}
	if err != nil {
		return m, err
	}
	return m, reveal(temporary, dir)
}

// reveal moves what is in temporary to dir, last what makes it a backup or a data
// directory.
func reveal(temporary, dir string) error {
	entries, err := os.ReadDir(temporary)
	if err != nil {
		return err
	}
	last := func(e fs.DirEntry) int {
		switch e.Name() {
		case "log":
			return 1
		case ManifestName:
			return 2
		}
		return 0
	}
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { return last(a) - last(b) })
	for _, e := range entries {
		err := vfs.OS().Rename(filepath.Join(temporary, e.Name()), filepath.Join(dir, e.Name()))
		if err = errors.Join(err, vfs.OS().SyncDir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// removeInterrupted removes what a crash left in dir, partialDir last: as long as that is there
// the rest is no data directory. A log says that it is one, or may become it.
func removeInterrupted(dir string, manifest bool) error {
	temporary := filepath.Join(dir, partialDir)
	if _, err := os.Lstat(temporary); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	revealed := []string{"sinks", "state"}
	switch _, err := os.Lstat(filepath.Join(dir, "log")); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !manifest || exists(filepath.Join(dir, ManifestName)) || exists(filepath.Join(dir, "log", "LOCK")):
		revealed = nil // it was complete, or somebody has opened it since
	default:
		revealed = append(revealed, "log")
	}
	for _, name := range append(revealed, partialDir) {
		if err := vfs.OS().RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return vfs.OS().SyncDir(dir)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// vacant is nil if nothing, or an empty directory, is there.
func vacant(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil || len(entries) == 0 {
			return err
		}
	}
	return fmt.Errorf("%w: %s", ErrExists, path)
}

func writeFile(path string, r io.Reader) (err error) {
	if err := vfs.OS().MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := vfs.OS().OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.CopyBuffer(f, r, make([]byte, bufferBytes)); err != nil {
		return err
	}
	return f.Sync()
}

func writeManifest(path string, m Manifest) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := vfs.OS().OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// syncTree makes the entries of all directories durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return vfs.OS().SyncDir(path)
	})
}
