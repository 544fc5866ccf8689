package pebble

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// crashStore is a store on a file system in memory that forgets, at a crash,
// what was not synced: files and directory entries alike.
type crashStore struct{ fs *vfs.MemFS }

func newCrashStore() (sinktest.Store, error) { return &crashStore{vfs.NewCrashableMem()}, nil }

func (s *crashStore) Open() (sinks.Sink, error) {
	return Open("store", Options{fs: s.fs, MemTableBytes: 256 << 10, CacheBytes: 1 << 20})
}

func (s *crashStore) Crash(sink sinks.Sink) error {
	s.fs = s.fs.CrashClone(vfs.CrashCloneCfg{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return sink.Close(ctx) // of what is left on the old file system
}

func (s *crashStore) Remove() error { return nil }

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: newCrashStore})
}

// dirStore is a store in a directory. A crash is a Close: the process lives.
type dirStore struct{ dir string }

func newDirStore() (sinktest.Store, error) {
	dir, err := os.MkdirTemp("", "sink-pebble-*")
	return &dirStore{dir}, err
}

func (s *dirStore) Open() (sinks.Sink, error) { return Open(s.dir, Options{}) }

func (s *dirStore) Crash(sink sinks.Sink) error { return sink.Close(context.Background()) }

func (s *dirStore) Remove() error { return os.RemoveAll(s.dir) }

// TestConformanceOnDisk is the suite on the real file system.
func TestConformanceOnDisk(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: newDirStore})
}
