package replay

import (
	"context"
	"slices"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// oneKey makes n records of one key: all lanes but one are idle.
func oneKey(n int) (records [][]*walproxyv1.Mutation) { return bumps(n, 1) }

// TestIdleLanesFreeSpace by each of the three bounds, while the loop runs.
func TestIdleLanesFreeSpace(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Options)
	}{
		{"records", func(o *Options) { o.Idle.Records, o.Idle.Interval = 100, time.Hour }},
		{"bytes", func(o *Options) { o.Idle.Bytes, o.Idle.Interval = 4096, time.Hour }},
		{"interval", func(o *Options) { o.Idle.Interval = 5 * time.Millisecond }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rig{t: t, dir: t.TempDir(), model: map[string]*modelRow{}, seg: 4096}
			r.open()
			t.Cleanup(r.close)
			f := sinktest.NewFaulty(sinktest.NewMemory())
			o := fast()
			c.set(&o)
			o.OnCheckpoint = func(l wal.LSN) { r.log.Release(l + 1) }
			run := r.start(f, o)
			for range 50 { // a group is never split over segments
				r.write(oneKey(10)...)
			}
			eventually(t, "space below idle lanes is freed", func() bool { return r.log.First() > 300 })
			run.await(500)
			r.check(f)
			empty := 0
			for _, call := range f.Calls() {
				if len(call.LSNs) == 0 {
					empty++
				}
			}
			if empty > 500 {
				t.Errorf("%d batches without records", empty)
			}
		})
	}
}

// TestQuietLoopIsQuiet: once every checkpoint is at the end nothing more is sent.
func TestQuietLoopIsQuiet(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := fast()
	o.Idle.Interval = 2 * time.Millisecond
	run := r.start(f, o)
	last := r.write(oneKey(5)...)
	eventually(t, "all checkpoints at the end", func() bool { return run.Checkpoint() == last })
	calls := len(f.Calls())
	time.Sleep(50 * time.Millisecond) // 25 intervals in which something could be sent
	if n := len(f.Calls()); n != calls {
		t.Errorf("%d calls while nothing happened", n-calls)
	}
}

// TestIdleLaneAfterItsLastBatch: a lane that was busy when the others were moved
// is moved later, though nothing is written any more.
func TestIdleLaneAfterItsLastBatch(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	hang := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.LSN(1), Do: sinktest.HoldBefore(hang)})
	o := fast()
	o.Idle.Interval = 5 * time.Millisecond
	run := r.start(f, o)
	r.write(bumps(1, 1)...)
	awaitCall(t, f, "the first record hangs", func(c sinktest.Call) bool { return len(c.LSNs) > 0 })
	lane := func(m *walproxyv1.Mutation) uint64 { return mutation.Hash("c", m.GetKey()) % 4 }
	last := r.write(slices.DeleteFunc(bumps(60, 60), func(ms []*walproxyv1.Mutation) bool {
		return lane(ms[0]) == lane(bump("k0"))
	})...)
	eventually(t, "the lanes behind the end were looked at", func() bool {
		p := run.pipe.Load()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.feeds[0].swept == last
	})
	close(hang)
	eventually(t, "all checkpoints at the end", func() bool { return run.Checkpoint() == last })
}

// TestCheckpointsAtTheEnd of a drain, though nothing made them move before.
func TestCheckpointsAtTheEnd(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	o := fast()
	o.Idle.Interval = time.Hour
	last := r.write(oneKey(50)...)
	run := r.start(memory, o)
	if err := r.log.Seal(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := run.ended(); err != nil {
		t.Fatal(err)
	}
	if c := run.Checkpoint(); c != last {
		t.Errorf("checkpoint %d, want %d", c, last)
	}
}
