package wal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

// repairedLog is a log that was repaired, and the points of its records before.
type repairedLog struct {
	dir    string
	points map[LSN]Point
	last   LSN
	report *RepairReport
}

// repairAfter writes three runs of ten records, lets damage loose on a copy of the
// running log and repairs that.
func repairAfter(t *testing.T, o RepairOptions, damage func(dir string)) repairedLog {
	t.Helper()
	work := filepath.Join(memoryDir(t), "log")
	r := repairedLog{dir: work + ".damaged", points: map[LSN]Point{}}
	for run := range 3 {
		l := mustOpen(t, work, testOptions())
		appendN(t, l, 10, damageSize)
		awaitWatermark(t, l)
		if run == 2 {
			copyDir(t, work, r.dir)
			r.last = l.Durable()
			for lsn := LSN(1); lsn <= r.last; lsn++ {
				p, err := l.PointOf(lsn)
				if err != nil {
					t.Fatal(err)
				}
				r.points[lsn] = p
			}
		}
		mustClose(t, l)
	}
	damage(r.dir)
	r.report = mustRepair(t, r.dir, o)
	return r
}

// TestRepairedHistory: what a sink may have stopped at, before, in or behind what is
// lost, is a point of the repaired log; what others have is not.
func TestRepairedHistory(t *testing.T) {
	cut := func(seq uint64, keep int) func(string) {
		return func(dir string) {
			file := segmentFileOf(dir, seq)
			if err := os.Truncate(file, int64(len(written(mustRead(t, file)))-keep)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(seq uint64) func(string) {
		return func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "segments", segmentName(seq))); err != nil {
				t.Fatal(err)
			}
		}
	}
	size := frameHeaderSize + damageSize + 1
	for name, damage := range map[string]func(string){
		"in the first run":      cut(1, 3*size),
		"in the last run":       cut(3, 3*size+7),
		"first run missing":     remove(1),
		"middle run missing":    remove(2),
		"last run missing":      remove(3),
		"last two runs missing": func(dir string) { remove(2)(dir); remove(3)(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			r := repairAfter(t, RepairOptions{}, damage)
			if r.report.LostForSure() == 0 {
				t.Fatalf("nothing is lost: %s", textOf(r.report))
			}
			l := mustOpen(t, r.dir, testOptions())
			checkPoints(t, l, r, name == "last two runs missing")
			appendN(t, l, 5, damageSize)
			checkPoints(t, l, r, name == "last two runs missing")
			next, err := l.PointOf(l.Durable())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range r.points {
				if p.Incarnation == next.Incarnation {
					t.Fatal("the log goes on in an incarnation that it had before")
				}
			}
			mustClose(t, l)
			l = mustOpen(t, r.dir, testOptions())
			checkPoints(t, l, r, name == "last two runs missing")
			if err := l.Contains(next); err != nil {
				t.Fatal(err)
			}
			mustClose(t, l)
		})
	}
}

// checkPoints: every point that was is one still; if the middle run is not known
// any more, its points may be refused, and never taken for others.
func checkPoints(t *testing.T, l *Log, r repairedLog, forgotten bool) {
	t.Helper()
	for lsn, p := range r.points {
		err := l.Contains(p)
		if unknown := forgotten && lsn > 10 && lsn <= 20; unknown && !errors.Is(err, ErrDiverged) || !unknown && err != nil {
			t.Fatalf("LSN %d: %v", lsn, err)
		}
		if err := l.Contains(Point{Incarnation: uuid.New(), LSN: lsn}); !errors.Is(err, ErrDiverged) {
			t.Fatalf("another history's LSN %d: %v", lsn, err)
		}
		if now, err := l.PointOf(lsn); err != nil || now != p && !forgotten {
			t.Fatalf("LSN %d is %v, was %v: %v", lsn, now, p, err)
		}
	}
}

// TestRepairIssued: what somebody else knows to have been durable is lost if the log
// has it no more, is never issued again, and belongs to the run that issued it, even
// if there was a start since that saw nothing of it.
func TestRepairIssued(t *testing.T) {
	for _, started := range []bool{false, true} {
		var seen uuid.UUID
		issued := func(stream uuid.UUID) (LSN, error) {
			seen = stream
			return 33, nil
		}
		r := repairAfter(t, RepairOptions{Issued: issued}, func(dir string) {
			if started { // a run that has no record
				mustClose(t, mustOpen(t, dir, testOptions()))
			}
		})
		if seen != r.report.Stream || seen == uuid.Nil {
			t.Fatalf("asked for stream %v, the log's is %v", seen, r.report.Stream)
		}
		if len(r.report.Lost) != 2 || r.report.Lost[0].First != 31 || r.report.Lost[0].Last != 33 || r.report.Lost[0].Doubtful ||
			!r.report.Lost[1].Doubtful || r.report.Lost[1].Count() < doubtfulMin {
			t.Fatalf("started: %v: %s", started, textOf(r.report))
		}
		l := mustOpen(t, r.dir, testOptions())
		checkPoints(t, l, r, false)
		if err := l.Contains(Point{Incarnation: r.points[30].Incarnation, LSN: 33}); err != nil {
			t.Fatalf("started: %v: a sink that was at LSN 33: %v", started, err)
		}
		mustClose(t, l)
	}
}

// TestRepairTornTail: a torn tail is no damage; it is cut if that is asked for.
func TestRepairTornTail(t *testing.T) {
	torn := makeTornLog(t)
	for _, cut := range []bool{false, true} {
		dir := filepath.Join(memoryDir(t), "log")
		copyDir(t, torn.before, dir)
		mustWrite(t, segmentFileOf(dir, torn.seq), torn.data[:torn.ends[1]+20])
		before := contentsOf(t, dir)
		r, err := OpenRepair(dir, RepairOptions{CutTornTail: cut})
		if err != nil {
			t.Fatal(err)
		}
		report := r.Report()
		if report.Needed() != cut || len(report.Lost) > 0 || report.Torn == nil || report.Torn.LSN != 13 || report.Torn.Offset != torn.ends[1] || report.Torn.Cut != cut {
			t.Fatalf("cut %v: %+v %s", cut, report.Torn, textOf(report))
		}
		if err := errors.Join(r.Apply(), r.Close()); err != nil {
			t.Fatal(err)
		}
		if cut {
			checkAside(t, dir, before, report)
			checkRepairedAgain(t, dir, RepairOptions{CutTornTail: true})
		}
		l := mustOpen(t, dir, testOptions())
		checkRecords(t, l, 1, 12, tornSize)
		mustClose(t, l)
	}
}

// TestRepairRefuses what is no damage.
func TestRepairRefuses(t *testing.T) {
	if _, err := OpenRepair(filepath.Join(t.TempDir(), "none"), RepairOptions{}); !errors.Is(err, ErrNoLog) {
		t.Fatalf("no directory: %v", err)
	}
	if _, err := OpenRepair(t.TempDir(), RepairOptions{}); !errors.Is(err, ErrNoLog) {
		t.Fatalf("an empty directory: %v", err)
	}
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	appendN(t, l, 3, 10)
	if _, err := OpenRepair(dir, RepairOptions{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("an open log: %v", err)
	}
	mustClose(t, l)
	mustWrite(t, filepath.Join(dir, "FORMAT"), encodeFormat(formatVersion+1, l.Stream()))
	if _, err := OpenRepair(dir, RepairOptions{}); !errors.Is(err, ErrVersion) {
		t.Fatalf("a newer version's log: %v", err)
	}
}
