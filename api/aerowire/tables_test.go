package aerowire_test

import (
	"context"
	"net"
	"reflect"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// tables is the endpoint in front of PostgreSQL.
type tables struct {
	testing.TB
	o      postgres.Options
	dir    string
	sink   *postgres.Sink
	proxy  *walproxy.Proxy
	server *aerowire.Server
	addr   string
}

func newTables(t testing.TB, dsn string, o postgres.Options) *tables {
	t.Helper()
	o.DSN = dsn
	r := &tables{TB: t, o: o, dir: t.TempDir()}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *tables) open() {
	r.Helper()
	var err error
	if r.sink, err = postgres.Open(r.o); err != nil {
		r.Fatal(err)
	}
	loop := replay.Options{}
	loop.Batch.Linger = time.Millisecond
	o := walproxy.Options{
		Dir: r.dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: r.sink, Loop: loop}}, DrainTimeout: 20 * time.Second,
		KeyTypes: []walproxy.KeyType{
			{Collection: namespace, Type: mutation.KeyBytes}, {Collection: namespace + ".*", Type: mutation.KeyBytes},
		},
	}
	o.Log.MinFree = -1
	if r.proxy, err = walproxy.Open(context.Background(), o); err != nil {
		r.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); r.proxy.Status().Sinks[0].State != replay.Running; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("the sink: %+v", r.proxy.Status().Sinks[0])
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	r.addr = listener.Addr().String()
	r.server, err = aerowire.Start(aerowire.Options{Core: api.New(r.proxy), Listener: listener, Namespaces: []string{namespace}, Tables: r.sink, Remote: true})
	if err != nil {
		r.Fatal(err)
	}
}

func (r *tables) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	if err := r.server.Close(ctx); err != nil {
		r.Error(err)
	}
	if err := r.proxy.Close(ctx); err != nil {
		r.Error(err)
	}
	if err := r.sink.Close(ctx); err != nil {
		r.Error(err)
	}
}

// applied waits until the store has everything, and returns a connection to look.
func (r *tables) applied() *pgx.Conn {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.proxy.Wait(ctx, r.proxy.Status().Log.Durable, walproxy.Applied); err != nil {
		r.Fatal(err)
	}
	return pgtest.Connect(r, r.o.DSN)
}

func (r *tables) row(sql string, args ...any) (values []any) {
	r.Helper()
	conn := r.applied()
	defer conn.Close(context.Background())
	rows, err := conn.Query(context.Background(), sql, args...)
	if err != nil {
		r.Fatal(err)
	}
	defer rows.Close()
	if rows.Next() {
		if values, err = rows.Values(); err != nil {
			r.Fatal(err)
		}
	}
	return values
}

func (r *tables) bins(c *as.Client, k *as.Key, generation uint32, want as.BinMap) {
	r.Helper()
	rec, err := c.Get(nil, k)
	if err != nil || !reflect.DeepEqual(rec.Bins, want) || rec.Generation != generation {
		r.Errorf("%v: %v, %v; want generation %d, %v", k, rec, err, generation, want)
	}
}

// TestDocumentsInPostgres: what a client does on the embedded store it does on
// document tables.
func TestDocumentsInPostgres(t *testing.T) {
	t.Parallel()
	r := newTables(t, pgtest.Shared(t).Database(t), postgres.Options{AutoCreate: true})
	c := connect(t, r.addr)
	k := key(t, "demo", "one")
	if _, err := c.Get(nil, k); err == nil || !err.Matches(types.KEY_NOT_FOUND_ERROR) {
		t.Fatalf("of an absent record: %v", err)
	}
	bins := as.BinMap{"int": 42, "text": "a\x00b", "float": 2.0, "blob": []byte{0, 255}, "bool": true,
		"list": []any{1, "two", []any{3}}, "map": map[any]any{"a": 1, 2: "b"}}
	p := fresh(c)
	p.SendKey = true
	want(t, "put", c.Put(p, k, bins), types.OK)
	r.bins(c, k, 1, bins)
	if v := r.row("SELECT doc->>'int', octet_length(key) FROM test.demo"); len(v) != 2 || v[0] != "42" || v[1] != int32(20) {
		t.Errorf("the row: %v", v)
	}
	rec, err := c.Operate(nil, k, as.AddOp(as.NewBin("int", 1)), as.GetBinOp("int"), as.ListAppendOp("list", 4))
	want(t, "operate", err, types.OK)
	if rec.Bins["int"] != 43 || rec.Generation != 2 {
		t.Errorf("operate: %v", rec)
	}
	p = fresh(c)
	p.GenerationPolicy, p.Generation = as.EXPECT_GEN_EQUAL, 1
	want(t, "an older generation", c.Put(p, k, as.BinMap{"int": 0}), types.GENERATION_ERROR)
	p = fresh(c)
	p.RecordExistsAction = as.CREATE_ONLY
	want(t, "create-only", c.Put(p, k, as.BinMap{"int": 0}), types.KEY_EXISTS_ERROR)
	p = fresh(c)
	p.Expiration = 1000
	want(t, "ttl", c.Put(p, k, as.BinMap{"text": nil}), types.OK)
	if rec, err := c.GetHeader(nil, k); err != nil || rec.Expiration < 900 || rec.Expiration > 1001 {
		t.Errorf("ttl: %v, %v", rec, err)
	}
	var keys []*as.Key
	for i := range 30 {
		keys = append(keys, key(t, "many", i))
		want(t, "put", c.Put(nil, keys[i], as.BinMap{"n": i}), types.OK)
	}
	recs, err := c.BatchGet(nil, keys)
	want(t, "batch", err, types.OK)
	for i, rec := range recs {
		if rec == nil || rec.Bins["n"] != i {
			t.Errorf("batch: %d is %v", i, rec)
		}
	}
	count := func(set string) (n int) {
		rs, err := c.ScanAll(nil, namespace, set)
		want(t, "scan", err, types.OK)
		for res := range rs.Results() {
			want(t, "scan", res.Err, types.OK)
			n++
		}
		return n
	}
	if n, all := count("many"), count(""); n != 30 || all != 31 {
		t.Errorf("scans found %d of 30, %d of 31", n, all)
	}
	if existed, err := c.Delete(nil, k); err != nil || !existed {
		t.Errorf("delete: %v, %v", existed, err)
	}
	want(t, "truncate", c.Truncate(nil, namespace, "many", nil), types.OK)
	if n := count(""); n != 0 {
		t.Errorf("%d are left", n)
	}
	if v := r.row("SELECT count(*) FROM test.many"); v[0] != int64(0) {
		t.Errorf("rows left: %v", v)
	}
}

// TestMappedTables: bins are columns of the same name.
func TestMappedTables(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Shared(t).Database(t)
	conn := pgtest.Connect(t, dsn)
	_, err := conn.Exec(t.Context(), `
		CREATE TABLE users (id bytea PRIMARY KEY, name text NOT NULL, age int DEFAULT 7, score numeric, note varchar(5), ratio real, extra jsonb,
			twice int GENERATED ALWAYS AS (age * 2) STORED, aero jsonb);
		CREATE TABLE plain (id bytea PRIMARY KEY, n bigint, t text, v bigint)`)
	if err != nil {
		t.Fatal(err)
	}
	r := newTables(t, dsn, postgres.Options{Collections: []postgres.Collection{
		{Pattern: "test.users", Table: "users", RecordColumn: "aero"}, {Pattern: "test.plain", Table: "plain", VersionColumn: "v"}}})
	c := connect(t, r.addr)
	k := key(t, "users", "ada")
	want(t, "without what must not be null", c.Put(nil, k, as.BinMap{"age": 1}), types.PARAMETER_ERROR)
	p := fresh(c)
	p.SendKey = true
	want(t, "put", c.Put(p, k, as.BinMap{"name": "ada"}), types.OK)
	// The table's default is there for the next operation, whether or not it is applied.
	rec, aerr := c.Operate(nil, k, as.AddOp(as.NewBin("age", 1)), as.GetOp())
	want(t, "operate", aerr, types.OK)
	if aerr != nil {
		t.FailNow()
	}
	if rec.Bins["age"] != 8 || rec.Bins["name"] != "ada" || rec.Generation != 2 {
		t.Errorf("operate: %v", rec)
	}
	want(t, "a list into jsonb", c.Put(nil, k, as.BinMap{"extra": []any{1, "x"}, "ratio": 0.5}), types.OK)
	for bin, code := range map[string]types.ResultCode{"nosuch": types.BIN_NAME_TOO_LONG, "aero": types.BIN_NAME_TOO_LONG, "twice": types.BIN_NAME_TOO_LONG, "id": types.BIN_NAME_TOO_LONG} {
		want(t, bin, c.Put(nil, k, as.BinMap{bin: 1}), code)
	}
	for bin, v := range map[string]any{"age": "old", "name": 5, "note": []any{1}} {
		want(t, bin, c.Put(nil, k, as.BinMap{bin: v}), types.BIN_TYPE_ERROR)
	}
	want(t, "too large", c.Put(nil, k, as.BinMap{"age": 1 << 40}), types.BIN_TYPE_ERROR)
	want(t, "null where none may be", c.Put(nil, k, as.BinMap{"name": nil}), types.PARAMETER_ERROR)
	if _, err := conn.Exec(t.Context(), "UPDATE users SET score = 1.50"); err != nil {
		t.Fatal(err)
	}
	p = fresh(c)
	p.Expiration = 5000
	want(t, "an end", c.Put(p, k, as.BinMap{"age": 10}), types.OK)
	want(t, "no end", c.Put(nil, k, as.BinMap{"note": "hm"}), types.OK) // the row as a whole
	r.bins(c, k, 5, as.BinMap{"name": "ada", "age": 10, "twice": 20, "score": "1.50", "note": "hm", "ratio": 0.5, "extra": []any{1, "x"}})
	if v := r.row("SELECT name, age, score::text, note, octet_length(id) FROM users"); !reflect.DeepEqual(v, []any{"ada", int32(10), "1.50", "hm", int32(20)}) {
		t.Errorf("the row: %v", v)
	}
	want(t, "remove a bin", c.Put(nil, k, as.BinMap{"age": nil}), types.OK)
	if v := r.row("SELECT age FROM users"); len(v) != 1 || v[0] != nil {
		t.Errorf("a bin that was removed: %v", v)
	}

	// Nowhere to keep a generation: what needs one is refused.
	k = key(t, "plain", 1)
	want(t, "put", c.Put(nil, k, as.BinMap{"n": 1, "t": "x"}), types.OK)
	want(t, "add", c.Add(nil, k, as.BinMap{"n": 2}), types.OK)
	r.bins(c, k, 0, as.BinMap{"n": 3, "t": "x"})
	p = fresh(c)
	p.GenerationPolicy, p.Generation = as.EXPECT_GEN_EQUAL, 0
	want(t, "a generation", c.Put(p, k, as.BinMap{"n": 0}), types.UNSUPPORTED_FEATURE)
	p = fresh(c)
	p.SendKey = true
	want(t, "a key", c.Put(p, k, as.BinMap{"n": 0}), types.UNSUPPORTED_FEATURE)
	p = fresh(c)
	p.FilterExpression = as.ExpGreater(as.ExpLastUpdate(), as.ExpIntVal(0))
	want(t, "when it was written", c.Put(p, k, as.BinMap{"n": 0}), types.FILTERED_OUT)
	before := time.Now()
	if err := c.Truncate(nil, namespace, "plain", &before); err == nil {
		t.Error("truncated before a time that is not kept")
	}
	if existed, err := c.Delete(nil, k); err != nil || !existed {
		t.Errorf("delete: %v, %v", existed, err)
	}
	if v := r.row("SELECT count(*) FROM plain"); v[0] != int64(0) {
		t.Errorf("rows left: %v", v)
	}
}

// TestPostgresAway: plain writes go on while the store is away, and everything else is
// told so at once; back again, everything is there and every generation has changed.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgtest.Options{})
	r := newTables(t, cluster.Database(t), postgres.Options{AutoCreate: true})
	c := connect(t, r.addr)
	once := fresh(c)
	once.MaxRetries = 0
	reads := *c.DefaultPolicy
	reads.MaxRetries = 0
	k, other := key(t, "away", "k"), key(t, "away", "other")
	ending := fresh(c)
	ending.Expiration = 100
	want(t, "put", c.Put(ending, k, as.BinMap{"n": 1, "s": "a"}), types.OK)
	r.bins(c, k, 1, as.BinMap{"n": 1, "s": "a"})
	r.applied().Close(t.Context())
	cluster.Stop(t)
	const rounds = 20
	for i := range rounds {
		want(t, "add while away", c.Add(once, k, as.BinMap{"n": 1}), types.OK)
		want(t, "append while away", c.Append(once, k, as.BinMap{"s": "b"}), types.OK)
		want(t, "put while away", c.Put(once, other, as.BinMap{"i": i}), types.OK)
	}
	began := time.Now()
	if _, err := c.Get(&reads, k); err == nil || !err.Matches(types.PARTITION_UNAVAILABLE) {
		t.Errorf("a read while away: %v", err)
	}
	if _, err := c.Operate(once, k, as.ListAppendOp("l", 1)); err == nil || !err.Matches(types.PARTITION_UNAVAILABLE) {
		t.Errorf("a list operation while away: %v", err)
	}
	expect := fresh(c)
	expect.GenerationPolicy, expect.Generation, expect.MaxRetries = as.EXPECT_GEN_EQUAL, 1, 0
	want(t, "a generation while away", c.Put(expect, k, as.BinMap{"n": 0}), types.PARTITION_UNAVAILABLE)
	scanAway(t, c, "away")
	want(t, "a truncate while away", c.Truncate(nil, namespace, "away", nil), types.PARTITION_UNAVAILABLE)
	if took := time.Since(began); took > 20*time.Second { // a scan waits for 30 s for what is not applied
		t.Errorf("refusals took %v", took)
	}
	cluster.Start(t)
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := c.Get(&reads, k)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still away: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s := "a"
	for range rounds {
		s += "b"
	}
	r.bins(c, k, 1+2*rounds, as.BinMap{"n": 1 + rounds, "s": s})
	r.bins(c, other, 1+rounds, as.BinMap{"i": rounds - 1})
	if rec, err := c.GetHeader(nil, k); err != nil || rec.Expiration != as.TTLDontExpire {
		t.Errorf("the end that a put took away: %v, %v", rec, err)
	}
	// Who read it before finds it changed; a write that sees it counts on from there.
	want(t, "an older generation", c.Put(expect, k, as.BinMap{"n": 0}), types.GENERATION_ERROR)
	want(t, "put", c.Put(nil, k, as.BinMap{"n": 5}), types.OK)
	r.bins(c, k, 2+2*rounds, as.BinMap{"n": 5, "s": s})
	v := r.row("SELECT doc FROM test.away WHERE doc->>'s' IS NOT NULL")
	if doc, ok := v[0].(map[string]any); !ok || doc["$aerospike.record.blind"] != nil || doc["n"] != float64(5) {
		t.Errorf("the row: %v", v)
	}
}
