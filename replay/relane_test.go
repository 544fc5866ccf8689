package replay

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestLaneCountChanges over several runs, with lanes far apart when they end.
func TestLaneCountChanges(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	for i, lanes := range []int{4, 1, 7, 7, 2, 16} {
		last := r.write(mixed(100, 30, 3)...)
		f := sinktest.NewFaulty(memory.Reopen())
		o := fast()
		o.Lanes, o.Batch.Records = lanes, 5
		// One lane hangs, the others run ahead; then the process is gone.
		hang := make(chan struct{})
		f.Add(sinktest.Rule{When: sinktest.All(sinktest.Lane(i%lanes), sinktest.NotEmpty), Do: sinktest.HoldBefore(hang), Times: sinktest.Always})
		run := r.start(f, o)
		awaitCall(t, f, "a call", func(sinktest.Call) bool { return true })
		f.Clear()
		close(hang)
		if i%2 == 0 {
			run.await(last)
			eventually(t, "the new lanes", func() bool { return len(run.Status().Lanes) == lanes })
		}
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
	}
	drainOnce(t, r, memory)
	r.check(memory)
}

// uneven leaves a store whose 4 lanes are far apart, with records of each lane
// between the lowest and the highest.
func uneven(t *testing.T, r *rig) *sinktest.Memory {
	t.Helper()
	memory := sinktest.NewMemory()
	r.write(bumps(100, 40)...)
	f := sinktest.NewFaulty(memory)
	f.Add(sinktest.Rule{When: sinktest.All(sinktest.Lane(0), sinktest.NotEmpty), Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	o := fast()
	o.Batch.Records = 3
	run := r.start(f, o)
	eventually(t, "the other lanes are done", func() bool {
		s := run.Status()
		return len(s.Lanes) == 4 && s.Lanes[1] > 90 && s.Lanes[2] > 90 && s.Lanes[3] > 90
	})
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if s := run.Status(); s.Lanes[0] > 20 {
		t.Fatalf("lanes %v: not uneven", s.Lanes)
	}
	return memory
}

// TestLaneCountChangeCrash stops dead at each call of the change, before and
// after it took effect, and starts again, with the same and another number.
func TestLaneCountChangeCrash(t *testing.T) {
	crash := errors.New("crash")
	for _, lost := range []bool{false, true} {
		for number := 1; ; number++ {
			reached := false
			t.Run(fmt.Sprintf("lost=%t/call=%d", lost, number), func(t *testing.T) {
				r := newRig(t)
				memory := uneven(t, r)
				r.write(mixed(30, 30, 3)...)
				f := sinktest.NewFaulty(memory.Reopen())
				fault := sinktest.FailBefore(sinks.Halt, crash)
				if lost { // took effect, nobody heard of it
					fault = sinktest.LoseAnswer(crash)
					f.Add(sinktest.Rule{When: func(n int, _ *sinks.Batch) bool { return n > number }, Do: sinktest.Halt(crash), Times: sinktest.Always})
				}
				f.Add(sinktest.Rule{When: func(n int, _ *sinks.Batch) bool { return n >= number }, Do: fault, Times: sinktest.Always})
				o := fast()
				o.Lanes, o.Batch.Records = 3, 10
				run := r.start(f, o)
				waited := run.Wait(context.Background(), r.log.Durable())
				if waited == nil {
					reached = true
					_ = run.stop()
				} else if err := run.ended(); !errors.Is(err, crash) {
					t.Fatal(err)
				}
				o.Lanes = 3 + number%2
				again := r.start(memory.Reopen(), o)
				again.await(r.log.Durable())
				r.check(memory)
				eventually(t, "the new lanes", func() bool { return len(again.Status().Lanes) == o.Lanes })
			})
			if reached || t.Failed() || number > 60 {
				break
			}
		}
	}
}

// TestStopDuringLaneChange never switches with records of the old lanes left.
func TestStopDuringLaneChange(t *testing.T) {
	r := newRig(t)
	memory := uneven(t, r)
	f := sinktest.NewFaulty(memory.Reopen())
	hang := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(hang), Times: sinktest.Always})
	o := fast()
	o.Lanes = 2
	run := r.start(f, o)
	awaitCall(t, f, "a call hangs", func(c sinktest.Call) bool { return !c.Returned })
	run.cancel()
	f.Clear()
	close(hang)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	for _, c := range f.Calls() {
		if c.Relane {
			t.Error("the lanes were switched after the order to stop")
		}
	}
	again := r.start(memory.Reopen(), o)
	again.await(r.log.Durable())
	r.check(memory)
}
