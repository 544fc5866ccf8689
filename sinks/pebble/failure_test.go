package pebble

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// neverReuse creates files instead: errorfs does not see what happens to a file
// that is reused.
type neverReuse struct{ *errorfs.FS }

func (fs neverReuse) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Remove(oldname); err != nil {
		return nil, err
	}
	return fs.Create(newname, category)
}

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

func isLog(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".log") }

// counters is a store with one counter per lane, each batch one increment.
type counters struct {
	t     *testing.T
	sink  *Sink
	claim sinks.Claim
	cp    sinks.Checkpoint
	lsn   atomic.Uint64
}

func newCounters(t *testing.T, s *Sink, lanes int) *counters {
	t.Helper()
	c := &counters{t: t, sink: s, claim: sinks.Claim{Stream: uuid.New(), Lanes: lanes, Fresh: true}}
	c.cp = must[sinks.Checkpoint](t)(s.Resume(t.Context(), c.claim))
	return c
}

func counterKey(lane int) *walproxyv1.Key { return mutation.String(fmt.Sprintf("lane%d", lane)) }

// batch is lane's next; pad makes it larger.
func (c *counters) batch(lane int, pad int) *sinks.Batch {
	lsn := sinks.LSN(c.lsn.Add(1))
	m, err := mutation.Increment("c", counterKey(lane), map[string]any{"n": int64(1)})
	if err == nil && pad > 0 {
		m.Ops = append(m.Ops, mutation.MergeOp(map[string]*walproxyv1.Value{"pad": mutation.BytesValue(make([]byte, pad))}))
	}
	if err != nil {
		c.t.Error(err)
	}
	return &sinks.Batch{
		Epoch: c.cp.Epoch, Records: []sinks.Record{record(lsn, start, m)},
		Moves: []sinks.Move{{Lane: lane, From: c.cp.Lanes[lane], To: point(lsn)}},
	}
}

// next applies lane's next batch.
func (c *counters) next(ctx context.Context, lane, pad int) error {
	b := c.batch(lane, pad)
	if _, err := c.sink.Apply(ctx, b); err != nil {
		return err
	}
	c.cp.Lanes[lane] = b.Moves[0].To
	return nil
}

// verify opens the store on fs and wants each lane's data to be where its
// checkpoint is, with at least low[lane] increments and one more than high[lane]
// at the most: a batch may be durable with its answer still out.
func (c *counters) verify(fs vfs.FS, low, high []int64) {
	c.t.Helper()
	s, err := Open("store", Options{fs: fs})
	if err != nil {
		c.t.Fatalf("open after the failure: %v", err)
	}
	defer closeSink(c.t, s)
	claim := c.claim
	claim.Fresh = false
	cp := must[sinks.Checkpoint](c.t)(s.Resume(c.t.Context(), claim))
	for lane := range low {
		var n int64
		var version sinks.LSN
		d, err := s.Read(c.t.Context(), "c", counterKey(lane))
		if err == nil {
			n, version = d.Fields["n"].GetInt64(), d.Version
		} else if !errors.Is(err, mutation.ErrNotFound) {
			c.t.Fatal(err)
		}
		if n < low[lane] || n > high[lane]+1 {
			c.t.Errorf("lane %d: %d increments, %d to %d were reported applied", lane, n, low[lane], high[lane])
		}
		if version != cp.Lanes[lane].LSN {
			c.t.Errorf("lane %d: data is at %v, its checkpoint at %v", lane, version, cp.Lanes[lane].LSN)
		}
	}
}

// TestDiskFailure fails one kind of operation for good while four lanes apply,
// with batches larger than a memtable among them. The process lives, every call
// says ErrFailed and halts, Close returns, and on disk is what was applied.
func TestDiskFailure(t *testing.T) {
	for name, fails := range map[string]func(errorfs.Op) bool{
		"wal sync":   func(op errorfs.Op) bool { return isLog(op) && isSync(op) },
		"wal write":  func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpFileWrite },
		"wal create": func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpCreate },
		"manifest write": func(op errorfs.Op) bool {
			return strings.Contains(op.Path, "MANIFEST") && op.Kind == errorfs.OpFileWrite
		},
	} {
		t.Run(name, func(t *testing.T) { diskFailure(t, fails) })
	}
}

func diskFailure(t *testing.T, fails func(errorfs.Op) bool) {
	const lanes = 4
	var broken atomic.Bool
	mem := vfs.NewCrashableMem()
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && fails(op) {
			return errorfs.ErrInjected
		}
		return nil
	})
	s, err := Open("store", Options{fs: neverReuse{errorfs.Wrap(mem, inject)}, MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	c := newCounters(t, s, lanes)
	applied := make([]atomic.Int64, lanes)
	var wg sync.WaitGroup
	errs := make([]error, lanes)
	for lane := range lanes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for i := 0; errs[lane] == nil; i++ {
				pad := 100
				if i%16 == 15 {
					pad = 128 << 10 // larger than the memtable: another path in Pebble
				}
				if errs[lane] = c.next(ctx, lane, pad); errs[lane] == nil {
					applied[lane].Add(1)
				}
				if i == 20 && lane == 0 {
					broken.Store(true)
				}
			}
		})
	}
	wg.Wait()
	for lane, err := range errs {
		if !errors.Is(err, ErrFailed) || !errors.Is(err, sinks.ErrFailed) || !errors.Is(err, errorfs.ErrInjected) || sinks.OutcomeOf(err) != sinks.Halt {
			t.Errorf("lane %d: %v, outcome %v; want ErrFailed, halt, with the cause", lane, err, sinks.OutcomeOf(err))
		}
	}
	ctx, cancelCalls := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancelCalls()
	_, rerr := s.Read(ctx, "c", counterKey(0))
	_, verr := s.Resume(ctx, c.claim)
	_, ierr := s.Identity(ctx)
	for call, err := range map[string]error{"Read": rerr, "Resume": verr, "Identity": ierr, "Apply": c.next(ctx, 0, 0)} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("%s after the failure: %v, want ErrFailed", call, err)
		}
	}
	if n := s.Bytes(); n != 0 {
		t.Errorf("Bytes of a failed store: %d", n)
	}
	after := mem.CrashClone(vfs.CrashCloneCfg{})
	closeCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := s.Close(closeCtx); errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close hangs after the failure: %v", err)
	}
	counts := make([]int64, lanes)
	for lane := range counts {
		counts[lane] = applied[lane].Load()
	}
	c.verify(after, counts, counts)
	c.verify(mem.CrashClone(vfs.CrashCloneCfg{}), counts, counts)
}

// TestDiskFullForTables: flushes fail for want of space while the WAL still
// works. Writes stall; Apply says unknown, with the reason, when its context
// ends; once there is room all goes on, each write once.
func TestDiskFullForTables(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind == errorfs.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	})
	mem := vfs.NewCrashableMem()
	s := must[*Sink](t)(Open("store", Options{fs: neverReuse{errorfs.Wrap(mem, inject)}, MemTableBytes: 64 << 10}))
	c := newCounters(t, s, 1)
	full.Store(true)
	var applied int64
	var stalled *sinks.Batch
	for stalled == nil {
		b := c.batch(0, 16<<10)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := s.Apply(ctx, b)
		cancel()
		switch {
		case err == nil:
			c.cp.Lanes[0] = b.Moves[0].To
			applied++
		case sinks.OutcomeOf(err) == sinks.Unknown && errors.Is(err, syscall.ENOSPC):
			stalled = b
		case errors.Is(err, context.DeadlineExceeded): // a slow machine; the commit is still out
			if _, err := s.Apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			c.cp.Lanes[0] = b.Moves[0].To
			applied++
		default:
			t.Fatalf("Apply: %v, outcome %v", err, sinks.OutcomeOf(err))
		}
		if applied > 10_000 {
			t.Fatal("writes never stalled")
		}
	}
	if d := must[*mutation.Document](t)(s.Read(t.Context(), "c", counterKey(0))); d.Fields["n"].GetInt64() != applied {
		t.Errorf("n is %d while writes stall, want %d", d.Fields["n"].GetInt64(), applied)
	}
	full.Store(false)
	if _, err := s.Apply(t.Context(), stalled); err != nil {
		t.Fatalf("Apply with room again: %v", err)
	}
	closeSink(t, s)
	c.verify(mem.CrashClone(vfs.CrashCloneCfg{}), []int64{applied + 1}, []int64{applied})
}

// TestCommitAfterFailure: pebblekit.FS hides a failed sync from Pebble, so the
// commit has to look for it.
func TestCommitAfterFailure(t *testing.T) {
	var broken atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && isLog(op) && isSync(op) {
			return errorfs.ErrInjected
		}
		return nil
	})
	s := must[*Sink](t)(Open("store", Options{fs: neverReuse{errorfs.Wrap(vfs.NewMem(), inject)}}))
	t.Cleanup(func() { closeSink(t, s) })
	broken.Store(true)
	b := s.db.NewBatch()
	if err := b.Set([]byte{0xff}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.commit(b); !errors.Is(err, ErrFailed) || !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("commit with the sync failing: %v, want ErrFailed with its cause", err)
	}
}

// TestOpenFailure fails the n-th write operation of making a store, for every n:
// Open returns an error, never a panic, and a later Open works.
func TestOpenFailure(t *testing.T) {
	for n := int32(0); ; n++ {
		mem := vfs.NewCrashableMem()
		at := errorfs.OnIndex(n)
		inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpRemove {
				return at.MaybeError(op)
			}
			return nil
		})
		s, err := Open("store", Options{fs: neverReuse{errorfs.Wrap(mem, inject)}})
		if err == nil {
			closeSink(t, s)
			if at.Load() >= 0 {
				if n < 10 {
					t.Fatalf("only %d write operations seen: the injector does not work", n)
				}
				return // all of Open's operations were tried
			}
			continue // one that does not matter, as preallocation
		}
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("operation %d: %v, want the injected error named", n, err)
		}
		s, err = Open("store", Options{fs: mem.CrashClone(vfs.CrashCloneCfg{})})
		if err != nil {
			t.Fatalf("operation %d failed before; now: %v", n, err)
		}
		closeSink(t, s)
	}
}

// stuckFS blocks operations until it is released.
type stuckFS struct {
	block   func(errorfs.Op) bool
	stuck   atomic.Bool
	release chan struct{}
	reached chan struct{} // gets a value when an operation blocks
}

func (f *stuckFS) MaybeError(op errorfs.Op) error {
	if f.stuck.Load() && f.block(op) {
		select {
		case f.reached <- struct{}{}:
		default:
		}
		<-f.release
	}
	return nil
}

func (f *stuckFS) String() string { return "stuck" }

// TestHungDisk: the disk hangs. Calls return when their context ends, with an
// outcome that is true; afterwards everything goes on, each write once.
func TestHungDisk(t *testing.T) {
	stuck := &stuckFS{
		block:   func(op errorfs.Op) bool { return isLog(op) && isSync(op) },
		release: make(chan struct{}), reached: make(chan struct{}, 1),
	}
	mem := vfs.NewCrashableMem()
	s, err := Open("store", Options{fs: neverReuse{errorfs.Wrap(mem, stuck)}})
	if err != nil {
		t.Fatal(err)
	}
	c := newCounters(t, s, 2)
	if err := c.next(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	stuck.stuck.Store(true)
	b := c.batch(0, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { _, err := s.Apply(ctx, b); result <- err }()
	<-stuck.reached
	cancel()
	if err := <-result; sinks.OutcomeOf(err) != sinks.Unknown || !errors.Is(err, context.Canceled) {
		t.Fatalf("Apply with the sync hanging: %v, outcome %v; want unknown, cancelled", err, sinks.OutcomeOf(err))
	}
	// The same lane again: the commit before is still out, nothing is begun.
	short, cancelShort := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancelShort()
	if _, err := s.Apply(short, b); sinks.OutcomeOf(err) != sinks.Retry {
		t.Fatalf("Apply behind a hanging one: %v, outcome %v; want retry", err, sinks.OutcomeOf(err))
	}
	if _, err := s.Resume(short, c.claim); sinks.OutcomeOf(err) != sinks.Retry {
		t.Fatalf("Resume behind a hanging Apply: %v, want retry", err)
	}
	if err := s.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Close with a commit out: %v, want its context's end", err)
	}
	if _, err := s.Apply(t.Context(), b); !errors.Is(err, sinks.ErrClosed) {
		t.Fatalf("Apply while closing: %v, want ErrClosed", err)
	}
	close(stuck.release)
	closeSink(t, s) // joins the commit
	c.verify(mem.CrashClone(vfs.CrashCloneCfg{}), []int64{2, 0}, []int64{1, 0})
}

// TestHungRead: a read that gets no answer is an error, never "not found".
func TestHungRead(t *testing.T) {
	stuck := &stuckFS{
		block: func(op errorfs.Op) bool {
			return strings.HasSuffix(op.Path, ".sst") && (op.Kind == errorfs.OpFileReadAt || op.Kind == errorfs.OpOpen)
		},
		release: make(chan struct{}), reached: make(chan struct{}, 1),
	}
	fs := errorfs.Wrap(vfs.NewMem(), stuck)
	s, err := Open("store", Options{fs: fs, Reads: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := newCounters(t, s, 2)
	for lane, pad := range []int{64 << 10, 0} { // so that lane 1's is in a block that Open does not read
		if err := c.next(t.Context(), lane, pad); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	closeSink(t, s)
	if s, err = Open("store", Options{fs: fs, Reads: 1}); err != nil { // with a cold cache
		t.Fatal(err)
	}
	defer closeSink(t, s)
	stuck.stuck.Store(true)
	for range 2 { // the second waits for the only read to end
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		d, err := s.Read(ctx, "c", counterKey(1))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, mutation.ErrNotFound) || d != nil {
			t.Errorf("Read with the disk hanging: found %v, error %v; want the context's end", d != nil, err)
		}
	}
	close(stuck.release)
	if d := must[*mutation.Document](t)(s.Read(t.Context(), "c", counterKey(1))); d.Version != 2 {
		t.Errorf("version %v, want 2", d.Version)
	}
}

// TestDamagedTable flips bits of a table: the read says so, and is not "not found".
func TestDamagedTable(t *testing.T) {
	mem := vfs.NewMem()
	s, err := Open("store", Options{fs: mem})
	if err != nil {
		t.Fatal(err)
	}
	c := newCounters(t, s, 1)
	if err := c.next(t.Context(), 0, 4096); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	closeSink(t, s)
	for _, name := range must[[]string](t)(mem.List("store")) {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f := must[vfs.File](t)(mem.OpenReadWrite("store/"+name, vfs.WriteCategoryUnspecified))
		if _, err := f.WriteAt([]byte("damaged"), 64); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	s, err = Open("store", Options{fs: mem})
	if err == nil { // the damage may lie in the block that Open reads itself
		defer closeSink(t, s)
		_, err = s.Read(t.Context(), "c", counterKey(0))
		c.sink = s
		if _, aerr := s.Apply(t.Context(), c.batch(0, 0)); err != nil && sinks.OutcomeOf(aerr) != sinks.Halt {
			t.Errorf("Apply onto a damaged record: %v, outcome %v; want halt", aerr, sinks.OutcomeOf(aerr))
		}
	}
	if err == nil || errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("Read of a damaged record: %v, want an error that says so", err)
	}
}
