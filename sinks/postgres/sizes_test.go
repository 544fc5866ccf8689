package postgres

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// noise is text that does not compress.
func noise(n int) string {
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%016x", rand.Uint64())
	}
	return b.String()[:n]
}

// TestSizes: what is too large for the server, or for a document, is rejected:
// that record alone, for good, and its neighbours are applied.
func TestSizes(t *testing.T) {
	a := newApplier(t, Options{AutoCreate: true, Collections: []Collection{{Pattern: "rows", OverflowColumn: "rest"}}},
		"CREATE TABLE indexed (id text PRIMARY KEY, t text)", "CREATE INDEX ON indexed (t)",
		"CREATE TABLE rows (id text PRIMARY KEY, t text, rest jsonb)")
	long := os.Getenv("WALPROXY_LONG") != ""
	key := func(i int) *walproxyv1.Key { return mutation.String(fmt.Sprint(i)) }
	// An entry of a btree has at most 2,704 bytes: 54000.
	a.among(t, func(i int, text string) *walproxyv1.Mutation { return set("indexed", key(i), fields{"t": text}) }, noise(10_000), "54000")
	if got := a.query("SELECT string_agg(id, ' ' ORDER BY id::int) FROM indexed"); got != "0 1 2 3 4 6 7 8 9" {
		t.Errorf("rows %s", got)
	}
	// A document does not grow beyond its bound, in any table.
	a.put(set("notes", key(0), fields{"t": ""}), set("rows", key(0), fields{"t": ""}))
	collections := []string{"rows"}
	large := []string{"UPDATE rows SET t = repeat('x', 33000000)"}
	if long {
		collections = append(collections, "notes")
		large = append(large, "UPDATE notes SET doc = jsonb_build_object('t', repeat('x', 33000000))")
	}
	for _, sql := range large {
		if _, err := a.conn.Exec(bounded(t), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, collection := range collections {
		err := a.refused(must(mutation.Append(collection, key(0), fields{"t": strings.Repeat("y", 1<<20)})))
		if !strings.Contains(err.Error(), "33554432") {
			t.Errorf("%s: %v", collection, err)
		}
		a.put(set(collection, key(0), fields{"t": ""})) // it can be mended
	}
	// Many large values are several statements.
	defer func(n int) { maxStatementBytes = n }(maxStatementBytes)
	maxStatementBytes = 1000
	var ms []*walproxyv1.Mutation
	for i := range 20 {
		ms = append(ms, increment("notes", key(i+1), fields{"n": int64(i)}), set("rows", key(i+1), fields{"t": noise(300)}), set("indexed", key(i), fields{"t": noise(300)}))
	}
	a.put(ms...)
	if got := a.query("SELECT (SELECT count(*) FROM notes) + (SELECT count(*) FROM rows) + (SELECT count(*) FROM indexed)"); got != "62" {
		t.Errorf("%s rows, want 62", got)
	}
	if !long {
		return
	}
	// Merges that are not looked at end at jsonb's own bound, 256 MiB.
	if _, err := a.conn.Exec(bounded(t), "UPDATE notes SET doc = jsonb_build_object('a', repeat('x', 130000000), 'b', repeat('x', 130000000)) WHERE key = '0'"); err != nil {
		t.Fatal(err)
	}
	a.among(t, func(i int, text string) *walproxyv1.Mutation { return merge("notes", key(i-5), fields{"c": text}) }, noise(16<<20), "54000")
}

// among applies ten writes of which the sixth is too large, as the loop would,
// and counts what that takes.
func (a *applier) among(t *testing.T, write func(i int, text string) *walproxyv1.Mutation, large, code string) {
	t.Helper()
	var records []sinks.Record
	for i := range 10 {
		text := "small"
		if i == 5 {
			text = large
		}
		records = append(records, a.record(write(i, text)))
	}
	calls, dead := 0, []sinks.LSN{}
	var apply func(records []sinks.Record)
	apply = func(records []sinks.Record) {
		calls++
		results, err := a.try(bounded(t), records...)
		switch {
		case err == nil:
			return
		case len(records) == 1:
			rejected := sinks.OutcomeOf(err) == sinks.Rejected || results != nil && results[0].Outcome == sinks.Rejected
			if !rejected || codeOf(err) != code {
				t.Fatalf("alone: %v, want it rejected with %s", err, code)
			}
			dead = append(dead, records[0].LSN)
			a.skip(records[0])
			return
		case results == nil && sinks.OutcomeOf(err) != sinks.Rejected:
			t.Fatalf("%d records: %v", len(records), err)
		}
		apply(records[:len(records)/2])
		apply(records[len(records)/2:])
	}
	began := time.Now()
	apply(records)
	if len(dead) != 1 || dead[0] != records[5].LSN || calls > 9 {
		t.Errorf("rejected %v in %d calls and %v, want %v alone in at most 9", dead, calls, time.Since(began), records[5].LSN)
	}
}
