package walproxy_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// checkRefused opens dir: it is refused with want, and told what to do.
func checkRefused(t *testing.T, o walproxy.Options, want error) {
	t.Helper()
	_, err := walproxy.Open(t.Context(), o)
	var refused *walproxy.StartError
	if !errors.Is(err, want) || !errors.As(err, &refused) || !strings.Contains(err.Error(), "`walproxy log repair") {
		t.Fatalf("Open = %v, want %v and a command", err, want)
	}
}

// repair repairs dir and looks that there is nothing left to repair.
func repair(t *testing.T, dir string, o walproxy.RepairOptions) *walproxy.RepairReport {
	t.Helper()
	r, err := walproxy.OpenRepair(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	report := r.Report()
	if !report.Needed() {
		t.Fatalf("nothing is to be done: %+v", report)
	}
	if err := errors.Join(r.Apply(), r.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := walproxy.OpenRepair(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if left := again.Report(); left.Needed() || left.State.Condition != walproxy.StateGood {
		t.Fatalf("a second repair would do something: %+v", left)
	}
	if err := errors.Join(again.Apply(), again.Close()); err != nil {
		t.Fatal(err)
	}
	return report
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

// Log and state store that were refused are taken after the repair that is named,
// and every write that is left is applied once.
func TestRepairState(t *testing.T) {
	cases := []struct {
		name, action string
		harm         func(t *testing.T, dir string)
		want         error
		condition    string
	}{
		{"missing", walproxy.StateRebuild, func(t *testing.T, dir string) { move(t, dir, "state", "away") },
			state.ErrMissing, walproxy.StateMissing},
		{"older", walproxy.StateAccept, func(t *testing.T, dir string) { copyTree(t, dir+"/old-state", dir+"/state") },
			state.ErrOlder, walproxy.StateOlder},
		{"older, rebuilt", walproxy.StateRebuild, func(t *testing.T, dir string) { copyTree(t, dir+"/old-state", dir+"/state") },
			state.ErrOlder, walproxy.StateOlder},
		{"another's", walproxy.StateRebuild, func(t *testing.T, dir string) {
			p := open(t, options(dir+"/other", sinktest.NewMemory()))
			appendOne(t, p, set("a", 1))
			closeProxy(t, p)
			copyTree(t, dir+"/other/state", dir+"/state")
		}, state.ErrForeign, walproxy.StateForeign},
		{"damaged", walproxy.StateRebuild, func(t *testing.T, dir string) {
			names, err := filepath.Glob(filepath.Join(dir, "state", "MANIFEST-*"))
			if err != nil || len(names) == 0 {
				t.Fatal(names, err)
			}
			for _, name := range names {
				b, err := os.ReadFile(name)
				if err == nil {
					err = os.WriteFile(name, bytes.Repeat([]byte{0x5a}, len(b)), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}, state.ErrCorrupt, walproxy.StateDamaged},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir, store := t.TempDir(), sinktest.NewMemory()
			p := open(t, options(dir, store))
			appendOne(t, p, increment("a"))
			closeProxy(t, p)
			copyTree(t, dir+"/state", dir+"/old-state")
			p = open(t, options(dir, store))
			appendOne(t, p, increment("a"))
			closeProxy(t, p)
			paused := options(dir, store)
			paused.Sinks[0].Paused = true
			p = open(t, paused)
			last := appendOne(t, p, increment("a"))
			if err := p.Close(t.Context()); err == nil {
				t.Fatal("the paused sink has everything")
			}

			c.harm(t, dir)
			checkRefused(t, options(dir, store), c.want)
			r, err := walproxy.OpenRepair(dir, walproxy.RepairOptions{Sinks: []string{"main"}})
			if err != nil {
				t.Fatal(err)
			}
			if s := r.Report().State; s.Condition != c.condition || s.Action != "" || r.Report().Needed() {
				t.Fatalf("%+v, want %s", s, c.condition)
			}
			if err := r.Apply(); !errors.Is(err, walproxy.ErrStateNeeded) {
				t.Fatalf("Apply = %v", err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			checkRefused(t, options(dir, store), c.want)

			report := repair(t, dir, walproxy.RepairOptions{State: c.action})
			if aside := report.State.Aside; aside != "" {
				if entries, err := os.ReadDir(filepath.Join(dir, aside)); err != nil || len(entries) == 0 {
					t.Fatalf("the old state store is not in %s: %v", aside, err)
				}
			}
			if c.action == walproxy.StateRebuild && (len(report.Sinks) != 1 || report.Sinks[0].Name != "main") {
				t.Fatalf("sinks of the log: %+v", report.Sinks)
			}
			// A claim that was rebuilt is a strict one.
			if c.action == walproxy.StateRebuild {
				known, err := walproxy.KnownSinks(dir)
				if err != nil || len(known) != 1 || !known[0].Claimed {
					t.Fatalf("%+v, %v", known, err)
				}
			}
			p = open(t, options(dir, store))
			if n := readN(t, p, "a"); n != 3 {
				t.Fatalf("3 increments make %d", n)
			}
			if next := appendOne(t, p, increment("a")); next <= last {
				t.Fatalf("LSN %d after %d", next, last)
			}
			if n := readN(t, p, "a"); n != 4 {
				t.Fatalf("4 increments make %d", n)
			}
			closeProxy(t, p)
		})
	}
}

// An older copy of the log lacks what the state store has request ids of: that is
// lost, its LSNs are not issued again, and the sink, which has it, goes on.
func TestRepairRequestsLost(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	o := options(dir, store)
	p := open(t, o)
	appendOne(t, p, increment("a"))
	copyTree(t, dir+"/log", dir+"/old-log") // while it runs: of the same incarnation
	var last walproxy.LSN
	for _, id := range []string{"x", "y"} {
		w, err := p.Append(t.Context(), must(mutation.Increment("things", mutation.String("a"), map[string]any{"n": 1}, mutation.WithRequestID(id))))
		if err != nil {
			t.Fatal(err)
		}
		last = w.LSN
	}
	if n := readN(t, p, "a"); n != 3 {
		t.Fatalf("3 increments make %d", n)
	}
	closeProxy(t, p)
	copyTree(t, dir+"/old-log", dir+"/log")
	checkRefused(t, o, accept.ErrRequestsLost)
	report := repair(t, dir, walproxy.RepairOptions{})
	if lost := report.Log.Lost; len(lost) != 2 || lost[0].Last != last || lost[0].Doubtful {
		t.Fatalf("%+v, want what is lost up to LSN %d", lost, last)
	}
	p = open(t, o)
	if next := appendOne(t, p, increment("a")); next <= last {
		t.Fatalf("LSN %d after %d", next, last)
	}
	if n := readN(t, p, "a"); n != 4 {
		t.Fatalf("4 increments make %d", n)
	}
	closeProxy(t, p)
}

// The loop passes what is lost counted and named, applies what is behind it, and a
// sink that stands before, in or behind it goes on where it is.
func TestRepairedLogIsApplied(t *testing.T) {
	for _, before := range []int{0, 3, 5, 9} { // applied when the damage happens
		dir, store := t.TempDir(), sinktest.NewMemory()
		o := options(dir, store)
		registry := prometheus.NewPedanticRegistry()
		o.Registerer = registry
		o.Sinks[0].Loop.Lanes = 1 // of several the lowest says what may be lost
		p := open(t, o)
		var lsns []walproxy.LSN
		for i := range 10 {
			if i == before {
				if err := p.PauseSink(t.Context(), "main"); err != nil {
					t.Fatal(err)
				}
			}
			lsn := appendOne(t, p, increment("a"))
			if i < before {
				if err := p.Wait(t.Context(), lsn, walproxy.Applied); err != nil {
					t.Fatal(err)
				}
			}
			lsns = append(lsns, lsn)
		}
		if err := p.Close(t.Context()); err == nil {
			t.Fatal("the paused sink has everything")
		}
		// The fourth to the sixth record.
		damageRecords(t, dir, 4, 6)
		report := repair(t, dir, walproxy.RepairOptions{})
		if report.Log.LostForSure() != 3 || report.Log.LostPerhaps() != 0 {
			t.Fatalf("%+v", report.Log.Lost)
		}
		p = open(t, o)
		if err := p.ResumeSink("main"); err != nil {
			t.Fatal(err)
		}
		want, lost := int64(7), uint64(3)
		if before > 3 { // it had some of them
			want, lost = int64(7+min(before, 6)-3), uint64(6-min(before, 6))
		}
		if n := readN(t, p, "a"); n != want {
			t.Fatalf("applied %d before: %d increments, want %d", before, n, want)
		}
		if s := p.Status().Sinks[0]; s.LostRecords != lost || s.Lag != 0 {
			t.Fatalf("applied %d before: %d lost and %d behind, want %d and 0", before, s.LostRecords, s.Lag, lost)
		}
		if got := metric(t, registry, "walproxy_sink_lost_records"); got != float64(lost) {
			t.Fatalf("applied %d before: the metric says %v lost, want %d", before, got, lost)
		}
		for i, lsn := range lsns {
			want := walproxy.StateApplied
			if i >= max(before, 3) && i < 6 {
				want = walproxy.StateLost
			}
			if got := stateOf(t, p, lsn).State; got != want {
				t.Fatalf("applied %d before: LSN %d is %s, want %s", before, lsn, got, want)
			}
		}
		closeProxy(t, p)
		p = open(t, o)
		if s := p.Status().Sinks[0]; s.LostRecords != lost {
			t.Fatalf("after a restart %d are lost, want %d", s.LostRecords, lost)
		}
		closeProxy(t, p)
	}
}

// damageRecords flips a bit in each of these records of a stopped log.
func damageRecords(t *testing.T, dir string, first, last wal.LSN) {
	t.Helper()
	in, err := wal.Inspect(filepath.Join(dir, "log"), wal.InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, seg := range in.Segments {
		name := filepath.Join(dir, "log", seg.Path)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for f, err := range seg.Frames() {
			if err != nil {
				t.Fatal(err)
			}
			if f.LSN >= first && f.LSN <= last {
				b[f.End-3] ^= 1
				damaged++
			}
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if damaged != int(last-first)+1 {
		t.Fatalf("%d records damaged", damaged)
	}
}
