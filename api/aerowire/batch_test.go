package aerowire_test

import (
	"fmt"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
)

func TestBatch(t *testing.T) {
	if realServer != "" {
		t.Skip("a real server does the rows of one key in any order")
	}
	c := client(t)
	one, two, three := key(t, "s", 1), key(t, "s", 2), key(t, "t", 3)
	for i, k := range []*as.Key{one, two} {
		want(t, "put", c.Put(nil, k, as.BinMap{"n": i + 1, "x": "x"}), types.OK)
	}
	createOnly := as.NewBatchWritePolicy()
	createOnly.RecordExistsAction = as.CREATE_ONLY
	filtered := as.NewBatchWritePolicy()
	filtered.FilterExpression = as.ExpEq(as.ExpIntBin("n"), as.ExpIntVal(99))
	rows := []as.BatchRecordIfc{
		as.NewBatchRead(nil, one, []string{"n"}),
		as.NewBatchWrite(nil, one, as.AddOp(as.NewBin("n", 10)), as.GetBinOp("n")),
		as.NewBatchRead(nil, one, nil),
		as.NewBatchWrite(createOnly, two, as.PutOp(as.NewBin("n", 5))),
		as.NewBatchWrite(filtered, two, as.PutOp(as.NewBin("n", 5))),
		as.NewBatchWrite(nil, three, as.PutOp(as.NewBin("n", 3))),
		as.NewBatchDelete(nil, key(t, "s", 99)),
		as.NewBatchDelete(nil, two),
		as.NewBatchReadHeader(nil, two),
		as.NewBatchUDF(nil, one, "package", "function"),
	}
	p := *c.DefaultBatchPolicy
	p.RespondAllKeys = true
	if err := c.BatchOperate(&p, rows); err != nil {
		t.Fatal(err)
	}
	for i, code := range []types.ResultCode{types.OK, types.OK, types.OK, types.KEY_EXISTS_ERROR, types.FILTERED_OUT, types.OK,
		types.KEY_NOT_FOUND_ERROR, types.OK, types.KEY_NOT_FOUND_ERROR, types.UNSUPPORTED_FEATURE} {
		if got := rows[i].BatchRec().ResultCode; got != code {
			t.Errorf("row %d: %v, want %v", i, got, code)
		}
	}
	for i, bins := range map[int]string{0: "map[n:1]", 1: "map[n:[<nil> 11]]"} { // a write answers every op
		if got := fmt.Sprint(rows[i].BatchRec().Record.Bins); got != bins {
			t.Errorf("row %d: %s, want %s", i, got, bins)
		}
	}
	if rec, err := c.Get(nil, three); err != nil || rec.Bins["n"] != 3 {
		t.Errorf("%v, %v", rec, err)
	}
}

// Many rows in one batch, over one key and over many: each once, in their order.
func TestBatchOfMany(t *testing.T) {
	c := client(t)
	const n = 300
	var rows []as.BatchRecordIfc
	for i := range n {
		rows = append(rows, as.NewBatchWrite(nil, key(t, "s", i), as.PutOp(as.NewBin("n", i)), as.PutOp(as.NewBin("b", make([]byte, 1000)))),
			as.NewBatchWrite(nil, key(t, "s", "same"), as.ListAppendOp("l", i)))
	}
	if err := c.BatchOperate(nil, rows); err != nil {
		t.Fatal(err)
	}
	rec, err := c.Get(nil, key(t, "s", "same"))
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range rec.Bins["l"].([]any) {
		if got != i && realServer == "" { // which does the rows of one key in any order
			t.Fatalf("entry %d is %v", i, got)
		}
	}
	keys := make([]*as.Key, n)
	for i := range keys {
		keys[i] = key(t, "s", i)
	}
	recs, err := c.BatchGet(nil, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, rec := range recs {
		if rec == nil || rec.Bins["n"] != i {
			t.Fatalf("record %d: %v", i, rec)
		}
	}
	deleted, err := c.BatchDelete(nil, nil, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range deleted {
		if d.ResultCode != types.OK {
			t.Fatalf("delete %d: %v", i, d.ResultCode)
		}
	}
}

func TestScanAndTruncate(t *testing.T) {
	c := client(t)
	const n, others = 700, 300
	for set, count := range map[string]int{"s": n, "other": others, "": 10} {
		var rows []as.BatchRecordIfc
		for i := range count {
			rows = append(rows, as.NewBatchWrite(nil, key(t, set, i), as.PutOp(as.NewBin("n", i)), as.PutOp(as.NewBin("set", set))))
		}
		if err := c.BatchOperate(nil, rows); err != nil {
			t.Fatal(err)
		}
	}
	scan := func(what string, p *as.ScanPolicy, filter *as.PartitionFilter, set string, bins ...string) int {
		t.Helper()
		var results *as.Recordset
		var err as.Error
		if filter == nil {
			results, err = c.ScanAll(p, namespace, set, bins...)
		} else {
			results, err = c.ScanPartitions(p, filter, namespace, set, bins...)
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		seen := map[string]bool{}
		for res := range results.Results() {
			if res.Err != nil {
				t.Fatalf("%s: %v", what, res.Err)
			}
			digest := string(res.Record.Key.Digest())
			if seen[digest] {
				t.Fatalf("%s: a record came twice", what)
			}
			seen[digest] = true
			if set != "" && res.Record.Key.SetName() != set {
				t.Fatalf("%s: a record of set %q", what, res.Record.Key.SetName())
			}
		}
		return len(seen)
	}
	check := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d records, want %d", what, got, want)
		}
	}
	p := as.NewScanPolicy()
	check("a set", scan("a set", p, nil, "s"), n)
	check("all sets", scan("all sets", p, nil, ""), n+others+10)
	check("a bin that is not there", scan("a bin", p, nil, "s", "x"), 0)
	p.FilterExpression = as.ExpLess(as.ExpIntBin("n"), as.ExpIntVal(50))
	check("a filter", scan("a filter", p, nil, "s"), 50)
	p = as.NewScanPolicy()
	check("half the partitions and the others", scan("low", p, as.NewPartitionFilterByRange(0, 2048), "s")+
		scan("high", p, as.NewPartitionFilterByRange(2048, 2048), "s"), n)
	few := 0
	for begin := 0; begin < 4096; begin += 128 {
		few += scan("few", p, as.NewPartitionFilterByRange(begin, 128), "s")
	}
	check("a few partitions at a time", few, n)
	pages, filter := 0, as.NewPartitionFilterAll()
	p.MaxRecords = 90
	for !filter.IsDone() {
		pages += scan("page", p, filter, "s")
	}
	check("page by page", pages, n)
	seen := map[string]int{} // all sets go on behind one digest a partition
	for filter = as.NewPartitionFilterAll(); !filter.IsDone(); {
		results, err := c.ScanPartitions(p, filter, namespace, "")
		if err != nil {
			t.Fatal(err)
		}
		for res := range results.Results() {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			seen[string(res.Record.Key.Digest())]++
		}
	}
	check("all sets page by page", len(seen), n+others+10)
	for digest, times := range seen {
		if times != 1 {
			t.Errorf("a record of all sets, %x, came %d times", digest, times)
		}
	}

	patient := as.NewInfoPolicy() // by default the client waits for 2 s
	patient.Timeout = 30 * time.Second
	before := time.Now()
	want(t, "put", c.Put(nil, key(t, "s", "later"), as.BinMap{"n": 1}), types.OK)
	want(t, "truncate the older", c.Truncate(patient, namespace, "s", &before), types.OK)
	p = as.NewScanPolicy()
	check("what is later", scan("later", p, nil, "s"), 1)
	want(t, "truncate a set", c.Truncate(patient, namespace, "s", nil), types.OK)
	check("the others", scan("others", p, nil, ""), others+10)
	want(t, "truncate all", c.Truncate(patient, namespace, "", nil), types.OK)
	check("nothing", scan("nothing", p, nil, ""), 0)
}

// Nothing of what there is not is answered as if there were.
func TestUnsupported(t *testing.T) {
	c := newRig(t).client()
	want(t, "put", c.Put(nil, key(t, "s", 1), as.BinMap{"n": 1}), types.OK)
	if _, err := c.CreateIndex(nil, namespace, "s", "i", "n", as.NUMERIC); err == nil {
		t.Error("an index was made")
	}
	stmt := as.NewStatement(namespace, "s")
	if err := stmt.SetFilter(as.NewEqualFilter("n", 1)); err != nil {
		t.Fatal(err)
	}
	results, err := c.Query(nil, stmt)
	if err == nil {
		for res := range results.Results() {
			if res.Err == nil {
				t.Error("a query by an index was answered")
			} else {
				err = res.Err
			}
		}
	}
	want(t, "a query by an index", err, types.INDEX_NOTFOUND)
	_, err = c.Operate(nil, key(t, "s", 1), as.PutOp(as.NewBin("m", 1)), as.HLLInitOp(as.DefaultHLLPolicy(), "h", 8, -1))
	want(t, "a HyperLogLog", err, types.UNSUPPORTED_FEATURE)
	if rec, err := c.Get(nil, key(t, "s", 1)); err != nil || len(rec.Bins) != 1 {
		t.Errorf("behind what is not supported: %v, %v", rec, err)
	}
	if _, err := c.QueryExecute(nil, nil, as.NewStatement(namespace, "s"), as.PutOp(as.NewBin("n", 2))); err == nil {
		t.Error("a background job was started")
	}
	if _, err := c.RegisterUDF(nil, []byte("function f() end"), "f.lua", as.LUA); err == nil {
		t.Error("a function was registered")
	}
}
