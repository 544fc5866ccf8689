package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const damageSize = 30

// smallLog is a stopped log of several segments and two starts, every record of
// it acknowledged and witnessed.
func smallLog(t *testing.T, dir string, clean bool) (last LSN) {
	t.Helper()
	o := testOptions()
	o.SegmentBytes = 400
	work := dir + ".work"
	l := mustOpen(t, work, o)
	for range 8 {
		appendN(t, l, 1, damageSize)
	}
	mustClose(t, l)
	l = mustOpen(t, work, o)
	for range 10 {
		appendN(t, l, 1, damageSize)
	}
	awaitWatermark(t, l)
	if !clean {
		copyDir(t, work, dir)
	}
	mustClose(t, l)
	if clean {
		copyDir(t, work, dir)
	}
	if n := len(segmentsIn(t, dir)); n < 4 {
		t.Fatalf("%d segments are too few", n)
	}
	return 18
}

// checkDamaged opens a damaged log. Only two outcomes are right: precisely the
// records that were acknowledged, or an error of the right type.
func checkDamaged(t *testing.T, dir string, last LSN) error {
	t.Helper()
	l, err := Open(dir, testOptions())
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
			t.Fatalf("untyped error: %v", err)
		}
		return err
	}
	defer func() { _ = l.Close() }()
	if l.Durable() != last || l.First() != 1 {
		t.Fatalf("holds LSN %d to %d, want 1 to %d", l.First(), l.Durable(), last)
	}
	payloads, err := readAll(l, 1)
	for i, p := range payloads {
		if !bytes.Equal(p, payloadOf(LSN(i+1), damageSize)) {
			t.Fatalf("LSN %d differs", i+1)
		}
	}
	if err == nil {
		return nil
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("untyped error: %v", err)
	}
	if next := LSN(len(payloads) + 1); corrupt.First != next && corrupt.First != 0 {
		t.Fatalf("after LSN %d: %v", next-1, err)
	}
	return err
}

// TestEveryBit flips the bits of every file of a small log.
func TestEveryBit(t *testing.T) {
	// The short form flips one bit of every second, or fifth, byte.
	for clean, sparse := range map[bool]int{true: 2, false: 5} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			root := memoryDir(t)
			origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
			last := smallLog(t, origin, clean)
			if err := checkUndamaged(t, origin, dir, last); err != nil {
				t.Fatal(err)
			}
			noticed := map[string]int{}
			for _, name := range filesIn(t, origin) {
				whole := mustRead(t, filepath.Join(origin, name))
				for i := range whole {
					if name == "watermark" && i%watermarkSlotSize >= watermarkSize+4 {
						continue // padding
					}
					if filepath.Base(name) == testLayout().file() && i >= len(written(whole)) {
						break // room
					}
					for bit := range 8 {
						if !longTest() && (bit != (i/sparse+i/8)%8 || i%sparse != 0) {
							continue
						}
						damaged := bytes.Clone(whole)
						damaged[i] ^= 1 << bit
						copyDir(t, origin, dir)
						mustWrite(t, filepath.Join(dir, name), damaged)
						err := checkDamaged(t, dir, last)
						if err != nil {
							noticed[name]++
						} else if filepath.Base(name) != "watermark" && name != "LOCK" {
							t.Fatalf("%s: bit %d of byte %d flipped, and nothing noticed", name, bit, i)
						}
						if name == "watermark" && err != nil {
							t.Fatalf("one slot damaged at byte %d: %v", i, err)
						}
					}
				}
			}
			t.Logf("errors by file: %v", noticed)
		})
	}
}

func checkUndamaged(t *testing.T, origin, dir string, last LSN) error {
	copyDir(t, origin, dir)
	return checkDamaged(t, dir, last)
}

func longTest() bool { return os.Getenv("WALPROXY_LONG") != "" }

// filesIn lists the files of dir that are not empty.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDamagedFiles removes, swaps, doubles and zeroes files and directories.
func TestDamagedFiles(t *testing.T) {
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	last := smallLog(t, origin, true)
	for _, c := range corpus(t, origin, dir, last) {
		t.Run(c.name, func(t *testing.T) {
			copyDir(t, origin, dir)
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			err := checkDamaged(t, dir, last)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			var corrupt *CorruptError
			if errors.As(err, &corrupt) && c.first != 0 && (corrupt.First != c.first || corrupt.Last < corrupt.First) {
				t.Fatalf("want damage from LSN %d: %v", c.first, err)
			}
		})
	}
}

// change damages the copy of a log.
type change struct {
	name string
	do   func() error
	want error // nil: everything is there nevertheless
	// first is the first LSN that the error must name.
	first LSN
}

// corpus are the ways in which files and directories of dir, a copy of the log in
// origin with records up to last, can be damaged.
func corpus(t *testing.T, origin, dir string, last LSN) []change {
	seqs := segmentsIn(t, origin)
	n := len(seqs)
	segment := func(seq uint64) string { return filepath.Join(dir, "segments", segmentName(seq)) }
	swap := func(a, b string) error {
		return errors.Join(os.Rename(a, a+".x"), os.Rename(b, a), os.Rename(a+".x", b))
	}
	zero := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, make([]byte, info.Size()), 0o644)
	}
	copyDir(t, origin, dir+".bases")
	l := mustOpen(t, dir+".bases", testOptions())
	var bases []LSN
	for _, s := range l.mu.segments[:n] {
		bases = append(bases, s.base)
	}
	mustClose(t, l)
	changes := []change{
		{"FORMAT missing", func() error { return os.Remove(filepath.Join(dir, "FORMAT")) }, ErrFormat, 0},
		{"FORMAT zeroed", func() error { return zero(filepath.Join(dir, "FORMAT")) }, ErrFormat, 0},
		{"FORMAT empty", func() error { return os.Truncate(filepath.Join(dir, "FORMAT"), 0) }, ErrFormat, 0},
		{"FORMAT and segments missing", func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "FORMAT")), os.RemoveAll(filepath.Join(dir, "segments")))
		}, ErrFormat, 0},
		{"FORMAT of another stream", func() error {
			l := mustOpen(t, dir+".other", testOptions())
			mustClose(t, l)
			return os.WriteFile(filepath.Join(dir, "FORMAT"), mustRead(t, filepath.Join(dir+".other", "FORMAT")), 0o644)
		}, ErrCorrupt, 0},
		{"watermark missing", func() error { return os.Remove(filepath.Join(dir, "watermark")) }, ErrCorrupt, 0},
		{"watermark zeroed", func() error { return zero(filepath.Join(dir, "watermark")) }, ErrCorrupt, 0},
		{"watermark too long", func() error { return os.Truncate(filepath.Join(dir, "watermark"), 1<<20) }, ErrCorrupt, 0},
		{"all segments missing", func() error { return os.RemoveAll(filepath.Join(dir, "segments")) }, ErrCorrupt, 0},
		{"segment doubled as the next", func() error {
			copyDir(t, segment(seqs[n-2]), segment(seqs[n-1]+1))
			return nil
		}, nil, 0},
		{"segment doubled under a foreign name", func() error {
			copyDir(t, segment(seqs[1]), segment(seqs[1])+" (copy)")
			return nil
		}, nil, 0},
		{"last segment's copy over the one before", func() error {
			copyDir(t, segment(seqs[n-1]), segment(seqs[n-2]))
			return nil
		}, ErrCorrupt, 0},
		{"stray file in segments", func() error { return os.WriteFile(segment(77), []byte("x"), 0o644) }, nil, 0},
	}
	longer := ErrCorrupt
	if testLayout().roomy() {
		longer = nil
	}
	for i, seq := range seqs {
		file := filepath.Join(segment(seq), testLayout().file())
		name := fmt.Sprintf("segment %d of %d ", i+1, n)
		changes = append(changes,
			change{name + "missing", func() error { return os.RemoveAll(segment(seq)) }, ErrCorrupt, bases[i]},
			change{name + "without its file", func() error { return os.Remove(file) }, ErrCorrupt, bases[i]},
			change{name + "zeroed", func() error { return zero(file) }, ErrCorrupt, bases[i]},
			change{name + "empty", func() error { return os.Truncate(file, 0) }, ErrCorrupt, bases[i]},
			change{name + "cut short", func() error { return os.Truncate(file, int64(len(mustRead(t, file))-1)) }, ErrCorrupt, append(bases, last+1)[i+1] - 1},
		)
		if i+1 < n {
			changes = append(changes,
				change{name + "swapped with the next", func() error { return swap(segment(seq), segment(seqs[i+1])) }, ErrCorrupt, 0},
				change{name + "longer", func() error { return os.Truncate(file, int64(len(mustRead(t, file))+1)) }, longer, 0})
		} else {
			changes = append(changes, change{name + "longer", func() error { return os.Truncate(file, int64(len(mustRead(t, file))+1)) }, nil, 0})
		}
	}
	return changes
}

// TestBitRot: damage in mid-log is found by the reader that comes by, with its LSN.
func TestBitRot(t *testing.T) {
	root := memoryDir(t)
	dir := filepath.Join(root, "log")
	last := smallLog(t, dir, true)
	file := segmentFileOf(dir, segmentsIn(t, dir)[0])
	b := mustRead(t, file)
	at := bytes.Index(b, []byte("record 3 "))
	b[at+12] ^= 1
	mustWrite(t, file, b)

	l := mustOpen(t, dir, testOptions())
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for range 2 {
		if _, err := r.Next(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it does not go away
		_, err = r.Next(testContext(t))
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.First != 3 || corrupt.Last != 3 {
			t.Fatalf("%v, want LSN 3 to 3", err)
		}
	}
	checkRecords(t, l, 4, last, damageSize) // what is after it can be read
}

// TestFileShrinks: a file that lost its end under an open log is damage, not
// the end of the log.
func TestFileShrinks(t *testing.T) {
	root := memoryDir(t)
	dir := filepath.Join(root, "log")
	smallLog(t, dir, true)
	l := mustOpen(t, dir, testOptions())
	seg := *l.mu.segments[1]
	file := segmentFileOf(dir, seg.seq)
	whole := mustRead(t, file)
	size := frameHeaderSize + damageSize
	size += testLayout().prefixLen(size)
	for _, cut := range []int{1, size - 1, size, size + 1, 2 * size} {
		mustWrite(t, file, whole[:len(whole)-cut])
		payloads, err := readAll(l, 1)
		first := seg.end.last - LSN((cut-1)/size)
		var corrupt *CorruptError
		if errors.Is(err, io.EOF) || !errors.As(err, &corrupt) || corrupt.First != first || corrupt.Last != seg.end.last {
			t.Fatalf("%d bytes cut: %v, want LSN %d to %d", cut, err, first, seg.end.last)
		}
		if LSN(len(payloads)) != first-1 {
			t.Fatalf("%d bytes cut: read %d records, want %d", cut, len(payloads), first-1)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := readAll(l, 1); !errors.As(err, &corrupt) || corrupt.First != seg.base {
		t.Fatalf("removed: %v", err)
	}
	mustWrite(t, file, whole)
	if _, err := readAll(l, 1); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
}

// TestWatermarkAlternates: a torn write can only hit the older slot.
func TestWatermarkAlternates(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	slots := func() (s [2]watermark) {
		b := mustRead(t, filepath.Join(dir, "watermark"))
		for i := range s {
			var ok bool
			if s[i], ok = decodeWatermark(b[i*watermarkSlotSize:]); !ok {
				t.Fatalf("slot %d is not valid", i)
			}
		}
		return s
	}
	for range 4 {
		before := slots()
		appendN(t, l, 1, 10)
		awaitWatermark(t, l)
		after := slots()
		older, newer := 0, 1
		if before[0].slot > before[1].slot {
			older, newer = 1, 0
		}
		if after[newer] != before[newer] {
			t.Fatal("the newest slot was overwritten")
		}
		if after[older].slot <= before[newer].slot || after[older].durable != l.Durable() {
			t.Fatalf("%+v after %+v", after[older], before)
		}
	}
	mustClose(t, l)
	for _, w := range slots() {
		if !w.clean || w.durable != 4 {
			t.Fatalf("after a clean stop: %+v", w)
		}
	}
}
