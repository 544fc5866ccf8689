package postgres

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// scanned pages through a collection and returns what KeyText says of the keys.
func scanned(t *testing.T, s *Sink, collection, prefix string, limit int) (keys []string, documents []*mutation.Document) {
	t.Helper()
	for after := (*walproxyv1.Key)(nil); ; {
		entries, err := s.Scan(bounded(t), collection, prefix, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			keys, documents, after = append(keys, mutation.KeyText(e.Key)), append(documents, e.Document), e.Key
		}
		if len(entries) < limit {
			return keys, documents
		}
	}
}

// TestScan pages through tables of several keys by their primary key.
func TestScan(t *testing.T) {
	a := newApplier(t, Options{AutoCreate: true, Collections: []Collection{
		{Pattern: "lines", VersionColumn: "v"}, {Pattern: "orders", Events: &Events{Table: "happened"}}}},
		"CREATE TABLE lines (shop text, n int, note text, v bigint, PRIMARY KEY (shop, n))",
		"CREATE TABLE orders (id uuid PRIMARY KEY, note text)",
		"CREATE TABLE happened (stream uuid, version bigint, payload jsonb, PRIMARY KEY (stream, version))",
		"CREATE TABLE empty (id int PRIMARY KEY)")
	type one struct {
		collection string
		key        *walproxyv1.Key
	}
	var all []one
	for i := range 25 {
		all = append(all, one{"test.digests", mutation.Bytes([]byte{byte(i * 7), byte(i)})}, one{"names", mutation.String(fmt.Sprintf("%c%02d", 'a'+i%3, i))},
			one{"lines", mutation.Composite(mutation.String(fmt.Sprintf("s%d", i%4)), mutation.Int64(int64(i)-5))},
			one{"orders", mutation.String(fmt.Sprintf("00000000-0000-0000-0000-0000000000%02d", i))})
	}
	var records []sinks.Record
	for i, o := range all {
		fields := map[string]*walproxyv1.Value{"note": mutation.StringValue(fmt.Sprint(i))}
		var options []mutation.Option
		if o.collection == "test.digests" && i%8 < 4 {
			options = append(options, mutation.ExpiresAt(a.clock.Add(time.Hour))) // long over when it is read
		}
		records = append(records, a.record(mutation.New(o.collection, o.key, []*walproxyv1.Op{mutation.SetOp(fields)}, options...)))
	}
	a.apply(a.batch(records...))
	for _, collection := range []string{"test.digests", "names", "lines", "orders"} {
		var want []string
		for i, o := range all {
			if o.collection == collection && (collection != "test.digests" || i%8 >= 4) {
				want = append(want, mutation.KeyText(o.key))
			}
		}
		whole, documents := scanned(t, a.sink, collection, "", 1000)
		for _, limit := range []int{1, 4, 25} {
			if pages, _ := scanned(t, a.sink, collection, "", limit); !slices.Equal(pages, whole) {
				t.Errorf("%s: by %d: %v, want %v", collection, limit, pages, whole)
			}
		}
		sorted := slices.Sorted(slices.Values(whole))
		if slices.Sort(want); !slices.Equal(sorted, want) || len(want) == 0 {
			t.Errorf("%s: %v, want %v", collection, sorted, want)
		}
		for _, o := range all {
			at := slices.Index(whole, mutation.KeyText(o.key))
			if o.collection != collection || at < 0 {
				continue
			}
			d, err := a.sink.Read(bounded(t), collection, o.key)
			if err != nil || d.Version != documents[at].Version || !proto.Equal(d.Fields["note"], documents[at].Fields["note"]) {
				t.Errorf("%s %v: %v, %v; scanned %v", collection, o.key, d, err, documents[at])
			}
		}
	}
	if keys, _ := scanned(t, a.sink, "names", "b", 3); len(keys) != 8 {
		t.Errorf("names that begin with b: %v", keys)
	}
	if entries, err := a.sink.Scan(bounded(t), "nothing", "", nil, 10); err != nil || len(entries) != 0 {
		t.Errorf("a collection without a table: %v, %v", entries, err)
	}
	if entries, err := a.sink.Scan(bounded(t), "test.digests", "", mutation.String("no digest"), 10); err != nil || len(entries) != 0 {
		t.Errorf("behind what is no key: %v, %v", entries, err)
	}
	for _, c := range []struct {
		after string
		limit int
		want  []string
	}{{"", 100, []string{"lines", "names", "orders", "test.digests"}}, {"lines", 2, []string{"names", "orders"}}, {"test", 10, []string{"test.digests"}}, {"x", 10, nil}} {
		names, err := a.sink.Collections(bounded(t), c.after, c.limit)
		// A table can also be named with its schema; those names are other collections.
		names = slices.DeleteFunc(names, func(n string) bool { return n[:min(7, len(n))] == "public." })
		if err != nil || !slices.Equal(names, c.want) {
			t.Errorf("collections behind %q: %v, %v; want %v", c.after, names, err, c.want)
		}
	}
}

// TestOverflowNames: fields without a column keep their names, also those that wraps
// begin with, whether the record is read in between or not.
func TestOverflowNames(t *testing.T) {
	a := newApplier(t, Options{Collections: []Collection{{Pattern: "t", OverflowColumn: "rest"}}}, "CREATE TABLE t (id text PRIMARY KEY, n bigint, rest jsonb)")
	key := mutation.String("k")
	value := func(n int64) map[string]*walproxyv1.Value {
		return map[string]*walproxyv1.Value{fmt.Sprintf("$f%d", n): mutation.Int64Value(n)}
	}
	for n, op := range []*walproxyv1.Op{mutation.SetOp(value(0)), mutation.MergeOp(value(1)), mutation.IncrementOp(value(1)), mutation.MergeOp(value(3)), mutation.UnsetOp("$f0")} {
		a.put(mutation.New("t", key, []*walproxyv1.Op{op}))
		if n == 0 {
			a.get("t", key)
		}
	}
	d := a.get("t", key)
	if len(d.Fields) != 3 || d.Fields["$f1"].GetInt64() != 2 || d.Fields["$f3"].GetInt64() != 3 {
		t.Errorf("%v", d.Fields)
	}
	if text := a.query("SELECT rest::text FROM t"); text != `{"$f1": 2, "$f3": 3}` {
		t.Errorf("the column: %s", text)
	}
}
