package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

func (a *applier) exec(sql string) {
	a.t.Helper()
	if _, err := a.conn.Exec(bounded(a.t), sql); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

// TestSchemaChanges: what somebody alters while records are applied counts from
// the first record behind it; nothing is written by the old catalogue.
func TestSchemaChanges(t *testing.T) {
	a := newApplier(t, Options{Collections: []Collection{{Pattern: "t", OverflowColumn: "rest"}}},
		"CREATE TABLE t (id text PRIMARY KEY, n int, rest jsonb)")
	k := mutation.String("k")
	a.put(set("t", k, fields{"n": int64(1), "later": "x"}))
	for _, c := range []struct {
		ddl    string
		write  *walproxyv1.Mutation
		query  string
		want   string
		refuse bool
	}{
		{"ALTER TABLE t ADD later text", set("t", k, fields{"later": "y"}), "SELECT (n, later, rest) FROM t", "(,y,)", false},
		{"ALTER TABLE t ADD dflt int DEFAULT 7", set("t", k, fields{"n": int64(2)}), "SELECT (n, later, dflt) FROM t", "(2,,7)", false},
		{"ALTER TABLE t ALTER n TYPE bigint", set("t", k, fields{"n": int64(1 << 40)}), "SELECT n FROM t", "1099511627776", false},
		{"ALTER TABLE t ALTER n TYPE text", set("t", k, fields{"n": "text"}), "SELECT n FROM t", "text", false},
		{"ALTER TABLE t ALTER n TYPE int USING 3", increment("t", k, fields{"n": int64(1)}), "SELECT n FROM t", "4", false},
		{"ALTER TABLE t RENAME later TO former", merge("t", k, fields{"later": "z"}), "SELECT (former, rest) FROM t", `(,"{""later"": ""z""}")`, false},
		{"ALTER TABLE t DROP former", merge("t", k, fields{"n": int64(5)}), "SELECT n FROM t", "5", false},
		{"ALTER TABLE t ALTER dflt SET DEFAULT 8", set("t", k, fields{"n": int64(6)}), "SELECT dflt FROM t", "8", false},
		{"ALTER TABLE t ADD CHECK (n < 10)", merge("t", k, fields{"n": int64(10)}), "SELECT n FROM t", "6", true},
		{"ALTER TABLE t ADD must int NOT NULL DEFAULT 1; ALTER TABLE t ALTER must DROP DEFAULT", merge("t", k, fields{"n": int64(7)}), "SELECT (n, must) FROM t", "(7,1)", false},
		{"ALTER TABLE t ADD twice int GENERATED ALWAYS AS (n * 2) STORED", merge("t", k, fields{"twice": int64(1)}), "SELECT twice FROM t", "14", true},
		{"ALTER TABLE t RENAME TO t2; CREATE TABLE t (LIKE t2 INCLUDING ALL)", merge("t", k, fields{"n": int64(8), "must": int64(2)}), "SELECT (n, must, twice) FROM t", "(8,2,16)", false},
		{"ALTER TABLE t DROP CONSTRAINT t_pkey1; ALTER TABLE t ADD id2 int NOT NULL DEFAULT 1; ALTER TABLE t ADD PRIMARY KEY (id, id2)",
			merge("t", mutation.Composite(mutation.String("k"), mutation.Int64(1)), fields{"n": int64(9)}), "SELECT n FROM t", "9", false},
	} {
		a.exec(strings.ReplaceAll(c.ddl, "t_pkey1", a.query("SELECT conname FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'p'")))
		if c.refuse {
			a.refused(c.write)
		} else {
			a.put(c.write)
		}
		if got := a.query(c.query); got != c.want {
			t.Errorf("%s: %s, want %s", c.ddl, got, c.want)
		}
		if d, err := a.sink.Read(bounded(t), "t", c.write.GetKey()); err != nil || d.Fields["n"] == nil {
			t.Errorf("%s: Read: %v, %v", c.ddl, d, err)
		}
	}
	// A reader whose catalogue is old.
	a.exec("ALTER TABLE t DROP twice; ALTER TABLE t DROP n; ALTER TABLE t ADD n text DEFAULT 9")
	if d := a.get("t", mutation.Composite(mutation.String("k"), mutation.Int64(1))); d == nil || d.Fields["n"].GetString_() != "9" {
		t.Errorf("read %v behind a change of type", d)
	}
}

// TestTableReplaced: a table that takes another one's name between the sink's start and its
// first record is the one that is written.
func TestTableReplaced(t *testing.T) {
	for _, ddl := range []string{"DROP TABLE t; CREATE TABLE t (id text PRIMARY KEY, n int)", "ALTER TABLE t RENAME TO t2; CREATE TABLE t (id text PRIMARY KEY, n int)"} {
		a := newApplier(t, Options{Collections: []Collection{{Pattern: "t"}}}, "CREATE TABLE t (id text PRIMARY KEY, n int)")
		a.exec(ddl)
		a.put(set("t", mutation.String("k"), fields{"n": int64(1)}))
		if got := a.query("SELECT n FROM t"); got != "1" {
			t.Errorf("%s: %s, want 1", ddl, got)
		}
	}
}

// TestSchemaChangesUnderWay: columns come and go while batches are applied; no
// record is lost, none is rejected.
func TestSchemaChangesUnderWay(t *testing.T) {
	a := newApplier(t, Options{Collections: []Collection{{Pattern: "t", OverflowColumn: "rest"}}},
		"CREATE TABLE t (id text PRIMARY KEY, n int NOT NULL DEFAULT 0, rest jsonb)")
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, a.sink.o.DSN)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(ctx) }()
			for {
				for _, sql := range []string{
					"ALTER TABLE t ADD x text", "ALTER TABLE t ALTER n TYPE bigint", "CREATE INDEX ON t (n)",
					"ALTER TABLE t DROP x", "ALTER TABLE t ALTER n TYPE int", "DROP INDEX t_n_idx",
				} {
					select { // a pace that leaves room for batches
					case <-stop:
						return nil
					case <-time.After(30 * time.Millisecond):
					}
					if _, err := conn.Exec(ctx, sql); err != nil {
						return fmt.Errorf("%s: %w", sql, err)
					}
				}
			}
		}()
	}()
	var keys []*walproxyv1.Key
	for i := range 20 {
		keys = append(keys, mutation.String(fmt.Sprint(i)))
	}
	const batches = 40
	for range batches {
		var records []sinks.Record
		for _, k := range keys {
			records = append(records, a.record(increment("t", k, fields{"n": int64(1)})), a.record(merge("t", k, fields{"x": "v"})))
		}
		for try := 0; ; try++ {
			_, err := a.try(bounded(t), records...)
			if err == nil {
				break
			}
			if o := sinks.OutcomeOf(err); o != sinks.Retry && o != sinks.Unknown || try == 100 {
				t.Fatalf("%v: %v", o, err)
			}
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := a.query("SELECT (count(*), min(n), max(n)) FROM t"); got != fmt.Sprintf("(%d,%d,%d)", len(keys), batches, batches) {
		t.Errorf("%s, want %d rows that count %d", got, len(keys), batches)
	}
}

// TestRefusedTables: a table that cannot be written to as the records say halts
// the sink and says why.
func TestRefusedTables(t *testing.T) {
	a := newApplier(t, Options{Collections: []Collection{
		{Pattern: "badversion", VersionColumn: "n"}, {Pattern: "badrest", OverflowColumn: "n"}, {Pattern: "badkey", Key: []string{"n"}},
		{Pattern: "first", Table: "twice"}, {Pattern: "second", Table: "public.twice"}, {Pattern: "nowhere", Table: "no.such"},
	}},
		"CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
		"CREATE TABLE nopk (id text)", "CREATE VIEW view AS SELECT 'a' AS id", "CREATE TABLE folded (id text COLLATE nocase PRIMARY KEY)",
		"CREATE TABLE floats (id float8 PRIMARY KEY)", "CREATE TABLE chars (id char(3) PRIMARY KEY)", "CREATE TABLE numbers (id numeric PRIMARY KEY)",
		"CREATE TABLE generated (a text, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
		"CREATE TABLE ruled (id text PRIMARY KEY)", "CREATE RULE r AS ON INSERT TO ruled DO INSTEAD NOTHING",
		"CREATE TABLE badversion (id text PRIMARY KEY, n int)", "CREATE TABLE badrest (id text PRIMARY KEY, n int)",
		"CREATE TABLE badkey (id text PRIMARY KEY, n int)", "CREATE TABLE twice (id text PRIMARY KEY)",
		"CREATE TABLE secured (id text PRIMARY KEY)", "ALTER TABLE secured ENABLE ROW LEVEL SECURITY", "ALTER TABLE secured FORCE ROW LEVEL SECURITY",
	)
	a.put(mutation.Touch("first", mutation.String("k")))
	for collection, reason := range map[string]string{
		"nopk": "no primary key", "view": "is no table", "folded": "collation", "floats": "several ways", "chars": "several ways",
		"numbers": "several ways", "generated": "generated always", "ruled": "rules", "badversion": "want a bigint",
		"badrest": "want jsonb", "badkey": "not the primary key", "second": "both mapped", "nowhere": "no table no.such", "absent": "no table public.absent",
	} {
		_, err := a.try(bounded(t), a.record(set(collection, mutation.String("k"), fields{})))
		if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v (%v); want halt and %q", collection, sinks.OutcomeOf(err), err, reason)
		}
	}
}

// TestKeys: one form of a key is one row, every other form is refused.
func TestKeys(t *testing.T) {
	a := newApplier(t, Options{AutoCreate: true},
		"CREATE TYPE mood AS ENUM ('sad', 'happy')",
		"CREATE TABLE k_int (id int PRIMARY KEY, v int)", "CREATE TABLE k_uuid (id uuid PRIMARY KEY, v int)", "CREATE TABLE k_text (id varchar(8) PRIMARY KEY, v int)",
		"CREATE TABLE k_bytes (id bytea PRIMARY KEY, v int)", "CREATE TABLE k_date (id date PRIMARY KEY, v int)", "CREATE TABLE k_mood (id mood PRIMARY KEY, v int)",
		"CREATE DOMAIN short AS varchar(3)", "CREATE TABLE k_short (id short PRIMARY KEY, v int)", "CREATE TABLE k_tenths (id timestamptz(1) PRIMARY KEY, v int)",
		"CREATE TABLE k_time (id timestamptz PRIMARY KEY, v int)", "CREATE TABLE k_many (a text, b bigint, c bytea, v int, PRIMARY KEY (b, a, c))")
	s, n, b, c := mutation.String, mutation.Int64, mutation.Bytes, mutation.Composite
	for _, k := range []struct {
		collection string
		key        *walproxyv1.Key
		ok         bool
	}{
		{"k_int", n(-7), true}, {"k_int", s("42"), true}, {"k_int", s("042"), false}, {"k_int", s("x"), false}, {"k_int", n(1 << 40), false}, {"k_int", b([]byte("1")), false},
		{"k_uuid", s("0123e4d5-a6b7-4890-8abc-0123456789ab"), true}, {"k_uuid", s("0123E4D5-A6B7-4890-8ABC-0123456789AB"), false}, {"k_uuid", s("{0123e4d5-a6b7-4890-8abc-0123456789ab}"), false},
		{"k_text", s("ä b"), true}, {"k_text", n(7), true}, {"k_text", s("a\x00b"), false}, {"k_text", s("123456789"), false}, {"k_text", s("ä234567 "), true}, {"k_text", s("ä234567  "), false},
		{"k_short", s("abc"), true}, {"k_short", s("abc "), false}, {"k_short", s("ab "), true}, {"k_tenths", s("2026-02-03T04:05:06.1Z"), true}, {"k_tenths", s("2026-02-03T04:05:06.12Z"), false}, {"k_text", b([]byte("x")), false},
		{"k_bytes", b([]byte{0, 255}), true}, {"k_bytes", s("x"), false},
		{"k_date", s("2026-02-03"), true}, {"k_date", s("2026-2-3"), false}, {"k_mood", s("happy"), true}, {"k_mood", s("angry"), false},
		{"k_time", s("2026-02-03T04:05:06.5Z"), true}, {"k_time", s("2026-02-03T04:05:06.50Z"), false}, {"k_time", s("2026-02-03T05:05:06.5+01:00"), false},
		{"k_many", c(n(1), s("x"), b([]byte("y"))), true}, {"k_many", c(s("1"), s("x"), b([]byte("y"))), false}, {"k_many", c(n(1), s("x")), false}, {"k_many", s("x"), false},
		{"new_int", n(3), true}, {"new_bytes", b([]byte{0}), true}, {"new_text", s("t"), true}, {"new_many", c(s("a\x00"), n(1), b([]byte{2})), true}, {"new_many", c(s("a")), true},
	} {
		m := set(k.collection, k.key, fields{"v": int64(1)})
		if !k.ok {
			a.refused(m)
			if d := a.get(k.collection, k.key); d != nil {
				t.Errorf("%s %v: read %v of a key that is refused", k.collection, k.key, d)
			}
			continue
		}
		a.put(m, increment(k.collection, k.key, fields{"v": int64(1)}))
		if d := a.get(k.collection, k.key); d == nil || d.Fields["v"].GetInt64() != 2 {
			t.Errorf("%s %v: read %v", k.collection, k.key, d)
		}
	}
	if got := a.query("SELECT string_agg(id::text, ' ' ORDER BY id) FROM k_int"); got != "-7 42" {
		t.Errorf("k_int holds %s", got)
	}
}

// TestLaneGroups: tables that judge each other's rows share a lane, others none.
func TestLaneGroups(t *testing.T) {
	a := newApplier(t, Options{Collections: []Collection{{Pattern: "alias", Table: "items"}}}, append(slices.Clone(shop), "CREATE TABLE plain (id text PRIMARY KEY, t text)",
		"CREATE TABLE noted (id text PRIMARY KEY)", "CREATE TABLE other (id text PRIMARY KEY)",
		"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE Other SET id = id; RETURN NULL; END'",
		"CREATE TRIGGER note AFTER INSERT ON noted FOR EACH ROW EXECUTE FUNCTION note()",
		"CREATE UNIQUE INDEX ON parts0 (t)", "CREATE TABLE hidden (id text PRIMARY KEY)",
		"CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN EXECUTE 'UPDATE oth' || 'er SET id = id'; RETURN NULL; END$$",
		"CREATE TRIGGER hide AFTER INSERT ON hidden FOR EACH ROW EXECUTE FUNCTION hide()")...)
	for collection, want := range map[string]string{
		"customers": "public.customers", "orders": "public.customers", "items": "public.customers", "alias": "public.customers", "public.items": "public.customers",
		"tree": "public.tree", "stock": "", "booking": "public.booking", "parts": "public.parts", "plain": "", "noted": "public.noted", "other": "public.noted", "absent": "",
	} {
		if got := a.sink.LaneGroup(collection); got != want {
			t.Errorf("LaneGroup(%q) = %q, want %q", collection, got, want)
		}
	}
	d := a.sink.Describe()
	if got := d.LaneGroups["public.noted"]; !slices.Equal(got, []string{"public.noted", "public.other"}) || len(d.LaneGroups["public.plain"]) > 0 {
		t.Errorf("described as %v", d.LaneGroups)
	}
	// What a trigger reaches by dynamic SQL is not seen: that is said of tables in use.
	k := mutation.String("k")
	if len(d.Warnings) > 0 {
		t.Errorf("warned of %q before any collection was used", d.Warnings)
	}
	a.put(set("plain", k, fields{"t": "x"}), set("noted", k, fields{}), set("hidden", k, fields{}))
	warned := a.sink.Describe().Warnings
	if len(warned) != 1 || !strings.Contains(warned[0], `"hidden", table public.hidden`) || !strings.Contains(warned[0], "EXECUTE") || !strings.Contains(warned[0], "lane_group") {
		t.Errorf("warned of %q, want the trigger of hidden", warned)
	}
	a.exec("CREATE UNIQUE INDEX ON plain (t)")
	_, err := a.try(bounded(t), a.record(set("plain", k, fields{"t": "y"})))
	if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), "the lanes follow when the sink resumes") {
		t.Errorf("behind a new unique index: %v (%v)", sinks.OutcomeOf(err), err)
	}
	if a.sink.LaneGroup("plain") != "" {
		t.Error("the lanes changed without a Resume")
	}
	if got := a.query("SELECT t FROM plain"); got != "x" {
		t.Errorf("the row says %s", got)
	}
	if _, err := a.sink.Resume(bounded(t), sinks.Claim{Stream: a.cp.Stream, Lanes: 1}); err != nil || a.sink.LaneGroup("plain") != "public.plain" {
		t.Errorf("resumed: %v, group %q", err, a.sink.LaneGroup("plain"))
	}
	_, err = a.sink.Read(bounded(t), "absent", k)
	if errors.Is(err, mutation.ErrNotFound) || sinks.OutcomeOf(err) != sinks.Halt {
		t.Errorf("a read without a table: %v", err)
	}
}
