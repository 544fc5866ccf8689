package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// sealed returns the last LSN of each segment that takes no more records.
func (r *rig) sealed() (last []wal.LSN) {
	for _, e := range r.log.Extents() {
		if e.Sealed && e.Last >= e.First {
			last = append(last, e.Last)
		}
	}
	return last
}

// hold copies l's records up to through out of the log, and frees it.
func (r *rig) hold(l *Loop, through wal.LSN) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.Hold(ctx, through); err != nil && !errors.Is(err, wal.ErrBelowFirst) {
		r.t.Fatalf("Hold(%d): %v", through, err)
	} else if err == nil && l.Needs() <= through {
		r.t.Fatalf("Needs() = %d after Hold(%d)", l.Needs(), through)
	}
	r.log.Release(l.Needs())
}

// holdAll holds all that is sealed and returns where the log begins then.
func (r *rig) holdAll(l *Loop) wal.LSN {
	r.t.Helper()
	before, sealed := r.log.First(), r.sealed()
	r.hold(l, sealed[len(sealed)-1])
	if r.log.First() <= before {
		r.t.Fatalf("nothing was freed: the log begins at %d; %+v", before, l.Status())
	}
	return r.log.First()
}

// newHoldRig has small segments and nothing in memory: what is freed is gone.
func newHoldRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), model: map[string]*modelRow{}, seg: 4096}
	r.open()
	t.Cleanup(r.close)
	return r
}

// writeMixed logs n records of "other", every tenth is for "main".
func (r *rig) writeMixed(n int) (last wal.LSN) {
	r.t.Helper()
	return r.writeRouted(n, func(i int) []string {
		if i%10 == 0 {
			return []string{"main"}
		}
		return []string{"other"}
	})
}

// writeRouted logs n records, a few in one group commit: a group is never split
// over segments.
func (r *rig) writeRouted(n int, routes func(i int) []string) (last wal.LSN) {
	r.t.Helper()
	for i, ms := range bumps(n, 7) {
		last = r.queueFrom(0, routes(i), ms)
		if i%8 == 7 || i == n-1 {
			r.awaitDurable()
		}
	}
	return last
}

// TestHeldPages: more is held than is read at once, over starts of the log, and
// trimmed as the sink gets it.
func TestHeldPages(t *testing.T) {
	r := newHoldRig(t)
	r.seg = 64 << 10
	big := strings.Repeat("x", 20<<10)
	memory := sinktest.NewMemory()
	for start := range 3 {
		r.crash()
		for i := range 70 { // 1.4 MiB
			r.write([]*walproxyv1.Mutation{bump("k"), mutation.New("c", mutation.String("k"), []*walproxyv1.Op{
				mutation.SetOp(map[string]*walproxyv1.Value{"text": mutation.StringValue(fmt.Sprint(i, start, big))}),
			})})
			r.writeMixed(3)
		}
		r.holdAll(r.loop(memory, fast()))
	}
	held := r.loop(memory, fast()).Status()
	if held.HeldRecords < 200 || held.HeldBytes < 4<<20 {
		t.Fatalf("%+v, want more than 200 records held", held)
	}
	o := fast()
	o.Idle.Interval = time.Nanosecond
	f := sinktest.NewFaulty(memory)
	hang := make(chan struct{})
	o.Lanes, o.Batch.Records = 1, 1
	for lsn := r.log.First() - 10; lsn < r.log.First(); lsn++ { // whichever of them is the sink's
		f.Add(sinktest.Rule{When: sinktest.LSN(lsn), Do: sinktest.HoldBefore(hang)})
	}
	run := r.start(f, o)
	eventually(t, "some of it is trimmed", func() bool {
		s := run.Status()
		return s.HeldRecords > 0 && s.HeldRecords < held.HeldRecords/2 && s.HeldBytes < held.HeldBytes/2
	})
	close(hang)
	run.await(r.log.Durable())
	r.check(memory)
	eventually(t, "all of it is", func() bool { return run.Status().HeldRecords == 0 })
}

// TestHeldUnderTheReader: the loop is in the middle of the log, its queue full,
// when what follows is freed; and again when it reads what is held.
func TestHeldUnderTheReader(t *testing.T) {
	r := newHoldRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	hang := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.LSN(1), Do: sinktest.HoldBefore(hang)})
	o := fast()
	o.QueueBytes, o.Batch.Records = 1, 1
	run := r.start(f, o)
	r.writeMixed(100)
	awaitCall(t, f, "it hangs at LSN 1", func(c sinktest.Call) bool { return len(c.LSNs) > 0 })
	first := r.holdAll(run.Loop)
	r.writeMixed(100)
	if again := r.holdAll(run.Loop); again <= first {
		t.Fatalf("the log begins at %d, then at %d", first, again)
	}
	close(hang)
	run.await(r.writeMixed(100))
	r.check(f)
	if s := run.Status(); s.Err != nil || s.State != Running {
		t.Errorf("%+v, want running", s)
	}
}

// TestHeldRelane: the lanes are far apart in what is held, and their number
// changes.
func TestHeldRelane(t *testing.T) {
	for _, lanes := range []int{2, 9} {
		r := newHoldRig(t)
		memory := uneven(t, r)
		r.writeMixed(100)
		r.holdAll(r.loop(memory.Reopen(), fast()))
		o := fast()
		o.Lanes = lanes
		run := r.start(memory.Reopen(), o)
		run.await(r.log.Durable())
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		if s := run.Status(); len(s.Lanes) != lanes {
			t.Errorf("%d lanes, want %d", len(s.Lanes), lanes)
		}
		r.check(memory)
		r.close()
	}
}

// TestHeldStrictResume: a checkpoint below the log is taken only if it is in the
// history of what is held and what follows it is there.
func TestHeldStrictResume(t *testing.T) {
	r := newHoldRig(t)
	memory := sinktest.NewMemory()
	r.write(bumps(20, 3)...)
	drainOnce(t, r, memory)
	at, err := r.log.PointOf(20)
	if err != nil {
		t.Fatal(err)
	}
	below := sinks.Point{Incarnation: at.Incarnation, LSN: 19}
	r.crash() // another incarnation
	last := r.writeMixed(200)
	f := sinktest.NewFaulty(memory)
	f.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	run := r.start(f, fast())
	eventually(t, "reached", func() bool { return run.Checkpoint() == 20 })
	r.holdAll(run.Loop)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	r.crash() // the log forgets the first incarnation: it has freed its records
	l := r.loop(memory, fast())
	r.log.Release(l.Needs()) // what was not deleted yet came back
	for _, c := range []struct {
		at   sinks.Point
		want error
	}{
		{at, nil},
		{below, wal.ErrBelowFirst},
		{sinks.Point{}, wal.ErrBelowFirst},
		{sinks.Point{Incarnation: uuid.New(), LSN: 20}, wal.ErrDiverged},
		{sinks.Point{Incarnation: uuid.New(), LSN: 25}, wal.ErrDiverged},
		{sinks.Point{Incarnation: at.Incarnation, LSN: 21}, wal.ErrDiverged},
		{sinks.Point{Incarnation: at.Incarnation, LSN: last + 1}, wal.ErrDiverged},
	} {
		if err := l.contains(c.at); !errors.Is(err, c.want) {
			t.Errorf("contains(%v) = %v, want %v", c.at, err, c.want)
		}
	}
	for at, want := range map[sinks.Point]error{below: ErrBelowFirst, {Incarnation: uuid.New(), LSN: 25}: ErrDiverged} {
		if err := l.check(sinks.Checkpoint{Stream: r.log.Stream(), Lanes: []sinks.Point{at}}); !errors.Is(err, want) {
			t.Errorf("check(%v) = %v, want %v", at, err, want)
		}
	}
	drainOnce(t, r, memory)
	r.check(memory)
}

// TestHeldOlderLog: an older copy of the log is put back. What was held of the
// one that was lost is not applied, and nothing of the older one is freed.
func TestHeldOlderLog(t *testing.T) {
	r := newHoldRig(t)
	store := openPebble(t, filepath.Join(r.dir, "store"))
	r.write(bumps(20, 3)...)
	drainOnce(t, r, store)
	before := maps.Clone(r.model)
	copyDir(t, filepath.Join(r.dir, "log"), filepath.Join(r.dir, "older"))
	r.writeMixed(200)
	r.holdAll(r.loop(store, fast()))
	r.close()
	if err := errors.Join(os.RemoveAll(filepath.Join(r.dir, "log")), os.Rename(filepath.Join(r.dir, "older"), filepath.Join(r.dir, "log"))); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.model = map[string]*modelRow{}
	for range 2 { // while it is shorter, and written past what was lost
		l := r.loop(store, fast())
		if needs := l.Needs(); needs != 1 {
			t.Errorf("Needs() = %d, want all of the log", needs)
		}
		if l.mayHold() {
			t.Error("more would be held on top")
		}
		refusedWith(t, r.start(store, fast()), ErrDiverged)
		r.writeMixed(400)
	}
	r.model = before
	r.check(store)
}

// TestHeldOlderStore: an older copy of the store is put back, from before what is
// held. The log still has what follows it: nothing is missing, nothing twice.
func TestHeldOlderStore(t *testing.T) {
	r := newHoldRig(t)
	path := filepath.Join(r.dir, "store")
	store := openPebble(t, path)
	r.writeMixed(100)
	drainOnce(t, r, store)
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	copyDir(t, path, path+".old")
	store = openPebble(t, path)
	r.writeMixed(100)
	drainOnce(t, r, store)
	r.writeMixed(100)
	run := r.start(sinktest.NewFaulty(store), fast())
	run.await(r.log.Durable())
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	r.writeMixed(300)
	sealed := r.sealed()
	if err := run.Hold(context.Background(), sealed[len(sealed)-1]); err != nil || run.Status().HeldRecords == 0 {
		t.Fatalf("Hold: %v; %+v", err, run.Status())
	}
	r.crash()
	old := openPebble(t, path+".old")
	f := sinktest.NewFaulty(old)
	f.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	run = r.start(f, fast())
	eventually(t, "what is held is given up: the log has it", func() bool { return run.Status().HeldRecords == 0 })
	if needs := run.Needs(); needs > 101 {
		t.Fatalf("Needs() = %d, want what follows the older checkpoint", needs)
	}
	r.holdAll(run.Loop) // and so it can be held from there on
	f.Clear()
	run.await(r.log.Durable())
	r.check(old)
}

// holdRig is a Holder of "main", which does not run, and "other", which has
// everything.
type holdRig struct {
	*rig
	holder      *Holder
	main, other *Loop
	clock       time.Time
}

func newHolderRig(t *testing.T, limit int64, o Options) *holdRig {
	t.Helper()
	r := &holdRig{rig: &rig{t: t, dir: t.TempDir(), model: map[string]*modelRow{}, seg: 4096, limit: limit}, clock: time.Unix(1, 0)}
	r.open()
	t.Cleanup(r.close)
	r.main = r.loop(sinktest.NewMemory(), o)
	o.Name, o.Idle.Interval = "other", time.Millisecond
	r.other = r.start(sinktest.NewMemory(), o).Loop
	r.holder = NewHolder(r.log, []*Loop{r.main, r.other}, nil)
	r.holder.now = func() time.Time { return r.clock }
	return r
}

// write logs n records, so many of ten for main, and waits until other has them.
func (r *holdRig) write(n, tenths int) {
	r.rig.t.Helper()
	r.writeRouted(n, func(i int) []string {
		if i%10 < tenths {
			return []string{"main"}
		}
		return []string{"other"}
	})
	eventually(r.rig.t, "other has everything", func() bool { return r.other.Checkpoint() == r.log.Durable() })
}

// look looks twice, with time enough between to see whether a backlog shrinks,
// as often as something is freed.
func (r *holdRig) look() (times int) {
	r.rig.t.Helper()
	for range 2 {
		for {
			freed, err := r.holder.Look(context.Background())
			if err != nil {
				r.rig.t.Fatal(err)
			}
			if !freed {
				break
			}
			times++
			r.log.Release(r.main.Needs())
		}
		r.clock = r.clock.Add(holdPatience)
	}
	return times
}

func TestHolder(t *testing.T) {
	after := fast()
	after.HoldAfter = 16 << 10
	t.Run("one in ten", func(t *testing.T) {
		r := newHolderRig(t, 0, after)
		r.write(20, 1)
		if n := r.look(); n != 0 || r.log.First() != 1 {
			t.Fatalf("held %d times below HoldAfter; first %d", n, r.log.First())
		}
		r.write(400, 1)
		r.holder.seen = map[*Loop]backlog{}
		if freed, err := r.holder.Look(context.Background()); freed || err != nil {
			t.Fatalf("Look = %v, %v before anybody could see whether the backlog shrinks", freed, err)
		}
		if n := r.look(); n == 0 {
			t.Fatal("nothing was held")
		}
		extents := r.log.Extents()
		if len(extents) != 1 {
			t.Errorf("%d segments are left", len(extents))
		}
		if s := r.main.Status(); s.HeldRecords < 30 || s.HeldRecords > 42 {
			t.Errorf("%d held of 42 records", s.HeldRecords)
		}
		if has, durable := r.main.Has(), r.log.Durable(); has != 0 {
			t.Errorf("Has() = %d of %d, want nothing", has, durable)
		}
	})
	t.Run("does not pay, until it does", func(t *testing.T) {
		r := newHolderRig(t, 0, after)
		r.write(300, 7)
		for range 3 {
			if n := r.look(); n != 0 {
				t.Fatal("held seven of ten records")
			}
		}
		r.write(600, 0)
		if n := r.look(); n == 0 {
			t.Fatal("held nothing although most of the log is others'")
		}
		if len(r.log.Extents()) != 1 {
			t.Errorf("%+v are left", r.log.Extents())
		}
	})
	t.Run("rests after a scan in vain", func(t *testing.T) {
		r := newHolderRig(t, 0, after)
		r.write(300, 7)
		r.look()
		scanned := r.holder.scan.at
		if scanned == 0 {
			t.Fatal("nothing was scanned")
		}
		r.holder.now = func() time.Time { // a scan takes some time
			r.clock = r.clock.Add(time.Millisecond)
			return r.clock
		}
		for range 2 {
			r.write(100, 7)
			if freed, err := r.holder.Look(context.Background()); freed || err != nil {
				t.Fatalf("Look = %v, %v", freed, err)
			}
			if at := r.holder.scan.at; at <= scanned {
				t.Fatalf("scanned up to %d, then %d", scanned, at)
			}
			scanned = r.holder.scan.at
			r.write(100, 7)
			if freed, err := r.holder.Look(context.Background()); freed || err != nil || r.holder.scan.at != scanned {
				t.Fatalf("Look = %v, %v, scanned up to %d; want a rest at %d", freed, err, r.holder.scan.at, scanned)
			}
			r.clock = r.clock.Add(holdRest * 10 * time.Millisecond)
		}
	})
	t.Run("two are down", func(t *testing.T) {
		r := newHolderRig(t, 0, after)
		o := after
		o.Name = "third"
		third := r.loop(sinktest.NewMemory(), o)
		r.holder.loops = append(r.holder.loops, third)
		r.writeRouted(400, func(i int) []string {
			return [][]string{{"main"}, {"third"}, {"main", "third"}, {"other"}}[min(i%20, 3)]
		})
		eventually(t, "other has everything", func() bool { return r.other.Checkpoint() == r.log.Durable() })
		if n := r.look(); n == 0 || r.main.Status().HeldRecords < 30 || third.Status().HeldRecords < 30 {
			t.Fatalf("held %d times, %+v, %+v", n, r.main.Status(), third.Status())
		}
	})
	t.Run("one that holds nothing pins the log", func(t *testing.T) {
		r := newHolderRig(t, 0, after)
		o := after
		o.Name, o.HoldAfter = "third", -1
		r.holder.loops = append(r.holder.loops, r.loop(sinktest.NewMemory(), o))
		r.write(400, 1)
		if n := r.look(); n != 0 {
			t.Fatal("records were copied for nothing")
		}
	})
	t.Run("catching up", func(t *testing.T) {
		r := newHolderRig(t, 0, after)
		r.write(600, 1)
		for sealed := r.sealed(); len(sealed) > 8; sealed = sealed[2:] {
			r.hold(r.main, sealed[1]) // stands for a checkpoint that moves
			if freed, err := r.holder.Look(context.Background()); freed || err != nil {
				t.Fatalf("Look = %v, %v of a backlog that shrinks", freed, err)
			}
			r.clock = r.clock.Add(holdPatience)
		}
		if n := r.look(); n == 0 {
			t.Fatal("it does not shrink any more, and is not held")
		}
	})
	t.Run("under pressure", func(t *testing.T) {
		r := newHolderRig(t, 64<<10, after)
		r.write(400, 1)
		if freed, err := r.holder.Look(context.Background()); !freed || err != nil {
			t.Fatalf("Look = %v, %v with most of the space taken", freed, err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		r := newHolderRig(t, 64<<10, after)
		r.write(400, 1)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.holder.Look(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("Look: %v", err)
		}
	})
}

// TestHoldDefault: an eighth of the log's space, at most 256 MiB.
func TestHoldDefault(t *testing.T) {
	for limit, want := range map[int64]int64{0: 256 << 20, 80 << 10: 10 << 10} {
		r := newHolderRig(t, limit, fast())
		if got := r.main.o.HoldAfter; got != want {
			t.Errorf("HoldAfter = %d of %d, want %d", got, limit, want)
		}
	}
}

// TestHoldUndecodable: a record that cannot be decoded may be anybody's: it is
// held, and the loop halts at it.
func TestHoldUndecodable(t *testing.T) {
	r := newHoldRig(t)
	r.writeMixed(20)
	bad := r.append([]byte{0xff, 0xff, 0xff})
	r.writeMixed(100)
	memory := sinktest.NewMemory()
	r.holdAll(r.loop(memory, fast()))
	run := r.start(memory, fast())
	err := run.ended()
	if damaged, ok := errors.AsType[*DecodeError](err); !ok || damaged.LSN != bad {
		t.Fatalf("Run: %v, want a *DecodeError of LSN %d", err, bad)
	}
	if !slices.Contains(r.sealed(), r.log.First()-1) && run.Applied() >= bad {
		t.Errorf("applied %d, past LSN %d", run.Applied(), bad)
	}
}
