package replay

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// text makes the key's later bumps impossible.
func text(key string) []*walproxyv1.Mutation {
	return []*walproxyv1.Mutation{mutation.New("c", mutation.String(key), []*walproxyv1.Op{
		mutation.MergeOp(map[string]*walproxyv1.Value{"n": mutation.StringValue("text")}),
	})}
}

// number undoes text.
func number(key string) []*walproxyv1.Mutation {
	return []*walproxyv1.Mutation{mutation.New("c", mutation.String(key), []*walproxyv1.Op{
		mutation.MergeOp(map[string]*walproxyv1.Value{"n": mutation.Int64Value(0)}),
	})}
}

// shaded is a sink that rejects a batch without a word on which record it was
// (hint is nil), or blames the one that hint picks.
type shaded struct {
	sinks.Sink
	hint func(n int) int
}

func (s shaded) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	results, err := s.Sink.Apply(ctx, b)
	i := slices.IndexFunc(results, func(r sinks.Result) bool { return r.Outcome == sinks.Rejected })
	if i < 0 {
		return results, err
	}
	why := results[i].Err
	if s.hint == nil {
		return nil, sinks.WithOutcome(sinks.Rejected, why)
	}
	results = sinks.Results(len(results), sinks.Retry, why)
	results[s.hint(len(results))].Outcome = sinks.Rejected
	return results, nil
}

// TestBisection: one bad record in a thousand costs about 2 log2(n) applies, and
// two if the sink names it; a wrong name misleads nobody.
func TestBisection(t *testing.T) {
	const n = 1000
	for _, c := range []struct {
		name  string
		wrap  func(sinks.Sink) sinks.Sink
		extra int
	}{
		{"not named", func(s sinks.Sink) sinks.Sink { return shaded{s, nil} }, 2 * bits.Len(n)},
		{"named", func(s sinks.Sink) sinks.Sink { return s }, 3},
		{"first blamed", func(s sinks.Sink) sinks.Sink { return shaded{s, func(int) int { return 0 }} }, n * 3},
		{"last blamed", func(s sinks.Sink) sinks.Sink { return shaded{s, func(n int) int { return n - 1 }} }, n * 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, bad := range []wal.LSN{1, 2, 137, 500, 999, 1000} {
				records := n
				if c.extra > n {
					records, bad = 50, min(bad, 50)
				}
				r := newRig(t)
				f := sinktest.NewFaulty(sinktest.NewMemory())
				f.Add(sinktest.Rule{Do: sinktest.Reject(sinktest.ErrAway, bad), Times: sinktest.Always})
				o := fast()
				o.Lanes, o.Batch.Linger, o.Batch.Records = 1, time.Hour, records
				last := r.write(bumps(records, records)...)
				run := r.start(c.wrap(f), o)
				eventually(t, "all is passed", func() bool { return run.Applied() >= last })
				calls := 0
				for _, call := range f.Calls() {
					if len(call.LSNs) > 0 {
						calls++
					}
				}
				if calls > 1+c.extra {
					t.Errorf("LSN %d of %d bad: %d applies, want at most %d more than one", bad, records, calls, c.extra)
				}
				letters, err := run.Letters().List(0, 10)
				if err != nil || len(letters) != 1 || letters[0].LSN != bad || letters[0].Kind != state.Rejected {
					t.Errorf("dead letters %+v, %v; want LSN %d alone", letters, err, bad)
				}
				if s := run.Status(); s.Records != uint64(records-1) {
					t.Errorf("%d records applied, want %d", s.Records, records-1)
				}
				if err := run.stop(); err != nil || run.Checkpoint() != last {
					t.Errorf("%v, checkpoint %d, want %d", err, run.Checkpoint(), last)
				}
				r.close()
			}
		})
	}
}

// TestParkKey: what follows a rejected record of its key queues behind it; the
// other keys go on; a group that touches the key queues as a whole, with all its
// keys; a retry of the queue brings it all back in order.
func TestParkKey(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprint("lanes=", lanes), func(t *testing.T) { parkKey(t, lanes) })
	}
}

func parkKey(t *testing.T, lanes int) {
	r := newRig(t)
	o := fast()
	o.Lanes = lanes
	memory := sinktest.NewMemory()
	one := func(k string) []*walproxyv1.Mutation { return []*walproxyv1.Mutation{bump(k)} }
	both := []*walproxyv1.Mutation{bump("a"), bump("b"), bump("x")}
	last := r.write(one("a"), text("a"), one("b"), one("a"), one("b"), number("a"), both, one("b"), one("c"))
	run := r.start(memory, o)
	run.await(last)
	r.check(memory)
	r.checkLetters(run.Loop)
	for lsn, want := range map[wal.LSN]Fate{1: Applied, 4: Dead, 5: Applied, 6: Parked, 7: Parked, 8: Parked, 9: Applied, 10: Logged} {
		if got, err := run.Fate(lsn); err != nil || got != want {
			t.Errorf("Fate(%d): %v, %v; want %v", lsn, got, err, want)
		}
	}
	// Fixed around the log, as a person does: the queue can be applied.
	r.retry(4, number("a")) // an edited retry
	r.retry(6, number("a"))
	r.retry(7, both)
	last = r.retry(8, one("b"))
	run.await(last)
	r.check(memory)
	r.checkLetters(run.Loop)
	if len(r.dead) != 0 {
		t.Fatalf("the model keeps %v", r.dead)
	}
	for _, lsn := range []wal.LSN{4, 6, 7, 8, last} {
		if got, err := run.Fate(lsn); err != nil || got != Applied {
			t.Errorf("Fate(%d): %v, %v; want applied", lsn, got, err)
		}
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRetryRejectedAgain: the queue stays in order behind the head that failed
// again; a second retry of the same dead letter changes nothing; a retry from
// the middle does not overtake; given up is dead, and frees the key.
func TestRetryRejectedAgain(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	one := func(k string) []*walproxyv1.Mutation { return []*walproxyv1.Mutation{bump(k)} }
	r.write(text("a"), one("a"), one("a"), one("a")) // 2 rejected, 3 and 4 parked
	run := r.start(memory, fast())
	r.retry(2, one("a"))         // 5: rejected again
	r.retry(3, one("a"))         // 6: behind 5
	r.retry(4, one("a"))         // 7
	r.retry(2, one("a"))         // 8: 2 was retried
	last := r.retry(7, one("a")) // 9: from the middle
	run.await(last)
	r.check(memory)
	r.checkLetters(run.Loop)
	for lsn, want := range map[wal.LSN]Fate{2: Dead, 5: Dead, 3: Parked, 6: Parked, 7: Parked, 8: Applied, 9: Parked} {
		if got, err := run.Fate(lsn); err != nil || got != want {
			t.Errorf("Fate(%d): %v, %v; want %v", lsn, got, err, want)
		}
	}
	for _, lsn := range []wal.LSN{5, 6, 9} {
		if ok, err := run.Letters().Delete(lsn); !ok || err != nil {
			t.Errorf("Delete(%d): %v, %v", lsn, ok, err)
		}
		delete(r.dead, lsn)
		if got, err := run.Fate(lsn); err != nil || got != Dead {
			t.Errorf("Fate(%d): %v, %v; want dead: it was given up", lsn, got, err)
		}
	}
	r.checkLetters(run.Loop)
	run.await(r.write(number("a"), one("a")))
	r.check(memory)
	r.checkLetters(run.Loop)
}

// TestRejectionWaitsForOthers: a rejection counts only once everything before it
// is applied. Two lanes reject, one waits for the other, which waits for a third
// that hangs; the queue is full meanwhile.
func TestRejectionWaitsForOthers(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := fast()
	o.Lanes, o.QueueBytes, o.Batch.Linger = 3, 4000, -1
	key := make([]string, 3) // one for each lane
	for i := 0; slices.Contains(key, ""); i++ {
		k := fmt.Sprint("k", i)
		key[mutation.Hash("c", mutation.String(k))%3] = k
	}
	one := func(lane int) []*walproxyv1.Mutation { return []*walproxyv1.Mutation{bump(key[lane])} }
	r.write(one(0), one(1), one(2), one(1), one(2), one(0))
	last := r.write(bumps(200, 30)...)
	release := make(chan struct{})
	f.Add(
		sinktest.Rule{When: sinktest.LSN(1), Do: sinktest.HoldBefore(release)},
		sinktest.Rule{Do: sinktest.Reject(sinktest.ErrAway, 2, 5), Times: sinktest.Always},
	)
	run := r.start(f, o)
	rejected := func(lsn wal.LSN) (n int) {
		for _, c := range f.Calls() {
			if c.Fault == "reject" && slices.Contains(c.LSNs, lsn) {
				n++
			}
		}
		return n
	}
	eventually(t, "two lanes have met a rejection", func() bool { return rejected(2) > 0 && rejected(5) > 0 })
	eventually(t, "the queue is full", func() bool { return run.Status().QueueBytes > 3000 })
	if s := run.Status(); s.DeadLetters != 0 || s.Applied != 0 {
		t.Fatalf("%+v: a rejection counted before LSN 1 was applied", s)
	}
	close(release)
	run.await(last)
	letters, err := run.Letters().List(0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[wal.LSN]state.Kind{}
	for _, l := range letters {
		kinds[l.LSN] = l.Kind
	}
	if kinds[2] != state.Rejected || kinds[5] != state.Rejected || kinds[4] != state.Parked {
		t.Errorf("dead letters %v, want 2 and 5 rejected, 4 parked", kinds)
	}
	// The last try of each was alone, and after everything before it.
	done := map[wal.LSN]bool{}
	for _, c := range f.Calls() {
		if c.Err == nil && c.Fault != "reject" {
			for _, lsn := range c.LSNs {
				done[lsn] = true
			}
		}
	}
	for _, lsn := range []wal.LSN{2, 5} {
		// In a batch, in a smaller one, alone: the wait in between asks nothing.
		if n := rejected(lsn); n < 2 || n > 3 {
			t.Errorf("LSN %d was rejected %d times, want 2 or 3", lsn, n)
		}
	}
	if !done[1] || !done[3] {
		t.Errorf("applied %v, want 1 and 3 among them", done)
	}
}

// dependent rejects the records of one key until another key exists, as a
// foreign key does: across lanes.
type dependent struct {
	*sinktest.Memory
	child, parent string
	early         atomic.Int64
}

func (d *dependent) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	for i := range b.Records {
		if b.Records[i].Body.GetMutation().GetKey().GetString_() != d.child {
			continue
		}
		if _, err := d.Read(ctx, "c", mutation.String(d.parent)); err != nil {
			d.early.Add(1)
			results := sinks.Results(len(b.Records), sinks.Retry, err)
			results[i].Outcome = sinks.Rejected
			return results, nil
		}
	}
	return d.Memory.Apply(ctx, b)
}

// TestRejectedOnlyBecauseEarlierIsMissing: it is no dead letter.
func TestRejectedOnlyBecauseEarlierIsMissing(t *testing.T) {
	r := newRig(t)
	d := &dependent{Memory: sinktest.NewMemory(), parent: "parent"}
	for i := 0; d.child == "" || mutation.Hash("c", mutation.String(d.child))%4 == mutation.Hash("c", mutation.String("parent"))%4; i++ {
		d.child = fmt.Sprint("child", i)
	}
	f := sinktest.NewFaulty(d)
	release := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.LSN(1), Do: sinktest.HoldBefore(release)})
	last := r.write([]*walproxyv1.Mutation{bump("parent")}, []*walproxyv1.Mutation{bump(d.child)}, []*walproxyv1.Mutation{bump(d.child)})
	run := r.start(f, fast())
	eventually(t, "the child comes too early", func() bool { return d.early.Load() > 0 })
	close(release)
	run.await(last)
	r.check(d)
	r.checkLetters(run.Loop)
}

// TestSkip: a dead letter that parks nothing.
func TestSkip(t *testing.T) {
	r := newRig(t)
	r.skip = true
	memory := sinktest.NewMemory()
	o := fast()
	o.OnReject = func(string) Policy { return Skip }
	one := []*walproxyv1.Mutation{bump("a")}
	group := []*walproxyv1.Mutation{bump("a"), bump("b"), bump("x"), bump("y"), bump("z")}
	last := r.write(one, text("a"), one, group, number("a"), one, group)
	run := r.start(memory, o)
	run.await(last)
	r.check(memory)
	r.checkLetters(run.Loop)
	if len(r.dead) != 2 {
		t.Errorf("%v, want two dead letters", r.dead)
	}
}

// TestStrictestPolicy of a group's members decides.
func TestStrictestPolicy(t *testing.T) {
	policies := map[string]Policy{"s": Skip, "p": ParkKey, "h": Halt}
	l := &Loop{o: Options{OnReject: func(c string) Policy { return policies[c] }}}
	for _, c := range []struct {
		collections string
		want        Policy
	}{{"s", Skip}, {"p", ParkKey}, {"h", Halt}, {"sp", ParkKey}, {"ps", ParkKey}, {"sph", Halt}, {"hs", Halt}, {"", ParkKey}} {
		g := &walproxyv1.Group{}
		for _, name := range c.collections {
			g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{
				Mutation: mutation.Delete(string(name), mutation.String("k"))}})
		}
		if got := l.policy(&walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: g}}); got != c.want {
			t.Errorf("group over %q: %v, want %v", c.collections, got, c.want)
		}
	}
	for _, p := range policies {
		if got, err := ParsePolicy(p.String()); got != p || err != nil {
			t.Errorf("ParsePolicy(%q): %v, %v", p, got, err)
		}
	}
	if _, err := ParsePolicy("drop"); err == nil {
		t.Error("ParsePolicy takes anything")
	}
}

// halted waits until the sink is halted because its dead letters are full.
func (run *running) halted() Status {
	run.t.Helper()
	eventually(run.t, "the dead letters are full", func() bool { return run.Status().State == Halted })
	s := run.Status()
	if !errors.Is(s.Err, ErrDeadLettersFull) {
		run.t.Fatalf("%v, want ErrDeadLettersFull", s.Err)
	}
	return s
}

// giveUp gives dead letters up, here and in the model.
func (r *rig) giveUp(run *running, lsns ...wal.LSN) {
	r.t.Helper()
	for _, lsn := range lsns {
		if ok, err := run.Letters().Delete(lsn); !ok || err != nil {
			r.t.Fatalf("Delete(%d): %v, %v", lsn, ok, err)
		}
		delete(r.dead, lsn)
	}
}

// TestFullHalts: at the bound in bytes the sink halts before the record; who
// waits is told; it goes on as soon as there is room, or with a larger bound.
func TestFullHalts(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	o := fast()
	o.DeadLetters.Bytes, o.Batch.Records = 2000, 3
	last := r.write(append([][]*walproxyv1.Mutation{text("k0")}, bumps(30, 1)...)...)
	run := r.start(memory, o)
	waits := make(chan error, 1)
	go func() { waits <- run.Wait(context.Background(), last) }()
	s := run.halted()
	if s.DeadLetters == 0 || s.DeadLetterBytes > 2000 || s.Applied != wal.LSN(s.DeadLetters)+1 {
		t.Errorf("%+v, want all passed records in the dead letters and the bound kept", s)
	}
	for range 2 { // before the halt, and during it
		if err := <-waits; !errors.Is(err, ErrDeadLettersFull) {
			t.Errorf("Wait: %v, want ErrDeadLettersFull", err)
		}
		waits <- run.Wait(context.Background(), last)
	}
	// The last ones, so that the others stay parked behind the first.
	r.giveUp(run, s.Applied, s.Applied-1, s.Applied-2)
	eventually(t, "it goes on", func() bool { return run.Applied() > s.Applied })
	before := run.halted().Applied
	if err := run.stop(); err != nil {
		t.Errorf("stopped while halted: %v", err)
	}
	o.DeadLetters.Bytes = 1 << 20
	again := r.start(memory.Reopen(), o)
	again.await(last)
	r.check(memory)
	r.checkLetters(again.Loop)
	for _, lsn := range []wal.LSN{s.Applied, before} {
		if got, err := again.Fate(lsn); err != nil || got != r.fate(lsn) {
			t.Errorf("Fate(%d): %v, %v; want %v", lsn, got, err, r.fate(lsn))
		}
	}
}

// TestFullByOneBatch: of a batch whose records all park, those that fit are dead
// letters; each discard lets another one in, however small the bound.
func TestFullByOneBatch(t *testing.T) {
	r := newRig(t)
	o := fast()
	o.DeadLetters.Bytes = 1000
	last := r.write(append([][]*walproxyv1.Mutation{text("k0")}, bumps(40, 1)...)...)
	run := r.start(sinktest.NewMemory(), o)
	if s := run.halted(); s.DeadLetters < 2 || s.DeadLetterBytes > 1000 {
		t.Errorf("%+v, want some dead letters within the bound", s)
	}
	for lsn := wal.LSN(2); lsn <= last; lsn++ {
		if run.Applied() >= last {
			break
		}
		eventually(t, fmt.Sprint("LSN ", lsn, " is a dead letter"), func() bool {
			ok, err := run.Letters().Delete(lsn)
			return ok && err == nil
		})
	}
	eventually(t, "all are passed", func() bool { return run.Applied() >= last })
	if s := run.Status(); s.State == Halted || s.DeadLetterBytes > 1000 {
		t.Errorf("%+v, want it running within the bound", s)
	}
	for lsn := wal.LSN(2); lsn <= last; lsn++ {
		if fate, err := run.Fate(lsn); err != nil || fate != Dead && fate != Parked {
			t.Errorf("Fate(%d): %v, %v; want dead or parked", lsn, fate, err)
		}
	}
}

// fate by the model, of what was rejected, parked or given up.
func (r *rig) fate(lsn wal.LSN) Fate {
	if r.dead[lsn].kind == state.Parked {
		return Parked
	}
	return Dead
}

// TestFullAndSealed: a sink halted because of full dead letters does not hold up
// the end.
func TestFullAndSealed(t *testing.T) {
	r := newRig(t)
	o := fast()
	o.DeadLetters.Bytes = 1
	r.write(append([][]*walproxyv1.Mutation{text("k0")}, bumps(3, 1)...)...)
	run := r.start(sinktest.NewMemory(), o)
	run.halted()
	if err := r.log.Seal(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := run.ended(); !errors.Is(err, ErrDeadLettersFull) {
		t.Errorf("%v, want ErrDeadLettersFull", err)
	}
}

// TestRetryNeedsNoRoom: what is retried at the bound may be rejected again, in
// bytes and in age; one more dead letter halts the sink until there is room.
func TestRetryNeedsNoRoom(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	one := []*walproxyv1.Mutation{bump("a")}
	run := r.start(memory, fast())
	run.await(r.write(text("a"), one, one))
	bytes := int64(run.Status().DeadLetterBytes)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []state.Bounds{{Bytes: bytes}, {Bytes: 1 << 20, Age: 1}} {
		o := fast()
		o.DeadLetters = b
		run := r.start(memory.Reopen(), o)
		for range 2 {
			for _, d := range r.queue("a") {
				run.await(r.retry(d.lsn, r.wrote[d.lsn]))
			}
		}
		if s := run.Status(); s.State != Running || s.DeadLetters != 2 {
			t.Errorf("%+v: %+v; want the two that there were", b, s)
		}
		last := r.write(one)
		run.halted()
		r.giveUp(run, r.queue("a")[0].lsn)
		if b.Age > 0 { // the other one is as old
			r.giveUp(run, r.queue("a")[0].lsn)
		}
		eventually(t, "it goes on", func() bool { return run.Applied() >= last })
		r.checkLetters(run.Loop)
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGivenUpBeforeTheCheckpoint: what was given up stays so when the record
// comes again, though the store would take it now: one of a batch, one applied
// alone, a retry.
func TestGivenUpBeforeTheCheckpoint(t *testing.T) {
	group := []*walproxyv1.Mutation{bump("a"), bump("b"), bump("c"), bump("d"), bump("e")}
	one := group[:1]
	for _, c := range []struct {
		name   string
		ms     []*walproxyv1.Mutation
		doomed wal.LSN
	}{{"single", one, 1}, {"group", group, 1}, {"retry", one, 2}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			memory := sinktest.NewMemory()
			f := sinktest.NewFaulty(memory)
			reject := sinktest.Rule{Do: sinktest.Reject(sinktest.ErrAway, 1, 2), Times: sinktest.Always}
			f.Add(reject)
			run := r.start(f, fast())
			last := r.write(c.ms)
			if c.doomed == 2 {
				run.await(1)
				eventually(t, "the checkpoint covers LSN 1", func() bool { return run.Checkpoint() == 1 })
				f.Add(stuck())
				last = r.retry(1, one)
			} else {
				f.Add(stuck())
			}
			eventually(t, "it is a dead letter", func() bool {
				_, ok, err := run.Letters().Get(last)
				return ok && err == nil
			})
			if ok, err := run.Letters().Delete(last); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if err := run.stop(); err != nil || run.Checkpoint() >= last {
				t.Fatalf("%v, checkpoint %d, want one below %d", err, run.Checkpoint(), last)
			}
			r.crash()
			run = r.start(memory.Reopen(), fast())
			run.await(last)
			for lsn := range last {
				if got, err := run.Fate(lsn + 1); err != nil || got != Dead {
					t.Errorf("Fate(%d): %v, %v; want dead: it was given up", lsn+1, got, err)
				}
			}
			for _, m := range c.ms {
				if _, err := memory.Read(context.Background(), "c", m.GetKey()); !errors.Is(err, mutation.ErrNotFound) {
					t.Errorf("%v: %v; what was given up is in the store", m.GetKey(), err)
				}
			}
			last = r.write(one)
			run.await(last)
			if got, err := run.Fate(last); err != nil || got != Applied {
				t.Errorf("Fate(%d): %v, %v; want applied: the key is free", last, got, err)
			}
			if s := run.Status(); s.DeadLetters != 0 || s.ParkedKeys != 0 {
				t.Errorf("%+v, want no dead letters", s)
			}
		})
	}
}

// stuck is a store that takes no more checkpoints without records.
func stuck() sinktest.Rule {
	return sinktest.Rule{When: func(_ int, b *sinks.Batch) bool { return len(b.Records) == 0 },
		Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always}
}

// refusal is an error that says what ails a record in parts, as a database does.
type refusal struct{}

func (refusal) Error() string { return "duplicate key" }

func (refusal) Details() map[string]string {
	return map[string]string{"sqlstate": "23505", "constraint": "c_pkey", "detail": strings.Repeat("x", 2*detailsBytesMax)}
}

// TestDetails: a dead letter keeps what the store said, within bounds, and how
// often it said so, through retries and parking.
func TestDetails(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.Add(sinktest.Rule{Do: sinktest.Reject(fmt.Errorf("LSN 1: %w", refusal{}), 1, 3), Times: sinktest.Always})
	one := []*walproxyv1.Mutation{bump("a")}
	r.write(one, one)
	run := r.start(f, fast())
	r.retry(1, one)
	run.await(r.retry(2, one))
	letters, err := run.Letters().List(0, 10)
	if err != nil || len(letters) != 2 {
		t.Fatalf("%+v, %v; want LSN 3 and 4", letters, err)
	}
	head, parked := letters[0], letters[1]
	if head.LSN != 3 || head.Attempts != 2 || head.Details["sqlstate"] != "23505" || head.Details["constraint"] != "c_pkey" {
		t.Errorf("%d attempts, %.200q; want two attempts and what the store said", head.Attempts, head.Details)
	}
	if n := len(head.Details["detail"]); n == 0 || n > detailsBytesMax {
		t.Errorf("%d bytes of detail, want up to %d", n, detailsBytesMax)
	}
	if parked.LSN != 4 || parked.Attempts != 0 || parked.Details != nil {
		t.Errorf("%+v, want no attempt: it was never tried", parked)
	}
}
