package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks"
)

func TestJudge(t *testing.T) {
	server := func(severity, code string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{SeverityUnlocalized: severity, Code: code})
	}
	for _, c := range []struct {
		err  error
		sent bool
		want sinks.Outcome
	}{
		{server("ERROR", "40001"), true, sinks.Retry},
		{server("ERROR", "40P01"), true, sinks.Retry},
		{server("ERROR", "40003"), true, sinks.Unknown},
		{server("ERROR", "55P03"), true, sinks.Retry},
		{server("ERROR", "57014"), true, sinks.Retry},
		{server("FATAL", "57014"), true, sinks.Unknown},
		{server("FATAL", "57P01"), false, sinks.Retry},
		{server("FATAL", "57P01"), true, sinks.Unknown}, // between commit and answer
		{server("FATAL", "57P03"), false, sinks.Retry},
		{server("FATAL", "57P05"), true, sinks.Unknown},
		{server("FATAL", "25P03"), true, sinks.Unknown},
		{server("PANIC", "53100"), true, sinks.Unknown},
		{server("ERROR", "53100"), true, sinks.Retry},
		{server("FATAL", "53300"), false, sinks.Retry},
		{server("ERROR", "08006"), false, sinks.Retry},
		{server("FATAL", "28P01"), false, sinks.Halt},
		{server("FATAL", "28000"), false, sinks.Halt},
		{server("FATAL", "3D000"), false, sinks.Halt},
		{server("ERROR", "42P01"), true, sinks.Halt},
		{server("ERROR", "42501"), true, sinks.Halt},
		{server("ERROR", "25006"), true, sinks.Halt},
		{server("ERROR", "0A000"), true, sinks.Halt},
		{server("ERROR", "22003"), true, sinks.Rejected},
		{server("ERROR", "23505"), true, sinks.Rejected},
		{server("ERROR", "44000"), true, sinks.Rejected},
		{server("ERROR", "54000"), true, sinks.Rejected},
		{server("ERROR", "P0001"), true, sinks.Rejected},
		{server("ERROR", "UE042"), true, sinks.Rejected}, // raised by hand
		{server("ERROR", "0B000"), true, sinks.Halt},
		{server("ERROR", ""), true, sinks.Halt},
		{server("ERROR", "58030"), true, sinks.Retry},
		{server("ERROR", "58P01"), true, sinks.Retry}, // a disk that is full (TestDiskFull)
		{server("ERROR", "XX000"), true, sinks.Retry},
		{server("ERROR", "XX001"), true, sinks.Halt},
		{io.ErrUnexpectedEOF, false, sinks.Retry},
		{io.ErrUnexpectedEOF, true, sinks.Unknown},
		{context.DeadlineExceeded, false, sinks.Retry},
		{context.Canceled, true, sinks.Unknown},
	} {
		if got, err := judge(c.err, c.sent); got != c.want || !errors.Is(err, c.err) && codeOf(err) != codeOf(c.err) {
			t.Errorf("%v, sent %v: %v (%v), want %v", c.err, c.sent, got, err, c.want)
		}
	}
	for code, r := range codes {
		if r.outcome == sinks.Halt && strings.HasPrefix(code, "28") && r.remedy == "" {
			t.Errorf("%s halts without a remedy", code)
		}
		if _, ok := classes[code[:2]]; !ok {
			t.Errorf("%s has no class", code)
		}
	}
	for class, r := range classes {
		if r.outcome == sinks.Halt && r.remedy == "" {
			t.Errorf("class %s halts without a remedy", class)
		}
	}
}

// TestDetails: an error of a batch carries what the server said in parts.
func TestDetails(t *testing.T) {
	dsn, _ := newDatabase(t, pgtest.Shared(t))
	admin := pgtest.Connect(t, dsn)
	if _, err := admin.Exec(bounded(t), "ALTER TABLE ledger ADD CONSTRAINT odd CHECK (lsn <> 5)"); err != nil {
		t.Fatal(err)
	}
	l := openLedger(t, Options{DSN: dsn}, 1)
	_, err := l.sink.Apply(bounded(t), l.batch(0, l.cp.Lanes[0]))
	if sinks.OutcomeOf(err) != sinks.Rejected {
		t.Fatal(err)
	}
	got := sinks.DetailsOf(err, 10_000)
	for name, want := range map[string]string{"sqlstate": "23514", "constraint": "odd", "table": "ledger", "schema": "public"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if !strings.Contains(got["message"], "odd") || !strings.Contains(got["detail"], "5") {
		t.Errorf("details %q", got)
	}
}

// TestMetrics: what is exported after some batches and some errors; nothing is
// left registered after Close.
// TestErrorsSayWhoseOnce: errors name the sink once, whatever they went through.
func TestErrorsSayWhoseOnce(t *testing.T) {
	refused := &pgconn.PgError{Code: "42P01", Severity: "ERROR", SeverityUnlocalized: "ERROR"}
	for _, err := range []error{
		fmt.Errorf("reading the catalogue: %w", io.ErrUnexpectedEOF), context.DeadlineExceeded, refused,
		fmt.Errorf("reading the catalogue: %w", refused), malformedRow("jsonb", nil), errStale, errExists,
		fmt.Errorf("%w: %w", errStale, refused), halt("%w", malformedRow("bool", nil)),
	} {
		said := err
		if sinks.OutcomeOf(err) == sinks.Unknown {
			_, said = judge(err, false)
		}
		if strings.Count(said.Error(), "sink postgres:") != 1 {
			t.Errorf("%v", said)
		}
	}
}

func TestMetrics(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	registry := prometheus.NewRegistry()
	o := Options{DSN: dsn, Registerer: registry, Timeouts: hasty(), planner: &ledgerPlanner{}}
	s := mustOpen(t, o)
	cp, err := s.Resume(bounded(t), claimOf(2))
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(s, cp)
	l.during(t, func() {
		l.progress(t, 3)
		c.TerminateAll(t, database)
		l.progress(t, 3)
	})
	got := gather(t, registry)
	for name, least := range map[string]float64{
		"walproxy_postgres_apply_seconds": 6, "walproxy_postgres_batch_records": 6,
		"walproxy_postgres_applied_bytes_total": 6 * 10 * 200, "walproxy_postgres_errors_total": 1,
		"walproxy_postgres_lock_lost_total": 1, "walproxy_postgres_owner": 1,
		"walproxy_postgres_pool_connections": 1, "walproxy_postgres_pool_max": 12,
	} {
		if got[name] < least {
			t.Errorf("%s is %v, want at least %v", name, got[name], least)
		}
	}
	if _, err := Open(o); err == nil {
		t.Error("two sinks with the same metrics")
	}
	closeSink(t, s)
	if left := gather(t, registry); len(left) > 0 {
		t.Errorf("left after Close: %v", maps.Keys(left))
	}
	again := mustOpen(t, o)
	closeSink(t, again)
}

// gather sums every metric over its labels; a histogram counts.
func gather(t testing.TB, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sums
}
