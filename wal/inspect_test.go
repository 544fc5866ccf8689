package wal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

func mustInspect(t testing.TB, dir string) *Inspection {
	t.Helper()
	in, err := Inspect(dir, InspectOptions{})
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	return in
}

// surveyed is what Frames yields.
type surveyed struct {
	lsns []LSN
	errs []error
	torn *TornTailError
}

// surveyAll reads everything, checks order and contents, and that what is
// reported as lost and what is read do not overlap.
func surveyAll(t testing.TB, in *Inspection, size int) (got surveyed) {
	t.Helper()
	next := LSN(0)
	for f, err := range in.Frames(0) {
		if torn, ok := errors.AsType[*TornTailError](err); ok {
			got.torn = torn
			continue
		}
		if c, ok := errors.AsType[*CorruptError](err); ok && c.First != 0 {
			if c.First < next || c.Last < c.First {
				t.Fatalf("after LSN %d: %v", next-1, err)
			}
			next = c.Last + 1
		}
		if err != nil {
			got.errs = append(got.errs, err)
			continue
		}
		if f.LSN < next || !f.Gap && !bytes.Equal(f.Payload, payloadOf(f.LSN, size)) {
			t.Fatalf("LSN %d: out of order, or not what was appended", f.LSN)
		}
		next = f.Last + 1
		got.lsns = append(got.lsns, f.LSN)
	}
	return got
}

func allLSNs(last LSN) (all []LSN) {
	for lsn := LSN(1); lsn <= last; lsn++ {
		all = append(all, lsn)
	}
	return all
}

// refusalOf opens dir and returns what a start says, or what reading says.
func refusalOf(t *testing.T, dir string) (start, read error) {
	t.Helper()
	l, err := Open(dir, testOptions())
	if err != nil {
		return err, nil
	}
	defer func() { _ = l.Close() }()
	_, err = readAll(l, l.First())
	return nil, err
}

func sameError(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

// checkInspection inspects dir, then starts it: both say the same, and the
// inspection has changed nothing.
func checkInspection(t *testing.T, dir, what string) (*Inspection, surveyed) {
	t.Helper()
	before := treeOf(t, dir)
	in, err := Inspect(dir, InspectOptions{})
	if err != nil {
		start, _ := refusalOf(t, dir)
		if start == nil && !errors.Is(err, ErrNoLog) {
			t.Fatalf("%s: not inspected: %v; but a start opens it", what, err)
		}
		return nil, surveyed{}
	}
	got := surveyAll(t, in, damageSize)
	if after := treeOf(t, dir); !slices.Equal(before, after) {
		t.Fatalf("%s: the inspection changed the directory:\n%v\n%v", what, before, after)
	}
	checkVerify(t, in, got, what)
	start, read := refusalOf(t, dir)
	if !sameError(in.Refusal, start) {
		t.Fatalf("%s:\ninspection: %v\nstart:      %v", what, in.Refusal, start)
	}
	if bad := len(got.errs) > 0 || len(in.Damage) > 0; bad != (start != nil || read != nil) {
		t.Fatalf("%s: frames: %v\nstart: %v\nreader: %v", what, got.errs, start, read)
	}
	return in, got
}

// checkVerify: Verify finds what Frames yields, the quick way and the other.
func checkVerify(t *testing.T, in *Inspection, got surveyed, what string) {
	t.Helper()
	for name, o := range map[string]VerifyOptions{
		"quick": {Workers: 1}, "visiting": {Workers: 3, Visit: func(Frame) error { return nil }},
	} {
		r, err := in.Verify(testContext(t), o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var texts, want []string
		for _, s := range r.Segments {
			for _, err := range s.Findings {
				if _, torn := errors.AsType[*TornTailError](err); !torn {
					texts = append(texts, err.Error())
				}
			}
		}
		for _, err := range got.errs {
			want = append(want, err.Error())
		}
		if !slices.Equal(texts, want) || r.Torn != (got.torn != nil) || r.Damaged != (len(want) > 0 || len(in.Damage) > 0) {
			t.Fatalf("%s, %s:\nverify: %v, torn %v, damaged %v\nframes: %v, torn %v", what, name, texts, r.Torn, r.Damaged, want, got.torn)
		}
		lost := map[LSN]bool{}
		for _, l := range r.Lost {
			for lsn := l.First; lsn <= l.Last; lsn++ {
				lost[lsn] = true
			}
		}
		if int(r.Records) != len(got.lsns) || len(lost)+len(got.lsns) < int(in.Durable-in.First)+1 {
			t.Fatalf("%s, %s: %d records of %v, lost %v of %d to %d", what, name, r.Records, got.lsns, r.Lost, in.First, in.Durable)
		}
		for _, lsn := range got.lsns {
			if lost[lsn] {
				t.Fatalf("%s, %s: LSN %d is read and lost", what, name, lsn)
			}
		}
	}
}

// treeOf lists the files with sizes and contents' checksums.
func treeOf(t testing.TB, dir string) (tree []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			tree = append(tree, path)
			return err
		}
		b := mustRead(t, path)
		tree = append(tree, fmt.Sprintf("%s %d %x", path, len(b), payloadCRC(b)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestInspectEveryBit: an inspection and a start agree about every flipped bit,
// and every record but the one that is hit can be read.
func TestInspectEveryBit(t *testing.T) {
	for clean, sparse := range map[bool]int{true: 11, false: 19} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			root := memoryDir(t)
			origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
			last := smallLog(t, origin, clean)
			copyDir(t, origin, dir)
			if in, got := checkInspection(t, dir, "undamaged"); in.Refusal != nil || !slices.Equal(got.lsns, allLSNs(last)) ||
				in.First != 1 || in.Last != last || in.Durable != last || in.Clean != clean {
				t.Fatalf("undamaged: %+v, %v", in, got)
			}
			for _, name := range filesIn(t, origin) {
				whole := mustRead(t, filepath.Join(origin, name))
				for i := range whole {
					if name == "LOCK" || name == "watermark" && i%watermarkSlotSize >= watermarkSize+4 || !longTest() && i%sparse != 0 {
						continue
					}
					damaged := bytes.Clone(whole)
					damaged[i] ^= 1 << (i % 8)
					copyDir(t, origin, dir)
					mustWrite(t, filepath.Join(dir, name), damaged)
					what := fmt.Sprintf("%s, byte %d", name, i)
					_, got := checkInspection(t, dir, what)
					if len(got.lsns) < int(last)-1 {
						t.Fatalf("%s: only %v are left: %v", what, got.lsns, got.errs)
					}
				}
			}
		})
	}
}

// TestInspectDamagedFiles: the same for files and directories that are gone,
// swapped, doubled and zeroed.
func TestInspectDamagedFiles(t *testing.T) {
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	last := smallLog(t, origin, true)
	bases := map[uint64]LSN{}
	for _, seg := range mustInspect(t, origin).Segments {
		bases[seg.Seq] = seg.First
	}
	seqs := segmentsIn(t, origin)
	change := func(what string, lost []LSN, do func() error) {
		t.Run(what, func(t *testing.T) {
			copyDir(t, origin, dir)
			if err := do(); err != nil {
				t.Fatal(err)
			}
			_, got := checkInspection(t, dir, what)
			want := slices.DeleteFunc(allLSNs(last), func(lsn LSN) bool { return slices.Contains(lost, lsn) })
			if !slices.Equal(got.lsns, want) {
				t.Fatalf("read %v, want %v: %v", got.lsns, want, got.errs)
			}
			told := map[LSN]bool{}
			for _, err := range got.errs {
				if c, ok := errors.AsType[*CorruptError](err); ok {
					for lsn := c.First; lsn != 0 && lsn <= c.Last; lsn++ {
						told[lsn] = true
					}
				}
			}
			if len(told) != len(lost) {
				t.Fatalf("reported as lost: %v, want %v", told, lost)
			}
		})
	}
	change("FORMAT missing", nil, func() error { return os.Remove(filepath.Join(dir, "FORMAT")) })
	change("FORMAT and watermark missing", nil, func() error {
		return errors.Join(os.Remove(filepath.Join(dir, "FORMAT")), os.Remove(filepath.Join(dir, "watermark")))
	})
	change("watermark missing", nil, func() error { return os.Remove(filepath.Join(dir, "watermark")) })
	change("all segments missing", allLSNs(last), func() error { return os.RemoveAll(filepath.Join(dir, "segments")) })
	for i, seq := range seqs {
		path := filepath.Join(dir, "segments", segmentName(seq))
		file := segmentFileOf(dir, seq)
		upTo := last
		if i+1 < len(seqs) {
			upTo = bases[seqs[i+1]] - 1
		}
		var own []LSN
		for lsn := bases[seq]; lsn <= upTo; lsn++ {
			own = append(own, lsn)
		}
		name := fmt.Sprintf("segment %d of %d ", i+1, len(seqs))
		change(name+"missing", own, func() error { return os.RemoveAll(path) })
		change(name+"without its file", own, func() error { return os.Remove(file) })
		change(name+"empty", own, func() error { return os.Truncate(file, 0) })
		change(name+"zeroed", own, func() error { return os.WriteFile(file, make([]byte, len(mustRead(t, file))), 0o644) })
		change(name+"with its header zeroed", nil, func() error {
			b := mustRead(t, file)
			clear(b[:60])
			return os.WriteFile(file, b, 0o644)
		})
		change(name+"longer", nil, func() error { return os.Truncate(file, int64(len(mustRead(t, file))+1)) })
		if len(own) > 0 {
			change(name+"cut short", own[len(own)-1:], func() error { return os.Truncate(file, int64(len(mustRead(t, file))-1)) })
		}
	}
}

// TestInspectTorn: a torn tail is one for both, and damage for both once
// something says that it was durable.
func TestInspectTorn(t *testing.T) {
	torn := makeTornLog(t)
	dir := filepath.Join(memoryDir(t), "log")
	for name, fill := range fills {
		for offset := torn.start; offset < int64(len(torn.data)); offset += 7 {
			damaged := append(bytes.Clone(torn.data[:offset]), fill(torn.data[offset:])...)
			for _, origin := range []string{torn.before, torn.after} {
				copyDir(t, origin, dir)
				mustWrite(t, segmentFileOf(dir, torn.seq), damaged)
				in := mustInspect(t, dir)
				got := surveyAll(t, in, tornSize)
				start, _ := refusalOf(t, dir)
				if !sameError(in.Refusal, start) {
					t.Fatalf("%s at %d:\ninspection: %v\nstart:      %v", name, offset, in.Refusal, start)
				}
				segment := in.Segments[len(in.Segments)-1]
				for segment.State == StatePrepared {
					segment = in.Segments[slices.Index(in.Segments, segment)-1]
				}
				whole := slices.Contains(torn.ends, int64(len(damaged))) || offset == torn.start && len(damaged) == int(torn.start)
				switch {
				case start != nil && (segment.State != StateDamaged || len(got.errs) == 0 || got.torn != nil && origin == torn.after && got.torn.LSN <= 13):
					t.Fatalf("%s at %d: refused, but %s, %v, %v", name, offset, segment.State, got.errs, got.torn)
				case start == nil && (len(got.errs) != 0 || !whole && (segment.State != StateTorn || got.torn == nil)):
					t.Fatalf("%s at %d: opens, but %s, %v, %v", name, offset, segment.State, got.errs, got.torn)
				}
			}
		}
	}
}

// TestInspectLive: beside a log that is written to and freed, an inspection sees
// durable records without a hole, and never damage.
func TestInspectLive(t *testing.T) {
	dir := memoryDir(t)
	o := testOptions()
	o.SegmentBytes = 2000
	l := mustOpen(t, dir, o)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		ctx := testContext(t)
		for {
			select {
			case <-stop:
				return
			default:
			}
			var last Ticket
			for range 5 {
				ticket, err := l.Enqueue(ctx, payloadOf(l.Appended()+1, damageSize))
				if err != nil {
					t.Errorf("Enqueue: %v", err)
					return
				}
				last = ticket
			}
			if err := last.Wait(ctx); err != nil {
				t.Errorf("Wait: %v", err)
				return
			}
			if d := l.Durable(); d > 400 {
				l.Release(d - 400)
			}
		}
	})
	freed, read := 0, 0
	for n := 0; n < 60 || freed == 0 && n < 3000; n++ {
		before := l.Durable()
		in := mustInspect(t, dir)
		if in.Owner == nil || in.Owner.PID != os.Getpid() || in.Refusal != nil || len(in.Damage) > 0 {
			t.Fatalf("%+v", in)
		}
		if in.Durable > l.Durable() || in.Durable+50 < before {
			t.Fatalf("durable %d; the log says %d, and %d before", in.Durable, l.Durable(), before)
		}
		next := LSN(0)
		for f, err := range in.Frames(0) {
			if errors.Is(err, ErrFreed) {
				freed++
				next = 0
				continue
			}
			if err != nil || next != 0 && f.LSN != next || !bytes.Equal(f.Payload, payloadOf(f.LSN, damageSize)) {
				t.Fatalf("LSN %d, want %d: %v", f.LSN, next, err)
			}
			next = f.LSN + 1
			read++
		}
		if next != 0 && next != in.Durable+1 {
			t.Fatalf("read up to LSN %d, durable is %d", next-1, in.Durable)
		}
	}
	close(stop)
	writing.Wait()
	t.Logf("%d segments freed under it, %d records read", freed, read)
	mustClose(t, l)
	if in := mustInspect(t, dir); in.Owner != nil || !in.Clean || in.Durable != in.Last {
		t.Fatalf("after the stop: %+v", in)
	}
}

// TestVerifyFault: a file that shrinks while it is mapped is damage, not the end
// of the program.
func TestVerifyFault(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, Options{MinFree: -1})
	for range 15 {
		appendN(t, l, 20, 100_000)
	}
	mustClose(t, l)
	in := mustInspect(t, dir)
	largest := slices.MaxFunc(in.Segments, func(a, b *Segment) int { return cmp.Compare(a.Bytes, b.Bytes) })
	file := filepath.Join(dir, largest.Path)
	cut := func(int64) { _ = os.Truncate(file, 5_000_000) } // after the first 4 MiB
	r, err := in.Verify(testContext(t), VerifyOptions{Workers: 1, Progress: cut})
	if err != nil || !r.Damaged || len(r.Lost) != 1 || r.Lost[0].Last != largest.Last {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestInspectLock: asking whether a log is open does not keep it from opening.
func TestInspectLock(t *testing.T) {
	dir := memoryDir(t)
	mustClose(t, mustOpen(t, dir, testOptions()))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				if _, err := vfs.OS().Locked(filepath.Join(dir, lockFile)); err != nil {
					t.Errorf("Locked: %v", err)
				}
			}
		}
	})
	for range 20 {
		mustClose(t, mustOpen(t, dir, testOptions()))
	}
	close(stop)
	asking.Wait()
}

// TestInspectNoLog: an empty or unknown directory is not a log.
func TestInspectNoLog(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "absent")} {
		if _, err := Inspect(d, InspectOptions{}); !errors.Is(err, ErrNoLog) {
			t.Fatalf("%s: %v", d, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Fatalf("it made %v", entries)
		}
	}
}

// TestInspectNewer: what a newer program wrote is refused by that name, by an
// inspection and by a start, and nothing is cut.
func TestInspectNewer(t *testing.T) {
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	smallLog(t, origin, false)
	seqs := segmentsIn(t, origin)
	in := mustInspect(t, origin)
	changes := map[string]func(){
		"FORMAT": func() { mustWrite(t, filepath.Join(dir, "FORMAT"), encodeFormat(2, in.Stream)) },
		"watermark": func() {
			b := mustRead(t, filepath.Join(dir, "watermark"))
			le.PutUint16(b[4:], 2)
			le.PutUint32(b[88:], payloadCRC(b[:88]))
			mustWrite(t, filepath.Join(dir, "watermark"), b)
		},
		"segment header": func() {
			file := segmentFileOf(dir, seqs[len(seqs)-1])
			b := mustRead(t, file)
			i := bytes.Index(b, magicBytes)
			le.PutUint16(b[i+frameHeaderSize:], 2)
			size := int(le.Uint32(b[i+24:]))
			le.PutUint32(b[i+28:], payloadCRC(b[i+frameHeaderSize:i+frameHeaderSize+size]))
			mustWrite(t, file, b)
		},
		"frame": func() {
			seg := in.Segments[len(in.Segments)-1]
			for seg.State == StatePrepared {
				seg = in.Segments[slices.Index(in.Segments, seg)-1]
			}
			var last Frame
			for f := range seg.Frames() {
				last = f
			}
			b := mustRead(t, filepath.Join(dir, seg.Path))
			at := last.Offset + int64(testLayout().prefixLen(int(frameHeaderSize+len(last.Payload))))
			b[at+4] = 2
			newSeed(in.Stream, seg.Incarnation, seg.Seq).stamp(b[at:], last.Durable, at)
			mustWrite(t, filepath.Join(dir, seg.Path), b)
		},
	}
	for what, change := range changes {
		t.Run(what, func(t *testing.T) {
			copyDir(t, origin, dir)
			change()
			before := treeOf(t, filepath.Join(dir, "segments"))
			_, err := Inspect(dir, InspectOptions{})
			_, openErr := Open(dir, testOptions())
			if !errors.Is(err, ErrVersion) || !errors.Is(openErr, ErrVersion) || !errors.Is(openErr, ErrFormat) {
				t.Fatalf("inspection: %v\nstart: %v", err, openErr)
			}
			if !slices.Equal(before, treeOf(t, filepath.Join(dir, "segments"))) {
				t.Fatal("a start changed the segments")
			}
		})
	}
}

// TestInspectBadSectors: what the disk cannot read is damage, the rest is read.
func TestInspectBadSectors(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	for range 6 {
		appendN(t, l, 1, 4000)
	}
	mustClose(t, l)
	in, err := Inspect(dir, InspectOptions{FS: badSectors{vfs.OS(), 9000, 9010}})
	if err != nil {
		t.Fatal(err)
	}
	got := surveyAll(t, in, 4000)
	if !slices.Equal(got.lsns, []LSN{1, 5, 6}) { // the sector holds the end of 2, most of 3, and the header of 4
		t.Fatalf("read %v: %v", got.lsns, got.errs)
	}
	if len(got.errs) == 0 || !errors.Is(got.errs[0], errDisk) {
		t.Fatalf("%v", got.errs)
	}
}

// badSectors fails reads of segments' bytes between from and to.
type badSectors struct {
	vfs.FS
	from, to int64
}

func (d badSectors) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil || !slices.Contains([]string{tidwallLayout{}.file(), nativeLayout{}.file()}, filepath.Base(name)) {
		return f, err
	}
	return badFile{f, d}, nil
}

type badFile struct {
	vfs.File
	disk badSectors
}

func (f badFile) ReadAt(b []byte, at int64) (int, error) {
	if at < f.disk.to && at+int64(len(b)) > f.disk.from {
		return 0, errDisk
	}
	return f.File.ReadAt(b, at)
}

// TestInspectGap: a gap is a frame that stands for its LSNs.
func TestInspectGap(t *testing.T) {
	dir := memoryDir(t)
	l := mustOpen(t, dir, testOptions())
	mustClose(t, l)
	h := fuzzHeader()
	h.seq, h.base, h.pred, h.stream = 2, 1, segmentEnd{}, l.Stream()
	in := mustInspect(t, dir)
	h.incarnations = incarnations{{uuid.New(), 1}}
	h.pred = in.Segments[0].found.headerEnd()
	b, err := h.frame()
	if err != nil {
		t.Fatal(err)
	}
	gap := append(make([]byte, frameHeaderSize), le.AppendUint64(nil, 5)...)
	putFrame(gap, kindGap, 1, 8, payloadCRC(gap[frameHeaderSize:]))
	record := append(make([]byte, frameHeaderSize), payloadOf(6, damageSize)...)
	putFrame(record, kindRecord, 6, len(record)-frameHeaderSize, payloadCRC(record[frameHeaderSize:]))
	var file []byte
	for i, f := range [][]byte{b, gap, record} {
		file = appendPrefixed(file, f, func(f []byte, at int64) { h.seed().stamp(f, []LSN{0, 0, 5}[i], at) })
	}
	if err := os.MkdirAll(filepath.Join(dir, "segments", segmentName(2)), 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, segmentFileOf(dir, 2), file)
	frames := slices.Collect(func(yield func(Frame) bool) {
		for f, err := range mustInspect(t, dir).Frames(0) {
			if err != nil {
				t.Fatal(err)
			}
			if !yield(f) {
				return
			}
		}
	})
	if len(frames) != 2 || !frames[0].Gap || frames[0].LSN != 1 || frames[0].Last != 5 || frames[1].LSN != 6 {
		t.Fatalf("%+v", frames)
	}
	// The gap's end is damaged: the record after it is found all the same.
	file[bytes.Index(file, gap)+frameHeaderSize] ^= 0x40
	mustWrite(t, segmentFileOf(dir, 2), file)
	if got := surveyAll(t, mustInspect(t, dir), damageSize); !slices.Equal(got.lsns, []LSN{6}) || len(got.errs) != 1 {
		t.Fatalf("%+v", got)
	}
}

// TestInspectPrefix: what the engine puts before a frame is damaged: no record is
// lost by that, and none is said to be.
func TestInspectPrefix(t *testing.T) {
	if testLayout().prefixLen(1) == 0 {
		t.Skip("this engine puts nothing before a frame")
	}
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	last := smallLog(t, origin, true)
	for f, err := range mustInspect(t, origin).Frames(0) {
		if err != nil {
			t.Fatal(err)
		}
		copyDir(t, origin, dir)
		file := segmentFileOf(dir, f.Segment)
		b := mustRead(t, file)
		b[f.Offset] ^= 0x15
		mustWrite(t, file, b)
		got := surveyAll(t, mustInspect(t, dir), damageSize)
		if !slices.Equal(got.lsns, allLSNs(last)) || len(got.errs) != 1 {
			t.Fatalf("LSN %d: read %v, %v", f.LSN, got.lsns, got.errs)
		}
		if c, ok := errors.AsType[*CorruptError](got.errs[0]); !ok || c.First != 0 || c.Offset != f.Offset {
			t.Fatalf("LSN %d: %v", f.LSN, got.errs)
		}
	}
}
