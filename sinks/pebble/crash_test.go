package pebble

import (
	"os"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestPowerCutAtEveryStep copies, before every operation that changes a file,
// what a power cut at that moment would leave, while two lanes apply, tables are
// flushed and WALs change. In every copy data and checkpoint agree, and all that
// was reported applied by then is there. (WALPROXY_LONG=1: more of it.)
func TestPowerCutAtEveryStep(t *testing.T) {
	batches, every := 50, int64(5)
	if os.Getenv("WALPROXY_LONG") != "" {
		batches, every = 250, 1
	}
	type cut struct {
		fs        *vfs.MemFS
		low, high []int64 // reported applied before and after the copy
	}
	const lanes = 2
	var (
		applied [lanes]atomic.Int64
		armed   atomic.Bool
		seen    atomic.Int64
		cuts    = make(chan cut, 1<<16)
	)
	mem := vfs.NewCrashableMem()
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !armed.Load() || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose {
			return nil
		}
		if seen.Add(1)%every != 0 {
			return nil
		}
		now := func() (counts []int64) {
			for lane := range applied {
				counts = append(counts, applied[lane].Load())
			}
			return counts
		}
		c := cut{low: now()}
		c.fs = mem.CrashClone(vfs.CrashCloneCfg{})
		c.high = now()
		cuts <- c
		return nil
	})
	s, err := Open("store", Options{fs: neverReuse{errorfs.Wrap(mem, inject)}, MemTableBytes: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	c := newCounters(t, s, lanes)
	armed.Store(true)
	for i := range batches {
		lane := i % lanes
		if err := c.next(t.Context(), lane, []int{10, 3 << 10, 40 << 10}[i%3]); err != nil {
			t.Fatal(err)
		}
		applied[lane].Add(1)
	}
	closeSink(t, s)
	armed.Store(false)
	close(cuts)
	n := 0
	for cut := range cuts {
		n++
		c.verify(cut.fs, cut.low, cut.high)
		if t.Failed() {
			t.Fatalf("power cut %d", n)
		}
	}
	if n < batches/2 {
		t.Fatalf("only %d power cuts: the injector does not work", n)
	}
	t.Logf("%d power cuts", n)
}
