package looptest

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryStore is a store in memory, which a crash does not harm.
type memoryStore struct{ memory *sinktest.Memory }

func (s *memoryStore) Open() (sinks.Sink, error) {
	s.memory = s.memory.Reopen()
	return s.memory, nil
}

func (s *memoryStore) Crash(sinks.Sink) error { return nil }

func (s *memoryStore) Remove() error { return nil }

func TestMemory(t *testing.T) {
	Run(t, sinktest.Harness{New: func() (sinktest.Store, error) { return &memoryStore{sinktest.NewMemory()}, nil }})
}

// pebbleStore is the default sink in a directory. A crash is a Close.
type pebbleStore struct{ dir string }

func (s *pebbleStore) Open() (sinks.Sink, error) { return pebble.Open(s.dir, pebble.Options{}) }

func (s *pebbleStore) Crash(sink sinks.Sink) error { return sink.Close(context.Background()) }

func (s *pebbleStore) Remove() error { return os.RemoveAll(s.dir) }

func TestPebble(t *testing.T) {
	Run(t, sinktest.Harness{New: func() (sinktest.Store, error) {
		return &pebbleStore{filepath.Join(memoryDir(t), "store")}, nil
	}})
}

// forgetfulStore acknowledges what it has not made durable. A crash takes that.
type forgetfulStore struct{ sink *sinktest.Forgetful }

func (s *forgetfulStore) Open() (sinks.Sink, error) {
	s.sink = s.sink.Reopen()
	return s.sink, nil
}

func (s *forgetfulStore) Restart(random *rand.Rand) { s.sink.Restart(random) }

func (s *forgetfulStore) Crash(sink sinks.Sink) error {
	s.Restart(rand.New(rand.NewPCG(rand.Uint64(), 0)))
	return sink.Close(context.Background())
}

func (s *forgetfulStore) Remove() error { return nil }

func TestForgetful(t *testing.T) {
	Run(t, sinktest.Harness{New: func() (sinktest.Store, error) { return &forgetfulStore{sinktest.NewForgetful()}, nil }})
}
