package replay

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// TestGapInHeldRecords: what is lost is noted also for a sink whose records were
// copied out of the log, gap and all, before it came by.
func TestGapInHeldRecords(t *testing.T) {
	for _, held := range []bool{false, true} {
		r := newHoldRig(t)
		for range 40 {
			r.write(bumps(10, 9)...)
		}
		r.close()
		lost := r.repairOne()
		r.open()
		o := fast()
		o.Lanes = 1
		memory := sinktest.NewMemory()
		l := r.loop(memory, o)
		if held {
			if first := r.holdAll(l); first <= lost {
				t.Fatalf("the log still has LSN %d: it begins at %d", lost, first)
			}
		}
		run := r.start(memory, o)
		run.await(400)
		if n := run.Status().LostRecords; n != 1 {
			t.Fatalf("held: %v: %d records are lost, want 1", held, n)
		}
		if fate, err := run.Fate(lost); err != nil || fate != Lost {
			t.Fatalf("held: %v: LSN %d is %s: %v", held, lost, fate, err)
		}
		if fate, err := run.Fate(lost + 1); err != nil || fate != Applied {
			t.Fatalf("held: %v: LSN %d is %s: %v", held, lost+1, fate, err)
		}
		if n := run.Status().Records; n != 399 {
			t.Fatalf("held: %v: %d records are applied, want 399", held, n)
		}
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		r.close()
	}
}

// repairOne damages one record of the closed log and repairs that. It returns the
// record's LSN.
func (r *rig) repairOne() wal.LSN {
	r.t.Helper()
	dir := filepath.Join(r.dir, "log")
	segments, err := filepath.Glob(filepath.Join(dir, "segments", "*", "*"))
	if err != nil || len(segments) < 4 {
		r.t.Fatal(segments, err)
	}
	data, err := os.ReadFile(segments[1])
	if err != nil {
		r.t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(segments[1], data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	repair, err := wal.OpenRepair(dir, wal.RepairOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := errors.Join(repair.Apply(), repair.Close()); err != nil {
		r.t.Fatal(err)
	}
	report := repair.Report()
	if len(report.Lost) != 1 || report.Lost[0].Count() != 1 {
		r.t.Fatalf("%+v", report.Lost)
	}
	return report.Lost[0].First
}
