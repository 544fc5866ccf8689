package wal

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// TestScanMapped: where the file is mapped a scan finds the same end, the same durable
// LSN and the same fault as where it is read, whatever is flipped, cut off or zeroed.
func TestScanMapped(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	l := mustOpen(t, dir, testOptions())
	for n := range 8 {
		appendN(t, l, 1, 16+40*(n%3))
	}
	mustClose(t, l)
	path := segmentFileOf(dir, 1)
	whole := mustRead(t, path)
	same := func(what string, at int) {
		t.Helper()
		read, mapped := scanOn(t, vfs.NewFaults(vfs.OS()), dir, l.stream), scanOn(t, vfs.OS(), dir, l.stream)
		if read != mapped {
			t.Fatalf("%s at %d: read %+v, mapped %+v", what, at, read, mapped)
		}
	}
	if same("nothing", 0); scanOn(t, vfs.OS(), dir, l.stream).end.last != 8 {
		t.Fatal("not all of it is found")
	}
	b := make([]byte, len(whole))
	for at := range whole {
		copy(b, whole)
		b[at] ^= 1 << (at % 8)
		mustWrite(t, path, b)
		same("a bit flipped", at)
		if at%3 == 0 {
			mustWrite(t, path, whole[:at])
			same("cut", at)
			copy(b, whole)
			clear(b[at:])
			mustWrite(t, path, b)
			same("zeros", at)
		}
	}
}

type scanned struct {
	end     segmentEnd
	durable LSN
	fault   string
}

// scanOn scans the first segment of the log in dir, if its header is good.
func scanOn(t *testing.T, fsys vfs.FS, dir string, stream uuid.UUID) (s scanned) {
	t.Helper()
	f, err := examine(fsys, filepath.Join(dir, "segments", segmentName(1)), 1, stream)
	if err != nil {
		t.Fatal(err)
	}
	if f.err != nil {
		return scanned{fault: f.err.Error()}
	}
	st := &start{dir: dir, fs: fsys, log: zap.NewNop(), stream: stream}
	s.end, s.durable, err = st.scanDurable(f)
	if err != nil {
		s.fault = err.Error()
	}
	return s
}

// TestScanOfShrinkingFile: a file that is cut while it is mapped gives a fault of the
// processor; the scan reads what is left instead.
func TestScanOfShrinkingFile(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 10, 1000)
	mustClose(t, l)
	path := segmentFileOf(dir, 1)
	f, err := examine(vfs.OS(), filepath.Dir(path), 1, l.stream)
	if err != nil || f.err != nil {
		t.Fatal(err, f.err)
	}
	err = withFile(vfs.OS(), path, func(file vfs.File, size int64) error {
		k := mapped(file, size)
		defer k.close()
		if err := os.Truncate(path, int64(os.Getpagesize())); err != nil {
			return err
		}
		sc := f.records(file, size)
		before := *sc
		if _, _, n, intact := k.pass(sc, size, ^LSN(0)); intact || n != (Tally{}) || sc.offset != before.offset || sc.next != before.next {
			t.Errorf("passed %+v, intact %v", n, intact)
		}
		both := k.tandem()
		both.alone = false
		if p := both.pass(sc); p.intact || sc.next != before.next+LSN(p.n.Records) {
			t.Errorf("both passed %+v, the next is LSN %d", p, sc.next)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTandem: two processors pass what one passes, with and without a bad frame
// anywhere, and a header that is no frame's, though it verifies, in the place where the
// second one begins.
func TestTandem(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "log")
	l := mustOpen(t, dir, testOptions())
	const decoy = 9 // its payload looks like a frame all along
	sizes := []int{40, 300, 0, 170, 90, 2000, 10, 60, 600, 30, 400, 77, 1, 512}
	for _, size := range sizes {
		appendN(t, l, 1, size)
	}
	mustClose(t, l)
	path := segmentFileOf(dir, 1)
	f, err := examine(vfs.OS(), filepath.Dir(path), 1, l.stream)
	if err != nil || f.err != nil {
		t.Fatal(err, f.err)
	}
	whole := mustRead(t, path)
	ends := frameEnds(t, f, whole)
	compare := func(what string, b []byte) {
		t.Helper()
		for stride := int64(1); stride < int64(len(b)); stride += 1 + stride/3 {
			one, two := f.records(bytes.NewReader(b), int64(len(b))), f.records(bytes.NewReader(b), int64(len(b)))
			k := &skimmer{b: b}
			var want passing
			want.end, want.durable, want.n, want.intact = k.pass(one, math.MaxInt64, ^LSN(0))
			got := (&tandem{skimmer: k, stride: stride}).pass(two)
			// Where the second one met something else the first one is asked once more.
			for again := got; again.n != (Tally{}) && two.offset < one.offset; got.add(again) {
				again = (&tandem{skimmer: k, stride: stride}).pass(two)
			}
			if got != want || two.offset != one.offset || two.next != one.next {
				t.Fatalf("%s, stride %d: two %+v at %d, one %+v at %d", what, stride, got, two.offset, want, one.offset)
			}
		}
	}
	compare("as it is", whole)
	for i, end := range ends {
		b := bytes.Clone(whole)
		b[end-1] ^= 4
		compare(fmt.Sprintf("LSN %d damaged", i+1), b)
	}
	for _, lsn := range []LSN{decoy + 1, decoy + 3, 1000} {
		b := bytes.Clone(whole)
		start := ends[decoy-2]
		payload := b[start+frameHeaderSize : ends[decoy-1]]
		for at := 0; at+frameHeaderSize <= len(payload); at += frameHeaderSize {
			putFrame(payload[at:], kindRecord, lsn, 5, 0)
			f.header.seed().stamp(payload[at:], lsn-1, start+frameHeaderSize+int64(at))
		}
		putFrame(b[start:], kindRecord, decoy, len(payload), payloadCRC(payload))
		f.header.seed().stamp(b[start:], decoy-1, start)
		compare(fmt.Sprintf("frames of LSN %d in a payload", lsn), b)
	}
	second := (&tandem{skimmer: &skimmer{b: whole}, stride: 256}).second(f.records(bytes.NewReader(whole), int64(len(whole))))
	if second == nil || !slices.Contains(ends, second.offset) || ends[second.next-2] != second.offset {
		t.Errorf("the second one begins at %+v; frames end at %d", second, ends)
	}
}

// frameEnds is where each record of f ends.
func frameEnds(t *testing.T, f *found, b []byte) (ends []int64) {
	t.Helper()
	sc := f.records(bytes.NewReader(b), int64(len(b)))
	for {
		fr, err := sc.verified()
		if err != nil {
			return ends
		}
		ends = append(ends, fr.end)
	}
}
