package sinktest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryHarness runs the suite on Memory.
type memoryHarness struct{ memory *Memory }

func (s *memoryHarness) Open() (sinks.Sink, error) {
	s.memory = s.memory.Reopen()
	return s.memory, nil
}

func (s *memoryHarness) Crash(sinks.Sink) error { return nil } // the old handle is simply dropped
func (s *memoryHarness) Remove() error          { return nil }

func TestMemory(t *testing.T) {
	Run(t, Harness{New: func() (Store, error) { return &memoryHarness{NewMemory()}, nil }})
}
