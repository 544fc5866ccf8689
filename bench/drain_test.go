package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/wal"
)

// drainRecords is how many records a backlog has.
const drainRecords = 200_000

// BenchmarkDrain applies a backlog of records of one size, over 1,000 keys, from
// the log's files:
//
//   - from=files: the files are read, nothing else: read(2) into a buffer
//   - from=log: wal.Reader alone: frames found and verified
//   - sink=null: the loop into a sink that takes everything at once
//   - sink=pebble: the loop into the embedded store, a sync per batch
func BenchmarkDrain(b *testing.B) {
	for _, size := range []int{128, 1024} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			l := newBacklog(b, size, 0, 1)
			b.Run("from=files", l.readFiles)
			b.Run("from=log", l.readLog)
			for _, sink := range []string{"null", "pebble"} {
				for _, lanes := range []int{1, 2, 4} {
					b.Run(fmt.Sprintf("sink=%s/lanes=%d", sink, lanes), func(b *testing.B) {
						l.drain(b, sink, replay.Options{Lanes: lanes})
					})
				}
			}
		})
	}
}

// BenchmarkDrainRejected is BenchmarkDrain with records that the store rejects: 0,
// 1 or 10 of a hundred. Each becomes a dead letter.
func BenchmarkDrainRejected(b *testing.B) {
	for _, bad := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("bad=%d%%", bad), func(b *testing.B) {
			l := newBacklog(b, 128, bad, 1)
			for _, sink := range []string{"null", "pebble"} {
				b.Run("sink="+sink, func(b *testing.B) { l.drain(b, sink, replay.Options{Lanes: 4}) })
			}
		})
	}
}

// BenchmarkDrainClasses is BenchmarkDrain with four collections, four lanes, and
// the lanes in 1, 2 or 4 classes, each of which reads the whole log.
func BenchmarkDrainClasses(b *testing.B) {
	l := newBacklog(b, 128, 0, 4)
	for _, classes := range []int{1, 2, 4} {
		o := replay.Options{Lanes: 4 / classes}
		for i := 1; i < classes; i++ {
			o.Classes = append(o.Classes, replay.Class{Name: fmt.Sprint("c", i), Lanes: 4 / classes})
		}
		o.OwnLanes = func(collection string) string {
			for _, c := range o.Classes {
				if c.Name == collection {
					return collection
				}
			}
			return ""
		}
		b.Run(fmt.Sprintf("classes=%d", classes), func(b *testing.B) { l.drain(b, "null", o) })
	}
}

// null is a sink that takes everything at once, but for what it cannot take.
type null struct{ lanes int }

func (n null) Resume(_ context.Context, c sinks.Claim) (sinks.Checkpoint, error) {
	return sinks.Checkpoint{Stream: c.Stream, Epoch: 1, Lanes: make([]sinks.Point, n.lanes)}, nil
}

var errBad = errors.New("rejected")

// Apply implements sinks.Sink. As a transaction it takes all of a batch or nothing.
func (null) Apply(_ context.Context, batch *sinks.Batch) ([]sinks.Result, error) {
	for i := range batch.Records {
		if batch.Records[i].Body.GetMutation().GetPrecondition() != nil {
			results := sinks.Results(len(batch.Records), sinks.Retry, errBad)
			results[i].Outcome = sinks.Rejected
			return results, nil
		}
	}
	return nil, nil
}

func (null) Close(context.Context) error { return nil }

// logOf is a log with a backlog.
type logOf struct {
	dir   string
	log   *wal.Log
	state *state.Store
	size  int
	last  wal.LSN
}

// newBacklog logs drainRecords records of size bytes each, spread over some
// collections; bad of a hundred will be rejected.
func newBacklog(b *testing.B, size, bad, collections int) *logOf {
	b.Helper()
	l := &logOf{dir: b.TempDir(), size: size}
	var err error
	l.log, err = wal.Open(filepath.Join(l.dir, "log"), wal.Options{
		MinFree: -1,
		Attach: func(stream uuid.UUID, empty bool, newest uint64) (uint64, error) {
			if l.state, err = state.Open(filepath.Join(l.dir, "state"), state.Options{}); err != nil {
				return 0, err
			}
			return l.state.Bind(stream, empty, newest)
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(l.state.Close(), l.log.Close()); err != nil {
			b.Error(err)
		}
	})
	ctx := context.Background()
	for i := range drainRecords {
		payload := l.record(b, fmt.Sprint("c", i%collections), i, i%100 < bad)
		ticket, err := l.log.Enqueue(ctx, payload)
		if err != nil {
			b.Fatal(err)
		}
		l.last = ticket.LSN
	}
	if err := l.log.WaitDurable(ctx, l.last); err != nil {
		b.Fatal(err)
	}
	return l
}

// record is a payload of exactly size bytes.
func (l *logOf) record(b *testing.B, collection string, i int, bad bool) []byte {
	b.Helper()
	text := ""
	for {
		m, err := mutation.Set(collection, mutation.String(fmt.Sprintf("key-%06d", i%1000)), map[string]any{"text": text, "n": 1_000_000 + i})
		if err != nil {
			b.Fatal(err)
		}
		if bad { // no record ever has this version
			m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfVersion{IfVersion: 1 << 60}}
		}
		payload, err := mutation.Encode(nil, &walproxyv1.Record{
			Format: mutation.Format, Routes: []string{"main"}, AcceptedUnixNanos: 1_700_000_000_000_000_000 + int64(i),
			Body: &walproxyv1.Record_Mutation{Mutation: m},
		})
		if err != nil {
			b.Fatal(err)
		}
		if len(payload) >= l.size {
			return payload
		}
		text += strings.Repeat("x", max((l.size-len(payload))*9/10, 1))
	}
}

// mark is when something began.
type mark struct {
	at  time.Time
	cpu time.Duration // used by then
}

func now() mark { return mark{time.Now(), processorTime()} }

// measure runs f once per iteration and reports what a record costs. Only what f
// passes to timed counts, from the mark that it returns on.
func (l *logOf) measure(b *testing.B, f func(timed func(work func() mark))) {
	b.Helper()
	var took, cpu time.Duration
	n := 0
	for b.Loop() {
		f(func(work func() (began mark)) {
			began := work()
			took += time.Since(began.at)
			cpu += processorTime() - began.cpu
		})
		n++
	}
	records := float64(drainRecords * n)
	b.ReportMetric(records*float64(l.size)/1e6/took.Seconds(), "MB/s")
	b.ReportMetric(records/took.Seconds(), "records/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/records, "cpu-ns/record")
	b.ReportMetric(0, "ns/op") // an op is the whole backlog, with what is not timed
}

// processorTime is what the process has used of all processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (l *logOf) readFiles(b *testing.B) {
	buf := make([]byte, 256<<10)
	l.measure(b, func(timed func(func() mark)) {
		timed(func() mark {
			began := now()
			l.readAll(b, buf)
			return began
		})
	})
}

func (l *logOf) readAll(b *testing.B, buf []byte) {
	err := filepath.WalkDir(filepath.Join(l.dir, "log"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		for err == nil {
			_, err = f.Read(buf)
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		return f.Close()
	})
	if err != nil {
		b.Fatal(err)
	}
}

func (l *logOf) readLog(b *testing.B) {
	ctx := context.Background()
	l.measure(b, func(timed func(func() mark)) {
		timed(func() mark {
			began := now()
			r, err := l.log.NewReader(1)
			if err != nil {
				b.Fatal(err)
			}
			for range drainRecords {
				if _, err := r.Next(ctx); err != nil {
					b.Fatal(err)
				}
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
			return began
		})
	})
}

// starter marks the first Apply: what the loop does before, it does once a start,
// and syncs the state store for it.
type starter struct {
	sinks.Sink
	once  sync.Once
	first mark
}

func (s *starter) Apply(ctx context.Context, batch *sinks.Batch) ([]sinks.Result, error) {
	s.once.Do(func() { s.first = now() })
	return s.Sink.Apply(ctx, batch)
}

// drain applies the whole backlog to a new store. It is measured from the first
// Apply to the last record applied.
func (l *logOf) drain(b *testing.B, name string, o replay.Options) {
	o.Name, o.OnReject = "main", func(string) replay.Policy { return replay.Skip }
	lanes := o.Lanes
	for _, c := range o.Classes {
		lanes += c.Lanes
	}
	l.measure(b, func(timed func(func() mark)) {
		// A sink that was never claimed: it starts without a checkpoint.
		if _, err := l.state.ChangeClaim("main", func(c *state.Claim) { *c = state.Claim{Sink: "main"} }); err != nil {
			b.Fatal(err)
		}
		var sink sinks.Sink = null{lanes}
		if name == "pebble" {
			store, err := pebble.Open(b.TempDir(), pebble.Options{})
			if err != nil {
				b.Fatal(err)
			}
			sink = store
		}
		l.run(b, sink, o, timed)
	})
}

func (l *logOf) run(b *testing.B, sink sinks.Sink, o replay.Options, timed func(func() mark)) {
	started := &starter{Sink: sink}
	loop, err := replay.New(l.log, l.state, started, o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	timed(func() mark {
		go func() { ended <- loop.Run(ctx) }()
		if err := loop.Wait(ctx, l.last); err != nil {
			b.Error(err)
		}
		return started.first
	})
	cancel()
	if err := errors.Join(<-ended, sink.Close(context.Background())); err != nil {
		b.Fatal(err)
	}
}
