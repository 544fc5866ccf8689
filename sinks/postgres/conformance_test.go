package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// suiteStore is a store of the suite: two schemas of one database, for the
// tables and for walproxy's own, which are made faster than a database.
type suiteStore struct {
	db      *suiteDB
	name    string
	options Options
}

var suiteStores atomic.Int64

func newSuiteStore(db *suiteDB, o Options, ddl ...string) (*suiteStore, error) {
	s := &suiteStore{db: db, name: fmt.Sprintf("suite%d", suiteStores.Add(1)), options: o}
	s.options.Schema = s.name + "_own"
	s.options.DSN = db.dsn("search_path=" + s.name)
	err := s.admin("CREATE SCHEMA " + s.name)
	for _, sql := range ddl {
		err = errors.Join(err, s.admin(fmt.Sprintf("SET search_path = %s; %s", s.name, sql)))
	}
	return s, err
}

func (s *suiteStore) admin(sql string) error {
	return s.db.on(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// query reads one value.
func (s *suiteStore) query(sql string, value any) error {
	return s.db.on(func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, sql).Scan(value) })
}

// suiteDB is a database for many stores, with a connection of its own.
type suiteDB struct {
	dsn  func(more ...string) string
	mu   sync.Mutex
	conn *pgx.Conn // nil: none yet, or it was cut off
}

func (d *suiteDB) on(f func(context.Context, *pgx.Conn) error) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	if d.conn == nil || d.conn.IsClosed() {
		if d.conn, err = pgx.Connect(ctx, d.dsn()); err != nil {
			return err
		}
	}
	return f(ctx, d.conn)
}

func (s *suiteStore) Open() (sinks.Sink, error) { return Open(s.options) }

// Crash is a Close without patience: what runs is cut off.
func (s *suiteStore) Crash(sink sinks.Sink) error {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = sink.Close(gone)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return sink.Close(ctx)
}

func (s *suiteStore) Remove() error {
	return s.admin(fmt.Sprintf("SET client_min_messages = error; DROP SCHEMA IF EXISTS %s, %s_own CASCADE", s.name, s.name))
}

// suiteDatabase makes a database.
func suiteDatabase(t testing.TB) *suiteDB {
	cluster := pgtest.Shared(t)
	name, err := cluster.CreateDatabase()
	if err != nil {
		t.Fatal(err)
	}
	d := &suiteDB{dsn: func(more ...string) string { return cluster.DSN(name, more...) }}
	t.Cleanup(func() {
		if d.conn != nil {
			closeSoon(d.conn)
		}
		if err := cluster.DropDatabase(name); err != nil {
			t.Error(err)
		}
	})
	return d
}

// suiteTables are mapped tables that hold as much of a document as one can: with
// everything else in walproxy's own tables, and with columns and a table for it.
var suiteTables = []struct {
	name       string
	collection Collection
	ddl        []string
}{
	{"mapped", Collection{Pattern: "sinktest", OverflowColumn: "rest"}, []string{"CREATE TABLE sinktest (id text PRIMARY KEY, rest jsonb)"}},
	{"mapped, version and events",
		Collection{Pattern: "sinktest", OverflowColumn: "rest", VersionColumn: "version", Events: &Events{Table: "happened", LSN: "lsn"}}, []string{
			"CREATE TABLE sinktest (id text PRIMARY KEY, rest jsonb NOT NULL DEFAULT '{}', version bigint)",
			"CREATE TABLE happened (stream text, version bigint, payload jsonb, lsn bigint, PRIMARY KEY (stream, version))"}},
}

// TestConformance runs the suite of package sinktest on document tables, and on
// both sorts of mapped tables, which take turns unless WALPROXY_LONG is set.
func TestConformance(t *testing.T) {
	db := suiteDatabase(t)
	mapped := func(i int) (sinktest.Store, error) {
		return newSuiteStore(db, Options{Collections: []Collection{suiteTables[i].collection}}, suiteTables[i].ddl...)
	}
	run := func(name string, store func() (sinktest.Store, error)) {
		t.Run(name, func(t *testing.T) { sinktest.Run(t, sinktest.Harness{New: store, Statements: true}) })
	}
	run("documents", func() (sinktest.Store, error) { return newSuiteStore(db, Options{AutoCreate: true}) })
	if os.Getenv("WALPROXY_LONG") == "" {
		turn := 0
		run("mapped", func() (sinktest.Store, error) {
			turn++
			return mapped(turn % len(suiteTables))
		})
		return
	}
	for i, c := range suiteTables {
		run(c.name, func() (sinktest.Store, error) { return mapped(i) })
	}
}
