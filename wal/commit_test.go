package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestGroupCommit: many writers share fsyncs.
func TestGroupCommit(t *testing.T) {
	const writers, each = 256, 20
	o := testOptions()
	o.SegmentBytes, o.GroupBytes = 4<<20, 1<<20
	o, hook := hooked(o)
	l := mustOpen(t, t.TempDir(), o)
	began := hook.syncs.Load()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := l.Append(testContext(t), make([]byte, 100)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := l.Stats()
	syncs := uint64(hook.syncs.Load() - began)
	if s.Records != writers*each || s.Durable != writers*each || s.PayloadBytes != writers*each*100 {
		t.Fatalf("%+v", s)
	}
	if s.Syncs != syncs || s.Groups != syncs {
		t.Fatalf("Stats says %d syncs and %d groups; the engine saw %d", s.Syncs, s.Groups, syncs)
	}
	if syncs > writers*each/10 {
		t.Fatalf("%d syncs for %d records are not a group commit", syncs, writers*each)
	}
	t.Logf("%d records, %d syncs", writers*each, syncs)
}

// TestOneWriter pays one fsync per record and waits for no timer: the bubble's
// clock stands still as long as anything but a timer can go on.
func TestOneWriter(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		const records = 200
		o, hook := hooked(testOptions())
		l := mustOpen(t, dir, o)
		began, at := hook.syncs.Load(), time.Now()
		for range records {
			if _, err := l.Append(context.Background(), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(at); took != 0 {
			t.Fatalf("waited %v for timers", took)
		}
		if n := hook.syncs.Load() - began; n != records {
			t.Fatalf("%d syncs for %d records", n, records)
		}
		mustClose(t, l)
	})
}

// TestAckAfterSync holds the fsync and looks: nothing is acknowledged, durable
// or readable meanwhile.
func TestAckAfterSync(t *testing.T) {
	o, hook := hooked(testOptions())
	l := mustOpen(t, t.TempDir(), o)
	appendN(t, l, 3, 50)
	r, err := l.NewReader(4)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()

	hold, held := make(chan struct{}), make(chan struct{}, 100)
	hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
	var tickets []Ticket
	for range 20 {
		ticket, err := l.Enqueue(testContext(t), payloadOf(l.Appended()+1, 50))
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	<-held // written, the fsync has begun
	for _, ticket := range tickets {
		select {
		case <-ticket.Done():
			t.Fatalf("LSN %d was settled before its fsync", ticket.LSN)
		default:
		}
	}
	if l.Durable() != 3 || l.Appended() != 23 {
		t.Fatalf("durable %d, appended %d", l.Durable(), l.Appended())
	}
	short, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errDisk)
	defer cancel()
	if _, err := r.Next(short); !errors.Is(err, errDisk) {
		t.Fatalf("the reader got %v, want its context's cause", err)
	}
	if err := l.WaitDurable(short, 4); !errors.Is(err, errDisk) {
		t.Fatalf("WaitDurable: %v", err)
	}
	if err := tickets[0].Wait(short); !errors.Is(err, errDisk) {
		t.Fatalf("Wait: %v", err)
	}
	hook.arm(func(h *hookEngine) { h.hold = nil })
	close(hold)
	for _, ticket := range tickets {
		if err := ticket.Wait(testContext(t)); err != nil || ticket.Err() != nil {
			t.Fatal(err)
		}
	}
	if rec, err := r.Next(testContext(t)); err != nil || rec.LSN != 4 {
		t.Fatalf("LSN %d, %v", rec.LSN, err)
	}
}

// TestPoison: after the first failed write or fsync nothing is written, synced
// or acknowledged; what was durable can be read; a new start is right.
func TestPoison(t *testing.T) {
	for _, kind := range []string{"write", "sync", "roll", "header"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			o, hook := hooked(testOptions())
			l := mustOpen(t, dir, o)
			const good = 20
			for range good {
				appendN(t, l, 1, 100)
			}
			size := 100
			hook.arm(func(h *hookEngine) {
				switch kind {
				case "write":
					h.failAppend = h.appends.Load() + 1
				case "sync":
					h.failSync = h.syncs.Load() + 1
				case "header": // of the segment that the large record needs
					size, h.failAppend = 20_000, h.appends.Load()+1
				}
			})
			if kind == "roll" {
				// The prepared one takes the first; its successor cannot be made.
				eventually(t, "the prepared segment", func() bool { return hook.creates.Load() == 2 })
				hook.arm(func(h *hookEngine) { h.failCreate = 3 })
				if lsn, err := l.Append(testContext(t), payloadOf(good+1, 20_000)); err != nil && !errors.Is(err, ErrPoisoned) {
					t.Fatalf("LSN %d: %v", lsn, err)
				}
				<-l.Poisoned()
				hook.late.Store(0) // that record was under way
			}
			durable := l.Durable()
			var acked atomic.Int64
			var wg sync.WaitGroup
			for i := range 16 {
				ctx := testContext(t)
				if i%2 == 0 {
					ctx = context.Background() // never ends
				}
				wg.Go(func() {
					lsn, err := l.Append(ctx, payloadOf(durable+1, size))
					if err == nil {
						acked.Add(1)
					} else if !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
						t.Errorf("LSN %d: %v", lsn, err)
					}
				})
			}
			wg.Wait()
			if acked.Load() != 0 {
				t.Fatalf("%d acks after the failure", acked.Load())
			}
			select {
			case <-l.Poisoned():
			default:
				t.Fatal("Poisoned is not closed")
			}
			if err := l.Err(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			if _, err := l.Enqueue(testContext(t), nil); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("Enqueue: %v", err)
			}
			if err := l.WaitDurable(testContext(t), durable+1); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("WaitDurable: %v", err)
			}
			l.Release(durable + 1) // does nothing any more
			checkDrained(t, l, durable)
			if err := l.Seal(testContext(t)); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("Seal: %v", err)
			}
			if err := l.Close(); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("Close: %v", err)
			}
			if err := l.Close(); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("second Close: %v", err)
			}
			if n := hook.late.Load(); n != 0 {
				t.Fatalf("%d writes or syncs after the failure", n)
			}

			l = mustOpen(t, dir, testOptions())
			if l.Durable() < durable {
				t.Fatalf("durable %d after the restart, was %d", l.Durable(), durable)
			}
			payloads, err := readAll(l, 1)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range payloads[:good] {
				if !bytes.Equal(p, payloadOf(LSN(i+1), 100)) {
					t.Fatalf("LSN %d differs", i+1)
				}
			}
			mustClose(t, l)
		})
	}
}

// checkDrained reads a log that has ended up to its last durable record.
func checkDrained(t *testing.T, l *Log, durable LSN) {
	t.Helper()
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for next := LSN(1); next <= durable; next++ {
		if rec, err := r.Next(testContext(t)); err != nil || rec.LSN != next {
			t.Fatalf("LSN %d, %v, want %d", rec.LSN, err, next)
		}
	}
	if _, err := r.Next(testContext(t)); !errors.Is(err, io.EOF) {
		t.Fatalf("%v, want io.EOF", err)
	}
}

// TestPoisonInBackground: the watermark, the preparer and the janitor count too.
func TestPoisonInBackground(t *testing.T) {
	faults := map[string]vfs.Fault{
		"watermark write": {Op: vfs.OpWrite, Path: "watermark"},
		"watermark sync":  {Op: vfs.OpSync, Path: "watermark"},
		"segment mkdir":   {Op: vfs.OpMkdir},
		"segment dir":     {Op: vfs.OpSyncDir, Path: "0*"},
		"rename to trash": {Op: vfs.OpRename},
		"segments dir":    {Op: vfs.OpSyncDir, Path: "segments"},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fs := vfs.NewFaults(vfs.OS())
			o := testOptions()
			o.FS = fs
			l := mustOpen(t, dir, o)
			appendN(t, l, 10, 100)
			awaitWatermark(t, l)
			fault.Err = errDisk
			fs.Arm(fault)
			waiting := make(chan error, 1)
			tail, err := l.NewReader(1 << 40)
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, err := tail.Next(testContext(t)); waiting <- err }()
			last := LSN(10)
			eventually(t, "the fault to poison the log", func() bool {
				// One record per segment: it rolls, idles and releases.
				lsn, err := l.Append(testContext(t), payloadOf(last+1, 20_000))
				if err == nil {
					last = lsn
				}
				l.Release(last)
				return l.Err() != nil
			})
			if err := l.Err(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			if err := <-waiting; !errors.Is(err, io.EOF) { // before Close
				t.Fatalf("a reader that waits: %v", err)
			}
			if err := l.Close(); !errors.Is(err, errDisk) {
				t.Fatalf("Close: %v", err)
			}
			if fs.Disarm() == 0 {
				t.Fatal("the fault did not come")
			}
			l = mustOpen(t, dir, testOptions())
			if l.Durable() < last {
				t.Fatalf("durable %d, acknowledged %d", l.Durable(), last)
			}
			if _, err := readAll(l, l.First()); err != nil {
				t.Fatal(err)
			}
			mustClose(t, l)
		})
	}
}

// TestCloseRace: appends race with Close. Each is acknowledged and then there,
// or refused with nothing queued.
func TestCloseRace(t *testing.T) {
	rounds := 10
	if longTest() {
		rounds = 200
	}
	for range rounds {
		dir := memoryDir(t)
		o := testOptions()
		o.GroupBytes = 2000 // so that some wait for room
		l := mustOpen(t, dir, o)
		var mu sync.Mutex
		acked := map[LSN]string{}
		var wg, started sync.WaitGroup
		started.Add(64)
		for w := range 64 {
			wg.Go(func() {
				for i := 0; ; i++ {
					payload := fmt.Sprintf("writer %d record %d", w, i)
					lsn, err := l.Append(testContext(t), []byte(payload))
					if i == 0 {
						started.Done()
					}
					if errors.Is(err, ErrClosed) && lsn == 0 {
						return
					}
					if err != nil {
						t.Errorf("LSN %d: %v", lsn, err)
						return
					}
					mu.Lock()
					acked[lsn] = payload
					mu.Unlock()
				}
			})
		}
		started.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		l = mustOpen(t, dir, testOptions())
		payloads, err := readAll(l, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(payloads) != len(acked) {
			t.Fatalf("%d records, %d were acknowledged", len(payloads), len(acked))
		}
		for lsn, want := range acked {
			if got := string(payloads[lsn-1]); got != want {
				t.Fatalf("LSN %d is %q, want %q", lsn, got, want)
			}
		}
		mustClose(t, l)
	}
}

// TestAfterClose tries every method.
func TestAfterClose(t *testing.T) {
	l := mustOpen(t, t.TempDir(), testOptions())
	appendN(t, l, 5, 50)
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	tail, err := l.NewReader(6)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, err := tail.Next(context.Background()); waiting <- err }()
	mustClose(t, l)
	if err := <-waiting; !errors.Is(err, io.EOF) {
		t.Fatalf("a reader that waited at the end: %v", err)
	}
	ctx := testContext(t)
	if _, err := l.Append(ctx, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := l.Enqueue(ctx, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := r.Next(ctx); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := l.NewReader(1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := l.WaitDurable(ctx, 5); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitDurable(ctx, 6); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := errors.Join(l.Seal(ctx), l.Close(), l.Err(), r.Close(), r.Close(), tail.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(ctx); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	l.Release(100)
	if s := l.Stats(); s.Durable != 5 || s.First != 1 || l.First() != 1 || l.Appended() != 5 {
		t.Fatalf("%+v", s)
	}
	if _, err := l.PointOf(5); err != nil {
		t.Fatal(err)
	}
}

// TestSeal: what is queued becomes durable, reads go on, then end.
func TestSeal(t *testing.T) {
	l := mustOpen(t, t.TempDir(), testOptions())
	var last Ticket
	for i := range 100 {
		var err error
		if last, err = l.Enqueue(testContext(t), payloadOf(LSN(i+1), 300)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := l.Seal(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := last.Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(testContext(t), nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	checkRecords(t, l, 1, 100, 300)
	checkDrained(t, l, 100)
}

// TestQueueIsBounded: while the disk hangs, only so much is queued; who waits
// for room is served in order, and can give up with nothing queued.
func TestQueueIsBounded(t *testing.T) {
	o, hook := hooked(testOptions())
	o.GroupBytes = 10 * (frameHeaderSize + 100)
	l := mustOpen(t, t.TempDir(), o)
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
	enqueue := func(ctx context.Context) (Ticket, error) { return l.Enqueue(ctx, make([]byte, 100)) }

	if _, err := enqueue(testContext(t)); err != nil {
		t.Fatal(err)
	}
	<-held // in flight; the next ones queue
	for range 10 {
		if _, err := enqueue(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errDisk)
	defer cancel()
	if ticket, err := enqueue(short); !errors.Is(err, errDisk) || ticket.LSN != 0 {
		t.Fatalf("LSN %d, %v: the queue is not bounded", ticket.LSN, err)
	}
	if n := l.Appended(); n != 11 {
		t.Fatalf("appended %d, want 11: a record was queued and given up", n)
	}
	// Those that wait come one after the other, so that their order is known.
	const waiting = 30
	lsns := make([]LSN, waiting)
	var wg sync.WaitGroup
	for i := range waiting {
		wg.Go(func() {
			ticket, err := enqueue(testContext(t))
			if err != nil {
				t.Error(err)
			}
			lsns[i] = ticket.LSN
		})
		eventually(t, "the waiter to queue", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.mu.queue.waiters.Len() == i+1
		})
	}
	hook.arm(func(h *hookEngine) { h.hold = nil })
	close(hold)
	wg.Wait()
	// Room for ten is granted in the order of arrival; who of them is first to
	// use it, the scheduler decides. So at most nine of those before can be late.
	for i, lsn := range lsns {
		if lowest := LSN(max(12, 12+i-9)); lsn < lowest {
			t.Fatalf("waiter %d got LSN %d, before others that waited longer: want %d at least", i, lsn, lowest)
		}
	}
	if err := l.WaitDurable(testContext(t), 11+waiting); err != nil {
		t.Fatal(err)
	}
}

// TestWaitersEnd: those who wait for room learn that the log is closed.
func TestWaitersEnd(t *testing.T) {
	o, hook := hooked(testOptions())
	o.GroupBytes = 100
	l := mustOpen(t, t.TempDir(), o)
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	hook.arm(func(h *hookEngine) { h.hold, h.held = hold, held })
	for range 2 {
		if _, err := l.Enqueue(testContext(t), make([]byte, 90)); err != nil {
			t.Fatal(err)
		}
	}
	<-held
	results := make(chan error, 8)
	for range cap(results) {
		go func() { _, err := l.Enqueue(context.Background(), make([]byte, 90)); results <- err }()
	}
	eventually(t, "the waiters to queue", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mu.queue.waiters.Len() == cap(results)
	})
	short, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errDisk)
	defer cancel()
	if err := l.Seal(short); !errors.Is(err, errDisk) {
		t.Fatalf("Seal: %v", err)
	}
	for range cap(results) {
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	}
	hook.arm(func(h *hookEngine) { h.hold = nil })
	close(hold)
	mustClose(t, l)
	if l.Durable() != 2 {
		t.Fatalf("durable %d, want 2", l.Durable())
	}
}

func TestTooLarge(t *testing.T) {
	o := testOptions()
	o.GroupBytes, o.MaxRecordBytes = 1000, 5000
	l := mustOpen(t, t.TempDir(), o)
	if _, err := l.Enqueue(testContext(t), make([]byte, 5001)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if l.Appended() != 0 {
		t.Fatal("something was queued")
	}
	appendN(t, l, 5, 5000) // larger than a group: one of its own
	checkRecords(t, l, 1, 5, 5000)
}

func TestBadOptions(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]Options{
		"engine":  {Engine: "paper"},
		"segment": {SegmentBytes: -1},
		"max":     {MaxBytes: -1},
		"free":    {MinFree: -2},
		"group":   {GroupBytes: -1},
		"record":  {MaxRecordBytes: 2 << 30},
	} {
		if l, err := Open(filepath.Join(dir, name), o); err == nil {
			_ = l.Close()
			t.Errorf("%s: opened", name)
		}
	}
}
