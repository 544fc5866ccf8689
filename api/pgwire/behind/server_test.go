package behind

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

const modelDDL = `CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN short AS varchar(3);
CREATE TABLE t (id int PRIMARY KEY, name varchar(5) NOT NULL, price numeric(6,2), at timestamptz, note text, ok bool, feeling mood,
 n smallint DEFAULT 7, tags text[], u uuid, f float8, d date, s short, ts timestamp, j jsonb, b bytea);
CREATE TABLE pair (a int, v int, b text, w text NOT NULL, PRIMARY KEY (b, a));`

// pool is what values are drawn from, by column.
var pool = map[string][]string{
	"id": {"1", "2", "3", "4", "5", " 6 ", "7", "x", "99999999999", "2147483648"}, "a": {"1", "2", "3", "x"}, "b": {"x", "y", "it's", ""},
	"v": {"1", "2", "70000", "x"}, "w": {"w", "", "ww"}, "name": {"ann", "bob", "bobby", "robert", "ünïcö", "ünïcöd", "a    ", "a      "},
	"price": {"1", "1.5", "9999.994", "9999.995", "-3", "x", "1e2"}, "at": {"2026-01-02 03:04:05", "2026-01-02T03:04:05+02", "infinity", "x", "2026-01-02"},
	"note": {"", "text", "x\\y", "it's"}, "ok": {"t", "false", "maybe"}, "feeling": {"sad", "ok", "bad"}, "n": {"1", "-5", "40000", "99999999999", "x"},
	"tags": {"{}", "{a,b}", "{a"}, "u": {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0"}, "f": {"1.5", "NaN", "1e400", "-2"},
	"d": {"2020-02-29", "2021-02-29", "infinity"}, "s": {"abc", "abcd"}, "ts": {"2026-01-02 03:04:05", "2026-01-02"}, "j": {"{}", `{"a": 1}`, "{"},
}

// bytes of bytea would be unknown to fetch as literals; they come from here.
func init() { pool["bytes"] = []string{`\x00ff`, `\xf`, "abc"} }

// writer of random statements.
type author struct {
	random *rand.Rand
	values []string // of the parameters, "\x00" is null
	simple bool
}

func (a *author) chance(percent int) bool { return a.random.IntN(100) < percent }

func (a *author) value(column string) string {
	if column == "b" && a.chance(0) {
		column = "bytes"
	}
	choices := pool[column]
	n := len(choices)
	if a.chance(85) { // mostly the good ones, which come first
		n = max(1, n/2)
	}
	text := choices[a.random.IntN(n)]
	switch {
	case a.chance(6):
		return "NULL"
	case !a.simple:
		if a.chance(5) {
			text = "\x00"
		}
		a.values = append(a.values, text)
		return fmt.Sprintf("$%d", len(a.values))
	case text != "" && strings.Trim(text[1:], "0123456789.e") == "" && strings.ContainsAny(text[:1], "-0123456789") && a.chance(60) && column != "name" && column != "note":
		if strings.HasPrefix(text, "-") {
			return "- " + text[1:]
		}
		return text
	}
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if casts := map[string]string{"at": "timestamptz", "d": "date", "u": "uuid", "id": "int", "price": "numeric", "ts": "timestamp", "j": "jsonb", "n": "int"}; casts[column] != "" && a.chance(25) {
		return quoted + "::" + casts[column]
	}
	return quoted
}

func (a *author) write() string {
	table, keys := "t", []string{"id"}
	columns := []string{"name", "price", "at", "note", "ok", "feeling", "n", "tags", "u", "f", "d", "s", "ts", "j"}
	if a.chance(35) {
		table, keys, columns = "pair", []string{"a", "b"}, []string{"v", "w"}
	}
	some := func(least int) []string {
		chosen := slices.Clone(columns)
		a.random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		return chosen[:min(len(chosen), least+a.random.IntN(3))]
	}
	sets := func(columns []string) string {
		var list []string
		for _, c := range columns {
			list = append(list, c+" = "+a.value(c))
		}
		return strings.Join(list, ", ")
	}
	where := func() string {
		var list []string
		for _, c := range keys {
			list = append(list, c+" = "+a.value(c))
		}
		return strings.Join(list, " AND ")
	}
	switch n := a.random.IntN(10); {
	case n < 2:
		return "UPDATE " + table + " SET " + sets(some(1)) + " WHERE " + where()
	case n < 3:
		return "DELETE FROM " + table + " WHERE " + where()
	default:
		named := append(slices.Clone(keys), some(1)...)
		must := map[string]string{"t": "name", "pair": "w"}[table]
		if !slices.Contains(named, must) && a.chance(93) {
			named = append(named, must)
		}
		rows := 1
		if a.chance(20) {
			rows = 3
		}
		var tuples []string
		for range rows {
			var tuple []string
			for _, c := range named {
				tuple = append(tuple, a.value(c))
			}
			tuples = append(tuples, "("+strings.Join(tuple, ", ")+")")
		}
		text := "INSERT INTO public." + table + " (" + strings.Join(named, ", ") + ") VALUES " + strings.Join(tuples, ", ")
		switch {
		case n < 5:
			return text + " ON CONFLICT DO NOTHING"
		case n < 8:
			column, update := "note", "name = EXCLUDED.name, "
			if table == "pair" {
				column, update = "v", "w = EXCLUDED.w, "
			}
			update += sets([]string{column})
			return text + " ON CONFLICT (" + strings.Join(keys, ", ") + ") DO UPDATE SET " + update
		}
		return text
	}
}

// TestAsServer runs random statements directly on one database, and on another as they
// would be logged: same refusals, same rows.
func TestAsServer(t *testing.T) {
	tables := []catalogue.Declared{{Name: "t"}, {Name: "pair", Key: []string{"a", "b"}}}
	direct := newRig(t, modelDDL, slices.Clone(tables)...)
	behind := newRig(t, modelDDL, slices.Clone(tables)...)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	logged, refused, passed := 0, 0, map[string]int{}
	for range 3500 {
		by := &author{random: random, simple: random.IntN(2) == 0}
		a := attempt{sql: by.write()}
		for _, v := range by.values {
			if v == "\x00" {
				a.values = append(a.values, nil)
				continue
			}
			a.values = append(a.values, []byte(v))
		}
		if len(by.values) == 0 && !by.simple {
			continue // all its values are NULL: a text without parameters
		}
		plan, rows, refusal, why := behind.judge(a)
		tag, want := direct.direct(a)
		what := fmt.Sprintf("%s %q (seed %d)", a.sql, a.values, seed)
		switch {
		case why != nil:
			if passed[why.Label()]++; passed[why.Label()] == 1 {
				t.Logf("%s: %s", a.sql, why)
			}
			if _, got := behind.direct(a); (got == nil) != (want == nil) {
				t.Fatalf("%s: directly %v, behind %v: the databases differ", what, want, got)
			}
		case refusal != nil:
			refused++
			if said := differs(refusal, want); said != "" {
				t.Errorf("%s: %s", what, said)
			}
		default:
			logged++
			behind.group(what, plan, rows, tag, want)
		}
		if t.Failed() {
			break
		}
	}
	for _, table := range []string{"t", "pair"} {
		dump := "SELECT * FROM " + table + " ORDER BY 1, 2, 3"
		if got, want := fmt.Sprint(behind.must(dump)), fmt.Sprint(direct.must(dump)); got != want {
			t.Errorf("table %s is\n%s\nwant\n%s", table, got, want)
		}
	}
	t.Logf("%d logged, %d refused, passed through: %v", logged, refused, passed)
	if logged < 800 || refused < 200 {
		t.Error("too few to mean anything")
	}
}

// group applies the rows of one statement in a transaction, as one group.
func (r *rig) group(what string, plan *Plan, rows []Row, tag string, want interface{ SQLState() string }) {
	r.t.Helper()
	refused := want != nil && fmt.Sprint(want) != "<nil>"
	r.must("BEGIN")
	count := 0
	for _, row := range rows {
		got, refusal := r.apply(plan, row)
		if refusal != nil {
			r.must("ROLLBACK")
			if !refused || refusal.Code != want.SQLState() || !strings.HasPrefix(refusal.Code, "23") {
				r.t.Errorf("%s: applied: %v; directly: %v", what, refusal, want)
			}
			return
		}
		var n int
		if _, err := fmt.Sscan(got[strings.LastIndexByte(got, ' ')+1:], &n); err != nil {
			r.t.Fatal(err)
		}
		count += n
	}
	r.must("COMMIT")
	if refused {
		r.t.Errorf("%s: could be applied; directly: %v", what, want)
		return
	}
	if whole := tag[:strings.LastIndexByte(tag, ' ')+1] + fmt.Sprint(count); whole != tag {
		r.t.Errorf("%s: affects %q applied, %q directly", what, whole, tag)
	}
	if plan.Counted && count != len(rows) {
		r.t.Errorf("%s: %d rows are counted at the ack, %d were affected", what, len(rows), count)
	}
}
