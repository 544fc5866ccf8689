package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/walproxy/walproxy/internal/zstdfile"
)

const bufferBytes = 256 << 10

// Send writes the files under dir, which nobody changes, to w as a tar stream, and last m
// with their names and sums. rate bounds it in bytes per second; 0: it does not.
func Send(ctx context.Context, w io.Writer, dir string, m Manifest, rate int64) (Manifest, error) {
	m.Version, m.Files = manifestVersion, nil
	out := tar.NewWriter(w)
	pace := &pace{ctx: ctx, rate: rate, began: time.Now()}
	var sums check
	buffer := make([]byte, bufferBytes)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return sendFile(out, path, filepath.ToSlash(name), &sums, pace, buffer)
	})
	if err != nil {
		return m, err
	}
	m.Files = sums.files
	text, err := json.Marshal(m)
	if err == nil && len(text) > manifestBytesMax {
		err = fmt.Errorf("backup: %d files are more than a manifest can name", len(m.Files))
	}
	if err == nil {
		err = out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: ManifestName, Size: int64(len(text)), Mode: 0o644, ModTime: m.Made})
	}
	if err == nil {
		_, err = out.Write(text)
	}
	return m, errors.Join(err, out.Close())
}

func sendFile(out *tar.Writer, path, name string, sums *check, pace *pace, buffer []byte) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("backup: %s is no file", path)
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o644, ModTime: info.ModTime()}); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(out, sum), &paced{f, pace}, buffer)
	if err != nil {
		return err
	}
	sums.add(name, n, sum)
	return nil
}

// pace makes readers wait so that no more than rate bytes a second are read, and
// end with the context.
type pace struct {
	ctx   context.Context
	rate  int64
	began time.Time
	bytes int64
}

type paced struct {
	io.Reader
	pace *pace
}

func (p *paced) Read(b []byte) (int, error) {
	if err := p.pace.wait(); err != nil {
		return 0, err
	}
	n, err := p.Reader.Read(b)
	p.pace.bytes += int64(n)
	return n, err
}

func (p *pace) wait() error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	if p.rate <= 0 {
		return nil
	}
	due := p.began.Add(time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second)))
	left := time.Until(due)
	if left <= 0 {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// archive is a backup that can be read once.
type archive interface {
	// each calls put for every file, in any order, and returns the manifest.
	each(put func(name string, r io.Reader) error) (Manifest, error)
}

// tarArchive is a stream.
type tarArchive struct{ io.Reader }

func (a tarArchive) each(put func(string, io.Reader) error) (Manifest, error) {
	in := tar.NewReader(a.Reader)
	named := 0 // bytes that a manifest takes for what was read
	for {
		header, err := in.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return Manifest{}, fmt.Errorf("%w: it ends without %s", ErrIncomplete, ManifestName)
		case err != nil:
			return Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		case header.Typeflag == tar.TypeReg && header.Name == ManifestName:
			// It has names, each of them read, which JSON may write longer.
			m, err := readManifest(in, 1<<20+8*named)
			return m, broken(err, ManifestName)
		case header.Typeflag != tar.TypeReg || !local(header.Name):
			return Manifest{}, fmt.Errorf("%w: %q is no file of a backup", ErrDamaged, header.Name)
		}
		if named += len(header.Name) + fileBytesMin; named > manifestBytesMax {
			return Manifest{}, fmt.Errorf("%w: it has more files than a manifest can name", ErrDamaged)
		}
		if err := put(header.Name, in); err != nil {
			return Manifest{}, broken(err, header.Name)
		}
	}
}

// broken says what an error within a file of a stream means.
func broken(err error, name string) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends within %s", ErrIncomplete, name)
	case errors.Is(err, zstdfile.ErrCorrupt):
		return fmt.Errorf("%w: within %s: %w", ErrDamaged, name, err)
	}
	return err
}

// dirArchive is a directory.
type dirArchive string

func (a dirArchive) each(put func(string, io.Reader) error) (m Manifest, err error) {
	f, err := os.Open(filepath.Join(string(a), ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%w: %s has no %s", ErrIncomplete, a, ManifestName)
	}
	if err != nil {
		return m, err
	}
	m, err = readManifest(f, manifestBytesMax)
	if err = errors.Join(err, f.Close()); err != nil {
		return m, err
	}
	for _, file := range m.Files {
		if !local(file.Name) {
			return m, fmt.Errorf("%w: %q is no file of a backup", ErrDamaged, file.Name)
		}
		f, err := os.Open(filepath.Join(string(a), filepath.FromSlash(file.Name)))
		if errors.Is(err, fs.ErrNotExist) {
			return m, fmt.Errorf("%w: %s is missing", ErrDamaged, file.Name)
		}
		if err != nil {
			return m, err
		}
		if err := errors.Join(put(file.Name, f), f.Close()); err != nil {
			return m, err
		}
	}
	return m, nil
}

// receive hands every file of a to put, which reads it to its end, and compares all of it with
// the manifest.
func receive(ctx context.Context, a archive, put func(name string, r io.Reader) error) (Manifest, error) {
	var sums check
	m, err := a.each(func(name string, r io.Reader) error {
		sum := sha256.New()
		counted := &counter{Reader: io.TeeReader(&paced{r, &pace{ctx: ctx}}, sum)}
		if err := put(name, counted); err != nil {
			return err
		}
		sums.add(name, counted.n, sum)
		return nil
	})
	if err != nil {
		return m, err
	}
	return m, sums.compare(&m)
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	return n, err
}
