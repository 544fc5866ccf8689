package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/walproxy/walproxy/wal"
)

// BenchmarkVerify reads the files of a log as cat does, and verifies every frame of
// them (`walproxy log verify`), on one processor and on all. Their pages are in the
// page cache, as they are for whoever reads them a second time. The rows to compare
// are those of one record size in one run.
func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{200, 1000, 4000} {
		dir := filepath.Join(b.TempDir(), "log")
		writeLog(b, dir, size, 256<<20)
		in, err := wal.Inspect(dir, wal.InspectOptions{})
		if err != nil {
			b.Fatal(err)
		}
		total := int64(0)
		for _, seg := range in.Segments {
			total += seg.Bytes
		}
		run := func(name string, f func(b *testing.B)) {
			b.Run(fmt.Sprintf("record=%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(total)
				before := processorTime()
				for b.Loop() {
					f(b)
				}
				// On a machine that is busy with other things this is what can be compared.
				used := processorTime() - before
				b.ReportMetric(float64(total)*float64(b.N)/1e6/used.Seconds(), "MB/cpu-s")
			})
		}
		verify := func(workers int) func(b *testing.B) {
			return func(b *testing.B) {
				r, err := in.Verify(b.Context(), wal.VerifyOptions{Workers: workers})
				if err != nil || r.Damaged || r.Verified < total*99/100 {
					b.Fatalf("%+v, %v", r, err)
				}
			}
		}
		run("cat", func(b *testing.B) {
			for _, seg := range in.Segments {
				cat(b, filepath.Join(dir, seg.Path))
			}
		})
		run("verify=one", verify(1))
		run("verify=all", verify(0))
	}
}

// writeLog makes a log of records of size bytes, about total bytes in all.
func writeLog(b *testing.B, dir string, size, total int) {
	b.Helper()
	l, err := wal.Open(dir, wal.Options{MinFree: -1})
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	var last wal.Ticket
	for n := 0; n < total; n += size {
		if last, err = l.Enqueue(b.Context(), payload); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(last.Wait(b.Context()), l.Close()); err != nil {
		b.Fatal(err)
	}
}

// cat reads a file as cat does: 128 KiB at a time.
func cat(b *testing.B, path string) {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was read
	for buf := make([]byte, 128<<10); err == nil; {
		_, err = f.Read(buf)
	}
	if !errors.Is(err, io.EOF) {
		b.Fatal(err)
	}
}
