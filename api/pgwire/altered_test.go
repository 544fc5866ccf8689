package pgwire

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// alteredDDL is the table anew, whatever it was made into.
const alteredDDL = `DROP TABLE IF EXISTS items, things CASCADE; CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, n smallint, at text DEFAULT 'then');
CREATE VIEW all_items AS SELECT * FROM items`

// alteration is a change of the schema; in a pool not of types: what is prepared again on
// another connection has those of then.
func alteration(r *rand.Rand, pooled bool) string {
	for {
		if sql := anyAlteration(r); !pooled || !strings.Contains(sql, " TYPE ") {
			return sql
		}
	}
}

func anyAlteration(r *rand.Rand) string {
	list := []string{
		"ALTER TABLE items ADD COLUMN extra int DEFAULT 5", "ALTER TABLE items ADD COLUMN extra text NOT NULL DEFAULT 'e'", "ALTER TABLE items ADD COLUMN extra text NOT NULL DEFAULT upper('e')",
		"ALTER TABLE items DROP COLUMN extra", "ALTER TABLE items DROP COLUMN IF EXISTS extra CASCADE", "ALTER TABLE items DROP COLUMN at CASCADE",
		"DROP VIEW IF EXISTS all_items; ALTER TABLE items ALTER COLUMN n TYPE int", "DROP VIEW IF EXISTS all_items; ALTER TABLE items ALTER COLUMN n TYPE bigint",
		"DROP VIEW IF EXISTS all_items; ALTER TABLE items ALTER COLUMN n TYPE numeric(3)", "DROP VIEW IF EXISTS all_items; ALTER TABLE items ALTER COLUMN name TYPE varchar(3)",
		"DROP VIEW IF EXISTS all_items; ALTER TABLE items ALTER COLUMN id TYPE bigint", "ALTER TABLE items RENAME COLUMN n TO m", "ALTER TABLE items RENAME COLUMN m TO n", "ALTER TABLE items RENAME COLUMN m TO n",
		"ALTER TABLE items RENAME TO things", "ALTER TABLE things RENAME TO items", "ALTER TABLE things RENAME TO items",
		"ALTER TABLE items ALTER COLUMN name DROP NOT NULL", "ALTER TABLE items ALTER COLUMN name SET NOT NULL", "ALTER TABLE items ALTER COLUMN n SET DEFAULT 3", "ALTER TABLE items ALTER COLUMN n SET NOT NULL",
		"ALTER TABLE items ADD CONSTRAINT few CHECK (n < 6) NOT VALID", "ALTER TABLE items DROP CONSTRAINT IF EXISTS few", "ALTER TABLE items DROP CONSTRAINT items_pkey", "ALTER TABLE items ADD PRIMARY KEY (id)",
		"CREATE INDEX by_name ON items (name)", "DROP INDEX IF EXISTS by_name", "TRUNCATE items", alteredDDL, alteredDDL,
	}
	return list[r.IntN(len(list))]
}

// TestTwinsAltered: the tables of TestTwins are altered meanwhile, in the sessions, within
// transactions and not, and past the endpoint.
func TestTwinsAltered(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][]func(*Options){"direct": nil, "transactions": {func(o *Options) { o.WriteBehind.LogTransactions = true }}, "pool": {pooling(3)}} {
		t.Run(name, func(t *testing.T) { t.Parallel(); testAltered(t, name == "transactions", change...) })
	}
}

var tempSchema = regexp.MustCompile(`pg_temp_\d+`)

// unnumbered is an answer without the numbers of sessions' temporary schemas. Whether a value
// that does not fit is told by Bind or Execute depends on how often PostgreSQL itself has
// executed the statement.
func unnumbered(lines []string) []string {
	failed := slices.ContainsFunc(lines, func(l string) bool { return l[0] == sError })
	lines = slices.DeleteFunc(lines, func(l string) bool { return failed && (l[0] == sBindComplete || l[0] == sNoData) })
	for i := range lines {
		lines[i] = tempSchema.ReplaceAllString(lines[i], "pg_temp")
	}
	return lines
}

func testAltered(t *testing.T, transactions bool, change ...func(*Options)) {
	sessions, queries := 3, 60
	if os.Getenv("WALPROXY_LONG") != "" {
		sessions, queries = 100, 300
	}
	r := newBehindRig(t, twinDDL, items(), func(o *behindOptions) { o.change = change })
	twin := pgtest.Shared(t).Database(t)
	direct := pgtest.Connect(t, twin)
	do(t, direct, twinDDL)
	seed := seedOf(t)
	// past has both altered past the endpoint, of which it need not know at once.
	past := func(sql string) {
		t.Helper()
		r.applied()
		_, err := r.admin.Exec(bounded(t), sql)
		_, other := direct.Exec(bounded(t), sql)
		if code(err) != code(other) {
			t.Fatalf("%s: %v, and %v", sql, err, other)
		}
		if _, err := r.tables.watch.Refresh(bounded(t)); err != nil {
			t.Fatal(err)
		}
	}
	for session := range sessions {
		a := &twinAuthor{r: rand.New(rand.NewPCG(seed, uint64(session))), fresh: session * 1000, transactions: transactions}
		through, other := newWire(t, r.through), newWire(t, twin)
		var told []string
		idle := true
		for range queries {
			messages := a.next()
			switch n := a.r.IntN(16); {
			case n == 0:
				messages = []pgproto3.FrontendMessage{&pgproto3.Query{String: alteration(a.r, r.pools != nil)}}
			case n == 1 && idle:
				sql := alteration(a.r, r.pools != nil)
				told = append(told, "past: "+sql)
				past(sql)
			}
			told = append(told, said(messages))
			got, want := unnumbered(through.ask(messages...)), unnumbered(other.ask(messages...))
			if !slices.Equal(got, want) {
				t.Fatalf("WALPROXY_SEED=%d, session %d: %s\ngot  %q\nwant %q\n%s\n%+v", seed, session, strings.Join(told, "\n"), got, want, r.why(), r.proxy.Status().Sinks)
			}
			idle = strings.Contains(got[len(got)-1], `"I"`)
			a.inside = !idle
		}
		rollback := &pgproto3.Query{String: "ROLLBACK"}
		through.ask(rollback)
		other.ask(rollback)
		r.applied()
		for _, name := range []string{"items", "things"} {
			all := fmt.Sprintf("SELECT coalesce(string_agg(x::text, ', ' ORDER BY x::text), '') FROM %s x", name)
			var got, want string
			err, missing := r.admin.QueryRow(bounded(t), all).Scan(&got), direct.QueryRow(bounded(t), all).Scan(&want)
			if got != want || code(err) != code(missing) {
				t.Errorf("WALPROXY_SEED=%d: the rows are\n%s %v\nwant\n%s %v", seed, got, err, want, missing)
			}
		}
		_, _ = through.c.Close(), other.c.Close() // what it keeps is another one's
		past(alteredDDL)
	}
	if r.logged() < sessions*queries/100 {
		t.Errorf("only %d queries were written behind: %s", r.logged(), r.why())
	}
}
