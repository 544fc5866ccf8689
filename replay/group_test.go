package replay

import (
	"fmt"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// mixed makes n records; every fifth is a group over size keys.
func mixed(n, keys, size int) (records [][]*walproxyv1.Mutation) {
	for i := range n {
		ms := []*walproxyv1.Mutation{bump(fmt.Sprint("k", i%keys))}
		for j := 1; i%5 == 4 && j < size; j++ {
			ms = append(ms, bump(fmt.Sprint("k", (i+j)%keys)))
		}
		records = append(records, ms)
	}
	return records
}

// TestGroupsSpanLanes: each is applied alone, after everything before it, before
// everything after it, in one batch that moves all lanes.
func TestGroupsSpanLanes(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	groups := map[wal.LSN]bool{}
	o := fast()
	o.Batch.Records = 8
	for _, ms := range mixed(300, 30, 4) {
		lsn := r.write(ms)
		lanes := map[uint64]bool{}
		for _, m := range ms {
			lanes[mutation.Hash("c", m.GetKey())%uint64(4)] = true
		}
		groups[lsn] = len(lanes) > 1
	}
	f.Add(
		sinktest.Rule{When: sinktest.LSN(5, 10, 15), Do: sinktest.LoseAnswer(sinktest.ErrAway), Times: 3},
		sinktest.Rule{When: sinktest.LSN(20, 25, 30), Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: 3},
	)
	run := r.start(f, o)
	run.await(300)
	r.check(f)
	done := wal.LSN(0)
	alone := 0
	for _, c := range f.Calls() {
		for _, lsn := range c.LSNs {
			if groups[lsn] {
				alone++
				if len(c.LSNs) != 1 || len(c.Moves) != 4 {
					t.Errorf("LSN %d went with %v, moves %v", lsn, c.LSNs, c.Moves)
				}
				for _, m := range c.Moves {
					if m.To.LSN != lsn || m.From.LSN >= lsn {
						t.Errorf("LSN %d: move %+v", lsn, m)
					}
				}
				done = max(done, lsn)
			}
			if lsn < done {
				t.Errorf("LSN %d was sent after %d, which spans lanes", lsn, done)
			}
		}
	}
	if alone < 30 {
		t.Errorf("only %d records were sent alone", alone)
	}
}

// TestGroupWaitsForLinger: the lanes before a group do not linger for it.
func TestGroupCutsLinger(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	o := fast()
	o.Batch.Linger = 1 << 40
	r.write(mixed(100, 30, 4)...)
	run := r.start(memory, o)
	eventually(t, "groups are applied", func() bool { return run.Applied() >= 95 })
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestGroupRejectedOrHalted leaves everything after it alone.
func TestGroupRejected(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.Add(sinktest.Rule{Do: sinktest.Reject(sinktest.ErrAway, 5), Times: sinktest.Always})
	r.write(mixed(50, 30, 6)...)
	o := fast()
	o.OnReject = nil
	run := r.start(f, o)
	if err := run.ended(); !contains(err, "LSN 5,") {
		t.Fatalf("%v, want LSN 5 rejected", err)
	}
	if a := run.Applied(); a != 4 {
		t.Errorf("applied %d, want 4", a)
	}
	for _, c := range f.Calls() {
		for _, lsn := range c.LSNs {
			if lsn > 5 {
				t.Errorf("LSN %d was sent past the rejected group", lsn)
			}
		}
	}
}
