package walproxy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// statusUntil writes until the status is as it should be.
func statusUntil(t *testing.T, p *walproxy.Proxy, what string, ok func(walproxy.Status) bool) walproxy.Status {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for i := 0; ; i++ {
		st := p.Status()
		if ok(st) {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: does not come true: %+v, sink %+v", what, st, st.Sinks[0])
		}
		if _, err := p.Append(t.Context(), set(fmt.Sprint("k", i%100), i)); err != nil && !errors.Is(err, wal.ErrFull) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // a load, not a condition
	}
}

// TestMeasuredStatus: rates, the age of the backlog and when it is gone are measured
// as the sink stands, and as it moves.
func TestMeasuredStatus(t *testing.T) {
	f := sinktest.NewFaulty(sinktest.NewMemory())
	o := options(t.TempDir(), f)
	p := open(t, o)
	hold := make(chan struct{})
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(hold), Times: sinktest.Always})
	st := statusUntil(t, p, "the backlog grows", func(st walproxy.Status) bool {
		s := st.Sinks[0]
		return st.Rates.Window > 0 && st.Rates.Records > 0 && s.Rates.Known && s.Rates.Added > 0 && s.Rates.Bytes < 0 && s.OldestLSN == 1 && st.Rates.Growth > 0 && st.Rates.FullIn > 0
	})
	s := st.Sinks[0]
	if s.Rates.LevelIn != 0 || s.Rates.Passed != 0 || s.Lag == 0 || st.Refusing != "" {
		t.Errorf("of a sink that stands: %+v", s)
	}
	if age := time.Since(s.Oldest); age <= 0 || age > 2*time.Minute {
		t.Errorf("the oldest record is %v old", age)
	}
	f.Clear()
	f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Delay(20 * time.Millisecond), Times: sinktest.Always})
	close(hold)
	statusUntil(t, p, "the sink moves", func(st walproxy.Status) bool { return st.Sinks[0].Rates.Passed > 0 })
	f.Clear()
	last := appendOne(t, p, set("z", 1))
	if err := p.Wait(t.Context(), last, walproxy.Applied); err != nil {
		t.Fatal(err)
	}
	if s := p.Status().Sinks[0]; s.Lag != 0 || s.OldestLSN != 0 || s.Rates.LevelIn != 0 {
		t.Errorf("of a level sink: %+v", s)
	}
}

// TestRefusingStatus: why no write is taken is said.
func TestRefusingStatus(t *testing.T) {
	o := options(t.TempDir(), sinktest.NewMemory())
	o.Sinks[0].Paused = true
	o.Log.SegmentBytes, o.Log.MaxBytes = 64<<10, 256<<10
	p := open(t, o)
	st := statusUntil(t, p, "the log is full", func(st walproxy.Status) bool { return st.Refusing != "" })
	if !strings.Contains(st.Refusing, "log.max_bytes is 262144") {
		t.Errorf("refusing: %s", st.Refusing)
	}
	if err := p.ResumeSink("main"); err != nil {
		t.Fatal(err)
	}
	_ = p.Close(context.Background()) // what is left is not this test's
	if st := p.Status(); !strings.Contains(st.Refusing, "stopping") {
		t.Errorf("of a closed proxy: %q", st.Refusing)
	}
}
