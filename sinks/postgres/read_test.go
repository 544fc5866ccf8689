package postgres

import (
	"errors"
	"strings"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

// TestScanTextKeys: where whole numbers are keys of text, as they are if nobody says
// otherwise, a scan finds what Read does: versions, and that a record has ended.
func TestScanTextKeys(t *testing.T) {
	a := newApplier(t, Options{Collections: []Collection{{Pattern: "t"}, {Pattern: "v", VersionColumn: "v"}, {Pattern: "n"}}},
		"CREATE TABLE t (id bigint PRIMARY KEY, n int)", "CREATE TABLE v (id smallint PRIMARY KEY, n int, v bigint)", "CREATE TABLE n (id int PRIMARY KEY, n int)")
	keys := map[string][]*walproxyv1.Key{
		"t": {mutation.String("-1"), mutation.String("2")}, "v": {mutation.String("-1"), mutation.String("2")}, "n": {mutation.Int64(-1), mutation.Int64(2)},
	}
	for collection, k := range keys {
		a.put(set(collection, k[0], fields{"n": int64(1)}), must(mutation.Set(collection, k[1], fields{"n": int64(2)}, mutation.ExpiresAt(a.clock.Add(time.Hour)))))
		d := a.get(collection, k[0])
		entries, err := a.sink.Scan(bounded(t), collection, "", nil, 10)
		if err != nil || len(entries) != 1 || entries[0].Key.GetInt64() != -1 || entries[0].Document.Version != d.Version || d.Version == 0 {
			t.Errorf("%s: %v, %v; want one of version %d", collection, entries, err, d.Version)
		}
	}
}

// TestEventsBeyond: behind the last event there is none, however far.
func TestEventsBeyond(t *testing.T) {
	a := newApplier(t, Options{AutoCreate: true})
	k := mutation.String("k")
	a.put(must(mutation.AppendEvents("t", k, []map[string]any{{"n": int64(1)}})))
	for _, from := range []uint64{2, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		if events, err := a.sink.ReadEvents(bounded(t), "t", k, from, 10); err != nil || len(events) != 0 {
			t.Errorf("from %d: %v, %v", from, events, err)
		}
	}
	for limit, want := range map[int]int{-1: 0, 0: 0, 1: 1} {
		if events, err := a.sink.ReadEvents(bounded(t), "t", k, 0, limit); err != nil || len(events) != want {
			t.Errorf("%d of them: %v, %v", limit, events, err)
		}
	}
}

// TestUnreadableIsNotAbsent: a row with a value that the server cannot give is an error,
// of a scan, too; a key that is no value of its column is not there.
func TestUnreadableIsNotAbsent(t *testing.T) {
	dsn := pgtest.Shared(t).Database(t)
	at := strings.LastIndex(dsn, "/")
	name, _, _ := strings.Cut(dsn[at+1:], "?")
	conn := pgtest.Connect(t, dsn)
	if _, err := conn.Exec(bounded(t), "CREATE DATABASE "+name+"ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	a := applierOn(t, Options{DSN: strings.Replace(dsn, "/"+name, "/"+name+"ascii", 1), Collections: []Collection{{Pattern: "t"}}},
		"CREATE TYPE mood AS ENUM ('good', 'bad')", "CREATE TABLE t (id mood PRIMARY KEY, n text)", `INSERT INTO t VALUES ('good', E'\xff')`)
	good, bad, none := mutation.String("good"), mutation.String("bad"), mutation.String("none")
	if d, err := a.sink.Read(bounded(t), "t", good); codeOf(err) != "22021" || errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("read: %v, %v", d, err)
	}
	if events, err := a.sink.ReadEvents(bounded(t), "t", good, 1, 1); codeOf(err) != "22021" || errors.Is(err, mutation.ErrNotFound) {
		t.Errorf("read of events: %v, %v", events, err)
	}
	if entries, err := a.sink.Scan(bounded(t), "t", "", nil, 10); codeOf(err) != "22021" {
		t.Errorf("scan: %v, %v", entries, err)
	}
	for _, key := range []*walproxyv1.Key{bad, none} {
		if d, err := a.sink.Read(bounded(t), "t", key); !errors.Is(err, mutation.ErrNotFound) {
			t.Errorf("%v: %v, %v", key, d, err)
		}
		if events, err := a.sink.ReadEvents(bounded(t), "t", key, 1, 1); !errors.Is(err, mutation.ErrNotFound) {
			t.Errorf("events of %v: %v, %v", key, events, err)
		}
	}
	for _, s := range []struct {
		prefix string
		after  *walproxyv1.Key
	}{{"", bad}, {"", none}, {"\x00", nil}} {
		if entries, err := a.sink.Scan(bounded(t), "t", s.prefix, s.after, 10); err != nil || len(entries) != 0 {
			t.Errorf("scan of %q behind %v: %v, %v", s.prefix, s.after, entries, err)
		}
	}
	if err := a.sink.Close(bounded(t)); err != nil {
		t.Error(err)
	}
	if _, err := conn.Exec(bounded(t), "DROP DATABASE "+name+"ascii WITH (FORCE)"); err != nil {
		t.Error(err)
	}
}
