package postgres

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// disorder counts the rows that a statement has put behind one with a higher key.
const disorder = `SELECT count(*) FROM (SELECT id, lag(id) OVER (PARTITION BY cmin::text::int ORDER BY ctid) AS before FROM t) s WHERE before > id`

// TestRowsAreSorted: each statement writes its rows in the order of their keys, with the
// values that are theirs, but where the order of the log could be seen.
func TestRowsAreSorted(t *testing.T) {
	const rows = 60
	order := rand.New(rand.NewPCG(1, 2)).Perm(rows)
	var inLog []string
	for _, i := range order {
		inLog = append(inLog, strconv.Itoa(i))
	}
	number := func(i int) *walproxyv1.Key { return mutation.Int64(int64(i)) }
	text := func(i int) *walproxyv1.Key { return mutation.String(fmt.Sprintf("a common beginning %04d", i)) }
	for name, c := range map[string]struct {
		ddl    string
		key    func(i int) *walproxyv1.Key
		keys   string // what the keys are, in SQL
		sorted bool
		seen   string // what the table shows of the order that rows came in; "": nothing
	}{
		"numbers":       {"CREATE TABLE t (id int PRIMARY KEY, name text)", number, "id", true, ""},
		"texts":         {`CREATE TABLE t (id text COLLATE "C" PRIMARY KEY, name text)`, text, "right(id, 4)::int", true, ""},
		"with a number": {"CREATE TABLE t (id int PRIMARY KEY, name text, serial bigserial)", number, "id", false, "serial"},
		"unique":        {"CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE)", number, "id", false, "ctid"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplier(t, Options{}, c.ddl)
			for _, round := range []string{"new", "there"} {
				var ms []*walproxyv1.Mutation
				for _, i := range order {
					f := fields{"name": nil}
					if i%7 > 0 {
						f["name"] = fmt.Sprint(round, strings.Repeat(".", i%5), i)
					}
					ms = append(ms, set("t", c.key(i), f))
				}
				a.put(ms...)
				n, err := strconv.Atoi(a.query(disorder))
				if err != nil {
					t.Fatal(err)
				}
				if (n == 0) != c.sorted {
					t.Errorf("%s: %d rows lie behind one with a higher key", round, n)
				}
				wrong := fmt.Sprintf(`SELECT count(*) FROM t WHERE name IS DISTINCT FROM
					CASE WHEN %[1]s %% 7 > 0 THEN '%[2]s' || repeat('.', %[1]s %% 5) || %[1]s END`, c.keys, round)
				if got := a.query(wrong); got != "0" {
					t.Errorf("%s: %s rows have another one's name", round, got)
				}
				if c.seen == "" {
					continue
				}
				if got := a.query(fmt.Sprintf("SELECT string_agg(%s::text, ' ' ORDER BY %s) FROM t", c.keys, c.seen)); got != strings.Join(inLog, " ") {
					t.Errorf("%s: the rows came as %s", round, got)
				}
			}
		})
	}
}

// TestStatementsAreSorted: rows of statements that are joined are, too, and keep
// their values.
func TestStatementsAreSorted(t *testing.T) {
	a := newApplier(t, Options{}, "CREATE TABLE t (id int PRIMARY KEY, name text)")
	order := rand.New(rand.NewPCG(1, 2)).Perm(60)
	var inserts, updates, deletes []*walproxyv1.Statement
	for _, i := range order {
		inserts = append(inserts, insertSQL(i, fmt.Sprint("new", i)))
		updates = append(updates, updateSQL(i, fmt.Sprint("there", i)))
		if i%2 > 0 {
			deletes = append(deletes, deleteSQL(i))
		}
	}
	for _, step := range []struct {
		name string
		list []*walproxyv1.Statement
		rows int
	}{{"new", inserts, 60}, {"there", updates, 60}, {"there", deletes, 30}} {
		a.run(slices.Clone(step.list)...)
		if got := a.query(disorder); got != "0" {
			t.Errorf("%s: %s rows lie behind one with a higher key", step.name, got)
		}
		if got := a.query(fmt.Sprintf("SELECT count(*) FROM t WHERE name = '%s' || id", step.name)); got != strconv.Itoa(step.rows) {
			t.Errorf("%s: %s rows have their name, want %d", step.name, got, step.rows)
		}
	}
}
