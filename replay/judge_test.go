package replay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

func TestJudge(t *testing.T) {
	why := errors.New("why")
	result := func(outcomes ...sinks.Outcome) (list []sinks.Result) {
		for _, o := range outcomes {
			list = append(list, sinks.Result{Outcome: o, Err: why})
		}
		return list
	}
	for _, c := range []struct {
		name    string
		records int
		results []sinks.Result
		err     error
		want    sinks.Outcome
		lsn     sinks.LSN // to blame if rejected; 0: nobody is named
	}{
		{"nil says applied", 2, nil, nil, sinks.Applied, 0},
		{"no records", 0, nil, nil, sinks.Applied, 0},
		{"no records, empty results, error", 0, []sinks.Result{}, why, sinks.Unknown, 0},
		{"plain error is unknown", 2, nil, why, sinks.Unknown, 0},
		{"time-out is unknown", 2, nil, context.DeadlineExceeded, sinks.Unknown, 0},
		{"marked retry", 2, nil, sinks.WithOutcome(sinks.Retry, why), sinks.Retry, 0},
		{"fenced", 2, nil, sinks.ErrFenced, sinks.Halt, 0},
		{"closed", 2, nil, sinks.ErrClosed, sinks.Halt, 0},
		{"all rejected by err", 2, nil, sinks.WithOutcome(sinks.Rejected, why), sinks.Rejected, 0},
		{"nothing to reject", 0, nil, sinks.WithOutcome(sinks.Rejected, why), sinks.Halt, 0},
		{"zero result is unknown", 1, []sinks.Result{{}}, nil, sinks.Unknown, 0},
		{"all applied", 2, result(sinks.Applied, sinks.Applied), nil, sinks.Applied, 0},
		{"all applied, but an error", 2, result(sinks.Applied, sinks.Applied), why, sinks.Unknown, 0},
		{"one retry", 3, result(sinks.Applied, sinks.Retry, sinks.Applied), nil, sinks.Retry, 0},
		{"unknown above retry", 3, result(sinks.Retry, sinks.Unknown, sinks.Applied), nil, sinks.Unknown, 0},
		{"rejected above unknown", 3, result(sinks.Unknown, sinks.Rejected, sinks.Rejected), nil, sinks.Rejected, 2},
		{"halt above all", 3, result(sinks.Rejected, sinks.Unknown, sinks.Halt), nil, sinks.Halt, 0},
		{"no such outcome", 1, result(99), nil, 99, 0},
		{"too few results", 2, result(sinks.Applied), nil, sinks.Halt, 0},
		{"no results for records", 2, []sinks.Result{}, nil, sinks.Halt, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &sinks.Batch{}
			for i := range c.records {
				b.Records = append(b.Records, sinks.Record{LSN: sinks.LSN(i + 1)})
			}
			v := judge(b, c.results, c.err)
			if v.outcome != c.want || (v.err == nil) != (c.want == sinks.Applied) {
				t.Errorf("outcome %v (%v), want %v", v.outcome, v.err, c.want)
			}
			if got := sinks.LSN(v.hint + 1); c.want == sinks.Rejected && got != c.lsn {
				t.Errorf("blames LSN %d, want %d", got, c.lsn)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	draw := 0.0
	l := &Loop{random: func() float64 { return draw }}
	for _, c := range []struct {
		min, max time.Duration
		attempt  int
		draw     float64
		want     time.Duration
	}{
		{10 * time.Millisecond, 10 * time.Second, 0, 0.5, 5 * time.Millisecond},
		{10 * time.Millisecond, 10 * time.Second, 3, 0.5, 40 * time.Millisecond},
		{10 * time.Millisecond, 10 * time.Second, 3, 1, 80 * time.Millisecond},
		{10 * time.Millisecond, 10 * time.Second, 10, 1, 10 * time.Second},
		{10 * time.Millisecond, 10 * time.Second, 1 << 40, 1, 10 * time.Second},
		{10 * time.Millisecond, 10 * time.Second, 5, 0, time.Millisecond}, // never at once
		{time.Hour, 1 << 62, 61, 1, 1 << 62},
		{1, 1, 0, 0, 1},
	} {
		l.o.RetryMin, l.o.RetryMax, draw = c.min, c.max, c.draw
		if got := l.backoff(c.attempt); got != c.want {
			t.Errorf("attempt %d of %v to %v, draw %v: %v, want %v", c.attempt, c.min, c.max, c.draw, got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	bad := Options{Lanes: lanesMax + 1, QueueBytes: -1, RetryMin: time.Minute}
	_, err := New(nil, nil, nil, bad)
	if err == nil {
		t.Fatal("bad options were taken")
	}
	for _, part := range []string{"Name", "Lanes", "QueueBytes", "RetryMin"} {
		if !contains(err, part) {
			t.Errorf("%v: does not name %s", err, part)
		}
	}
}
