package peers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

// freeEvery is how often what is durable is released, as it is by sinks that keep up.
const freeEvery = 10 * time.Millisecond

func openLog(engine string) func(t testing.TB, dir string, _ int) *running {
	return func(t testing.TB, dir string, _ int) *running {
		counted := &countingFS{FS: vfs.OS()}
		l, err := wal.Open(dir, wal.Options{Engine: engine, MinFree: -1, FS: counted})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var freeing sync.WaitGroup
		freeing.Go(func() {
			tick := time.NewTicker(freeEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					l.Release(l.Durable())
				}
			}
		})
		return &running{
			write: func(_ int, payload []byte) error {
				_, err := l.Append(context.Background(), payload) // the others take none
				return err
			},
			groups: counted.take,
			close: func() error {
				cancel()
				freeing.Wait()
				return l.Close()
			},
		}
	}
}

// countingFS notes how many bytes each fdatasync of a segment made durable.
type countingFS struct {
	vfs.FS
	mu     sync.Mutex
	groups []int
}

func (c *countingFS) take() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	groups := c.groups
	c.groups = nil
	return groups
}

func (c *countingFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := c.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(name) != "frames" {
		return f, err
	}
	return &countingFile{File: f, fs: c}, nil
}

type countingFile struct {
	vfs.File
	fs    *countingFS
	bytes int // written, and not synced; under fs.mu
}

// WriteAt counts when it is done: a write during an fsync is of the next group.
func (f *countingFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	f.fs.mu.Lock()
	f.bytes += n
	f.fs.mu.Unlock()
	return n, err
}

func (f *countingFile) Sync() error { // its room was made
	f.take()
	return f.File.Sync()
}

func (f *countingFile) Datasync() error {
	n := f.take()
	f.fs.mu.Lock()
	f.fs.groups = append(f.fs.groups, n)
	f.fs.mu.Unlock()
	return f.File.Datasync()
}

func (f *countingFile) take() int {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n := f.bytes
	f.bytes = 0
	return n
}

// rawFile is the limit: a file that is written and made durable beforehand, into which
// groups are written at their place, one after the other, each with an fdatasync.
type rawFile struct {
	file *os.File
	at   int64
	buf  []byte
}

const rawSize = 64 << 20

func openRaw(dir string) (*rawFile, error) {
	f, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		return nil, err
	}
	r := &rawFile{file: f, buf: make([]byte, rawSize/4)}
	for range 4 {
		if _, err := f.Write(r.buf); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	for i := range r.buf {
		r.buf[i] = byte(i * 7)
	}
	return r, f.Sync()
}

// replay writes the groups, again and again, for some time.
func (r *rawFile) replay(groups []int, frame int, d time.Duration) (s sample, err error) {
	if len(groups) == 0 {
		return s, nil
	}
	began := time.Now()
	for i := 0; ; i++ {
		n := min(groups[i%len(groups)], len(r.buf))
		if r.at+int64(n) > rawSize {
			r.at = 0
		}
		start := time.Now()
		if _, err := r.file.WriteAt(r.buf[:n], r.at); err != nil {
			return s, err
		}
		if err := unix.Fdatasync(int(r.file.Fd())); err != nil {
			return s, err
		}
		now := time.Now()
		r.at += int64(n)
		s.records += float64(n) / float64(frame)
		s.latencies = append(s.latencies, tenths(now.Sub(start)))
		if s.took = now.Sub(began); s.took >= d {
			return s, nil
		}
	}
}
