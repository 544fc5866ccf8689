package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// viewOf is what is made of a server's answer.
func viewOf(t *testing.T, answer string) *statusView {
	t.Helper()
	v := &statusView{Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Running: true, Server: "http://127.0.0.1:7070", live: &liveStatus{}}
	if err := json.Unmarshal([]byte(answer), v.live); err != nil {
		t.Fatal(err)
	}
	v.judge()
	v.Healthy = len(v.Attention) == 0
	return v
}

const ailing = `{"accepting": false, "refusing": "log and state store take 64 bytes, and log.max_bytes is 64", "window_seconds": 60, "state_bytes": 1048576,
 "log": {"first": 10, "durable": 123456, "bytes": 1610612736, "free_bytes": 5368709120, "max_bytes": 68719476736, "min_free": 2147483648,
  "quarantine_bytes": 2048, "records_per_second": 1234.5, "bytes_per_second": 524288, "growth_bytes_per_second": 524288, "full_in_seconds": 1800},
 "sinks": [
  {"name": "main", "state": "running", "lag": 12345, "lag_bytes": 1048576, "rates_known": true, "records_added_per_second": 10, "records_passed_per_second": 510.5,
   "level_in_seconds": 24.7, "oldest_seconds": 192, "epoch": 4, "owner": "db1, pid 7, /data", "dead_letters": 3, "dead_letter_bytes": 2000, "parked_keys": 1},
  {"name": "slow", "state": "running", "lag": 5, "lag_bytes": 100, "rates_known": true, "records_added_per_second": 10, "records_passed_per_second": 2, "oldest_seconds": 7300},
  {"name": "stuck", "state": "running", "lag": 5, "lag_bytes": 100, "rates_known": true, "oldest_seconds": 100},
  {"name": "fresh", "state": "running", "lag": 5, "lag_bytes": 100, "oldest_seconds": 1},
  {"name": "away", "state": "retrying", "error": "connection refused\nby everybody", "lag": 5, "lag_at_most": true, "lag_bytes": 100},
  {"name": "bad", "state": "halted", "error": "permission denied for table orders", "lag": 5, "lag_bytes": 95, "max_lag_bytes": 100, "held_records": 4, "held_bytes": 90},
  {"name": "off", "state": "running", "paused": true, "lag": 9, "lag_bytes": 100},
  {"name": "new", "state": "starting"}]}`

// TestStatusLines: each thing that a person has to know stands there, and no line is
// wider than the terminal.
func TestStatusLines(t *testing.T) {
	v := viewOf(t, ailing)
	text := strings.Join(v.lines(0), "\n")
	for _, want := range []string{
		"walproxy http://127.0.0.1:7070  2030-01-02 03:04:05 UTC",
		"writes  REFUSED  log and state store take 64 bytes",
		"log     LSN 10 to 123456, 1.5 GiB of 64.0 GiB; state store 1.0 MiB",
		"disk    5.0 GiB free, floor 2.0 GiB; full in about 30m00s at +512.0 KiB/s",
		"sink main  moving  12,345 records behind, 1.0 MiB, the oldest 3m12s old",
		"applies 511/s, gets 10/s: level in about 25s",
		"3 dead letters, 2.0 KiB, which park 1 keys",
		"epoch 4, owner db1, pid 7, /data",
		"sink slow  moving  5 records behind, 100 B, the oldest 2h01m old",
		"applies 2/s, gets 10/s: at this rate it never catches up",
		"sink stuck  NOT MOVING",
		"sink fresh  moving",
		"its backlog is still being counted",
		"sink away  STORE AWAY  at most 5 records behind",
		"last error: connection refused by everybody",
		"sink bad  HALTED",
		"4 of them were copied out of the log, 90 B",
		"sink off  paused",
		"sink new  starting",
		"note: sink main has 3 dead letters: walproxy dlq ls --sink main",
		"note: sink off is paused: walproxy sink resume off",
		"note: 2.0 KiB are in the log's quarantine",
		"!! WRITES ARE REFUSED: log and state store",
		"!! the disk is full in about 30m0s at this rate",
		"!! sink bad has HALTED: permission denied for table orders; when that is mended: walproxy sink resume bad",
		"!! sink bad is at its max_lag_bytes",
		"!! sink away does not get on, its store fails: connection refused by everybody",
		"!! sink stuck DOES NOT MOVE, with 5 records behind it",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "healthy") || v.Healthy {
		t.Error("it says that all is well")
	}
	var coded *exitError
	if err := v.verdict(); !errors.As(err, &coded) || coded.code != exitUnhealthy {
		t.Errorf("verdict: %v", err)
	}
	for _, width := range []int{20, 40, 80, 120} {
		for _, line := range v.lines(width) {
			if n := len([]rune(line)); n >= width && !strings.HasPrefix(strings.TrimSpace(line), "/") && strings.Contains(strings.TrimSpace(line), " ") {
				t.Errorf("width %d: %d characters: %s", width, n, line)
			}
		}
	}
	narrow := strings.Join(v.lines(40), " ")
	if !strings.Contains(strings.Join(strings.Fields(narrow), " "), "when that is mended: walproxy sink resume bad") {
		t.Errorf("on a narrow terminal what helps is cut:\n%s", strings.Join(v.lines(40), "\n"))
	}
}

// TestStatusHealthy: a paused sink, dead letters and a backlog that shrinks are no
// reason to wake anybody.
func TestStatusHealthy(t *testing.T) {
	v := viewOf(t, `{"accepting": true, "window_seconds": 60, "log": {"min_free": -1, "growth_bytes_per_second": -5},
		"sinks": [{"name": "main", "state": "running", "lag": 10, "records_passed_per_second": 5, "level_in_seconds": 2, "rates_known": true, "dead_letters": 1},
		          {"name": "off", "state": "running", "paused": true, "lag": 10}]}`)
	lines := v.lines(80)
	if !v.Healthy || v.verdict() != nil || len(v.Notes) != 2 || !slices.Contains(lines, "healthy: nothing is urgent; see the notes") ||
		!slices.Contains(lines, "disk    0 B free, no floor; not filling, -5 B/s") {
		t.Errorf("%+v\n%s", v, strings.Join(lines, "\n"))
	}
	if young := viewOf(t, `{"accepting": true, "sinks": [{"name": "main", "state": "running", "lag": 10, "oldest_seconds": 100}]}`); !young.Healthy {
		t.Errorf("without rates it is judged: %+v", young.Attention)
	}
}

func TestTexts(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 0.4: "0.4", 7: "7", 9.5: "9.5", 12.6: "13", 999.6: "1,000", 1234567: "1,234,567"} {
		if got := numberText(n); got != want {
			t.Errorf("numberText(%v) = %q, want %q", n, got, want)
		}
	}
	for seconds, want := range map[float64]string{0.4: "0s", 59: "59s", 61: "1m01s", 3661: "1h01m", 172800: "2 days", 1e12: "very long"} {
		if got := spanText(seconds); got != want {
			t.Errorf("spanText(%v) = %q, want %q", seconds, got, want)
		}
	}
}
