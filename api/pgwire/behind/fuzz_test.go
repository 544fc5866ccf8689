package behind

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/mutation"
)

// canned answers what the catalogue asks as a server with one table would:
// t (id int PRIMARY KEY, name varchar(5) NOT NULL, price numeric(6,2), at timestamptz).
func canned(_ context.Context, sql string) ([][]string, error) {
	answers := []struct {
		part string
		rows [][]string
	}{
		{"SELECT pg_catalog.string_agg(s", [][]string{{"signature"}}},
		{"getdatabaseencoding", [][]string{{"0", "1", "r", "p", "f", "f", "UTF8", "f", "f", "f", "f", "f"}}},
		{"WITH RECURSIVE ty", [][]string{
			{"23", "pg_catalog", "int4", "integer", "b", "N", "0", "-1", "f", "0", "f", "f"},
			{"1043", "pg_catalog", "varchar", "character varying", "b", "S", "0", "-1", "f", "0", "f", "f"},
			{"1700", "pg_catalog", "numeric", "numeric", "b", "N", "0", "-1", "f", "0", "f", "f"},
			{"1184", "pg_catalog", "timestamptz", "timestamp with time zone", "b", "D", "0", "-1", "f", "0", "f", "f"}}},
		{"SELECT a.attrelid", [][]string{
			{"1", "1", "id", "23", "-1", "t", "", "", "nextval('public.s'::regclass)", "t", ""},
			{"1", "2", "name", "1043", "9", "t", "", "", "", "t", ""},
			{"1", "3", "price", "1700", "393222", "f", "", "", "0", "t", ""},
			{"1", "4", "at", "1184", "-1", "f", "", "", "now()", "t", ""}}},
		{"i.indkey", [][]string{{"1", "t_pkey", "1"}}},
		{"has_sequence_privilege", [][]string{{"public.s", "public", "7", "8", "me"}}},
		{"has_table_privilege", [][]string{{"1", "me", "15"}}},
		{"SELECT n.nspname, c.relname, c.oid", [][]string{{"public", "t", "1"}}},
	}
	for _, a := range answers {
		if strings.Contains(sql, a.part) {
			return a.rows, nil
		}
	}
	return nil, nil
}

// FuzzBind: no text and no values make a plan panic, and what is logged can be logged.
func FuzzBind(f *testing.F) {
	known, err := catalogue.Load(context.Background(), canned, []catalogue.Declared{{Schema: "public", Name: "t", Collection: "t"}})
	if err != nil || known.Tables[0].Refused != catalogue.Accepted {
		f.Fatal(err, known.Tables[0].Refused)
	}
	for _, text := range []string{
		"INSERT INTO t (id, name, price, at) VALUES ($1, $2, $3, $4)", "INSERT INTO t (name) VALUES ('x'), ($1)", "INSERT INTO t VALUES (-1, '', -1.5, now())",
		"INSERT INTO t (id, name) VALUES ($1::int8, $2) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, price = $3, at = DEFAULT",
		"UPDATE t SET name = $1, price = 99999999999999999999 WHERE id = $2", "DELETE FROM t WHERE $1 = id", "DELETE FROM t WHERE id = '5'", "INSERT INTO t DEFAULT VALUES",
	} {
		f.Add(text, uint32(0), byte(0), "1\x01x\x011.5\x012026-01-01")
		f.Add(text, uint32(20), byte(2), "\x00\x00\x00\x07\x01x")
	}
	session := &Session{Role: "me", SearchPath: []string{"public"}, TimeZone: "UTC", Location: time.UTC}
	f.Fuzz(func(t *testing.T, sql string, declared uint32, flags byte, values string) {
		text := statement.Parse(sql, false)
		e := &Execution{Text: text, SQL: sql, Formats: []int16{int16(flags >> 1 & 1)}, Now: time.Now(), Started: time.Now(), Clock: time.Now, UUID: uuid.NewRandom,
			Next: func(*catalogue.Sequence) (int64, bool) { return 5, flags&4 == 0 }}
		var types []uint32
		if declared != 0 {
			types = []uint32{declared}
		}
		for _, st := range text.Statements {
			plan, why := Prepare(known, st, types, session)
			if (plan == nil) == (why == nil) {
				t.Fatalf("%q: plan %v, why %v", sql, plan, why)
			}
			if plan == nil {
				continue
			}
			e.Values = nil
			for v := range strings.SplitSeq(values, "\x01") {
				if e.Values = append(e.Values, []byte(v)); v == "null" {
					e.Values[len(e.Values)-1] = nil
				}
			}
			e.Values = append(e.Values, make([][]byte, max(0, len(plan.Parameters)-len(e.Values)))...)[:len(plan.Parameters)]
			rows, refusal, why := plan.Bind(session, e)
			if refusal != nil && (why != nil || len(refusal.Code) != 5 || refusal.Message == "") || why == nil && refusal == nil && len(rows) == 0 {
				t.Fatalf("%q: %v, %v, %v", sql, rows, refusal, why)
			}
			for _, row := range rows {
				if why != nil {
					break
				}
				if err := mutation.ValidateStatement(plan.Record(row, session)); err != nil {
					t.Fatalf("%q: %v", sql, err)
				}
				again := statement.Parse(row.Text.SQL, false).Statements
				if len(again) != 1 || again[0].Write == nil || again[0].Write.Parameters != len(row.Values) {
					t.Fatalf("%q is logged as %q, which cannot be written behind", sql, row.Text.SQL)
				}
			}
		}
	})
}

func BenchmarkBind(b *testing.B) {
	known, err := catalogue.Load(context.Background(), canned, []catalogue.Declared{{Schema: "public", Name: "t", Collection: "t"}})
	if err != nil {
		b.Fatal(err)
	}
	session := &Session{Role: "me", SearchPath: []string{"public"}, TimeZone: "UTC", Location: time.UTC}
	const sql = "INSERT INTO t (id, name, price, at) VALUES ($1, $2, $3, $4)"
	text := statement.Parse(sql, false)
	plan, why := Prepare(known, text.Statements[0], nil, session)
	if why != nil {
		b.Fatal(why)
	}
	e := &Execution{Text: text, SQL: sql, Values: [][]byte{[]byte("42"), []byte("name"), []byte("12.50"), []byte("2026-01-02 03:04:05")}, Now: time.Now()}
	b.Run("prepare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Prepare(known, text.Statements[0], nil, session)
		}
	})
	b.Run("bind", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rows, _, why := plan.Bind(session, e)
			if why != nil {
				b.Fatal(why)
			}
			plan.Record(rows[0], session)
		}
	})
}
