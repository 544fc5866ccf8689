package replay

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

func openPebble(t *testing.T, dir string) *pebble.Sink {
	t.Helper()
	s, err := pebble.Open(dir, pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("close the sink: %v", err)
		}
	})
	return s
}

// TestDrainPebble: the real log into the real store, while it is written.
func TestDrainPebble(t *testing.T) {
	r := newRig(t)
	store := openPebble(t, filepath.Join(r.dir, "store"))
	var freed []wal.LSN // OnCheckpoint: one goroutine, never concurrently
	o := fast()
	o.OnCheckpoint = func(l wal.LSN) { freed = append(freed, l) }
	r.write(bumps(300, 17)...) // before the loop
	run := r.start(store, o)
	for range 20 {
		r.write(bumps(40, 17)...)
	}
	last := r.write(bumps(1, 1)...)
	run.await(last)
	r.check(store)
	if err := r.log.Seal(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := run.ended(); err != nil {
		t.Fatalf("Run of a sealed log: %v", err)
	}
	s := run.Status()
	if s.State != Stopped || s.Applied != last || s.Checkpoint != last || s.Records != uint64(last) || s.QueueBytes != 0 {
		t.Errorf("%+v, want everything up to %d applied and stored", s, last)
	}
	if !slices.IsSorted(freed) || len(freed) == 0 || freed[len(freed)-1] != last {
		t.Errorf("OnCheckpoint(%v), want it to rise to %d", freed, last)
	}
	if err := run.Wait(context.Background(), last); err != nil {
		t.Errorf("Wait for what was applied, after the end: %v", err)
	}
	if err := run.Wait(context.Background(), last+1); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait after the end: %v, want ErrClosed", err)
	}
	if err := run.Run(context.Background()); err == nil {
		t.Error("Run ran twice")
	}
}

// TestOrderPerKey looks at what reaches the sink: every record once, each key's
// in LSN order, each batch within its limits, checkpoints from where they were.
func TestOrderPerKey(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := fast()
	o.Lanes, o.Batch.Records, o.QueueBytes = 5, 7, 20_000
	last := r.write(bumps(1000, 60)...)
	run := r.start(f, o)
	run.await(last)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	r.check(f)
	at := make([]sinks.Point, o.Lanes)
	seen := map[wal.LSN]bool{}
	for _, c := range f.Calls() {
		if len(c.LSNs) > o.Batch.Records {
			t.Errorf("a batch of %d records", len(c.LSNs))
		}
		for _, m := range c.Moves {
			if at[m.Lane] != m.From {
				t.Errorf("lane %d moves from %v, it is at %v", m.Lane, m.From, at[m.Lane])
			}
			at[m.Lane] = m.To
		}
		for _, lsn := range c.LSNs {
			if seen[lsn] {
				t.Errorf("LSN %d was sent twice", lsn)
			}
			seen[lsn] = true
		}
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 records were sent", len(seen))
	}
	for i, p := range at {
		if p.LSN != last {
			t.Errorf("lane %d ends at %v, want %d: idle lanes advance at a stop", i, p, last)
		}
	}
}

// TestUnknownAndRetry: answers lost, requests lost, overload; the same batch
// again each time, and nothing doubled.
func TestUnknownAndRetry(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.Add(
		sinktest.Rule{When: sinktest.CallNumber(1), Do: sinktest.LoseAnswer(sinktest.ErrAway)},
		sinktest.Rule{When: sinktest.CallNumber(2), Do: sinktest.FailBefore(sinks.Unknown, sinktest.ErrAway)},
		sinktest.Rule{When: sinktest.Lane(1), Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: 5},
		sinktest.Rule{When: sinktest.Lane(2), Do: sinktest.LoseAnswer(sinktest.ErrAway), Times: 3},
	)
	o := fast()
	o.Batch.Records = 10
	last := r.write(bumps(400, 30)...)
	run := r.start(f, o)
	run.await(last)
	r.check(f)
	s := run.Status()
	if s.Retries != 10 || s.State != Running || s.Err != nil || s.Records != 400 {
		t.Errorf("%+v, want 10 retries, 400 records, running", s)
	}
	if s.RetriesUnknown != 5 || s.RetriesStart != 0 {
		t.Errorf("%d retries of unknown outcome, %d of the start, want 5, 0", s.RetriesUnknown, s.RetriesStart)
	}
	var unanswered []sinktest.Call // by lane: the next call of the lane is the same
	for _, c := range f.Calls() {
		lane := c.Moves[0].Lane
		i := slices.IndexFunc(unanswered, func(u sinktest.Call) bool { return u.Moves[0].Lane == lane })
		if i >= 0 {
			if !slices.Equal(unanswered[i].LSNs, c.LSNs) || !slices.Equal(unanswered[i].Moves, c.Moves) {
				t.Errorf("after %v %v came %v %v", unanswered[i].LSNs, unanswered[i].Moves, c.LSNs, c.Moves)
			}
			unanswered = slices.Delete(unanswered, i, i+1)
		}
		if c.Err != nil {
			unanswered = append(unanswered, c)
		}
	}
}

func TestStatusWhileRetrying(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	last := r.write(bumps(10, 1)...)
	run := r.start(f, fast())
	eventually(t, "retrying", func() bool {
		s := run.Status()
		return s.State == Retrying && errors.Is(s.Err, sinktest.ErrAway) && s.Retries > 5
	})
	f.Clear()
	run.await(last)
	eventually(t, "running", func() bool { s := run.Status(); return s.State == Running && s.Err == nil })
	r.check(f)
}

// TestHalts: the target is wrong. Nothing is dropped, nothing is tried again,
// waiters hear it, and the next run goes on.
func TestHalts(t *testing.T) {
	wrong := errors.New("read-only")
	for _, c := range []struct {
		name  string
		fault sinktest.Fault
		want  error
	}{
		{"halt", sinktest.Halt(wrong), wrong},
		{"fenced", sinktest.Refuse(sinks.ErrFenced), ErrFenced},
		{"checkpoint gone", sinktest.Refuse(sinks.ErrNoCheckpoint), ErrCheckpointMissing},
		{"foreign", sinktest.Refuse(sinks.ErrForeignStream), ErrForeignStream},
		{"closed", sinktest.Refuse(sinks.ErrClosed), sinks.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			memory := sinktest.NewMemory()
			f := sinktest.NewFaulty(memory)
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: c.fault, Times: sinktest.Always})
			last := r.write(bumps(50, 9)...)
			run := r.start(f, fast())
			waited := run.Wait(context.Background(), last)
			if err := run.ended(); !errors.Is(err, c.want) || !errors.Is(waited, c.want) {
				t.Fatalf("Run: %v; Wait: %v; want %v", err, waited, c.want)
			}
			s := run.Status()
			if s.State != Halted || !errors.Is(s.Err, c.want) || s.Applied != 0 {
				t.Errorf("%+v, want halted by %v", s, c.want)
			}
			calls := len(f.Calls())
			if calls > fast().Lanes+4 {
				t.Errorf("%d calls, want one per lane at most", calls)
			}
			again := r.start(memory.Reopen(), fast())
			again.await(last)
			r.check(memory)
		})
	}
}

func TestRejectedHaltsLoudly(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	never := errors.New("type mismatch")
	f.Add(sinktest.Rule{Do: sinktest.Reject(never, 7), Times: sinktest.Always})
	r.write(bumps(20, 1)...)
	o := fast()
	o.OnReject = nil
	run := r.start(f, o)
	err := run.ended()
	rejected, ok := errors.AsType[*RejectedError](err)
	if !ok || !errors.Is(err, ErrRejected) || !errors.Is(err, never) {
		t.Fatalf("%v, want a *RejectedError", err)
	}
	if rejected.LSN != 7 || rejected.Sink != "main" || rejected.Collection != "c" || rejected.Key.GetString_() != "k0" {
		t.Errorf("%+v", rejected)
	}
	if a := run.Applied(); a != 6 {
		t.Errorf("applied %d, want 6: the good ones before the rejected record, no more", a)
	}
}

func TestPanicHaltsWithStack(t *testing.T) {
	r := newRig(t)
	r.write(bumps(5, 1)...)
	run := r.start(panicking{sinktest.NewMemory()}, fast())
	err := run.ended()
	caught, ok := errors.AsType[*PanicError](err)
	if !ok || caught.Value != "boom" || !contains(err, "panicking") {
		t.Fatalf("%v, want a *PanicError with the stack", err)
	}
}

type panicking struct{ sinks.Sink }

func (panicking) Apply(context.Context, *sinks.Batch) ([]sinks.Result, error) { panic("boom") }

func TestUndecodableHalts(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	good := r.write(bumps(5, 3)...)
	bad := r.append([]byte("\xff not a record"))
	r.write(bumps(5, 3)...)
	run := r.start(memory, fast())
	err := run.ended()
	named, ok := errors.AsType[*DecodeError](err)
	if !ok || !errors.Is(err, ErrUndecodable) || named.LSN != bad {
		t.Fatalf("%v, want a *DecodeError of LSN %d", err, bad)
	}
	if a := run.Applied(); a > good {
		t.Errorf("applied %d: the record %d was passed", a, bad)
	}
}

// TestUndecodableBody: a record whose lane can be told, though it cannot be
// decoded, halts the loop when everything before it in its batch is applied.
func TestUndecodableBody(t *testing.T) {
	for _, lanes := range []int{1, 3} {
		for before := range 4 {
			r := newRig(t)
			memory := sinktest.NewMemory()
			r.write(bumps(before, 1)...)
			m, err := proto.Marshal(bump("k0"))
			if err != nil {
				t.Fatal(err)
			}
			m = protowire.AppendVarint(protowire.AppendTag(m, 99, protowire.VarintType), 1) // of a later version
			payload, err := proto.Marshal(&walproxyv1.Record{Format: 1, Routes: []string{"main"}})
			if err != nil {
				t.Fatal(err)
			}
			payload = protowire.AppendBytes(protowire.AppendTag(payload, 10, protowire.BytesType), m)
			if !new(mutation.Outline).Read(payload) {
				t.Fatal("the test shows nothing: the record has no outline")
			}
			bad := r.append(payload)
			if err := r.log.WaitDurable(t.Context(), bad); err != nil {
				t.Fatal(err)
			}
			o := fast()
			o.Lanes, o.Batch.Linger = lanes, 50*time.Millisecond
			run := r.start(memory, o)
			err = run.ended()
			if named, ok := errors.AsType[*DecodeError](err); !ok || named.LSN != bad {
				t.Fatalf("%v, want a *DecodeError of LSN %d", err, bad)
			}
			if s := run.Status(); s.Applied > bad-1 || s.Records != uint64(before) {
				t.Errorf("%d lanes: applied %d, %d records; want the %d before LSN %d", lanes, s.Applied, s.Records, before, bad)
			}
			r.check(memory)
		}
	}
}

// TestOtherSinksRecords: passed without being applied, and covered by the
// checkpoint.
func TestOtherSinksRecords(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	r.write(bumps(5, 3)...)
	last := r.writeTo([]string{"other"}, bumps(100, 3)...)
	run := r.start(memory, fast())
	run.await(last)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if c := run.Checkpoint(); c != last {
		t.Errorf("checkpoint %d, want %d", c, last)
	}
	r.check(memory)
	if s := run.Status(); s.Records != 5 {
		t.Errorf("%d records applied, want 5", s.Records)
	}
}

// TestLinger: a batch waits for more, unless somebody waits for it.
func TestLinger(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := fast()
	o.Lanes, o.Batch.Linger, o.Idle.Interval = 1, time.Hour, time.Hour
	run := r.start(f, o)
	for range 3 {
		calls := len(f.Calls())
		last := r.write(bumps(3, 3)...)
		eventually(t, "dispatched", func() bool { return run.Status().QueueBytes > 0 })
		if n := len(f.Calls()); n != calls {
			t.Fatalf("%d more calls: the batch did not linger", n-calls)
		}
		run.await(last)
	}
	r.write(bumps(3, 3)...)
	if err := r.log.Seal(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := run.ended(); err != nil { // within patience: the seal cut it short
		t.Fatal(err)
	}
	r.check(f)
}

// TestFullBatchDoesNotLinger, by count and by bytes.
func TestFullBatchDoesNotLinger(t *testing.T) {
	for _, byBytes := range []bool{false, true} {
		t.Run(fmt.Sprint("bytes=", byBytes), func(t *testing.T) {
			r := newRig(t)
			f := sinktest.NewFaulty(sinktest.NewMemory())
			o := fast()
			o.Lanes, o.Batch.Linger, o.Batch.Records = 1, time.Hour, 10
			if byBytes {
				o.Batch.Records, o.Batch.Bytes = 1000, 400
			}
			r.write(bumps(100, 3)...)
			run := r.start(f, o)
			eventually(t, "most of it is applied", func() bool { return run.Applied() >= 80 })
			for _, c := range f.Calls() {
				if len(c.LSNs) > 20 || len(c.LSNs) < 2 {
					t.Errorf("a batch of %d records", len(c.LSNs))
				}
			}
		})
	}
}

// TestQueueBound: with the store hung, no more than QueueBytes is read ahead; a
// record larger than that passes; a lane that hangs stops the others only
// once the queue is full, and everything goes on when it is back.
func TestQueueBound(t *testing.T) {
	r := newRig(t)
	f := sinktest.NewFaulty(sinktest.NewMemory())
	release := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.Lane(0), Do: sinktest.HoldBefore(release), Times: sinktest.Always})
	huge, err := mutation.Set("c", mutation.String("huge"), map[string]any{"v": string(make([]byte, 100_000))})
	if err != nil {
		t.Fatal(err)
	}
	records := bumps(500, 40)
	records = append(records, []*walproxyv1.Mutation{huge})
	records = append(records, bumps(500, 40)...)
	last := r.write(records...)
	o := fast()
	o.QueueBytes, o.Batch.Linger = 50_000, time.Hour
	run := r.start(f, o)
	eventually(t, "the queue is full and nothing moves", func() bool {
		before := run.Status()
		time.Sleep(20 * time.Millisecond)
		after := run.Status()
		return before.QueueBytes > 42_000 && before.Records > 0 && after.Records == before.Records
	})
	if q := run.Status().QueueBytes; q > 50_000 {
		t.Errorf("%d bytes queued", q)
	}
	close(release)
	run.await(last)
	r.check(f)
}

// TestWaiters: many at once, each served, none by a wrong answer.
func TestWaiters(t *testing.T) {
	r := newRig(t)
	memory := sinktest.NewMemory()
	run := r.start(memory, fast())
	var wg sync.WaitGroup
	var early atomic.Int64
	for i := range 500 {
		wg.Go(func() {
			lsn := wal.LSN(i + 1)
			if err := run.Wait(context.Background(), lsn); err != nil || run.Applied() < lsn {
				early.Add(1)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("cause")
	wg.Go(func() {
		if err := run.Wait(ctx, 1<<60); !errors.Is(err, cause) {
			t.Errorf("Wait with a cancelled ctx: %v", err)
		}
	})
	for range 50 {
		r.write(bumps(10, 7)...)
	}
	cancel(cause)
	wg.Wait()
	if early.Load() != 0 {
		t.Errorf("%d waiters got a wrong answer", early.Load())
	}
	r.check(memory)
}
