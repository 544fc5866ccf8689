package bench

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/klauspost/compress/s2"
	"golang.org/x/sys/unix"
)

const (
	groupFile  = 16 << 20
	groupBlock = 4096 // what O_DIRECT wants to be a multiple of, in memory and in the file
)

// BenchmarkGroupForm makes a group of records durable in every way that there is, in
// turns on files that were filled with zeros before: as the log does (one pwrite and an
// fdatasync), with O_DSYNC, with O_DIRECT in whole blocks, with one vector for each
// record, and compressed. What counts is the median in parts of the log's way.
//
//	go test ./bench -run '^$' -bench GroupForm -benchtime 200x
func BenchmarkGroupForm(b *testing.B) {
	for _, records := range []int{1, 64, 1024} {
		for _, size := range []int{128, 512, 4096} {
			b.Run(fmt.Sprintf("records=%d/size=%d", records, size), func(b *testing.B) { benchmarkGroupForms(b, records, size) })
		}
	}
}

// groupForm writes what it is given to its own file, again from the start at its end.
type groupForm struct {
	name  string
	file  int
	at    int64
	took  []time.Duration
	write func(f *groupForm, group []byte, records [][]byte) error
}

func benchmarkGroupForms(b *testing.B, records, size int) {
	group := alignedBuffer((records*size + groupBlock - 1) / groupBlock * groupBlock)[:records*size]
	var each [][]byte
	for at := 0; at < len(group); at += size {
		fillRecord(group[at : at+size])
		each = append(each, group[at:at+size])
	}
	var packed []byte
	sync := func(f *groupForm, p []byte) error {
		if err := f.put(p); err != nil {
			return err
		}
		return unix.Fdatasync(f.file)
	}
	plain := func(f *groupForm, p []byte, _ [][]byte) error { return sync(f, p) }
	put := func(f *groupForm, p []byte, _ [][]byte) error { return f.put(p) }
	blocks := func(p []byte) []byte { return p[:(len(p)+groupBlock-1)/groupBlock*groupBlock] }
	forms := []*groupForm{
		{name: "log", write: plain},
		{name: "O_DSYNC", file: unix.O_DSYNC, write: put},
		{name: "O_DIRECT", file: unix.O_DIRECT, write: func(f *groupForm, p []byte, _ [][]byte) error { return sync(f, blocks(p)) }},
		{name: "O_DIRECT+O_DSYNC", file: unix.O_DIRECT | unix.O_DSYNC, write: func(f *groupForm, p []byte, _ [][]byte) error { return f.put(blocks(p)) }},
		{name: "pwritev", write: func(f *groupForm, _ []byte, each [][]byte) error {
			for part := range slices.Chunk(each, 1024) { // IOV_MAX
				n, err := unix.Pwritev(f.file, part, f.at)
				if err != nil {
					return err
				}
				f.at += int64(n)
			}
			return unix.Fdatasync(f.file)
		}},
		{name: "S2", write: func(f *groupForm, p []byte, _ [][]byte) error {
			packed = s2.Encode(packed[:cap(packed)], p)
			return sync(f, packed)
		}},
	}
	dir := b.TempDir()
	for _, f := range forms {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, make([]byte, groupFile), 0o644); err != nil {
			b.Fatal(err)
		}
		fd, err := unix.Open(path, os.O_RDWR|f.file, 0)
		if err != nil {
			b.Skipf("%s: %v", f.name, err)
		}
		f.file = fd
		b.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.Fsync(fd); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for _, f := range forms {
			if f.at+int64(len(group))+groupBlock > groupFile {
				f.at = 0
			}
			began := time.Now()
			if err := f.write(f, group, each); err != nil {
				b.Fatal(f.name, err)
			}
			f.took = append(f.took, time.Since(began))
		}
	}
	median := func(f *groupForm) float64 { slices.Sort(f.took); return f.took[len(f.took)/2].Seconds() }
	base := median(forms[0])
	b.ReportMetric(base*1e6, "log-µs")
	for _, f := range forms[1:] {
		b.ReportMetric(100*base/median(f), f.name+"-%")
	}
	b.ReportMetric(100*float64(len(packed))/float64(len(group)), "packed-%")
}

func (f *groupForm) put(p []byte) error {
	n, err := unix.Pwrite(f.file, p, f.at)
	f.at += int64(n)
	return err
}

// alignedBuffer begins where a block may.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+groupBlock)
	skip := (groupBlock - int(uintptr(unsafe.Pointer(&b[0]))%groupBlock)) % groupBlock
	return b[skip : skip+n]
}

// fillRecord makes p what a record looks like: a frame's header, and fields with names.
func fillRecord(p []byte) {
	for i := range min(36, len(p)) {
		p[i] = byte(rand.Uint32())
	}
	for at := min(36, len(p)); at < len(p); {
		text, _ := json.Marshal(map[string]any{"customer": rand.Uint32(), "total": rand.Uint32N(1e5), "note": fmt.Sprintf("%x", rand.Uint64())})
		at += copy(p[at:], text)
	}
}
