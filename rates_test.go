package walproxy

import (
	"testing"
	"time"
)

// TestSinkRates: what is said of a sink follows from two looks, and nothing is said
// that they do not tell.
func TestSinkRates(t *testing.T) {
	look := func(added, lag uint64, bytes int64, applied uint64) measuredSink {
		return measuredSink{exact: true, added: added, lag: lag, lagBytes: bytes, applied: applied}
	}
	for _, c := range []struct {
		name      string
		then, now measuredSink
		want      SinkRates
	}{
		{"level", look(100, 0, 0, 100), look(200, 0, 0, 200), SinkRates{Added: 10, Passed: 10, Known: true}},
		{"catches up", look(100, 100, 10_000, 0), look(100, 50, 5_000, 50), SinkRates{Passed: 5, Bytes: 500, LevelIn: 10 * time.Second, Known: true}},
		{"catches up under load", look(0, 100, 10_000, 0), look(100, 80, 8_000, 120), SinkRates{Added: 10, Passed: 12, Bytes: 200, LevelIn: 40 * time.Second, Known: true}},
		{"falls behind", look(0, 0, 0, 0), look(100, 40, 4_000, 60), SinkRates{Added: 10, Passed: 6, Bytes: -400, Known: true}},
		{"stands", look(0, 70, 700, 0), look(0, 70, 700, 0), SinkRates{Known: true}},
		{"not counted", measuredSink{lag: 1000, applied: 5}, measuredSink{exact: true, lag: 10, applied: 25}, SinkRates{Passed: 2}},
		{"another loop", measuredSink{exact: true, lag: 10}, measuredSink{exact: true, turn: 1, lag: 5, applied: 5}, SinkRates{Passed: 0.5}},
		{"never, or next to", look(0, 1<<60, 0, 0), look(0, 1<<60-256, 0, 256), SinkRates{Passed: 25.6, Known: true}},
	} {
		if got := sinkRates(c.then, c.now, 10); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestMeasuresAreBounded: looks beyond the window are dropped, and it is not shorter
// than that.
func TestMeasuresAreBounded(t *testing.T) {
	var m measures
	start := time.Now()
	for i := range 1000 {
		m.add(measured{at: start.Add(time.Duration(i) * measureInterval)})
	}
	first, last := m.mu.looks[0].at, m.mu.looks[len(m.mu.looks)-1].at
	if n := len(m.mu.looks); n != int(measureWindow/measureInterval)+1 || last.Sub(first) != measureWindow {
		t.Errorf("%d looks over %v", n, last.Sub(first))
	}
}
