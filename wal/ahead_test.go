package wal

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walproxy/walproxy/internal/crashfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// heldSyncs returns a log that writes ahead, whose first group, of one record, is in its
// fsync, and what lets each fsync go on, one for each that it is sent.
func heldSyncs(t *testing.T, o Options) (l *Log, hook *hookEngine, first Ticket, goOn chan struct{}) {
	t.Helper()
	o.Engine = EngineNative
	o, hook = hooked(o)
	l = mustOpen(t, t.TempDir(), o)
	eventually(t, "the prepared segment", func() bool { return hook.creates.Load() == 2 })
	goOn = make(chan struct{})
	held := make(chan struct{}, 100)
	hook.arm(func(h *hookEngine) { h.hold, h.held = goOn, held })
	t.Cleanup(func() { // before the log is closed
		hook.arm(func(h *hookEngine) { h.hold = nil })
		close(goOn)
	})
	first, err := l.Enqueue(testContext(t), payloadOf(1, 100))
	if err != nil {
		t.Fatal(err)
	}
	<-held
	return l, hook, first, goOn
}

// enqueueAhead queues records and waits until some of them were written, during the fsync
// that is held.
func enqueueAhead(t *testing.T, l *Log, hook *hookEngine, count int) (tickets []Ticket) {
	t.Helper()
	appends := hook.appends.Load()
	for range count {
		ticket, err := l.Enqueue(testContext(t), payloadOf(l.Appended()+1, 100))
		if errors.Is(err, ErrPoisoned) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	eventually(t, "a write during the fsync", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return hook.appends.Load() > appends && !l.mu.writing
	})
	return tickets
}

// TestWriteAhead: records are written while the group before is synced, and are
// acknowledged, durable and readable only after an fsync that begins then.
func TestWriteAhead(t *testing.T) {
	l, hook, first, goOn := heldSyncs(t, testOptions())
	tickets := enqueueAhead(t, l, hook, 20)
	reader, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for group, durable := range []LSN{0, 1} {
		if l.Durable() != durable || l.Appended() != 21 {
			t.Fatalf("group %d: durable is %d, appended %d, while LSN %d is synced", group, l.Durable(), l.Appended(), durable+1)
		}
		for _, ticket := range tickets {
			select {
			case <-ticket.Done():
				t.Fatalf("LSN %d is acknowledged by an fsync that began before it was written", ticket.LSN)
			default:
			}
		}
		if durable == 1 { // what is behind it is in the file already
			if rec, err := reader.Next(testContext(t)); err != nil || rec.LSN != 1 {
				t.Fatalf("LSN %d, %v", rec.LSN, err)
			}
			if rec, ok, err := reader.AtHand(); ok || err != nil {
				t.Fatalf("LSN %d is at hand, %v", rec.LSN, err)
			}
		}
		short, cancel := context.WithTimeoutCause(context.Background(), 10*time.Millisecond, errDisk)
		if _, err := reader.Next(short); !errors.Is(err, errDisk) {
			t.Fatalf("the reader got %v of what is not durable", err)
		}
		if err := l.WaitDurable(short, 2); !errors.Is(err, errDisk) {
			t.Fatalf("WaitDurable: %v", err)
		}
		cancel()
		if group == 0 {
			goOn <- struct{}{}
			if err := first.Wait(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	finish := func() {
		for _, ticket := range tickets {
			for done := false; !done; {
				select {
				case goOn <- struct{}{}:
				case <-ticket.Done():
					done = true
				}
			}
			if err := ticket.Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	finish()
	readTo := func(from, to LSN) {
		for lsn := from; lsn <= to; lsn++ {
			if rec, err := reader.Next(testContext(t)); err != nil || rec.LSN != lsn || !bytes.Equal(rec.Payload, payloadOf(lsn, 100)) {
				t.Fatalf("LSN %d where %d is due, %v", rec.LSN, lsn, err)
			}
		}
	}
	readTo(2, 21)

	// A reader that is in the file already gets no more of it, either.
	single, err := l.Enqueue(testContext(t), payloadOf(22, 100))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next fsync", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mu.syncing
	})
	tickets = enqueueAhead(t, l, hook, 20)
	goOn <- struct{}{}
	if err := single.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	readTo(22, 22)
	if rec, ok, err := reader.AtHand(); ok || err != nil {
		t.Fatalf("LSN %d is at hand, %v", rec.LSN, err)
	}
	finish()
	readTo(23, 42)
	if s := l.Stats(); s.Records != 42 || s.Groups != s.Syncs {
		t.Fatalf("%+v", s)
	}
}

// TestWriteAheadFails: a write that fails during an fsync poisons the log, and nothing
// that is in it is acknowledged; one that succeeds is not after the fsync failed.
func TestWriteAheadFails(t *testing.T) {
	for _, kind := range []string{"write", "sync"} {
		t.Run(kind, func(t *testing.T) {
			l, hook, first, goOn := heldSyncs(t, testOptions())
			hook.arm(func(h *hookEngine) {
				if kind == "write" {
					h.failAppend = h.appends.Load() + 1
				} else {
					h.failSync = h.syncs.Load()
				}
			})
			tickets := enqueueAhead(t, l, hook, 20)
			if kind == "write" {
				<-l.Poisoned()
				if n := hook.late.Load(); n != 0 {
					t.Errorf("%d writes after the failure", n)
				}
			}
			goOn <- struct{}{}
			for _, ticket := range append(tickets, first) {
				if err := ticket.Wait(testContext(t)); !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
					t.Fatalf("LSN %d: %v", ticket.LSN, err)
				}
			}
			if l.Durable() != 0 {
				t.Fatalf("durable is %d", l.Durable())
			}
			if err := l.Close(); !errors.Is(err, ErrPoisoned) {
				t.Fatal(err)
			}
		})
	}
}

// TestNoWriteAheadAfterFailure: nor is anything written that was queued before it.
func TestNoWriteAheadAfterFailure(t *testing.T) {
	l, hook, _, _ := heldSyncs(t, testOptions())
	l.mu.Lock()
	l.mu.noRoom = true // so that it stays queued
	l.mu.Unlock()
	for range 20 {
		if _, err := l.Enqueue(testContext(t), payloadOf(l.Appended()+1, 100)); err != nil {
			t.Fatal(err)
		}
	}
	appends := hook.appends.Load()
	l.mu.Lock()
	l.mu.noRoom = false
	if !l.mayWriteAhead() {
		t.Error("there is nothing to write")
	}
	l.poisonLocked(errDisk)
	l.mu.Unlock()
	if l.writeAhead() || hook.appends.Load() != appends {
		t.Fatal("written after a failure")
	}
}

// TestOneWritesAhead: while one writes, nobody else does, whatever else is queued.
func TestOneWritesAhead(t *testing.T) {
	l, hook, first, goOn := heldSyncs(t, testOptions())
	appends, hold := hook.appends.Load(), make(chan struct{})
	write := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(write)
	hook.arm(func(h *hookEngine) { h.holdAppend = hold })
	var tickets []Ticket
	enqueue := func() {
		for range 12 {
			ticket, err := l.Enqueue(testContext(t), payloadOf(l.Appended()+1, 100))
			if err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, ticket)
		}
	}
	enqueue()
	eventually(t, "a write during the fsync", func() bool { return hook.appends.Load() > appends })
	hook.arm(func(h *hookEngine) { h.holdAppend = nil })
	enqueue()
	if l.writeAhead() || hook.appends.Load() != appends+1 {
		t.Error("two write at once")
	}
	write()
	hook.arm(func(h *hookEngine) { h.hold = nil })
	goOn <- struct{}{}
	for _, ticket := range append(tickets, first) {
		if err := ticket.Wait(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNextSegmentWaits: what was written ahead is synced before anything is written to
// the segment after it, whose header says that it was.
func TestNextSegmentWaits(t *testing.T) {
	o := testOptions()
	o.SegmentBytes = 1400 // a header, the first record and eight more
	l, hook, first, goOn := heldSyncs(t, o)
	tickets := enqueueAhead(t, l, hook, 8)
	last, err := l.Enqueue(testContext(t), payloadOf(10, 100))
	if err != nil {
		t.Fatal(err)
	}
	appends, syncs := hook.appends.Load(), hook.syncs.Load()
	goOn <- struct{}{}
	if err := first.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next fsync", func() bool { return hook.syncs.Load() > syncs })
	if n := hook.appends.Load() - appends; n != 0 {
		t.Fatalf("%d writes before the segment was synced", n)
	}
	goOn <- struct{}{}
	for _, ticket := range tickets {
		if err := ticket.Wait(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	goOn <- struct{}{}
	if err := last.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Segments != 2 || s.Syncs != 3 {
		t.Fatalf("%+v", s)
	}
}

// TestSealWhileWrittenAhead: what was written ahead is made durable before the log is
// sealed.
func TestSealWhileWrittenAhead(t *testing.T) {
	l, hook, _, goOn := heldSyncs(t, testOptions())
	tickets := enqueueAhead(t, l, hook, 20)
	sealed := make(chan error, 1)
	go func() { sealed <- l.Seal(context.Background()) }()
	for {
		select {
		case goOn <- struct{}{}:
			continue
		case err := <-sealed:
			if err != nil {
				t.Fatal(err)
			}
		}
		break
	}
	for _, ticket := range tickets {
		select {
		case <-ticket.Done():
			if err := ticket.Err(); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("LSN %d is not settled", ticket.LSN)
		}
	}
}

// slowFS takes a moment of a bubble's clock for each fdatasync of a segment: all else
// that can happen meanwhile does. Every second one, if after is set, was done by then.
type slowFS struct {
	vfs.FS
	after bool
	syncs atomic.Int64
	ahead atomic.Int64 // writes during one

	syncing atomic.Value // the path of the one that is under way; "": none is
}

type slowFile struct {
	vfs.File
	fs   *slowFS
	path string
}

// during reports whether a write to path is made during an fsync of it.
func (s *slowFS) during(path string) bool { return s.syncing.Load() == any(path) }

func (s *slowFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(name) != (nativeLayout{}).file() {
		return f, err
	}
	return &slowFile{f, s, name}, nil
}

func (f *slowFile) WriteAt(b []byte, at int64) (int, error) {
	if f.fs.during(f.path) {
		f.fs.ahead.Add(1)
	}
	return f.File.WriteAt(b, at)
}

func (f *slowFile) Datasync() error {
	f.fs.syncing.Store(f.path)
	defer f.fs.syncing.Store("")
	if f.fs.after && f.fs.syncs.Add(1)%2 == 0 {
		defer time.Sleep(time.Millisecond)
		return f.File.Datasync()
	}
	time.Sleep(time.Millisecond)
	return f.File.Datasync()
}

// TestPowerCutInWritesAhead cuts the power after each call of work in which groups are
// written while others are synced: any of both may be on the disk then.
func TestPowerCutInWritesAhead(t *testing.T) {
	t.Parallel()
	p := cutsOf(cutPlan{1, 8, 60, 3}, cutPlan{seeds: 20, steps: 60, apart: 11})
	everySeed(t, p.seeds, func(seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			l := newLife("a", crashfs.New(0), seed)
			l.segmentBytes = 4 << 10
			slow := &slowFS{FS: l.disk, after: true}
			l.with = func(o *Options) { o.FS = slow }
			if err := l.workAhead(p.steps); err != nil {
				t.Fatal(err)
			}
			if n := slow.ahead.Load(); n < int64(p.steps)/2 {
				t.Fatalf("seed %d: %d writes during an fsync", seed, n)
			}
			l.with = nil
			p.cutAll(t, seed, l)
		})
	})
}

// TestFailureInWritesAhead is TestFailureAtEveryCall in such work; in its short form of
// writes during an fsync, and of fsyncs.
func TestFailureInWritesAhead(t *testing.T) {
	t.Parallel()
	seeds, steps, atLeast, apart, cutsApart := 1, 4, 6, 1, 24
	if longTest() {
		seeds, steps, atLeast, apart, cutsApart = 20, 30, 60, 1, 3
	}
	everySeed(t, seeds, func(seed uint64) {
		ahead := 0
		failEachCall(t, seed, atLeast, apart, cutsApart, func(l *life) error {
			l.segmentBytes = 4 << 10
			slow := &slowFS{FS: l.disk}
			l.with = func(o *Options) { o.FS = slow }
			defer func() { l.with = nil }()
			fail := l.fail
			l.fail = func(c crashfs.Call) error {
				write := c.Kind == crashfs.Write && slow.during(c.Path)
				sync := c.Kind == crashfs.Sync && slow.during(c.Path)
				if !longTest() && !write && !sync {
					return nil
				}
				err := fail(c)
				if err != nil && write {
					ahead++
				}
				return err
			}
			return l.workAhead(steps)
		})
		if ahead == 0 {
			t.Errorf("seed %d: no write during an fsync failed", seed)
		}
	})
}

// workAhead appends many records at once.
func (l *life) workAhead(steps int) error {
	if err := l.open(); err != nil {
		return err
	}
	for i := range steps {
		err := l.append(6+l.rng.IntN(6), 60+l.rng.IntN(200))
		if err == nil && i%4 == 3 {
			err = l.idle()
		}
		if err != nil {
			return errors.Join(err, l.noMore(), l.close())
		}
	}
	return l.close()
}
