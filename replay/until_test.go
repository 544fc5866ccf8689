package replay

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// counts are how often bumps(n, keys) up to lsn, the first being LSN 1, wrote each
// key; of a store, how often each was applied.
func counts(keys int, lsn wal.LSN) (want []uint64) {
	want = make([]uint64, keys)
	for i := range int(lsn) {
		want[i%keys]++
	}
	return want
}

func storedCounts(t *testing.T, store sinks.Reader, keys int) (got []uint64) {
	t.Helper()
	for i := range keys {
		doc, err := store.Read(t.Context(), "c", mutation.String(fmt.Sprint("k", i)))
		if errors.Is(err, mutation.ErrNotFound) {
			got = append(got, 0)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, doc.EventCount)
	}
	return got
}

// TestUntil: Run ends by itself, with all of a prefix of the log applied and
// nothing above it, whatever the lanes; and goes on from there.
func TestUntil(t *testing.T) {
	const n, keys = 300, 7
	r := newRig(t)
	r.write(bumps(n, keys)...)
	memory := sinktest.NewMemory()
	reached := wal.LSN(0)
	for i, until := range []wal.LSN{1, 1, 2, 100, 50, 101, 250, 299} {
		o := fast()
		o.Lanes, o.Until, o.Batch.Records = 1+i%4, until, 10
		run := r.start(memory.Reopen(), o)
		if err := run.ended(); err != nil {
			t.Fatal(err)
		}
		reached = max(reached, until)
		if got, want := storedCounts(t, memory, keys), counts(keys, reached); !slices.Equal(got, want) {
			t.Fatalf("until %d: the keys were written %v times, want %v", until, got, want)
		}
		if run.Checkpoint() != reached {
			t.Errorf("until %d: checkpoint %d, want %d", until, run.Checkpoint(), reached)
		}
	}
	run := r.start(memory.Reopen(), fast())
	run.await(n)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	r.check(memory)
}

// TestUntilBetweenLanes: with lanes at different points and another number of them
// wanted, an end below the highest lane leaves the lanes as they were.
func TestUntilBetweenLanes(t *testing.T) {
	const n, keys = 200, 16
	r := newRig(t)
	r.write(bumps(n, keys)...)
	memory := sinktest.NewMemory()
	f := sinktest.NewFaulty(memory.Reopen())
	f.Add(sinktest.Rule{When: sinktest.Lane(0), Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	o := fast()
	o.Lanes, o.Batch.Records = 3, 5
	run := r.start(f, o)
	eventually(t, "the other lanes go ahead", func() bool {
		lanes := run.Status().Lanes
		return len(lanes) == 3 && lanes[1] > 150 && lanes[2] > 150
	})
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	low, lanes := run.Checkpoint(), run.Status().Lanes
	for _, until := range []wal.LSN{low + 20, low + 40} {
		o.Lanes, o.Until = 5, until
		run = r.start(memory.Reopen(), o)
		if err := run.ended(); err != nil {
			t.Fatal(err)
		}
		got := run.Status().Lanes
		if run.Applied() < until || len(got) != 3 || got[1] != lanes[1] || got[2] != lanes[2] || got[0] > until {
			t.Errorf("until %d: applied %d, lanes %v; before %v", until, run.Applied(), got, lanes)
		}
	}
	o.Until = n
	run = r.start(memory.Reopen(), o)
	if err := run.ended(); err != nil {
		t.Fatal(err)
	}
	if got := run.Status().Lanes; len(got) != 5 || run.Checkpoint() != n {
		t.Errorf("lanes %v, checkpoint %d", got, run.Checkpoint())
	}
	r.check(memory)
}

// TestUntilHeld: an end among held records, and one where nothing of the sink is
// held any more.
func TestUntilHeld(t *testing.T) {
	r := newRig(t)
	r.close()
	r.seg = 4096
	r.open()
	for i := range 200 {
		routes := []string{"other"}
		if i%10 == 0 {
			routes = []string{"main"}
		}
		r.writeTo(routes, bumps(1, 1)...)
	}
	memory := sinktest.NewMemory()
	sealed := r.sealed()
	r.hold(r.loop(memory, fast()), sealed[len(sealed)-1])
	if r.log.First() == 1 {
		t.Fatal("nothing was freed")
	}
	for _, until := range []wal.LSN{15, 21, 25} {
		o := fast()
		o.Until = until
		run := r.start(memory.Reopen(), o)
		if err := run.ended(); err != nil {
			t.Fatal(err)
		}
		if got, want := storedCounts(t, memory, 1)[0], uint64(until-1)/10+1; got != want || run.Checkpoint() > until {
			t.Errorf("until %d: %d applied, want %d; checkpoint %d", until, got, want, run.Checkpoint())
		}
	}
	run := r.start(memory.Reopen(), fast())
	run.await(200)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	r.check(memory)
}

// TestRejectLimit: as many dead letters are made as were allowed, exactly, and each
// further loop gets further by as many.
func TestRejectLimit(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprint("lanes=", lanes), func(t *testing.T) {
			r := newRig(t)
			bad := []wal.LSN{3, 4, 5, 60, 61, 110}
			r.write(bumps(120, 120)...)
			memory := sinktest.NewMemory()
			for run := 1; ; run++ {
				f := sinktest.NewFaulty(memory.Reopen())
				f.Add(sinktest.Rule{Do: sinktest.Reject(sinktest.ErrAway, bad...), Times: sinktest.Always})
				o := fast()
				o.Lanes, o.Batch.Records, o.Rejects = lanes, 10, NewRejectLimit(2)
				loop := r.start(f, o)
				if run == 4 {
					loop.await(120)
					if err := loop.stop(); err != nil {
						t.Fatal(err)
					}
					break
				}
				if err := loop.ended(); !errors.Is(err, ErrRejectLimit) {
					t.Fatalf("run %d: %v", run, err)
				}
				letters, err := loop.Letters().List(0, 100)
				if err != nil {
					t.Fatal(err)
				}
				var got []wal.LSN
				for _, l := range letters {
					got = append(got, l.LSN)
				}
				if want := bad[:2*run]; !slices.Equal(got, want) {
					t.Fatalf("run %d: dead letters %v, want %v", run, got, want)
				}
			}
		})
	}
}

// TestRejectLimitShared: loops that share a limit make no more than it together.
func TestRejectLimitShared(t *testing.T) {
	r := newRig(t)
	r.writeTo([]string{"main", "other"}, bumps(40, 40)...)
	limit := NewRejectLimit(3)
	var loops []*running
	for _, name := range []string{"main", "other"} {
		f := sinktest.NewFaulty(sinktest.NewMemory())
		f.Add(sinktest.Rule{Do: sinktest.Reject(sinktest.ErrAway, 5, 10, 15, 20, 25), Times: sinktest.Always})
		o := fast()
		o.Name, o.Rejects = name, limit
		loops = append(loops, r.start(f, o))
	}
	made := uint64(0)
	for _, l := range loops {
		if err := l.ended(); !errors.Is(err, ErrRejectLimit) {
			t.Error(err)
		}
		made += l.Status().DeadLetters
	}
	if made != 3 {
		t.Errorf("%d dead letters, want 3", made)
	}
}

func TestThrottle(t *testing.T) {
	for _, rate := range []float64{0.5, 7, 99, 100, 101, 5000, 1e6} {
		th, now := newThrottle(rate), time.Unix(0, 0)
		began := now
		n := int(rate*10) + 1
		if rate > 1e5 { // a call each, and they have no more to tell
			n /= 50
		}
		for range n {
			now = now.Add(th.take(now))
		}
		took, want := now.Sub(began).Seconds(), float64(n-1)/rate
		if took < want-0.03 || took > want+0.03 {
			t.Errorf("%v/s: %d records took %vs, want %v", rate, n, took, want)
		}
		// What was missed is not caught up with.
		now = now.Add(time.Hour)
		began = now
		for range n {
			now = now.Add(th.take(now))
		}
		if took := now.Sub(began).Seconds(); took < want-0.03-1/rate {
			t.Errorf("%v/s: after a rest %d records took %vs, want %v", rate, n, took, want)
		}
	}
}

// TestRate: no faster than it may, and a stop does not wait.
func TestRate(t *testing.T) {
	r := newRig(t)
	r.write(bumps(100, 10)...)
	if every := newThrottle(1e-12).every; every < time.Hour {
		t.Errorf("at a millionth of a millionth per second one each %v", every)
	}
	o := fast()
	o.Rate, o.Until = 400, 100
	began := time.Now()
	memory := sinktest.NewMemory()
	if err := r.start(memory, o).ended(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 220*time.Millisecond {
		t.Errorf("100 records at 400/s took %v", took)
	}
	r.check(memory)
	r.write(bumps(10, 10)...)
	o.Rate, o.Until = 0.001, 0
	run := r.start(memory.Reopen(), o)
	run.await(101)
	if err := run.stop(); err != nil || run.Applied() > 102 {
		t.Errorf("%v, applied %d", err, run.Applied())
	}
}
