package wal

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/vfs"
)

// BenchmarkAppend appends from N writers that each wait for their ack, beside a
// raw loop that appends the same bytes in the same groups and fdatasyncs.
//
//	go test -run '^$' -bench Append -benchtime 2s ./wal
//
// WALPROXY_BENCH_DIR says where the files go (a disk, not tmpfs).
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256, 1024} {
		for _, size := range []int{128, 512, 4096} {
			// Groups as large as the log's were in the same run; until it ran, as
			// large as they are when nobody waits longer than two fsyncs.
			perGroup := float64(writers)
			b.Run(fmt.Sprintf("writers=%d/size=%d/log", writers, size), func(b *testing.B) {
				perGroup = benchmarkLog(b, writers, size, false)
			})
			// What is durable is freed, so that new segments are made of old ones.
			b.Run(fmt.Sprintf("writers=%d/size=%d/log-freed", writers, size), func(b *testing.B) {
				benchmarkLog(b, writers, size, true)
			})
			b.Run(fmt.Sprintf("writers=%d/size=%d/raw", writers, size), func(b *testing.B) {
				benchmarkRaw(b, max(1, int(perGroup+0.5)), size)
			})
		}
	}
}

func benchDir(b *testing.B) string {
	root := os.Getenv("WALPROXY_BENCH_DIR")
	if root == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(root, "walproxy-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// benchmarkLog returns how many records a group had.
func benchmarkLog(b *testing.B, writers, size int, free bool) float64 {
	l, err := Open(benchDir(b), Options{MinFree: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}()
	payload := payloadOf(1, size)[:size]
	began := l.Stats()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		n := b.N / writers
		if w < b.N%writers {
			n++
		}
		wg.Go(func() {
			for range n {
				lsn, err := l.Append(context.Background(), payload)
				if err != nil {
					b.Error(err)
					return
				}
				if free && lsn%1024 == 0 {
					l.Release(lsn)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	s := l.Stats()
	records, syncs := s.Records-began.Records, s.Syncs-began.Syncs
	if records != uint64(b.N) {
		b.Fatalf("%d records, want %d", records, b.N)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(syncs)/float64(records), "syncs/record")
	return float64(records) / float64(syncs)
}

// benchmarkRaw appends group after group to one file after the other.
func benchmarkRaw(b *testing.B, perGroup, size int) {
	dir := benchDir(b)
	buf := make([]byte, perGroup*(size+frameHeaderSize))
	const segment = 16 << 20
	var f *os.File
	written, syncs := segment, 0
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += perGroup {
		if written >= segment {
			var err error
			if f != nil {
				err = f.Close()
			}
			if err == nil {
				f, err = os.Create(filepath.Join(dir, fmt.Sprint(done)))
			}
			if err != nil {
				b.Fatal(err)
			}
			written = 0
		}
		group := buf[:min(perGroup, b.N-done)*(size+frameHeaderSize)]
		if _, err := f.Write(group); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		written += len(group)
		syncs++
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(syncs)/float64(b.N), "syncs/record")
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRead reads what is in the page cache.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{128, 512, 4096} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			const records = 40_000
			l := mustOpen(b, benchDir(b), Options{MinFree: -1})
			appendN(b, l, records, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				r, err := l.NewReader(1)
				if err != nil {
					b.Fatal(err)
				}
				for lsn := LSN(1); lsn <= records && done < b.N; lsn++ {
					if rec, err := r.Next(context.Background()); err != nil || rec.LSN != lsn {
						b.Fatal(rec.LSN, err)
					}
					done++
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStartScan reads the last segment of a log, of the usual size, and finds its end
// as a start does: its pages are in the page cache, as behind a crash. What counts is
// the ratio inside one run.
//
//	go test -run '^$' -bench StartScan -benchtime 50x ./wal
func BenchmarkStartScan(b *testing.B) {
	for _, size := range []int{128, 512, 4096} {
		dir := filepath.Join(benchDir(b), "log")
		o := Options{MinFree: -1, SegmentBytes: 16 << 20}
		l := mustOpen(b, dir, o)
		appendN(b, l, 1, nativeFirstRoom/2)
		records := (18 << 20) / (size + frameHeaderSize)
		var last Ticket
		for n := 0; n < records; n++ { // beyond the small files of a new log
			var err error
			if last, err = l.Enqueue(context.Background(), payloadOf(LSN(n+2), size)[:size]); err != nil {
				b.Fatal(err)
			}
		}
		if err := last.Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
		mustClose(b, l)
		s := &start{dir: dir, fs: vfs.OS(), log: zap.NewNop(), stream: l.stream}
		if err := s.find(); err != nil {
			b.Fatal(err)
		}
		f := slices.MaxFunc(s.segments, func(x, y *found) int { return cmp.Compare(x.size, y.size) })
		end, err := s.scanRecords(f)
		if err != nil || end.offset != f.size {
			b.Fatal(end, err)
		}
		bytes := f.size
		run := func(name string, f func() error) {
			b.Run(fmt.Sprintf("size=%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(bytes)
				before := processorTime()
				best := time.Duration(math.MaxInt64)
				for b.Loop() {
					began := time.Now()
					if err := f(); err != nil {
						b.Fatal(err)
					}
					best = min(best, time.Since(began))
				}
				// So is the quickest of all, where one of them was left alone.
				b.ReportMetric(float64(bytes)/1e6/best.Seconds(), "best-MB/s")
				// On a machine that is busy with other things this is what can be compared.
				b.ReportMetric(float64(bytes)*float64(b.N)/1e6/(processorTime()-before).Seconds(), "MB/cpu-s")
			})
		}
		buf := make([]byte, scanBufferSize)
		run("read", func() error {
			return withFile(vfs.OS(), f.path(), func(file vfs.File, _ int64) error {
				_, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{file}, buf)
				return err
			})
		})
		scan := func() error {
			_, err := s.scanRecords(f)
			return err
		}
		run("scan", scan)
		all := runtime.GOMAXPROCS(1)
		run("scan-one-processor", scan)
		s.fs = vfs.NewFaults(vfs.OS())
		run("scan-unmapped", scan)
		runtime.GOMAXPROCS(all)
	}
}

func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
