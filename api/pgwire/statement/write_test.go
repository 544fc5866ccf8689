package statement

import (
	"reflect"
	"testing"
)

func TestEligible(t *testing.T) {
	p := func(n int) Value { return Value{Source: Parameter, N: n} }
	l := func(n int) Value { return Value{Source: Constant, N: n} }
	set := func(column string, v Value) Assignment { return Assignment{column, v} }
	for text, want := range map[string]Write{
		"INSERT INTO t VALUES ($1)":                       {Table: Name{"", "t"}, Rows: [][]Value{{p(1)}}, Parameters: 1},
		`insert into "My""T".x (a, "B") values ($2, $1);`: {Table: Name{`My"T`, "x"}, Columns: []string{"a", "B"}, Rows: [][]Value{{p(2), p(1)}}, Parameters: 2},
		"/* a /* b */ c */ INSERT INTO T(A) -- x\nVALUES ('it''s'), (-5), (1.5e3), (NULL), (true), (DEFAULT)": {Table: Name{"", "t"}, Columns: []string{"a"},
			Rows: [][]Value{{l(0)}, {{Source: Constant, N: 1, Minus: true}}, {l(2)}, {{Source: Null}}, {{Source: True}}, {{Source: Default}}}},
		"INSERT INTO t DEFAULT VALUES": {Table: Name{"", "t"}, Rows: [][]Value{{}}},
		"INSERT INTO t (a,b,c,d,e) VALUES ($1::int, '2020-01-01'::date, DATE '2020-01-01', CAST($2 AS double precision), ((-5)))": {Table: Name{"", "t"},
			Columns: []string{"a", "b", "c", "d", "e"}, Parameters: 2, Rows: [][]Value{{{Source: Parameter, N: 1, Cast: "int4"}, {Source: Constant, N: 0, Cast: "date"},
				{Source: Constant, N: 1, Cast: "date"}, {Source: Parameter, N: 2, Cast: "float8"}, {Source: Constant, N: 2, Minus: true}}}},
		"INSERT INTO t VALUES (now(), CURRENT_TIMESTAMP, gen_random_uuid(), nextval('s'::regclass), clock_timestamp(), current_date, localtimestamp)": {Table: Name{"", "t"},
			Rows: [][]Value{{{Source: Function, F: TransactionTime}, {Source: Function, F: TransactionTime}, {Source: Function, F: RandomUUID},
				{Source: Function, F: NextValue}, {Source: Function, F: ClockTime}, {Source: Function, F: CurrentDate}, {Source: Function, F: LocalTimestamp}}}},
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT DO NOTHING": {Table: Name{"", "t"}, Columns: []string{"a"}, Rows: [][]Value{{p(1)}}, Parameters: 1, Conflict: &Conflict{}},
		"INSERT INTO t AS x (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = EXCLUDED.b, c = $3, d = DEFAULT": {Table: Name{"", "t"}, Columns: []string{"a", "b"},
			Rows: [][]Value{{p(1), p(2)}}, Parameters: 3, Conflict: &Conflict{Columns: []string{"a"},
				Sets: []Assignment{set("b", Value{Source: Excluded, Column: "b"}), set("c", p(3)), set("d", Value{Source: Default})}}},
		"INSERT INTO t VALUES (1) ON CONFLICT ON CONSTRAINT t_pkey DO NOTHING": {Table: Name{"", "t"}, Rows: [][]Value{{l(0)}}, Conflict: &Conflict{Constraint: "t_pkey"}},
		"UPDATE t SET a = $1, b = 'x' WHERE id = $2":                           {Table: Name{"", "t"}, Sets: []Assignment{set("a", p(1)), set("b", l(0))}, Where: []Assignment{set("id", p(2))}, Parameters: 2},
		"UPDATE s.t x SET a=-1 WHERE ((x.id=-2) AND (3 = x.part))": {Table: Name{"s", "t"}, Sets: []Assignment{set("a", Value{Source: Constant, N: 0, Minus: true})},
			Where: []Assignment{set("id", Value{Source: Constant, N: 1, Minus: true}), set("part", l(2))}},
		"DELETE FROM s.t WHERE s.t.id = $1 AND t.b = $2": {Table: Name{"s", "t"}, Where: []Assignment{set("id", p(1)), set("b", p(2))}, Parameters: 2},
		"delete from t where id = e'\\x41\\n'":           {Table: Name{"", "t"}, Where: []Assignment{set("id", l(0))}},
		"delete from t where id = $$it's$$":              {Table: Name{"", "t"}, Where: []Assignment{set("id", l(0))}},
	} {
		got := Parse(text, false)
		if len(got.Statements) != 1 || got.Statements[0].Write == nil {
			t.Errorf("%s: %v, want it to be eligible", text, got.Statements[0].Why)
			continue
		}
		checkKinds(t, text, got)
		if s := got.Statements[0]; !reflect.DeepEqual(*s.Write, want) || s.Why != Eligible || s.Target != want.Table || s.Writes != Target {
			t.Errorf("%s:\n got %+v (%+v)\nwant %+v", text, *s.Write, s, want)
		}
	}
}

// checkKinds compares the kinds of a write's literals with the literals', and
// takes them out.
func checkKinds(t *testing.T, text string, got Text) {
	t.Helper()
	check := func(v *Value) {
		if v.Source == Constant && v.Literal != got.Literals[v.N].Kind {
			t.Errorf("%s: literal %d is of kind %d, the value says %d", text, v.N, got.Literals[v.N].Kind, v.Literal)
		}
		v.Literal = 0
	}
	w := got.Statements[0].Write
	for _, row := range w.Rows {
		for i := range row {
			check(&row[i])
		}
	}
	lists := [][]Assignment{w.Sets, w.Where}
	if w.Conflict != nil {
		lists = append(lists, w.Conflict.Sets)
	}
	for _, list := range lists {
		for i := range list {
			check(&list[i].Value)
		}
	}
}

func TestLiterals(t *testing.T) {
	text := `INSERT INTO t VALUES ('it''s', E'a\'b\\c\n\101\x41', $q$ $1 'x' $q$, 12, 1.5, 99999999999999999999, 'ünï')`
	got := Parse(text, false)
	var values []string
	for _, l := range got.Literals {
		values = append(values, l.Value)
		if b := text[l.Offset]; b != '\'' && b != 'E' && b != '$' && !isDigit(b) {
			t.Errorf("literal %q begins at %q", l.Value, text[l.Offset:])
		}
	}
	want := []string{"it's", "a'b\\c\nAA", " $1 'x' ", "12", "1.5", "99999999999999999999", "ünï"}
	if !reflect.DeepEqual(values, want) {
		t.Errorf("got %q, want %q", values, want)
	}
	if k := got.Literals[5].Kind; k != LiteralDecimal {
		t.Errorf("a number beyond int8 is of kind %d", k)
	}
}

func TestReasons(t *testing.T) {
	for text, want := range map[string]Reason{
		"SELECT 1": Eligible + 1,
		"WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x":                      With,
		"INSERT INTO t VALUES (1) RETURNING id":                                   Returning,
		"UPDATE t SET a = 1 RETURNING id":                                         Returning,
		"UPDATE t SET a = 1 WHERE id = 1 RETURNING *":                             Returning,
		"INSERT INTO t SELECT * FROM x":                                           Query,
		"INSERT INTO t (a) (SELECT 1)":                                            Query,
		"INSERT INTO t (SELECT 1)":                                                Query,
		"INSERT INTO t VALUES (1) UNION SELECT 2":                                 Unreadable,
		"INSERT INTO t VALUES (1) LIMIT 0":                                        Unreadable,
		"INSERT INTO t VALUES (1), (1, 2)":                                        Unreadable,
		"INSERT INTO t (a, a) VALUES (1, 1)":                                      Unreadable,
		"INSERT INTO t (a) VALUES (1, 1)":                                         Unreadable,
		"INSERT INTO t (a[1]) VALUES (1)":                                         Unreadable,
		"INSERT INTO t (user) VALUES (1)":                                         Unreadable,
		"INSERT INTO a.b.c VALUES (1)":                                            Unreadable,
		"INSERT INTO t VALUES ((SELECT 1))":                                       Expression,
		"INSERT INTO t VALUES ((DEFAULT))":                                        Expression,
		"INSERT INTO t VALUES (1 + 1)":                                            Expression,
		"INSERT INTO t VALUES (random())":                                         Expression,
		"INSERT INTO t VALUES (lower('A'))":                                       Expression,
		"INSERT INTO t VALUES ('a' COLLATE \"C\")":                                Expression,
		"INSERT INTO t VALUES ('a' 'b')":                                          Expression,
		"INSERT INTO t VALUES (-32768::int2)":                                     Expression,
		"INSERT INTO t VALUES ('1'::int::text)":                                   Expression,
		"INSERT INTO t VALUES ('abc'::varchar(2))":                                Expression,
		"INSERT INTO t VALUES ('abc'::char)":                                      Expression,
		"INSERT INTO t VALUES (interval '1' year)":                                Expression,
		"INSERT INTO t VALUES (now() - $1)":                                       Expression,
		"INSERT INTO t VALUES (current_timestamp(3))":                             Expression,
		"INSERT INTO t VALUES (B'01')":                                            Expression,
		"INSERT INTO t VALUES (U&'01')":                                           Unreadable,
		"INSERT INTO t VALUES (0x1f)":                                             Unreadable,
		"INSERT INTO t VALUES (1_000)":                                            Unreadable,
		"INSERT INTO t VALUES ($1a)":                                              Unreadable,
		"INSERT INTO t VALUES ($0)":                                               Expression,
		"INSERT INTO t VALUES ('a'\n'b')":                                         Unreadable,
		"INSERT INTO t VALUES (1":                                                 Expression,
		"INSERT INTO t VALUES ('":                                                 Unreadable,
		"INSERT INTO t VALUES (E'\\u0041')":                                       Unreadable,
		"INSERT INTO t VALUES (E'\\0')":                                           Unreadable,
		"INSERT INTO t VALUES (E'\\xff')":                                         Unreadable,
		"INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1)":                        Overriding,
		"INSERT INTO t VALUES (1) ON CONFLICT (lower(a)) DO NOTHING":              ConflictTarget,
		"INSERT INTO t VALUES (1) ON CONFLICT (a) WHERE b DO NOTHING":             ConflictTarget,
		"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1 WHERE t.c":  ConflictWhere,
		"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = t.b + 1":      Expression,
		"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b+1": Expression,
		"INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET b = 1":                Unreadable,
		"UPDATE t SET a = 1":                                                      Where,
		"UPDATE t SET a = a + 1 WHERE id = 1":                                     Expression,
		"UPDATE t SET a = 1 WHERE id = 1 OR id = 2":                               Where,
		"UPDATE t SET a = 1 WHERE id > 1":                                         Where,
		"UPDATE t SET a = 1 WHERE id IN (1)":                                      Where,
		"UPDATE t SET a = 1 WHERE (id = 1":                                        Where,
		"UPDATE t SET a = 1 WHERE id = 1)":                                        Where,
		"UPDATE t SET a = 1 WHERE id = 1 AND id = 2":                              Where,
		"UPDATE t SET a = 1 WHERE NOT id = 1":                                     Where,
		"UPDATE t SET a = 1 WHERE id = other":                                     Where,
		"UPDATE t SET a = 1 WHERE x.id = 1":                                       Where,
		"UPDATE t x SET a = 1 WHERE t.id = 1":                                     Where,
		"UPDATE t SET a = 1 WHERE id = 1 = true":                                  Where,
		"UPDATE t SET a = 1 WHERE id = 1 IS TRUE":                                 Where,
		"UPDATE t SET a = 1 WHERE CURRENT OF c":                                   Where,
		"UPDATE t SET (a, b) = (1, 2) WHERE id = 1":                               Expression,
		"UPDATE t SET a[1] = 2 WHERE id = 1":                                      Expression,
		"UPDATE t SET a.b = 2 WHERE id = 1":                                       Expression,
		"UPDATE t SET a = 1 FROM x WHERE t.id = x.id":                             Join,
		"UPDATE ONLY t SET a = 1 WHERE id = 1":                                    Only,
		"UPDATE t * SET a = 1 WHERE id = 1":                                       Only,
		"DELETE FROM t USING x WHERE t.id = x.id":                                 Join,
		"DELETE FROM t":                                                           Where,
		"DELETE FROM t WHERE id = (SELECT 1)":                                     Where,
		"DELETE FROM t WHERE id = ANY ($1)":                                       Where,
		"DELETE FROM t WHERE id IS NULL":                                          Where,
		"DELETE FROM ONLY t WHERE id = 1":                                         Only,
		"DELETE FROM \"\" WHERE id = 1":                                           Unreadable,
		"DELETE FROM t WHERE id = 1 AND":                                          Where,
		"DELETE FROM t WHERE id = 'a' || 'b'":                                     Where,
	} {
		got := Parse(text, false)
		if s := got.Statements[0]; s.Why != want || s.Write != nil {
			t.Errorf("%s: %v, want %v", text, s.Why, want)
		}
	}
}
