package catalogue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// session connects to a database of its own.
func session(t *testing.T, dsn string) Query {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return func(ctx context.Context, sql string) ([][]string, error) { return pgtest.Texts(ctx, conn, sql) }
}

func run(t *testing.T, query Query, sql string) {
	t.Helper()
	if _, err := query(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func declare(names ...string) (tables []Declared) {
	for _, name := range names {
		schema, name, _ := strings.Cut(name, ".")
		tables = append(tables, Declared{Schema: schema, Name: name, Collection: name})
	}
	return tables
}

func mustLoad(t *testing.T, query Query, tables []Declared) *Snapshot {
	t.Helper()
	s, err := Load(t.Context(), query, tables)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestColumns(t *testing.T) {
	query := session(t, pgtest.Shared(t).Database(t))
	run(t, query, `CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s'); CREATE DOMAIN short AS varchar(3) DEFAULT 'a' NOT NULL;
		CREATE SCHEMA "My ""S"; CREATE SEQUENCE "My ""S".seq;
		CREATE TABLE "My ""S"."T'\" (gone int, id serial, big bigint GENERATED ALWAYS AS IDENTITY, "Name" varchar(10) NOT NULL DEFAULT 'x',
		 price numeric(6,2) DEFAULT 0, feeling mood, feelings mood[], s short, at timestamptz DEFAULT now(), day date DEFAULT CURRENT_DATE,
		 key uuid DEFAULT gen_random_uuid(), r float8 DEFAULT random(), n int DEFAULT nextval('"My ""S".seq'), doubled int GENERATED ALWAYS AS (n * 2) STORED,
		 tags text[] DEFAULT '{}', flag bool DEFAULT true, negative int DEFAULT -5, nothing int DEFAULT NULL, whole text DEFAULT upper('a'),
		 PRIMARY KEY ("Name", id));
		ALTER TABLE "My ""S"."T'\" DROP COLUMN gone`)
	s := mustLoad(t, query, []Declared{{Schema: `My "S`, Name: `T'\`, Key: []string{"id", "Name"}}})
	table := s.Tables[0]
	if table.Refused != Accepted || table.PrimaryKey != `T'\_pkey` {
		t.Fatalf("refused: %v %s; key %q", table.Refused, table.Detail, table.PrimaryKey)
	}
	var said []string
	for _, c := range table.Columns {
		said = append(said, fmt.Sprintf("%d %s %s %d %v %d %d %q %v %v", c.Number, c.Name, c.Type.Display, c.Modifier, c.NotNull,
			c.Default.Kind, c.Default.Func, c.Default.Sequence, c.Generated, c.Always))
	}
	want := []string{
		`2 id integer -1 true 2 6 "\"My \"\"S\".\"T'\\_id_seq\"" false false`,
		`3 big bigint -1 true 2 6 "\"My \"\"S\".\"T'\\_big_seq\"" false true`,
		`4 Name character varying 14 true 1 0 "" false false`,
		`5 price numeric 393222 false 1 0 "" false false`,
		`6 feeling public.mood -1 false 0 0 "" false false`,
		`7 feelings public.mood[] -1 false 0 0 "" false false`,
		`8 s public.short -1 false 0 0 "" false false`,
		`9 at timestamp with time zone -1 false 2 1 "" false false`,
		`10 day date -1 false 2 4 "" false false`,
		`11 key uuid -1 false 2 5 "" false false`,
		`12 r double precision -1 false 3 0 "" false false`,
		`13 n integer -1 false 2 6 "\"My \"\"S\".seq" false false`,
		`14 doubled integer -1 false 0 0 "" true false`,
		`15 tags text[] -1 false 1 0 "" false false`,
		`16 flag boolean -1 false 1 0 "" false false`,
		`17 negative integer -1 false 1 0 "" false false`,
		`18 nothing integer -1 false 0 0 "" false false`,
		`19 whole text -1 false 3 0 "" false false`,
	}
	if !slices.Equal(said, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{"Name": "x", "price": "0", "tags": "{}", "flag": "true", "negative": "-5", "id": ""} {
		if got := table.Column(name).Default.Text; got != want {
			t.Errorf("the default of %s is %q, want %q", name, got, want)
		}
	}
	if mood := table.Column("feeling").Type; mood.Kind != EnumType || !slices.Equal(mood.Labels, []string{"sad", "ok", "it's"}) {
		t.Errorf("the enum is %+v", mood)
	}
	if list := table.Column("feelings").Type; list.Kind != ArrayType || list.Element.Kind != EnumType {
		t.Errorf("the array is %+v", list)
	}
	if domain := table.Column("s").Type; domain.Kind != DomainType || domain.Plain().Name != "varchar" || domain.BaseModifier != 7 || !domain.NotNull || !domain.HasDefault {
		t.Errorf("the domain is %+v", domain)
	}
	if key := table.KeyColumns; key[0].Name != "id" || key[1].Name != "Name" {
		t.Errorf("the key is %v", key)
	}
}

func TestRefusals(t *testing.T) {
	query := session(t, pgtest.Shared(t).Database(t))
	run(t, query, `CREATE TABLE plain (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1 AS id; CREATE TABLE nokey (id int);
		CREATE TABLE floating (id float8 PRIMARY KEY); CREATE TABLE padded (id char(3) PRIMARY KEY);
		CREATE TABLE secure (id int PRIMARY KEY); ALTER TABLE secure ENABLE ROW LEVEL SECURITY;
		CREATE TABLE ruled (id int PRIMARY KEY); CREATE RULE r AS ON DELETE TO ruled DO INSTEAD NOTHING;
		CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TABLE triggered (id int PRIMARY KEY); CREATE TRIGGER g BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION f();
		CREATE TABLE child (id int PRIMARY KEY REFERENCES plain); CREATE TABLE checked (id int PRIMARY KEY CHECK (id > 0));
		CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE indomain (id int PRIMARY KEY, n positive);
		CREATE TABLE heir () INHERITS (nokey); ALTER TABLE heir ADD PRIMARY KEY (id);
		CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
		CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (9);
		CREATE TABLE trigparts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE trigpart1 PARTITION OF trigparts FOR VALUES FROM (0) TO (9);
		CREATE TRIGGER g BEFORE INSERT ON trigpart1 FOR EACH ROW EXECUTE FUNCTION f();
		CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)`)
	wants := map[string]Refusal{"plain": ForeignKey, "v": NoTable, "nokey": Inheritance, "floating": KeyForm, "padded": KeyForm, "secure": RowSecurity,
		"ruled": Rules, "triggered": Triggers, "child": ForeignKey, "checked": Checks, "indomain": Checks, "heir": Inheritance, "late": Exclusion,
		"parts": Accepted, "trigparts": Triggers, "always": KeyForm, "absent": Missing}
	safe := map[string]Refusal{"plain": Accepted, "triggered": Accepted, "child": Accepted, "checked": Accepted, "indomain": Accepted, "trigparts": Accepted}
	var tables []Declared
	for name := range wants {
		tables = append(tables, Declared{Schema: "public", Name: name})
	}
	for _, safely := range []bool{false, true} {
		for i := range tables {
			tables[i].Safe = safely
		}
		for _, table := range mustLoad(t, query, tables).Tables {
			want := wants[table.Name]
			if r, ok := safe[table.Name]; safely && ok {
				want = r
			}
			if table.Refused != want {
				t.Errorf("table %s, safe %v: %v (%s), want %v", table.Name, safely, table.Refused, table.Detail, want)
			}
		}
	}
	for _, key := range [][]string{{"other"}, {"id", "id"}} {
		if got := mustLoad(t, query, []Declared{{Schema: "public", Name: "parts", Key: key}}).Tables[0].Refused; got != NoKey {
			t.Errorf("key %v: %v", key, got)
		}
	}
}

func TestResolve(t *testing.T) {
	query := session(t, pgtest.Shared(t).Database(t))
	run(t, query, `CREATE SCHEMA a; CREATE SCHEMA b; CREATE SCHEMA ann; CREATE TABLE a.t (id int PRIMARY KEY); CREATE TABLE b.t (id int PRIMARY KEY);
		CREATE TABLE ann.u (id int PRIMARY KEY); CREATE VIEW b.u AS SELECT 1`)
	s := mustLoad(t, query, declare("a.t", "ann.u"))
	for _, c := range []struct {
		schema, name, path, want string
	}{
		{"a", "t", "", "a.t"}, {"b", "t", "a", ""}, {"", "t", "a,b", "a.t"}, {"", "t", "b,a", ""}, {"", "t", "c,a", "a.t"}, {"", "t", "pg_temp,a", ""},
		{"", "t", "", ""}, {"", "u", "$user,b", "ann.u"}, {"", "u", "b,$user", ""}, {"", "x", "a", ""},
	} {
		got := s.Resolve(statement.Name{Schema: c.schema, Name: c.name}, strings.Split(c.path, ","), "ann")
		if got == nil && c.want != "" || got != nil && got.String() != c.want {
			t.Errorf("%q.%q in %q is %v, want %q", c.schema, c.name, c.path, got, c.want)
		}
	}
}

func TestPrivileges(t *testing.T) {
	cluster := pgtest.Shared(t)
	role, stranger := cluster.CreateRole(t), cluster.CreateRole(t)
	query := session(t, cluster.Database(t))
	run(t, query, `CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); GRANT SELECT, INSERT ON s.t TO `+role+`; GRANT ALL ON s.t TO `+stranger+`; GRANT USAGE ON SCHEMA s TO `+role)
	table := mustLoad(t, query, declare("s.t")).Tables[0]
	if !table.May(role, MaySelect|MayInsert) || table.May(role, MayUpdate) || table.May(role, MayInsert|MayDelete) {
		t.Errorf("privileges of %s are %v", role, table.privileges[role])
	}
	if table.May(stranger, MayInsert) || table.May("nobody", MaySelect) {
		t.Error("who may not use the schema may write")
	}
}

func TestTouched(t *testing.T) {
	query := session(t, pgtest.Shared(t).Database(t))
	run(t, query, `CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE other (id int);
		CREATE TABLE child (id int, t int REFERENCES t ON DELETE CASCADE); CREATE VIEW v AS SELECT * FROM t;
		CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (9);
		CREATE FUNCTION peek(int, int) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM t';
		CREATE FUNCTION step(bigint, int) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM t';
		CREATE AGGREGATE total (int) (SFUNC = step, STYPE = bigint);
		CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TABLE triggered (id int); CREATE TRIGGER g AFTER INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION trig();
		CREATE FUNCTION fine(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true'; CREATE DOMAIN fined AS int CHECK (fine(VALUE));
		CREATE TABLE defaulted (id int DEFAULT peek(1, 2)); CREATE TABLE judged (id int CHECK (fine(id))); CREATE TABLE domained (id fined);
		CREATE TABLE indexed (id int); CREATE INDEX ON indexed (fine(id)); CREATE TABLE innocent (id int DEFAULT abs(-1) CHECK (id > 0));
		CREATE OPERATOR <~~> (LEFTARG = int, RIGHTARG = int, FUNCTION = peek)`)
	s := mustLoad(t, query, declare("public.t", "public.u", "public.parts"))
	names := func(tables []*Table) string {
		var list []string
		for _, t := range tables {
			list = append(list, t.Name)
		}
		return strings.Join(list, " ")
	}
	for text, want := range map[string]string{
		"SELECT * FROM t":                                 "t / ",
		`SELECT 1 FROM "t", public.U`:                     "t u / ",
		"SELECT * FROM other WHERE lower('a') = 'a'":      " / ",
		"SELECT * FROM other o JOIN t ON true FOR UPDATE": "t / t",
		"SELECT * FROM v":                                 "all",
		"SELECT peek(1, 2)":                               "all",
		"SELECT total(1)":                                 "all",
		"SELECT 1 <~~> 2":                                 "all",
		"SELECT 1 <> 2":                                   " / ",
		"SELECT query_to_xml('x', true, true, '')":        "all",
		"SELECT * FROM child":                             " / ",
		"SELECT * FROM part1":                             "parts / ",
		"INSERT INTO child VALUES (1, 1)":                 "t / t",
		"DELETE FROM part1":                               "parts / parts",
		"INSERT INTO other SELECT id FROM u":              "u / ",
		"UPDATE u SET id = 1 WHERE id = 2":                "u / u",
		"INSERT INTO triggered VALUES (1)":                "all",
		"SELECT * FROM triggered":                         " / ",
		"INSERT INTO defaulted VALUES (1)":                "all",
		"INSERT INTO judged VALUES (1)":                   "all",
		"UPDATE domained SET id = 1":                      "all",
		"DELETE FROM indexed":                             "all",
		"INSERT INTO innocent VALUES (1)":                 " / ",
		"SELECT * FROM judged, defaulted":                 " / ",
		"CREATE INDEX ON other (id)":                      " / ",
		"ALTER TABLE t ADD x int":                         "t / t",
		"CALL x()":                                        "all",
		"BEGIN":                                           " / ",
	} {
		reads, writes, all := s.Touched(statement.Parse(text, false).Statements[0])
		said := names(reads) + " / " + names(writes)
		if all {
			said = "all"
		}
		if said != want {
			t.Errorf("%s: touches %q, want %q", text, said, want)
		}
	}
	run(t, query, `CREATE TYPE pair AS (a int); CREATE FUNCTION pair_int(pair) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE CAST (pair AS int) WITH FUNCTION pair_int(pair) AS IMPLICIT`)
	s = mustLoad(t, query, declare("public.t"))
	if _, _, all := s.Touched(statement.Parse("SELECT 1", false).Statements[0]); !all {
		t.Error("a cast that nobody writes out may read a table")
	}
}

func TestWatchSeesChanges(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	query, other := session(t, dsn), session(t, dsn)
	run(t, other, `CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN d AS int; CREATE TABLE t (id int PRIMARY KEY, m mood, n d)`)
	w := NewWatch(query, declare("public.t"), time.Hour, nil)
	if w.Current() != nil {
		t.Error("there is a snapshot before anything was read")
	}
	last, err := w.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{
		"ALTER TABLE t ADD a int", "ALTER TABLE t ALTER a SET DEFAULT 5", "ALTER TABLE t ALTER a SET NOT NULL", "ALTER TYPE mood ADD VALUE 'ok'",
		"ALTER DOMAIN d SET NOT NULL", "ALTER TABLE t RENAME a TO b", "CREATE VIEW v AS SELECT * FROM t", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE TABLE child (t int REFERENCES t)", "REVOKE ALL ON t FROM PUBLIC", "GRANT SELECT ON t TO PUBLIC", "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
		"CREATE SCHEMA s", "CREATE TABLE s.t (id int)", "ALTER TABLE t ADD CHECK (id > 0)", "DROP TABLE t CASCADE",
	} {
		same, err := w.Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if same != last {
			t.Errorf("before %q the catalogue was read again although nothing had changed", change)
		}
		run(t, other, change)
		now, err := w.Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now == last {
			t.Errorf("%q was not noticed", change)
		}
		last = now
	}
	w.Changed()
	if w.Current() != nil {
		t.Error("what may have changed is still used")
	}
}

func TestWatchRuns(t *testing.T) {
	query := session(t, pgtest.Shared(t).Database(t))
	run(t, query, "CREATE TABLE t (id int PRIMARY KEY)")
	ctx, cancel := context.WithCancel(t.Context())
	w := NewWatch(query, declare("public.t"), time.Hour, nil)
	ended := make(chan struct{})
	go func() { w.Run(ctx); close(ended) }()
	wait := func() *Snapshot {
		deadline := time.Now().Add(time.Minute)
		for w.Current() == nil {
			if time.Now().After(deadline) {
				t.Fatal("no snapshot after a minute")
			}
			time.Sleep(time.Millisecond)
		}
		return w.Current()
	}
	first := wait()
	w.Changed()
	if again := wait(); again == first || again.Signature != first.Signature {
		t.Error("the catalogue was not read again")
	}
	cancel()
	<-ended
}

// TestWatchWaitsNoLonger: while one question hangs, others wait no longer than they can.
func TestWatchWaitsNoLonger(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	w := NewWatch(func(ctx context.Context, _ string) ([][]string, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}, nil, time.Hour, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var hanging sync.WaitGroup
	hanging.Go(func() { _, _ = w.Ask(ctx, "SELECT 1") })
	defer hanging.Wait()
	defer cancel()
	<-asked
	for name, f := range map[string]func(context.Context) error{
		"Ask":     func(ctx context.Context) error { _, err := w.Ask(ctx, "SELECT 1"); return err },
		"Refresh": func(ctx context.Context) error { _, err := w.Refresh(ctx); return err },
		"Await":   func(ctx context.Context) error { _, err := w.Await(ctx); return err },
	} {
		late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := f(late); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}
