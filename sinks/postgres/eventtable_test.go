package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

const ordersAndEvents = `CREATE TABLE orders (shop int, id bigint, n bigint, PRIMARY KEY (shop, id));
	CREATE TABLE order_events (order_id bigint, shop int, version bigint, payload jsonb NOT NULL, lsn bigint, at timestamptz NOT NULL,
		noted text DEFAULT 'x', PRIMARY KEY (shop, order_id, version), FOREIGN KEY (shop, order_id) REFERENCES orders ON DELETE CASCADE)`

// TestEventTable: events are rows of the user's table, and reads give them back:
// by the columns that the table has, also beside another collection's, in
// walproxy's own; they go with their record, and with its end.
func TestEventTable(t *testing.T) {
	o := Options{AutoCreate: true, Expiry: eager, Collections: []Collection{
		{Pattern: "orders", Events: &Events{Table: "order_events", Key: []string{"shop", "order_id"}, LSN: "lsn", At: "at"}},
		{Pattern: "notes", Events: &Events{Table: `"Note events"`, Version: "no", Payload: "what"}},
	}}
	a := newApplier(t, o, append(strings.Split(ordersAndEvents, ";"),
		`CREATE TABLE "Note events" (stream text, no bigint, what jsonb, PRIMARY KEY (no, stream))`)...)
	events := func(collection string, key *walproxyv1.Key, n ...int64) *walproxyv1.Mutation {
		var list []map[string]any
		for _, i := range n {
			list = append(list, map[string]any{"n": i, "b": []byte{1}})
		}
		return must(mutation.AppendEvents(collection, key, list))
	}
	read := func(collection string, key *walproxyv1.Key, from uint64, want string) {
		t.Helper()
		got, err := a.sink.ReadEvents(bounded(t), collection, key, from, 3)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, e := range got {
			text = append(text, fmt.Sprintf("%d@%d=%d%x", e.Number, e.LSN, e.Event.GetFields()["n"].GetInt64(), e.Event.GetFields()["b"].GetBytes()))
		}
		if got := strings.Join(text, " "); got != want {
			t.Errorf("events of %s %s: %s, want %s", collection, mutation.KeyText(key), got, want)
		}
	}
	order, note := mutation.Composite(mutation.Int64(7), mutation.Int64(42)), mutation.Composite(mutation.String("a"), mutation.Int64(1))
	a.put(events("orders", order, 1, 2), events("notes", note, 5), events("other", note, 8), increment("orders", order, fields{"n": int64(1)}))
	first := a.clock
	a.put(events("orders", order, 3, 4), events("notes", mutation.String("b"), 6))
	read("orders", order, 1, "1@1=101 2@1=201 3@5=301")
	read("orders", order, 3, "3@5=301 4@5=401")
	read("notes", note, 1, "1@0=501")
	read("other", note, 1, "1@3=801")
	if got, want := a.query(`SELECT string_agg(concat_ws(' ', shop, order_id, version, payload ->> 'n', lsn, noted), ', ' ORDER BY version) FROM order_events`),
		"7 42 1 1 1 x, 7 42 2 2 1 x, 7 42 3 3 5 x, 7 42 4 4 5 x"; got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
	if got, want := a.query("SELECT min(at) FROM order_events"), first.Add(-3*time.Millisecond).Format("2006-01-02 15:04:05.999999-07"); got != want {
		t.Errorf("the first at %s, want %s", got, want)
	}
	if got := a.query(`SELECT string_agg(stream, ' ' ORDER BY stream) FROM "Note events"`); got != `["a",1] b` {
		t.Errorf("streams %s", got)
	}
	if got := a.query("SELECT count(*) FROM walproxy.event"); got != "1" {
		t.Errorf("%s events in walproxy's table, want that of the other collection", got)
	}
	a.refused(must(mutation.AppendEvents("orders", order, []map[string]any{{}}, mutation.IfEventCount(3))))
	a.put(mutation.Delete("orders", order), events("orders", order, 9), mutation.Delete("notes", note))
	read("orders", order, 1, "1@9=901")
	if got := a.query(`SELECT string_agg(stream, ' ' ORDER BY stream) FROM "Note events"`); got != `b` {
		t.Errorf("after a delete: %s", got)
	}
	a.put(mutation.Touch("orders", order, a.until(time.Hour)), mutation.Touch("notes", mutation.String("b"), a.until(time.Hour)))
	a.later(2 * time.Hour)
	eventually(t, "the events end with their records", func() bool {
		return a.query(`SELECT (SELECT count(*) FROM order_events) + (SELECT count(*) FROM "Note events") + (SELECT count(*) FROM orders) + (SELECT count(*) FROM notes)`) == "0"
	})
	// Events that are there already are nobody's: the record has none.
	if _, err := a.conn.Exec(bounded(t), `INSERT INTO "Note events" VALUES ('old', 1, '{}')`); err != nil {
		t.Fatal(err)
	}
	if err := a.refused(events("notes", mutation.String("old"), 1)); codeOf(err) != "23505" {
		t.Errorf("an event that exists: %v", err)
	}
}

// TestEventTableChanges: it may be altered while events are appended.
func TestEventTableChanges(t *testing.T) {
	a := newApplier(t, Options{AutoCreate: true, Collections: []Collection{{Pattern: "notes", Events: &Events{Table: "happened"}}}},
		"CREATE TABLE happened (stream text, version bigint, payload jsonb, PRIMARY KEY (stream, version))")
	event := must(mutation.AppendEvents("notes", mutation.String("k"), []map[string]any{{"n": int64(1)}}))
	a.put(event)
	for _, ddl := range []string{"ALTER TABLE happened ADD extra int", "ALTER TABLE happened DROP COLUMN extra",
		"ALTER TABLE happened DROP CONSTRAINT happened_pkey, ADD PRIMARY KEY (version, stream)"} {
		if _, err := a.conn.Exec(bounded(t), ddl); err != nil {
			t.Fatal(err)
		}
		a.put(event, event)
	}
	if _, err := a.conn.Exec(bounded(t), "ALTER TABLE happened RENAME version TO no"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.try(bounded(t), a.record(event)); sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), `"version"`) {
		t.Errorf("without its column: %v", err)
	}
	if got := a.query("SELECT count(*) FROM happened"); got != "7" {
		t.Errorf("%s events, want 7", got)
	}
}

// TestRefusedEventTables: what cannot hold events halts the sink with the reason.
func TestRefusedEventTables(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	const whole = "stream text, version bigint, payload jsonb, lsn bigint, at timestamptz"
	for i, c := range []struct {
		ddl    string
		events Events
		says   string
	}{
		{"SELECT", Events{}, "does not exist"},
		{"CREATE VIEW %[1]s AS SELECT 'a' AS stream, 1::bigint AS version, '{}'::jsonb AS payload", Events{}, "is no table"},
		{"CREATE TABLE %[1]s (" + whole + ")", Events{}, "primary key has to be"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (version))", Events{}, "no column for the stream"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream))", Events{}, "primary key has to be"},
		{"CREATE TABLE %[1]s (stream text, version int, payload jsonb, PRIMARY KEY (stream, version))", Events{}, "is integer, want bigint"},
		{"CREATE TABLE %[1]s (stream text, version bigint, payload json, PRIMARY KEY (stream, version))", Events{}, "is json, want jsonb"},
		{"CREATE TABLE %[1]s (stream float8, version bigint, payload jsonb, PRIMARY KEY (stream, version))", Events{}, "several ways"},
		{"CREATE TABLE %[1]s (stream text, version bigint, payload jsonb, need int NOT NULL, PRIMARY KEY (stream, version))", Events{}, "NOT NULL without a default"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version))", Events{Payload: "body"}, `"body" (payload) does not exist`},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version))", Events{LSN: "version"}, "named twice"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version))", Events{At: "lsn"}, "is bigint, want timestamptz"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version))", Events{Key: []string{"stream", "at"}}, "are not the primary key"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version), UNIQUE (lsn))", Events{}, "unique index"},
		{"CREATE TABLE %[1]s (stream text REFERENCES others, version bigint, payload jsonb, PRIMARY KEY (stream, version))", Events{}, "foreign key"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version)); CREATE TRIGGER t BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION nothing()", Events{}, "triggers"},
		{"CREATE TABLE %[1]s (" + whole + ", PRIMARY KEY (stream, version))", Events{}, ""},
	} {
		table := fmt.Sprintf("events%d", i)
		c.events.Table = table
		schema := fmt.Sprintf("own%d", i)
		a := applierOn(t, Options{DSN: dsn, Schema: schema, AutoCreate: true, Collections: []Collection{{Pattern: "notes", Events: &c.events}}},
			"CREATE TABLE IF NOT EXISTS others (id text PRIMARY KEY)",
			"CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
		if _, err := a.conn.PgConn().Exec(bounded(t), strings.ReplaceAll(c.ddl, "%[1]s", table)).ReadAll(); err != nil {
			t.Fatalf("%s: %v", c.ddl, err)
		}
		_, err := a.try(bounded(t), a.record(must(mutation.AppendEvents("notes", mutation.String("k"), []map[string]any{{}}))))
		if c.says == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "events table "+table) {
			t.Errorf("%s: %v; want it to halt and say %q", c.ddl, err, c.says)
		}
		closeSink(t, a.sink)
	}
}

// TestTableOfTwo: a table belongs to one collection, for records or for events.
func TestTableOfTwo(t *testing.T) {
	for name, collections := range map[string][]Collection{
		"two collections": {{Pattern: "a", Table: "plain"}, {Pattern: "b", Table: "public.PLAIN"}},
		"events of two":   {{Pattern: "a", Events: &Events{Table: "happened"}}, {Pattern: "b", Events: &Events{Table: "happened"}}},
		"events beside":   {{Pattern: "a", Events: &Events{Table: "happened"}}, {Pattern: "b", Table: "happened"}},
		"rows beside":     {{Pattern: "a", Table: "happened"}, {Pattern: "b", Events: &Events{Table: "happened"}}},
		"one itself":      {{Pattern: "b", Table: "happened", Events: &Events{Table: "happened"}}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplier(t, Options{AutoCreate: true, Collections: collections},
				"CREATE TABLE plain (id text PRIMARY KEY)", "CREATE TABLE happened (stream text, version bigint, payload jsonb, PRIMARY KEY (stream, version))")
			key := mutation.String("k")
			if len(collections) > 1 {
				if collections[0].Table == "happened" {
					key = mutation.Composite(key, mutation.Int64(1))
				}
				a.put(mutation.Delete("a", key))
			}
			_, err := a.try(bounded(t), a.record(mutation.Delete("b", mutation.String("k"))))
			if said := fmt.Sprint(err); sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(said, "table") || !strings.Contains(said, `"b"`) {
				t.Errorf("the second: %v", err)
			}
			if len(collections) > 1 { // the first goes on
				a.last--
				a.put(mutation.Delete("a", key))
			}
		})
	}
}
