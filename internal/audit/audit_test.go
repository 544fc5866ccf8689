package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walproxy/walproxy/internal/vfs"
)

var errRefused = errors.New("refused by the test")

func read(t *testing.T, dir string) []Entry {
	t.Helper()
	entries, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestDo(t *testing.T) {
	dir := t.TempDir()
	if got := read(t, dir); len(got) != 0 {
		t.Errorf("an empty directory holds %v", got)
	}
	l := New(dir, nil)
	err := l.Do(Entry{Action: "sink forget", Sink: "old", Detail: "at most"}, func(e *Entry) error {
		if begun := read(t, dir); len(begun) != 1 || begun[0].Phase != Begin || begun[0].Counts != nil {
			t.Errorf("during the action the file holds %+v", begun)
		}
		e.Counts = map[string]uint64{"records": 7}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Do(Entry{Action: "sink accept", Via: "api from 1.2.3.4:5", Who: "alice"}, func(*Entry) error { return errRefused })
	if !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	got := read(t, dir)
	if len(got) != 4 {
		t.Fatalf("got %+v", got)
	}
	done := got[1]
	if done.Phase != Done || done.Counts["records"] != 7 || done.ID != got[0].ID || done.ID == "" || done.Via != "command" ||
		done.Who != Who() || done.PID != os.Getpid() || done.Time.Before(got[0].Time) || done.Sink != "old" || done.Detail != "at most" {
		t.Errorf("got %+v", done)
	}
	failed := got[3]
	if failed.Phase != Failed || failed.Error != errRefused.Error() || failed.Who != "alice" || failed.Via != "api from 1.2.3.4:5" || failed.ID == done.ID {
		t.Errorf("got %+v", failed)
	}
}

// What a crash left of a line does not take the next one with it.
func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	l := New(dir, nil)
	nothing := func(*Entry) error { return nil }
	if err := l.Do(Entry{Action: "first"}, nothing); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, Name)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text[:len(text)-5], 0o640); err != nil {
		t.Fatal(err)
	}
	if err := l.Do(Entry{Action: "second"}, nothing); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir); len(got) != 3 || got[0].Action != "first" || got[1].Action != "second" || got[2].Action != "second" {
		t.Errorf("got %+v", got)
	}
}

// The files are bounded, and nothing is lost before the bound is reached.
func TestRotate(t *testing.T) {
	dir := t.TempDir()
	l := New(dir, nil)
	l.bytes = 64 << 10
	const actions = 60 // two lines of 2.2 KiB each
	for range actions {
		if err := l.Do(Entry{Action: "x", Detail: strings.Repeat("d", 10<<10)}, func(*Entry) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, dir); len(got) != 2*actions {
		t.Errorf("%d lines of %d", len(got), 2*actions)
	}
	for range actions {
		if err := l.Do(Entry{Action: "y", Detail: strings.Repeat("d", 10<<10)}, func(*Entry) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != filesKept+1 {
		t.Errorf("%v, %v", files, err)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || info.Size() > l.bytes {
			t.Errorf("%s: %v bytes, %v", name, info.Size(), err)
		}
	}
	last := read(t, dir)
	if len(last) < 2*actions || last[len(last)-1].Action != "y" || last[len(last)-2*actions].Action != "y" {
		t.Errorf("the newest are not kept: %d lines", len(last))
	}
}

// What cannot be noted is not done; what was done is not denied.
func TestUnwritable(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir} {
		for n, wantDone := range []bool{false, true} {
			l := New(t.TempDir(), nil)
			faults := vfs.NewFaults(vfs.OS())
			l.fs = faults
			faults.Arm(vfs.Fault{Op: op, N: n + 1, Err: errRefused})
			did := false
			err := l.Do(Entry{Action: "x"}, func(*Entry) error { did = true; return nil })
			if !errors.Is(err, errRefused) || !errors.Is(err, ErrUnwritten) || did != wantDone {
				t.Errorf("%s %d fails: did %v, %v", op, n+1, did, err)
			}
		}
	}
}
