package sinktest

import (
	"math/rand/v2"
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

// forgetfulHarness runs the suite on Forgetful. A crash takes the store with it.
type forgetfulHarness struct{ sink *Forgetful }

func (s *forgetfulHarness) Open() (sinks.Sink, error) {
	s.sink = s.sink.Reopen()
	return s.sink, nil
}

func (s *forgetfulHarness) Crash(sinks.Sink) error {
	// By what was done, so that a script that rapid prints fails again.
	store := s.sink.store
	store.mu.Lock()
	random := rand.New(rand.NewPCG(uint64(store.applies), uint64(store.restarts)))
	store.mu.Unlock()
	s.sink.Restart(random)
	return nil
}

func (s *forgetfulHarness) Remove() error { return nil }

func TestForgetful(t *testing.T) {
	Run(t, Harness{New: func() (Store, error) { return &forgetfulHarness{NewForgetful()}, nil }})
}
