package walproxy_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// A sink that is taken out of the options is refused, with what would be lost,
// until it is forgotten; then its space is freed, nothing of it is left, and one
// of the same name begins at the end of the log.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, sinktest.NewMemory())
	o.Log.SegmentBytes = 64 << 10
	store := sinktest.NewMemory()
	gone := sinktest.NewFaulty(store)
	addSink(&o, "gone", gone)
	p := open(t, o)
	appendOne(t, p, text("bad"))
	bad := appendOne(t, p, increment("bad"))
	applied(t, p, "gone", bad)
	if err := p.PauseSink(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	last := fill(t, p, "things", 100)
	applied(t, p, "main", last)
	if err := walproxy.Forget(dir, "gone"); !errors.Is(err, wal.ErrLocked) {
		t.Fatalf("Forget while it is open: %v", err)
	}
	if err := p.Close(t.Context()); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Fatalf("Close = %v", err)
	}

	without := o
	without.Sinks = o.Sinks[:1]
	for range 2 { // a refusal changes nothing
		_, err := walproxy.Open(t.Context(), without)
		var orphaned *walproxy.OrphanedSinkError
		if !errors.As(err, &orphaned) || !errors.Is(err, walproxy.ErrOrphanedSink) || len(orphaned.Sinks) != 1 {
			t.Fatalf("Open without the sink = %v, want *OrphanedSinkError", err)
		}
		got := orphaned.Sinks[0]
		if got.Name != "gone" || got.Records != 100 || got.Bytes < 400<<10 || got.DeadLetters != 1 {
			t.Errorf("got %+v, want gone with 100 records and a dead letter", got)
		}
		if !strings.Contains(err.Error(), "walproxy sink forget gone") {
			t.Errorf("the message does not say what to do: %v", err)
		}
	}
	known, err := walproxy.KnownSinks(dir)
	if err != nil || len(known) != 2 || known[0].Name != "gone" || !known[0].Paused || !known[0].Claimed ||
		known[0].Applied != bad || known[0].DeadLetters != 1 || known[1].Name != "main" {
		t.Fatalf("KnownSinks = %+v, %v", known, err)
	}

	if err := walproxy.Forget(dir, "nobody"); !errors.Is(err, walproxy.ErrNoSink) {
		t.Errorf("Forget of nobody: %v", err)
	}
	if err := walproxy.Forget(t.TempDir(), "gone"); err == nil {
		t.Error("Forget in an empty directory does not fail")
	}
	if err := walproxy.Forget(dir, "gone"); err != nil {
		t.Fatal(err)
	}
	if err := walproxy.Forget(dir, "gone"); !errors.Is(err, walproxy.ErrNoSink) {
		t.Errorf("a second Forget: %v", err)
	}
	p = open(t, without)
	until(t, "its space is freed", func() bool { return p.Status().Log.First > last-20 })
	closeProxy(t, p)

	again := sinktest.NewMemory()
	o.Sinks[1].Sink = again
	p = open(t, o)
	if s := sinkStatus(t, p, "gone"); s.Paused || s.DeadLetters != 0 || s.Lag != 0 {
		t.Errorf("added again it is %+v", s)
	}
	applied(t, p, "gone", appendOne(t, p, increment("new")))
	if _, err := again.Read(t.Context(), "things", mutation.String("7")); !errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("a record from before it was forgotten: %v", err)
	}
	if got := countIn(t, again, "things", "new"); got != 1 {
		t.Errorf("n = %d", got)
	}
	closeProxy(t, p)
}

// In a directory of an early build a sink may have records without a claim: it
// gets them. One that is added after the first Open by this build begins at the
// end of the log, as ever.
func TestUnclaimedSinkOfEarlyBuild(t *testing.T) {
	for _, early := range []bool{true, false} {
		dir := t.TempDir()
		o := options(dir, sinktest.NewMemory())
		late := sinktest.NewMemory()
		addSink(&o, "late", late)
		o.Sinks[1].Paused = true
		p := open(t, o)
		for range 5 {
			appendOne(t, p, increment("k"))
		}
		applied(t, p, "main", 5)
		if err := p.Close(t.Context()); !errors.As(err, new(*walproxy.RemainingError)) {
			t.Fatalf("Close = %v", err)
		}
		db, err := pebble.Open(filepath.Join(dir, "state"), &pebble.Options{FormatMajorVersion: pebble.FormatNewest})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Delete([]byte("clate"), pebble.Sync)
		if early {
			err = errors.Join(err, db.Delete([]byte("mclaims"), pebble.Sync))
		}
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		want := int64(6)
		if !early {
			want = 1
		}
		o.Sinks[1].Paused = false
		for range 2 { // the second start knows both
			p = open(t, o)
			applied(t, p, "late", appendOne(t, p, increment("k")))
			if got := countIn(t, late, "things", "k"); got != want {
				t.Errorf("early build %t: the sink has %d, want %d", early, got, want)
			}
			closeProxy(t, p)
			o.Sinks[0].Sink = o.Sinks[0].Sink.(*sinktest.Memory).Reopen()
			o.Sinks[1].Sink = late.Reopen()
			want++
		}
	}
}
