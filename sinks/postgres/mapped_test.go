package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

var plainValues = map[string]*rapid.Generator[any]{
	"n":   rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.Int64Range(-3, 3), func(n int64) any { return n })),
	"d":   rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.IntRange(-8, 8), func(n int) any { return float64(n) / 4 })),
	"dec": rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.IntRange(0, 99), func(n int) any { return mutation.Decimal(fmt.Sprintf("%d.%02d", n, n)) })),
	"t":   rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.StringMatching("[a-c]{0,3}"), func(s string) any { return s })),
	"j":   rapid.OneOf(rapid.Just[any](nil), rapid.Just[any](map[string]any{"a": 1.5}), rapid.Just[any]([]any{"x", int64(1)})),
	"x":   rapid.OneOf(rapid.Just[any](nil), rapid.Just[any](int64(1)), rapid.Just[any]("text")),
	"y y": rapid.Just[any](2.0),
}

func stringKeys(n int) (keys []*walproxyv1.Key) {
	for i := range n {
		keys = append(keys, mutation.String(fmt.Sprintf("k%d", i)))
	}
	return keys
}

func newWorkload(rt *rapid.T) *workload {
	return &workload{
		rt: rt, collections: []string{"plain"}, keys: stringKeys(4), values: maps.Clone(plainValues),
		numbers: []string{"n", "d", "dec"}, texts: []string{"t"}, clock: time.Unix(1_600_000_000, 0).UTC(),
		ends: rapid.Bool().Draw(rt, "with ends"), events: rapid.Bool().Draw(rt, "with events"),
		conditions: rapid.Bool().Draw(rt, "with conditions"),
	}
}

// TestMappedModel: what a mapped table holds is what mutation.Apply makes of the
// same records, whatever the batches. A field that a record lacks is null there.
func TestMappedModel(t *testing.T) {
	dsn := suiteDatabase(t)
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorkload(rt)
		c := Collection{Pattern: "plain", OverflowColumn: "rest"}
		if rapid.Bool().Draw(rt, "with a version column") {
			c.VersionColumn = "v"
		}
		s := newTarget(rt, dsn, Options{Collections: []Collection{c}}, 1,
			"CREATE TABLE plain (id text PRIMARY KEY, n bigint, d double precision, dec numeric, t text, j jsonb, v bigint, rest jsonb)")
		defer s.end()
		if c.VersionColumn == "" {
			// a plain column then, of which nobody writes
			w.values["v"] = rapid.Just[any](int64(9))
		}
		docs, events := map[string]*mutation.Document{}, map[string]int{}
		for range rapid.IntRange(1, 6).Draw(rt, "batches") {
			records := w.records(rapid.IntRange(1, 8).Draw(rt, "records"))
			if err := s.apply(0, records); err != nil {
				rt.Fatal(err)
			}
			for i := range records {
				m := records[i].Body.GetMutation()
				k := mutation.KeyText(m.GetKey())
				effect, err := mutation.Apply(docs[k], m, records[i].LSN, records[i].Accepted)
				if _, dead := s.dead[records[i].LSN]; dead != (err != nil) {
					rt.Fatalf("LSN %v: the model says %v, the sink's dead letters %v", records[i].LSN, err, s.dead)
				}
				if err != nil || effect.Unchanged {
					continue
				}
				docs[k] = c.normal(effect.Document)
				if events[k] += len(effect.Events); effect.DropEvents {
					events[k] = len(effect.Events)
				}
			}
			for _, key := range w.keys {
				compareDocument(rt, s.sink, "plain", key, docs[mutation.KeyText(key)])
			}
		}
	})
}

// normal is a document as plain gives it back.
func (c Collection) normal(d *mutation.Document) *mutation.Document {
	if d == nil {
		return nil
	}
	n := *d
	n.Fields = maps.Clone(d.Fields)
	names := []string{"n", "d", "dec", "t", "j"}
	if c.VersionColumn == "" {
		names = append(names, "v")
	}
	for _, name := range names {
		if n.Fields[name] == nil {
			n.Fields[name] = mutation.NullValue()
		}
	}
	for _, name := range []string{"d"} { // an int64 is a double there
		if k, ok := n.Fields[name].GetKind().(*walproxyv1.Value_Int64); ok {
			n.Fields[name] = mutation.DoubleValue(float64(k.Int64))
		}
	}
	if k, ok := n.Fields["dec"].GetKind().(*walproxyv1.Value_Int64); ok {
		n.Fields["dec"] = mutation.DecimalValue(fmt.Sprint(k.Int64))
	}
	return &n
}

func compareDocument(rt *rapid.T, s *Sink, collection string, key *walproxyv1.Key, want *mutation.Document) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got, err := s.Read(ctx, collection, key)
	if want.ExpiredAt(time.Now()) {
		want = nil
	}
	switch {
	case want == nil && errors.Is(err, mutation.ErrNotFound):
		return
	case err != nil || want == nil:
		rt.Fatalf("%s: %v, %v; want %v", mutation.KeyText(key), got, err, want)
	}
	same := maps.EqualFunc(got.Fields, want.Fields, func(a, b *walproxyv1.Value) bool { return proto.Equal(a, b) })
	if !same || got.Version != want.Version || !got.ExpiresAt.Equal(want.ExpiresAt) || got.EventCount != want.EventCount {
		rt.Fatalf("%s: version %v, ends %v, %d events, %v\nwant version %v, ends %v, %d events, %v", mutation.KeyText(key),
			got.Version, got.ExpiresAt, got.EventCount, mutation.FieldsToAny(got.Fields),
			want.Version, want.ExpiresAt, want.EventCount, mutation.FieldsToAny(want.Fields))
	}
	events, err := s.ReadEvents(ctx, collection, key, 1, 1000)
	if err != nil || uint64(len(events)) != want.EventCount {
		rt.Fatalf("%s: %d events, %v; want %d", mutation.KeyText(key), len(events), err, want.EventCount)
	}
	for i, e := range events {
		if e.Number != uint64(i)+1 {
			rt.Fatalf("%s: event %d has number %d", mutation.KeyText(key), i+1, e.Number)
		}
	}
}

// TestBatchesAreInvisible: tables that round, compute, default and judge end in
// the same state, with the same dead letters, whether records come one by one or
// in batches.
func TestBatchesAreInvisible(t *testing.T) {
	dsn := suiteDatabase(t)
	var version int
	err := dsn.on(func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version)
	})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorkload(rt)
		money := rapid.Map(rapid.IntRange(-2000, 12000), func(n int) any { return mutation.Decimal(fmt.Sprintf("%d.%03d", n, n&511)) })
		w.values["money"], w.values["five"] = money, w.values["n"]
		w.values["word"] = rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.StringMatching("[ab ]{0,5}"), func(s string) any { return s }))
		w.values["need"] = w.values["t"]
		w.values["serial"] = rapid.Just[any](int64(100))
		w.values["gen"] = rapid.Just[any](int64(1))
		w.numbers, w.texts = append(w.numbers, "money", "five", "gen"), append(w.texts, "word", "need")
		ddl := `CREATE TABLE plain (id text, n int, d real, dec numeric, t text, j jsonb, money numeric(6,2), five int DEFAULT 5,
			word varchar(4), need text NOT NULL DEFAULT 'x', serial bigint GENERATED BY DEFAULT AS IDENTITY,
			gen int GENERATED ALWAYS AS (five * 2) STORED, rest jsonb, PRIMARY KEY (id))`
		log := "CREATE TABLE log (at int, op text, id text, n int)"
		more := map[string]string{
			"partitions": " PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF plain FOR VALUES IN ('k0', 'k1'); CREATE TABLE p2 PARTITION OF plain DEFAULT",
			"check":      "; ALTER TABLE plain ADD CHECK (five > n)",
			"unique":     "; CREATE UNIQUE INDEX ON plain (t, five)",
			"trigger": `; CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				NEW.n := NEW.n * 2; IF NEW.t = 'abc' THEN RAISE 'no abc' USING ERRCODE = 'ABC01'; END IF;
				IF NEW.t = 'c' THEN DELETE FROM plain WHERE id = 'k2' AND id <> NEW.id; END IF; RETURN NEW; END $$;
				CREATE TRIGGER twice BEFORE INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION twice();
				CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				INSERT INTO log SELECT count(*), TG_OP, coalesce(NEW.id, OLD.id), NEW.n FROM log; RETURN NULL; END $$;
				CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION note()`,
			"deferred": "; ALTER TABLE plain ADD UNIQUE (n, d) DEFERRABLE INITIALLY DEFERRED",
		}
		names := slices.Sorted(maps.Keys(more))
		if rapid.Bool().Draw(rt, "partitions") {
			ddl += more["partitions"]
			if names = []string{"check", "trigger"}; version < 130_000 {
				names = names[:1] // 12 has no BEFORE triggers for rows of partitioned tables
			}
		}
		for _, name := range names {
			if name != "partitions" && rapid.Bool().Draw(rt, name) {
				ddl += more[name]
			}
		}
		o := Options{Collections: []Collection{{Pattern: "plain"}}}
		if rapid.Bool().Draw(rt, "overflow") {
			o.Collections[0].OverflowColumn = "rest"
		}
		w.few(rapid.IntRange(2, 4).Draw(rt, "few"))
		w.sql = rapid.Bool().Draw(rt, "with statements")
		one, many := newTarget(rt, dsn, o, 1, log, ddl), newTarget(rt, dsn, o, 1, log, ddl)
		defer one.end()
		defer many.end()
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			records := w.records(rapid.IntRange(2, 16).Draw(rt, "records"))
			for i := range records {
				if err := one.apply(0, records[i:i+1]); err != nil {
					rt.Fatal(err)
				}
			}
			if err := many.apply(0, records); err != nil {
				rt.Fatal(err)
			}
			sameState(rt, one, many, "plain", "log")
		}
	})
}

// sameState compares tables, walproxy's own, and dead letters.
func sameState(rt *rapid.T, one, many *target, tables ...string) {
	if !maps.Equal(one.dead, many.dead) {
		rt.Fatalf("dead letters %v, in batches %v", one.dead, many.dead)
	}
	for _, table := range tables {
		if a, b := one.dump(table), many.dump(table); a != b {
			rt.Fatalf("one by one:\n%s\nin batches:\n%s", a, b)
		}
	}
	for _, own := range []string{"record", "event"} {
		a := one.dump(one.store.options.Schema + "." + own)[len(one.store.options.Schema):]
		b := many.dump(many.store.options.Schema + "." + own)[len(many.store.options.Schema):]
		if a != b {
			rt.Fatalf("one by one:\n%s\nin batches:\n%s", a, b)
		}
	}
}

// TestReadAgain: a batch that writes a record twice sees, the second time, what
// the table made of the first.
func TestReadAgain(t *testing.T) {
	a := newApplier(t, Options{},
		`CREATE TABLE plain (id text PRIMARY KEY, n int, money numeric(6,2), word varchar(4), r real, five int DEFAULT 5, at timestamptz(0), day date, j jsonb)`,
		`CREATE TABLE tripled (id text PRIMARY KEY, n int)`,
		`CREATE FUNCTION triple() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := NEW.n * 3; RETURN NEW; END'`,
		`CREATE TRIGGER triple BEFORE INSERT OR UPDATE ON tripled FOR EACH ROW EXECUTE FUNCTION triple()`)
	k := mutation.String("k")
	for _, c := range []struct {
		what  string
		batch []*walproxyv1.Mutation
		query string
		want  string
	}{
		{"rounded", []*walproxyv1.Mutation{set("plain", k, fields{"money": mutation.Decimal("1.006")}), increment("plain", k, fields{"money": mutation.Decimal("0.004")})},
			"SELECT money FROM plain", "1.01"}, // 1.01 + 0.004 is 1.014; 1.006 + 0.004 would be 1.010
		{"rounded up", []*walproxyv1.Mutation{set("plain", k, fields{"money": mutation.Decimal("1.005")}), increment("plain", k, fields{"money": mutation.Decimal("0.005")})},
			"SELECT money FROM plain", "1.02"},
		{"cut", []*walproxyv1.Mutation{set("plain", k, fields{"word": "abc  "}), must(mutation.Append("plain", k, fields{"word": " "}))},
			"SELECT word || '.' FROM plain", "abc ."},
		{"default", []*walproxyv1.Mutation{set("plain", k, fields{"n": int64(1)}), increment("plain", k, fields{"five": int64(1)})},
			"SELECT five FROM plain", "6"},
		{"default again", []*walproxyv1.Mutation{merge("plain", k, fields{"five": int64(9)}), mutation.Unset("plain", k, []string{"five"}), increment("plain", k, fields{"five": int64(1)})},
			"SELECT five FROM plain", "6"},
		{"null", []*walproxyv1.Mutation{merge("plain", k, fields{"five": nil}), increment("plain", k, fields{"five": int64(1)})},
			"SELECT five FROM plain", "1"},
		{"trigger", []*walproxyv1.Mutation{set("tripled", k, fields{"n": int64(1)}), increment("tripled", k, fields{"n": int64(1)}), increment("tripled", k, fields{"n": int64(1)})},
			"SELECT n FROM tripled", "39"},
		{"new again", []*walproxyv1.Mutation{increment("plain", k, fields{"n": int64(1)}), mutation.Delete("plain", k), increment("plain", k, fields{"five": int64(1)})},
			"SELECT (n, five) FROM plain", "(,1)"},
	} {
		a.put(c.batch...)
		if got := a.query(c.query); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// TestHope: sets that turn out to be of rows that exist are applied all the same,
// and the sink learns from it.
func TestHope(t *testing.T) {
	const rows, rounds = 32, 40
	for name, ddl := range map[string]string{
		"mapped": "CREATE TABLE plain (id text PRIMARY KEY, n bigint)", "document": "CREATE SCHEMA other",
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplier(t, Options{AutoCreate: true}, ddl)
			for round := range rounds {
				var ms []*walproxyv1.Mutation
				for i := range rows {
					ms = append(ms, set("plain", mutation.String(fmt.Sprint(i+2*round/rounds)), fields{"n": int64(round)}))
				}
				a.put(append(ms, ms[0])...)
			}
			h := &a.sink.planner.(*tablePlanner).mapping("plain").flags.hope
			if missed := h.missed.Load(); missed < 2 || missed > 4 {
				t.Errorf("%d disappointments in %d batches of the same rows, want 3", missed, rounds)
			}
			if got := a.query("SELECT count(*) FROM plain"); got != fmt.Sprint(rows+1) {
				t.Errorf("%s rows", got)
			}
			if d := a.get("plain", mutation.String("5")); d == nil || d.Fields["n"].GetInt64() != rounds-1 {
				t.Errorf("read %v", d)
			}
		})
	}
}

// TestSideEffects: what a cascade or a trigger did to another row is seen by the
// next write of that row in the same batch, and rows keep the order of the log
// with tables that only triggers join.
func TestSideEffects(t *testing.T) {
	ddl := append([]string{}, shop...)
	ddl = append(ddl,
		"CREATE TABLE total (id text PRIMARY KEY, n int)", "CREATE TABLE entry (id text PRIMARY KEY, n int)",
		"CREATE FUNCTION sum_up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE total SET n = n + NEW.n; RETURN NULL; END'",
		"CREATE TRIGGER sum_up AFTER INSERT ON entry FOR EACH ROW EXECUTE FUNCTION sum_up()",
		"CREATE TABLE parent (id text PRIMARY KEY, code text UNIQUE)",
		"CREATE TABLE child (id text PRIMARY KEY, code text REFERENCES parent (code) ON UPDATE CASCADE ON DELETE SET NULL, n int)")
	a := newApplier(t, Options{}, ddl...)
	s, one := mutation.String, mutation.Int64(1)
	item := mutation.Composite(one, one)
	for _, c := range []struct {
		what  string
		batch []*walproxyv1.Mutation
		query string
		want  string
	}{
		{"cascade", []*walproxyv1.Mutation{
			set("orders", one, fields{}), set("items", item, fields{"sku": "a", "qty": int64(5)}), increment("items", item, fields{"qty": int64(1)}),
			mutation.Delete("orders", one), set("orders", one, fields{}),
			must(mutation.Merge("items", item, fields{"sku": "b", "qty": int64(1)}, mutation.IfAbsent())), increment("items", item, fields{"qty": int64(1)})},
			"SELECT (sku, qty) FROM items", "(b,2)"},
		{"trigger", []*walproxyv1.Mutation{
			set("total", s("t"), fields{"n": int64(0)}), set("entry", s("a"), fields{"n": int64(5)}), increment("total", s("t"), fields{"n": int64(1)}),
			set("entry", s("b"), fields{"n": int64(7)}), merge("total", s("t"), fields{"n": int64(100)}), set("entry", s("c"), fields{"n": int64(3)}),
			increment("total", s("t"), fields{"n": int64(1)})},
			"SELECT n FROM total", "104"},
		{"on update", []*walproxyv1.Mutation{
			set("parent", s("p"), fields{"code": "x"}), set("child", s("c"), fields{"code": "x", "n": int64(1)}),
			must(mutation.Append("parent", s("p"), fields{"code": "y"})), must(mutation.Append("child", s("c"), fields{"code": ""})), increment("child", s("c"), fields{"n": int64(1)}),
			mutation.Delete("parent", s("p")), set("parent", s("q"), fields{"code": "xy"}), must(mutation.Append("child", s("c"), fields{"code": "xy"}))},
			"SELECT (code, n) FROM child", "(xy,2)"},
	} {
		a.put(c.batch...)
		if got := a.query(c.query); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// TestPatterns: a pattern is one of path.Match, and the tables it fits have what it says.
func TestPatterns(t *testing.T) {
	for pattern, collection := range map[string]string{
		"t": "t", "t*": "t", "*": "t", "a*": "a/b", "*_log": "t_log", "t?": "t1", "[st]2": "t2", `t\?`: "t?", "[x]": "[x]",
	} {
		if !matches(pattern, collection) {
			t.Errorf("%q does not fit %q", pattern, collection)
		}
	}
	for pattern, collection := range map[string]string{"t": "t1", "t?": "t", "*_log": "t_log2", "*b": "a/b", "[st]2": "u2"} {
		if matches(pattern, collection) {
			t.Errorf("%q fits %q", pattern, collection)
		}
	}
	a := newApplier(t, Options{Collections: []Collection{{Pattern: "*_log", OverflowColumn: "rest"}}}, "CREATE TABLE t_log (id text PRIMARY KEY, rest jsonb)")
	a.put(set("t_log", mutation.String("k"), fields{"n": int64(1)}))
	if got := a.query("SELECT rest ->> 'n' FROM t_log"); got != "1" {
		t.Errorf("%q", got)
	}
	for _, c := range []Collection{
		{Pattern: "t?", Table: "x"}, {Pattern: "*_log", Table: "x"}, {Pattern: "[st]", Events: &Events{Table: "x"}}, {Pattern: "[st"},
	} {
		if _, err := newPlanner(Options{Collections: []Collection{c}}); err == nil {
			t.Errorf("%q is accepted", c.Pattern)
		}
	}
	if _, err := newPlanner(Options{Collections: []Collection{{Pattern: `t\?`, Table: "x"}}}); err != nil {
		t.Error(err)
	}
}
