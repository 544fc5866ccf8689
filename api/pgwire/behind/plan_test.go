package behind

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestWhy(t *testing.T) {
	role := pgtest.Shared(t).CreateRole(t)
	r := newRig(t, modelDDL+`CREATE TABLE odd (id int PRIMARY KEY, g int GENERATED ALWAYS AS (1) STORED, i int GENERATED ALWAYS AS IDENTITY, x float8 DEFAULT random(),
		p point, m varchar(3), nn varchar(3) NOT NULL DEFAULT 'a', UNIQUE (m)); CREATE TABLE plain (id int);
		GRANT INSERT ON t TO `+role, catalogue.Declared{Name: "t"}, catalogue.Declared{Name: "pair"}, catalogue.Declared{Name: "odd"})
	for _, c := range []struct {
		sql   string
		types []uint32
		want  string
	}{
		{"SELECT 1", nil, "no_write"},
		{"INSERT INTO t (id, name) VALUES (1, 'x') RETURNING id", nil, "returning"},
		{"INSERT INTO plain VALUES (1)", nil, "not_declared"},
		{"INSERT INTO other.t VALUES (1)", nil, "not_declared"},
		{"INSERT INTO t (id, nosuch) VALUES (1, 2)", nil, "columns"},
		{"INSERT INTO pair VALUES (1, 2, 3, 4, 5)", nil, "columns"},
		{"INSERT INTO t (name) VALUES ('x')", nil, "none"}, // refused: the key is null
		{"INSERT INTO pair (a, b, w) VALUES (1, 'x', 'y') ON CONFLICT (a) DO NOTHING", nil, "conflict_key"},
		{"INSERT INTO t (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET id = 2", nil, "key"},
		{"INSERT INTO t (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.note", nil, "types"},
		{"INSERT INTO t (id, name) VALUES (1, 'x') ON CONFLICT ON CONSTRAINT other DO NOTHING", nil, "conflict_key"},
		{"UPDATE t SET name = 'x' WHERE name = 'y'", nil, "key"},
		{"UPDATE pair SET w = 'x' WHERE a = 1", nil, "key"},
		{"UPDATE t SET id = 2 WHERE id = 1", nil, "key"},
		{"UPDATE t SET name = DEFAULT WHERE id = 1", nil, "defaults"},
		{"DELETE FROM t WHERE id = 1.5", nil, "types"},
		{"DELETE FROM t WHERE id = '1'::text", nil, "types"},
		{"DELETE FROM t WHERE id = NULL", nil, "value"},
		{"INSERT INTO odd (id, x) VALUES (1, 2)", nil, "none"},
		{"INSERT INTO odd (id) VALUES (1)", nil, "defaults"},
		{"INSERT INTO odd (id, x, g) VALUES (1, 2, 3)", nil, "columns"},
		{"INSERT INTO odd (id, x, i) VALUES (1, 2, 3)", nil, "columns"},
		{"INSERT INTO odd (id, x, p) VALUES (1, 2, '(1,2)')", nil, "value"},
		{"INSERT INTO t (id, name) VALUES (1, 5)", nil, "types"},
		{"INSERT INTO t (id, name) VALUES (1, true)", nil, "types"},
		{"INSERT INTO t (id, name) VALUES (1, now())", nil, "types"},
		{"INSERT INTO t (id, name) VALUES ($1, $2)", []uint32{25}, "types"},
		{"INSERT INTO t (id, name) VALUES ($1, $2)", []uint32{600}, "types"},
		{"INSERT INTO t (id, name) VALUES ($1, $1)", nil, "types"},
		{"INSERT INTO t (id, name) VALUES ($1, $3)", nil, "types"},
		{"INSERT INTO t (id, name) VALUES (1, 'x'), (1, 'y')", nil, "repeated"},
		{"INSERT INTO t (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'toolong'", nil, "value"},
		{"UPDATE t SET name = NULL WHERE id = 1", nil, "value"},
		{"UPDATE t SET u = 'a0' WHERE id = '2147483648'", nil, "value"}, // PostgreSQL looks at WHERE first
		{"INSERT INTO t (id, name, at) VALUES (1, 'x', 'now')", nil, "value"},
	} {
		a := attempt{sql: c.sql, types: c.types}
		plan, _, _, why := r.judge(a)
		got := "none"
		if why != nil {
			got = why.Label()
			if why.String() == "" {
				t.Errorf("%s: no words for it", c.sql)
			}
		} else if plan == nil {
			t.Errorf("%s: no plan", c.sql)
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.sql, got, why, c.want)
		}
	}
	r.session.Role = role
	for sql, want := range map[string]string{
		"INSERT INTO t (id, name) VALUES (1, 'x')":                        "none",
		"INSERT INTO t (id, name) VALUES (1, 'x') ON CONFLICT DO NOTHING": "privilege",
		"DELETE FROM t WHERE id = 1":                                      "privilege",
		"INSERT INTO pair (a, b, w) VALUES (1, 'x', 'y')":                 "privilege",
	} {
		if _, _, _, why := r.judge(attempt{sql: sql}); why == nil && want != "none" || why != nil && why.Label() != want {
			t.Errorf("%s as %s: %v, want %s", sql, role, why, want)
		}
	}
	r.session.Role, r.session.SearchPath = pgtest.Superuser, []string{"public", "pg_catalog"}
	if _, _, _, why := r.judge(attempt{sql: "INSERT INTO t (id, name) VALUES (1, 'x')"}); why == nil {
		t.Error("a search path on which now() may be another function is taken")
	}
}

// TestTexts: what is logged is one text for the ways to say it.
func TestTexts(t *testing.T) {
	r := newRig(t, modelDDL, catalogue.Declared{Name: "t"})
	ids := map[string]bool{}
	for _, a := range []attempt{
		{sql: "INSERT INTO t (id, name) VALUES ($1, $2)", values: [][]byte{[]byte("1"), []byte("x")}},
		{sql: "insert into public.t(name,id) values ('x', 1)"},
		{sql: `INSERT INTO "t" AS other (id, name) VALUES (1, 'x'), (2, 'y')`},
		{sql: "INSERT INTO t VALUES (1, 'x', DEFAULT, DEFAULT)"}, // these two are left out, too
	} {
		_, rows, refusal, why := r.judge(a)
		if refusal != nil || why != nil {
			t.Fatalf("%s: %v %v", a.sql, refusal, why)
		}
		for _, row := range rows {
			ids[fmt.Sprint(row.Text.SQL, row.Text.OIDs)] = true
			if want := `INSERT INTO "public"."t" ("id", "name") VALUES ($1, $2)`; row.Text.SQL != want || len(row.Text.OIDs) != 2 {
				t.Errorf("%s is logged as %s %v", a.sql, row.Text.SQL, row.Text.OIDs)
			}
		}
	}
	if len(ids) != 1 {
		t.Errorf("texts: %v", ids)
	}
	_, rows, _, why := r.judge(attempt{sql: "INSERT INTO t (id, name) VALUES ($1, $2)", types: []uint32{20}, values: [][]byte{[]byte("1"), []byte("x")}})
	if why != nil || ids[fmt.Sprint(rows[0].Text.SQL, rows[0].Text.OIDs)] {
		t.Error("a parameter of another type makes no other text")
	}
}

// TestParameterDescription: clients are told the types that the server would tell.
func TestParameterDescription(t *testing.T) {
	r := newRig(t, modelDDL, catalogue.Declared{Name: "t"}, catalogue.Declared{Name: "pair"})
	for _, c := range []struct {
		sql   string
		types []uint32
	}{
		{"INSERT INTO t (id, name, price, at, note, ok, feeling, n, tags, u, f, d, s, ts, j) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)", nil},
		{"INSERT INTO t (id, name, n) VALUES ($1, $2, $3)", []uint32{20, 0, 23}},
		{"INSERT INTO t (id, name) VALUES ($1::int8, $2)", nil},
		{"INSERT INTO t (id, name) VALUES ($1, $2)", []uint32{0, 0, 25}},
		{"UPDATE t SET name = $2, note = $3 WHERE id = $1", nil},
		{"UPDATE pair SET v = $1 WHERE b = $2 AND a = $3", nil},
		{"DELETE FROM pair WHERE b = $1 AND $2 = a", nil},
		{"INSERT INTO pair (a, b, w) VALUES ($1, $2, $3) ON CONFLICT (b, a) DO UPDATE SET v = $4, w = $3", nil},
	} {
		described, err := r.conn.Prepare(t.Context(), "", c.sql, c.types)
		if err != nil {
			t.Fatalf("%s: %v", c.sql, err)
		}
		text := r.cache.Parse(c.sql, false)
		plan, why := Prepare(r.known, text.Statements[0], c.types, r.session)
		if why != nil {
			t.Errorf("%s: %v", c.sql, why)
			continue
		}
		if !slices.Equal(plan.Parameters, described.ParamOIDs) {
			t.Errorf("%s: parameters %v, the server says %v", c.sql, plan.Parameters, described.ParamOIDs)
		}
	}
}

// TestFunctions: what is evaluated at the ack is what the row gets.
func TestFunctions(t *testing.T) {
	r := newRig(t, `CREATE SEQUENCE s; CREATE TABLE f (id serial PRIMARY KEY, at timestamptz DEFAULT now(), local timestamp DEFAULT localtimestamp, day date DEFAULT CURRENT_DATE,
		u uuid DEFAULT gen_random_uuid(), n int8 DEFAULT nextval('s'), c timestamptz DEFAULT clock_timestamp(), k int DEFAULT 5)`, catalogue.Declared{Name: "f"})
	r.session.TimeZone = "Asia/Kathmandu"
	var err error
	if r.session.Location, err = time.LoadLocation(r.session.TimeZone); err != nil {
		t.Fatal(err)
	}
	r.must("SET TimeZone = 'Asia/Kathmandu'")
	for i, sql := range []string{"INSERT INTO f DEFAULT VALUES", "INSERT INTO f (at, local, day, u, n, c) VALUES (now(), LOCALTIMESTAMP, current_date, gen_random_uuid(), nextval('public.s'), clock_timestamp())"} {
		plan, rows, refusal, why := r.judge(attempt{sql: sql})
		if refusal != nil || why != nil {
			t.Fatalf("%s: %v %v", sql, refusal, why)
		}
		if tag, err := r.apply(plan, rows[0]); err != nil || tag != "INSERT 0 1" {
			t.Fatalf("%s: %s %v", rows[0].Text.SQL, tag, err)
		}
		if key := rows[0].Key.GetString_(); key != fmt.Sprint(r.next-1) && key != fmt.Sprint(r.next) {
			t.Errorf("the key is %q, the sequence is at %d", key, r.next)
		}
		row := r.must("SELECT abs(extract(epoch FROM now() - at)) < 60, at::timestamp = local, at::date = day, u IS NOT NULL, n > 100, abs(extract(epoch FROM now() - c)) < 60, k = 5 FROM f ORDER BY id OFFSET " + fmt.Sprint(i))[0]
		if slices.Contains(row, "f") || slices.Contains(row, "") {
			t.Errorf("%s: %v", sql, row)
		}
	}
	if count := r.must("SELECT count(DISTINCT u) FROM f")[0][0]; count != "2" {
		t.Errorf("%s different UUIDs", count)
	}
	r.session.Location = nil
	if _, _, _, why := r.judge(attempt{sql: "INSERT INTO f DEFAULT VALUES"}); why == nil {
		t.Error("a local time without a zone is taken")
	}
}

// TestZones: a text without a zone is stored as the session that wrote it means it.
func TestZones(t *testing.T) {
	r := newRig(t, "CREATE TABLE z (id int PRIMARY KEY, at timestamptz, n int)", catalogue.Declared{Name: "z"})
	r.session.TimeZone = "America/New_York"
	plan, rows, _, why := r.judge(attempt{sql: "INSERT INTO z (id, at) VALUES (1, '2026-01-01 00:00')"})
	if why != nil {
		t.Fatal(why)
	}
	record := plan.Record(rows[0], r.session)
	if record.GetSettings()["TimeZone"] != "America/New_York" || record.GetSearchPath() != `"public"` {
		t.Errorf("the record says %v, %q", record.GetSettings(), record.GetSearchPath())
	}
	plan, rows, _, why = r.judge(attempt{sql: "INSERT INTO z (id, n) VALUES (1, 2)"})
	if why != nil {
		t.Fatal(why)
	}
	if s := plan.Record(rows[0], r.session).GetSettings(); len(s) > 0 {
		t.Errorf("a record without times has settings %v", s)
	}
}
