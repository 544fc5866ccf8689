package pgwire

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	dto "github.com/prometheus/client_model/go"

	"github.com/walproxy/walproxy/api/pgwire/behind"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/mutation"
)

// TestReasonsDocumented: the manual has every label of walproxy_pgwire_passed_total.
func TestReasonsDocumented(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../../docs/pgwire.md")
	if err != nil {
		t.Fatal(err)
	}
	labels := []string{"off", "session", "store", "catalogue", "count", "statement", "transaction", "gate", "log", "several"}
	for r := statement.NoWrite; r <= statement.Overriding; r++ {
		labels = append(labels, r.String())
	}
	for r := catalogue.Missing; r <= catalogue.Encoding; r++ {
		labels = append(labels, r.String())
	}
	for r := behind.NotDeclared; r <= behind.Repeated; r++ {
		labels = append(labels, (&behind.Why{Reason: r}).Label())
	}
	for _, label := range labels {
		if !strings.Contains(string(manual), "| `"+label+"` |") {
			t.Errorf("docs/pgwire.md says nothing of %q", label)
		}
	}
}

// TestWhy: SHOW walproxy.why and the metric say why a write is passed through, whatever
// the reason and the protocol.
func TestWhy(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; CREATE TABLE random (id int PRIMARY KEY, r float8 DEFAULT random())", []Table{table("items", mutation.KeyInt64), table("random", mutation.KeyInt64)})
	conn, direct := r.connect(), r.connect()
	do(t, conn, "INSERT INTO items VALUES (0, 'known')")
	count := func(label string) float64 {
		var m dto.Metric
		if err := r.tables.m.passed.WithLabelValues(label).Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.GetCounter().GetValue()
	}
	for _, c := range []struct{ label, why, sql string }{
		{"with", "it begins with WITH", "WITH x AS (SELECT 9) INSERT INTO items SELECT 9, 'a' FROM x"},
		{"returning", "RETURNING", "INSERT INTO items VALUES (10, 'a') RETURNING id"},
		{"query", "come from a query", "INSERT INTO items SELECT 11, 'a'"},
		{"join", "joins", "UPDATE items SET n = 1 FROM other WHERE items.id = other.id"},
		{"only", "ONLY", "UPDATE ONLY items SET n = 1 WHERE id = 1"},
		{"expression", "more than a parameter", "INSERT INTO items VALUES (11 + 1, 'a')"},
		{"where", "condition", "DELETE FROM items WHERE id > 100"},
		{"conflict_target", "neither plain columns", "INSERT INTO items VALUES (13, 'a') ON CONFLICT (id) WHERE true DO NOTHING"},
		{"conflict_where", "has a condition", "INSERT INTO items VALUES (14, 'a') ON CONFLICT (id) DO UPDATE SET n = 1 WHERE items.n = 2"},
		{"overriding", "identity", "INSERT INTO items OVERRIDING SYSTEM VALUE VALUES (15, 'a')"},
		{"no_write", "no INSERT, UPDATE or DELETE", "SELECT * FROM items FOR UPDATE"},
		{"no_write", "no INSERT, UPDATE or DELETE", "TRUNCATE items"},
		{"unreadable", "form that is not known", "INSERT INTO items (id, name) VALUES (1)"},
		{"not_declared", "not declared", "INSERT INTO other VALUES (1, 'a')"},
		{"not_declared", "not declared", "INSERT INTO other VALUES (2, 'a') RETURNING id"},
		{"columns", "column does not exist", "INSERT INTO items (nothing) VALUES (1)"},
		{"defaults", "default that cannot", "INSERT INTO random (id) VALUES (1)"},
		{"key", "primary key", "INSERT INTO items VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET id = 2"},
		{"conflict_key", "not about the primary key", "INSERT INTO items VALUES (1, 'a') ON CONFLICT (name) DO NOTHING"},
		{"types", "type", "INSERT INTO items (id, name) VALUES (16, 1.5)"},
		{"rows", "more rows", "INSERT INTO items (id, name) VALUES (17, 'a')" + strings.Repeat(", (17, 'a')", mutation.MaxMembers)},
		{"value", "cannot be judged", "INSERT INTO items (id, name, at) VALUES (18, 'a', 'yesterday')"},
		{"sequence", "sequence", "INSERT INTO items (id, name) VALUES (nextval('public.none'), 'a')"},
		{"repeated", "same key", "INSERT INTO items (id, name) VALUES (19, 'a'), (19, 'b')"},
		{"count", "assume_rows", "UPDATE items SET n = 1 WHERE id = 1"},
		{"several", "comes in one query", "INSERT INTO items VALUES (20, 'a'); SELECT 1"},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			if mode == pgx.QueryExecModeExec && c.label == "several" {
				continue // has one statement only
			}
			eventually(t, "the catalogue is known", func() bool { return r.tables.watch.Current() != nil })
			before := count(c.label)
			_, _ = conn.Exec(bounded(t), c.sql, mode) // PostgreSQL refuses some
			if why := one[string](t, conn, "SHOW walproxy.why", pgx.QueryExecModeExec); !strings.HasPrefix(why, "passed through: ") || !strings.Contains(why, c.why) {
				t.Errorf("%v, %.100s: %s", mode, c.sql, why)
			}
			if n := count(c.label) - before; n != 1 {
				t.Errorf("%v, %.100s: counted %v times as %s", mode, c.sql, n, c.label)
			}
		}
	}
	for _, c := range []struct {
		label, why, before, end string
	}{
		{"transaction", "in a transaction", "BEGIN", "COMMIT"},
		{"off", "off", "SET walproxy.ack = off", "RESET walproxy.ack"},
		{"session", "standard_conforming_strings", "SET standard_conforming_strings = off", "RESET standard_conforming_strings"},
	} {
		do(t, conn, c.before)
		before := count(c.label)
		_, _ = conn.Exec(bounded(t), "INSERT INTO items VALUES (30, 'a')") // it may be there
		if why := one[string](t, conn, "SHOW walproxy.why", pgx.QueryExecModeExec); !strings.Contains(why, c.why) || count(c.label) != before+1 {
			t.Errorf("%s: %s, counted %v times", c.label, why, count(c.label)-before)
		}
		do(t, conn, c.end, "TRUNCATE items")
	}
	do(t, direct, "BEGIN", "LOCK TABLE items IN ROW EXCLUSIVE MODE")
	before := count("gate")
	do(t, conn, "INSERT INTO items VALUES (31, 'a')")
	do(t, direct, "COMMIT")
	if n := count("gate") - before; n != 1 {
		t.Errorf("beside a direct writer: counted %v times", n)
	}
}
