package pgwire

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks/postgres"
	"github.com/walproxy/walproxy/wal"
)

// behindRig is an endpoint with tables that are written behind, on the real log and
// the real sink.
type behindRig struct {
	*Server
	t       testing.TB
	proxy   *walproxy.Proxy
	direct  string // DSN of the database
	through string // ... by way of the endpoint
	admin   *pgx.Conn
	dir     string
}

type behindOptions struct {
	cluster *pgtest.Cluster
	dsn     string // of a database that is there already
	dir     string
	change  []func(*Options)
	linger  time.Duration
	proxy   func(*walproxy.Options) // nil: as it is
}

// newBehindRig makes a database with ddl, whose tables are declared as they are
// given, in the schema public.
func newBehindRig(t testing.TB, ddl string, tables []Table, change ...func(*behindOptions)) *behindRig {
	t.Helper()
	o := behindOptions{linger: 5 * time.Millisecond, dir: t.TempDir()}
	for _, f := range change {
		f(&o)
	}
	if o.cluster == nil {
		o.cluster = pgtest.Shared(t)
	}
	r := &behindRig{t: t, direct: o.dsn, dir: o.dir}
	if r.direct == "" {
		r.direct = o.cluster.Database(t)
	}
	r.admin = pgtest.Connect(t, r.direct)
	do(t, r.admin, ddl)
	so := postgres.Options{DSN: r.direct}
	po := walproxy.Options{Dir: o.dir, Log: wal.Options{MinFree: -1}, Logger: zap.NewNop(), DrainTimeout: 5 * time.Second}
	for i := range tables {
		d := &tables[i].Declared
		d.Schema = "public"
		if d.Collection == "" {
			d.Collection = d.Name
		}
		so.Collections = append(so.Collections, postgres.Collection{Pattern: d.Collection, Table: "public." + d.Name, Key: d.Key})
		po.KeyTypes = append(po.KeyTypes, walproxy.KeyType{Collection: d.Collection, Type: d.KeyType})
	}
	sink, err := postgres.Open(so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := sink.Close(ctx); err != nil {
			t.Errorf("close the sink: %v", err)
		}
	})
	loop := replay.Options{Lanes: 2}
	loop.Batch.Linger, loop.Batch.Rest = o.linger, -1
	po.Sinks = []walproxy.SinkOptions{{Name: "main", Sink: sink, Loop: loop}}
	if o.proxy != nil {
		o.proxy(&po)
	}
	if r.proxy, err = walproxy.Open(bounded(t), po); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.proxy.Close(context.Background()); err != nil {
			t.Logf("close the proxy: %v", err)
		}
	})
	inspector := sink.Inspector()
	t.Cleanup(inspector.Close)
	wb := &WriteBehind{Core: api.New(r.proxy), Sink: "main", Tables: tables, Query: inspector.Query, Interval: 200 * time.Millisecond,
		GateTimeout: 30 * time.Second, ReadTimeout: 30 * time.Second}
	all := append([]func(*Options){func(o *Options) { o.WriteBehind = wb }}, o.change...)
	r.Server = start(t, o.cluster.Addr(), all...)
	r.through = r.Server.through(t, r.direct)
	return r
}

// connect opens a session of pgx's by way of the endpoint.
func (r *behindRig) connect(mode ...pgx.QueryExecMode) *pgx.Conn {
	r.t.Helper()
	c, err := pgx.ParseConfig(r.through)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(mode) > 0 {
		c.DefaultQueryExecMode = mode[0]
	}
	conn, err := pgx.ConnectConfig(bounded(r.t), c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// applied waits until nothing is pending.
func (r *behindRig) applied() {
	r.t.Helper()
	for _, table := range r.tables.o.Tables {
		if err := r.proxy.WaitSink(bounded(r.t), "main", r.proxy.Newest(table.Collection)); err != nil {
			r.t.Fatal(err)
		}
	}
	letters, err := r.proxy.DeadLetters("main", 0, 10)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range letters {
		r.t.Errorf("dead letter %d: %s %v", l.LSN, l.Reason, l.Details)
	}
}

// logged is how many queries were acknowledged from the log.
func (r *behindRig) logged() int { return int(r.tables.m.logged.Load()) }

func table(name string, kt mutation.KeyType, key ...string) Table {
	return Table{Declared: catalogue.Declared{Name: name, KeyType: kt, Key: key}}
}

const itemsDDL = "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, n smallint, at timestamptz DEFAULT now()); CREATE TABLE other (id int PRIMARY KEY, v text)"

func items() []Table { return []Table{table("items", mutation.KeyInt64)} }

// TestWriteBehind: a driver's writes are acknowledged from the log, in each of its
// modes, and arrive.
func TestWriteBehind(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items())
	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}
	for i, mode := range modes {
		conn := r.connect(mode)
		for n := range 3 {
			before := r.logged()
			tag, err := conn.Exec(bounded(t), "INSERT INTO items (id, name, n) VALUES ($1, $2, $3)", i*100+n, "it's \\ one", n)
			if err != nil || tag.String() != "INSERT 0 1" {
				t.Fatalf("%v: %v %v", mode, tag, err)
			}
			if now := r.logged(); now != before+1 {
				t.Errorf("%v, use %d: not acknowledged from the log: %s", mode, n+1, r.why())
			}
		}
		// Its own writes are there.
		if got := one[int](t, conn, "SELECT count(*)::int FROM items WHERE id / 100 = $1 AND name = 'it''s \\ one' AND at IS NOT NULL", i); got != 3 {
			t.Errorf("%v: %d rows, want 3", mode, got)
		}
	}
	r.applied()
	if got := one[int](t, r.admin, "SELECT count(*)::int FROM items"); got != 3*len(modes) {
		t.Errorf("%d rows, want %d", got, 3*len(modes))
	}
}

// why the last write was passed through.
func (r *behindRig) why() string {
	why, _ := r.tables.m.why.Load().(string)
	return why
}

// TestPathSetAmid: a write goes where the session's search_path says, also where that was
// set by another statement than SET and SELECT.
func TestPathSetAmid(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; CREATE SCHEMA other; CREATE TABLE other.items (LIKE items INCLUDING ALL); CREATE TABLE note (v text); INSERT INTO note VALUES ('')", items())
	for i, change := range []string{
		"INSERT INTO note SELECT set_config('search_path', 'other', false)",
		"UPDATE note SET v = set_config('search_path', 'other', false)",
		"COPY (SELECT set_config('search_path', 'other', false)) TO STDOUT",
		"UPDATE pg_settings SET setting = 'other' WHERE name = 'search_path'",
		"CREATE TABLE made (); SET search_path = other",
	} {
		conn := r.connect(pgx.QueryExecModeSimpleProtocol)
		if _, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, 'x')", -i-1); err != nil {
			t.Fatal(err)
		}
		do(t, conn, change)
		if _, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, 'x')", i); err != nil {
			t.Fatal(err)
		}
	}
	r.applied()
	if n := one[int](t, r.admin, "SELECT count(*) FROM other.items"); n != 5 {
		t.Errorf("%d of 5 rows are where they belong", n)
	}
}
