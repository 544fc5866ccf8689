package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkVerify reads the same segments as cat would, frame by frame, and as
// Verify does, on one processor and on all. Their files are in the page cache.
func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{200, 1000, 4000} {
		dir := filepath.Join(b.TempDir(), "log")
		l := mustOpen(b, dir, Options{MinFree: -1})
		ctx := testContext(b)
		var last Ticket
		for n := 0; n < 256<<20; n += size + 40 {
			var err error
			if last, err = l.Enqueue(ctx, payloadOf(7, size)); err != nil {
				b.Fatal(err)
			}
		}
		if err := last.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		mustClose(b, l)
		in := mustInspect(b, dir)
		total := int64(0)
		for _, seg := range in.Segments {
			total += seg.Bytes
		}
		run := func(name string, f func(b *testing.B)) {
			b.Run(fmt.Sprintf("size=%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(total)
				for b.Loop() {
					f(b)
				}
			})
		}
		run("cat", func(b *testing.B) {
			for _, seg := range in.Segments {
				readLoop(b, filepath.Join(dir, seg.Path))
			}
		})
		run("frames", func(b *testing.B) {
			for _, err := range in.Frames(0) {
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		for name, workers := range map[string]int{"verify-one": 1, "verify-all": 0} {
			run(name, func(b *testing.B) {
				if r, err := in.Verify(ctx, VerifyOptions{Workers: workers}); err != nil || r.Damaged || r.Verified < total*99/100 {
					b.Fatal(r, err)
				}
			})
		}
	}
}

// readLoop is cat.
func readLoop(b *testing.B, path string) {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 128<<10)
	for err == nil {
		_, err = f.Read(buf)
	}
	if !errors.Is(err, io.EOF) {
		b.Fatal(err)
	}
}
