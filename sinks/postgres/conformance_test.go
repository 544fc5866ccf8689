package postgres

import (
	"context"
	"errors"
	"fmt"
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
	dsn     func(more ...string) string
	name    string
	options Options
}

var suiteStores atomic.Int64

func newSuiteStore(dsn func(more ...string) string, o Options) (*suiteStore, error) {
	s := &suiteStore{dsn: dsn, name: fmt.Sprintf("suite%d", suiteStores.Add(1)), options: o}
	s.options.Schema = s.name + "_own"
	s.options.DSN = dsn("search_path=" + s.name)
	return s, s.admin(fmt.Sprintf("CREATE SCHEMA %s", s.name))
}

func (s *suiteStore) admin(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// query reads one value.
func (s *suiteStore) query(ctx context.Context, sql string, value any) error {
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return err
	}
	return errors.Join(conn.QueryRow(ctx, sql).Scan(value), conn.Close(ctx))
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

// suiteDatabase makes a database and returns its DSN with more settings.
func suiteDatabase(t testing.TB) func(more ...string) string {
	cluster := pgtest.Shared(t)
	name, err := cluster.CreateDatabase()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.DropDatabase(name); err != nil {
			t.Error(err)
		}
	})
	return func(more ...string) string { return cluster.DSN(name, more...) }
}

// TestConformance runs the suite of package sinktest on document tables.
func TestConformance(t *testing.T) {
	dsn := suiteDatabase(t)
	sinktest.Run(t, sinktest.Harness{New: func() (sinktest.Store, error) {
		return newSuiteStore(dsn, Options{AutoCreate: true})
	}})
}
