package wal

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// restoreOf restores what an inspection reads, with gaps for what it cannot.
func restoreOf(t *testing.T, in *Inspection, dir string, o RestoreOptions) error {
	t.Helper()
	o.Stream, o.Incarnations, o.First, o.Boot, o.SegmentBytes = in.Stream, in.Incarnations, in.First, 5, 500
	r, err := Restore(dir, o)
	if err != nil {
		return err
	}
	next := in.First
	for f, err := range in.Frames(0) {
		if err != nil {
			continue
		}
		if f.LSN > next {
			if err := r.Gap(next, f.LSN-1); err != nil {
				return err
			}
		}
		if err := r.Record(f.LSN, f.Payload); err != nil {
			return err
		}
		next = f.Last + 1
	}
	return r.Close()
}

// TestRestore: a restored log is one that a start accepts, with every record, LSN
// and point of the first.
func TestRestore(t *testing.T) {
	root := memoryDir(t)
	origin, dir := filepath.Join(root, "origin"), filepath.Join(root, "log")
	last := smallLog(t, origin, true)
	in := mustInspect(t, origin)
	if err := restoreOf(t, in, dir, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := restoreOf(t, in, dir, RestoreOptions{}); err == nil {
		t.Fatal("restored over a log")
	}
	copied := mustInspect(t, dir)
	if got := surveyAll(t, copied, damageSize); copied.Refusal != nil || !copied.Clean || copied.Stream != in.Stream ||
		!slices.Equal(copied.Incarnations, in.Incarnations) || !slices.Equal(got.lsns, allLSNs(last)) || len(got.errs) > 0 {
		t.Fatalf("%+v, %v", copied, got)
	}
	histories := func(in *Inspection) (ids []uuid.UUID) {
		for f := range in.Frames(0) {
			ids = append(ids, f.Incarnation)
		}
		return ids
	}
	if !slices.Equal(histories(in), histories(copied)) {
		t.Fatal("records are of other incarnations")
	}
	a, b := mustOpen(t, origin, testOptions()), mustOpen(t, dir, testOptions())
	for lsn := LSN(1); lsn <= last; lsn++ {
		p, err := a.PointOf(lsn)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Contains(p); err != nil {
			t.Fatal(err)
		}
	}
	if b.boot != 5 {
		t.Fatalf("boot counter %d", b.boot)
	}
	appendN(t, a, 1, damageSize)
	appendN(t, b, 1, damageSize)
	checkRecords(t, b, 1, last+1, damageSize)
	p, err := a.PointOf(last + 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Contains(p); err == nil {
		t.Fatal("both logs went on, and do not differ")
	}
	mustClose(t, a)
	mustClose(t, b)
}

// TestRestoreGap: what was lost is a gap, also across incarnations; and a log that
// holds nothing goes on at its LSN.
func TestRestoreGap(t *testing.T) {
	root := memoryDir(t)
	origin := filepath.Join(root, "origin")
	smallLog(t, origin, true)
	in := mustInspect(t, origin)
	dir := filepath.Join(root, "log")
	r, err := Restore(dir, RestoreOptions{Stream: in.Stream, Incarnations: in.Incarnations, First: 3})
	if err != nil {
		t.Fatal(err)
	}
	if r.Record(4, nil) == nil || r.Record(3, payloadOf(3, damageSize)) != nil || r.Gap(4, 17) != nil || r.Record(18, payloadOf(18, damageSize)) != nil || r.Close() != nil {
		t.Fatal("not restored")
	}
	l := mustOpen(t, dir, testOptions())
	if l.First() != 3 || l.Durable() != 18 {
		t.Fatalf("holds LSN %d to %d", l.First(), l.Durable())
	}
	rd, err := l.NewReader(3)
	if err != nil {
		t.Fatal(err)
	}
	var lsns []LSN
	for len(lsns) < 2 {
		rec, err := rd.Next(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(rec.Payload) > 0 {
			if !bytes.Equal(rec.Payload, payloadOf(rec.LSN, damageSize)) {
				t.Fatalf("LSN %d differs", rec.LSN)
			}
			lsns = append(lsns, rec.LSN)
		}
	}
	if !slices.Equal(lsns, []LSN{3, 18}) {
		t.Fatalf("%v", lsns)
	}
	mustClose(t, rd)
	mustClose(t, l)

	empty := filepath.Join(root, "empty")
	if r, err = Restore(empty, RestoreOptions{Stream: in.Stream, Incarnations: in.Incarnations, First: 19}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, r)
	l = mustOpen(t, empty, testOptions())
	p := Point{Incarnation: in.Incarnations[len(in.Incarnations)-1].Incarnation, LSN: 18}
	if err := l.Contains(p); err != nil || l.Durable() != 18 || l.First() != 19 {
		t.Fatalf("%v, LSN %d to %d", err, l.First(), l.Durable())
	}
	appendN(t, l, 1, damageSize)
	mustClose(t, l)
}

// TestRestoreInterrupted: what an interrupted restore leaves is no log.
func TestRestoreInterrupted(t *testing.T) {
	root := memoryDir(t)
	origin := filepath.Join(root, "origin")
	smallLog(t, origin, true)
	in := mustInspect(t, origin)
	for n := 1; ; n++ {
		dir := filepath.Join(memoryDir(t), "log")
		faults := vfs.NewFaults(vfs.OS())
		faults.Arm(vfs.Fault{Op: vfs.OpChange, N: n, Stay: true})
		err := restoreOf(t, in, dir, RestoreOptions{FS: faults})
		if err == nil {
			if n < 20 {
				t.Fatalf("only %d changes", n)
			}
			return
		}
		if l, err := Open(dir, testOptions()); err == nil && l.Durable() != 18 && l.Durable() != 0 {
			t.Fatalf("change %d: opened with %d records", n, l.Durable())
		} else if err == nil {
			mustClose(t, l)
		}
	}
}
