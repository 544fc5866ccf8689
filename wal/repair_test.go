package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

// placed is where a log had a record: its frame, without the engine's prefix.
type placed struct {
	lsn    LSN
	seq    uint64
	header []byte // of its segment
	offset int64
	frame  []byte
}

// ledgerOf reads where every record of a good log lies, from its files alone.
func ledgerOf(t *testing.T, dir string) (ledger []placed) {
	t.Helper()
	for _, seq := range segmentsIn(t, dir) {
		b := written(mustRead(t, segmentFileOf(dir, seq)))
		stream, err := readFormat(vfs.OS(), filepath.Join(dir, "FORMAT"))
		if err != nil {
			t.Fatal(err)
		}
		sc := scanner{file: bytes.NewReader(b), layout: testLayout(), limit: int64(len(b))}
		if _, _, err := sc.header(stream, seq); err != nil {
			t.Fatal(err)
		}
		header := b[:sc.offset]
		for sc.offset < sc.limit {
			f, err := sc.verified()
			if err != nil {
				t.Fatal(err)
			}
			at := f.end - int64(f.length) - frameHeaderSize
			ledger = append(ledger, placed{f.lsn, seq, header, at, b[at:f.end]})
		}
	}
	return ledger
}

// undamaged are the records of which some file in dir still has every byte at the
// place where it was written: that of its segment, or one that says it is that.
func undamaged(t *testing.T, dir string, ledger []placed) map[LSN]bool {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(filepath.Join(dir, "segments"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(path, "(copy)") {
			files[path] = mustRead(t, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	kept := map[LSN]bool{}
	for _, r := range ledger {
		end := r.offset + int64(len(r.frame))
		for path, b := range files {
			own := filepath.Base(filepath.Dir(path)) == segmentName(r.seq) || bytes.HasPrefix(b, r.header)
			if own && end <= int64(len(b)) && bytes.Equal(b[r.offset:end], r.frame) {
				kept[r.lsn] = true
			}
		}
	}
	return kept
}

// mustRepair repairs dir and looks that a second repair has nothing to do.
func mustRepair(t *testing.T, dir string, o RepairOptions) *RepairReport {
	t.Helper()
	r, err := OpenRepair(dir, o)
	if err != nil {
		t.Fatalf("OpenRepair: %v", err)
	}
	report := r.Report()
	if err := errors.Join(r.Apply(), r.Close()); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	checkRepairedAgain(t, dir, o)
	return report
}

// checkRepairedAgain: a repair of what was repaired changes not a byte.
func checkRepairedAgain(t *testing.T, dir string, o RepairOptions) {
	t.Helper()
	before := contentsOf(t, dir)
	r, err := OpenRepair(dir, o)
	if err != nil {
		t.Fatalf("second OpenRepair: %v", err)
	}
	if r.Report().Needed() || len(r.Report().Lost) > 0 {
		t.Fatalf("a second repair would do something: %s", textOf(r.Report()))
	}
	if err := errors.Join(r.Apply(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if bad := inspected(t, dir); bad != nil {
		t.Fatalf("what was repaired is damaged: %v", bad)
	}
	if after := contentsOf(t, dir); !slices.Equal(before, after) {
		t.Fatalf("a second repair changed something: %v, was %v", after, before)
	}
}

// inspected is the first damage that an inspection finds, without the lock.
func inspected(t *testing.T, dir string) error {
	t.Helper()
	in, err := Inspect(dir, InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if in.Refusal != nil || len(in.Damage) > 0 {
		return errors.Join(in.Refusal, errors.Join(in.Damage...))
	}
	for _, err := range in.Frames(1) {
		if err != nil && !errors.As(err, new(*TornTailError)) {
			return err
		}
	}
	return nil
}

func textOf(r *RepairReport) string {
	var b bytes.Buffer
	_ = r.WriteText(&b)
	return b.String()
}

func contentsOf(t *testing.T, dir string) (contents []string) {
	t.Helper()
	for _, name := range filesIn(t, dir) {
		contents = append(contents, fmt.Sprintf("%s %x", name, payloadCRC(mustRead(t, filepath.Join(dir, name)))))
	}
	return contents
}

// checkRepaired starts a repaired log: it holds what was undamaged, accounts for
// the rest, and goes on above everything.
func checkRepaired(t *testing.T, dir string, last LSN, kept map[LSN]bool, report *RepairReport) {
	t.Helper()
	l, err := Open(dir, testOptions())
	if err != nil {
		t.Fatalf("the repaired log is refused: %v\n%s", err, textOf(report))
	}
	defer func() { _ = l.Close() }()
	got, gaps := readGaps(t, l)
	for lsn := LSN(1); lsn <= last; lsn++ {
		payload, ok := got[lsn]
		if ok && !bytes.Equal(payload, payloadOf(lsn, damageSize)) {
			t.Fatalf("LSN %d is not what was written", lsn)
		}
		if kept[lsn] && !ok {
			t.Fatalf("LSN %d was not damaged and is gone\n%s", lsn, textOf(report))
		}
		if !ok && !lostIn(report, lsn) {
			t.Fatalf("LSN %d is gone, and the report does not say so\n%s", lsn, textOf(report))
		}
		if inGap := slices.ContainsFunc(gaps, func(g Record) bool { return g.LSN <= lsn && lsn <= g.Through }); ok == inGap {
			t.Fatalf("LSN %d is there: %v, in a gap: %v\n%s", lsn, ok, inGap, textOf(report))
		}
	}
	for _, lost := range report.Lost {
		for lsn := lost.First; lsn <= min(lost.Last, last); lsn++ {
			if _, ok := got[lsn]; ok {
				t.Fatalf("LSN %d is there, and the report says that it is lost", lsn)
			}
		}
	}
	if uint64(len(got)) != report.Kept {
		t.Fatalf("%d records, the report says %d", len(got), report.Kept)
	}
	next, err := l.Append(testContext(t), []byte("after the repair"))
	if err != nil || next <= last || next != report.Next {
		t.Fatalf("the next LSN is %d, the report says %d, up to %d were given out: %v", next, report.Next, last, err)
	}
	mustClose(t, l)
	l = mustOpen(t, dir, testOptions())
	if again, _ := readGaps(t, l); len(again) != len(got)+1 {
		t.Fatalf("%d records after a restart, want %d", len(again), len(got)+1)
	}
	mustClose(t, l)
}

func lostIn(report *RepairReport, lsn LSN) bool {
	return slices.ContainsFunc(report.Lost, func(l LostLSNs) bool { return l.First <= lsn && lsn <= l.Last })
}

// readGaps reads all of the log.
func readGaps(t *testing.T, l *Log) (records map[LSN][]byte, gaps []Record) {
	t.Helper()
	records = map[LSN][]byte{}
	r, err := l.NewReader(l.First())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for at := l.First() - 1; at < l.Durable(); {
		rec, err := r.Next(testContext(t))
		if err != nil {
			t.Fatalf("after LSN %d: %v", at, err)
		}
		if rec.LSN != at+1 {
			t.Fatalf("LSN %d after %d", rec.LSN, at)
		}
		if at = rec.Last(); rec.IsGap() {
			gaps = append(gaps, rec)
			continue
		}
		records[rec.LSN] = bytes.Clone(rec.Payload)
	}
	return records, gaps
}

// TestRepairCorpus repairs every damaged log of the corpus.
func TestRepairCorpus(t *testing.T) {
	root := memoryDir(t)
	for _, clean := range []bool{true, false} {
		origin, dir := filepath.Join(root, fmt.Sprintf("origin-%v", clean)), filepath.Join(root, "log")
		last := smallLog(t, origin, clean)
		ledger := ledgerOf(t, origin)
		if len(ledger) != int(last) {
			t.Fatalf("%d records in the files, want %d", len(ledger), last)
		}
		for _, c := range corpus(t, origin, dir, last) {
			t.Run(fmt.Sprintf("clean=%v/%s", clean, c.name), func(t *testing.T) {
				copyDir(t, origin, dir)
				if err := c.do(); err != nil {
					t.Fatal(err)
				}
				kept := undamaged(t, dir, ledger)
				before := contentsOf(t, dir)
				refused, named := refusal(t, dir), inspected(t, dir)
				report := mustRepair(t, dir, RepairOptions{})
				if (refused != nil) && !report.Needed() {
					t.Fatalf("a start refuses it (%v), and a repair finds nothing", refused)
				}
				if report.Needed() != (named != nil) {
					t.Fatalf("an inspection finds: %v; a repair:\n%s", named, textOf(report))
				}
				if report.Needed() {
					checkAside(t, dir, before, report)
				}
				checkRepaired(t, dir, last, kept, report)
			})
		}
	}
}

// refusal is what a start says, on a copy.
func refusal(t *testing.T, dir string) error {
	t.Helper()
	copyDir(t, dir, dir+".start")
	l, err := Open(dir+".start", testOptions())
	if err == nil {
		mustClose(t, l)
	}
	return err
}

// checkAside: nothing that the repair took away is gone.
func checkAside(t *testing.T, dir string, before []string, report *RepairReport) {
	t.Helper()
	now := map[string]bool{}
	for _, c := range contentsOf(t, dir) {
		now[c[strings.LastIndex(c, " "):]] = true
	}
	for _, c := range before {
		if !now[c[strings.LastIndex(c, " "):]] && !strings.HasPrefix(c, "LOCK") {
			t.Fatalf("%s is nowhere any more", c)
		}
	}
	for _, name := range []string{reportFile, reportText} {
		if len(mustRead(t, filepath.Join(dir, "quarantine", report.ID, name))) == 0 {
			t.Fatalf("%s is empty", name)
		}
	}
}

// TestRepairEveryBit flips the bits of every file of a small log and repairs it.
func TestRepairEveryBit(t *testing.T) {
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	last := smallLog(t, origin, false)
	ledger := ledgerOf(t, origin)
	for _, name := range filesIn(t, origin) {
		if name == "LOCK" {
			continue
		}
		whole := mustRead(t, filepath.Join(origin, name))
		sparse := 19
		if longTest() {
			sparse = 1
		}
		for i := 0; i < len(whole); i += sparse {
			if name == "watermark" && i%watermarkSlotSize >= watermarkSize+4 {
				continue // padding
			}
			if filepath.Base(name) == testLayout().file() && i >= len(written(whole)) {
				break // room
			}
			copyDir(t, origin, dir)
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << (i / sparse % 8)
			mustWrite(t, filepath.Join(dir, name), damaged)
			kept := undamaged(t, dir, ledger)
			report := mustRepair(t, dir, RepairOptions{})
			if !report.Needed() && name != "watermark" {
				t.Fatalf("%s: byte %d flipped, and the repair finds nothing", name, i)
			}
			if report.LostForSure() > 1 {
				t.Fatalf("%s: byte %d flipped, and more than one record is lost:\n%s", name, i, textOf(report))
			}
			checkRepaired(t, dir, last, kept, report)
		}
	}
}
