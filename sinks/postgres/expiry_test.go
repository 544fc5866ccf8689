package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// eager removes what has ended as soon as nobody can see it.
var eager = Expiry{Every: time.Millisecond, Margin: time.Millisecond, Batch: 3}

// mappedExpiring are tables whose records can have an end.
const mappedExpiring = `CREATE TABLE plain (id text PRIMARY KEY, n bigint);
	CREATE TABLE versioned (a text, b bigint, n bigint, v bigint NOT NULL, PRIMARY KEY (a, b));
	CREATE TYPE colour AS ENUM ('red', 'green');
	CREATE TABLE coloured (key colour PRIMARY KEY, doc jsonb NOT NULL DEFAULT '{}', version bigint NOT NULL,
		updated_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz, event_count bigint NOT NULL DEFAULT 0);
	CREATE TABLE timed (key timestamptz PRIMARY KEY, doc jsonb NOT NULL DEFAULT '{}', version bigint NOT NULL,
		updated_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz, event_count bigint NOT NULL DEFAULT 0)`

func expiringOptions(e Expiry) Options {
	return Options{AutoCreate: true, Expiry: e, Collections: []Collection{{Pattern: "versioned", VersionColumn: "v"}}}
}

// newExpiringApplier is an applier with these tables.
func newExpiringApplier(t *testing.T, o Options) *applier {
	t.Helper()
	return newApplier(t, o, strings.Split(mappedExpiring, ";")...)
}

// until is the end of a record, so long after the last record accepted.
func (a *applier) until(d time.Duration) mutation.Option { return mutation.ExpiresAt(a.clock.Add(d)) }

// later applies a record that is accepted so much later.
func (a *applier) later(d time.Duration) {
	a.t.Helper()
	a.clock = a.clock.Add(d)
	a.put(set("ticks", mutation.String("tick"), fields{}))
}

// TestExpiredAreDeleted: rows of every sort of table, with their events, once
// their end has passed; those whose end was taken back or moved stay. Also what a
// process before this one wrote.
func TestExpiredAreDeleted(t *testing.T) {
	a := newExpiringApplier(t, expiringOptions(eager))
	one := mutation.Int64(1)
	keys := map[string]func(string) *walproxyv1.Key{
		"docs": mutation.String, "plain": mutation.String,
		"versioned": func(s string) *walproxyv1.Key { return mutation.Composite(mutation.String(s), one) },
	}
	for collection, key := range keys {
		for i := range 10 { // more than a batch
			k := key(fmt.Sprint("gone", i))
			a.put(set(collection, k, fields{"n": int64(i)}, a.until(time.Hour)),
				must(mutation.AppendEvents(collection, k, []map[string]any{{"e": int64(i)}})))
		}
		a.put(set(collection, key("longer"), fields{}, a.until(time.Hour)), mutation.Touch(collection, key("longer"), a.until(9*time.Hour)),
			set(collection, key("kept"), fields{}, a.until(time.Hour)), set(collection, key("kept"), fields{}),
			set(collection, key("deleted"), fields{}, a.until(time.Hour)), mutation.Delete(collection, key("deleted")),
			set(collection, key("again"), fields{}, a.until(time.Hour)),
			set(collection, key("never"), fields{}))
	}
	composite := mutation.Composite(mutation.String("c"), one)
	a.put(set("docs", composite, fields{}, a.until(time.Hour)), must(mutation.AppendEvents("docs", composite, []map[string]any{{}})),
		set("coloured", mutation.String("red"), fields{}, a.until(time.Hour)),
		set("timed", mutation.String("2026-02-03T04:05:06Z"), fields{}, a.until(time.Hour)),
		must(mutation.AppendEvents("timed", mutation.String("2026-02-03T04:05:06Z"), []map[string]any{{}})),
		set("numbers", one, fields{}, a.until(time.Hour)), must(mutation.AppendEvents("numbers", one, []map[string]any{{}})),
		set("bytes", mutation.Bytes([]byte{0}), fields{}, a.until(time.Hour)), must(mutation.AppendEvents("bytes", mutation.Bytes([]byte{0}), []map[string]any{{}})))
	a.later(59 * time.Minute)
	if got := a.query("SELECT count(*) FROM docs"); got != "15" {
		t.Errorf("%s documents before their end, want 15", got)
	}
	for collection, key := range keys { // absent, and made again before anybody looked
		a.clock = a.clock.Add(time.Hour)
		a.put(set(collection, key("again"), fields{"n": int64(7)}))
	}
	rows := func(collection, want string) {
		t.Helper()
		eventually(t, collection+" has "+want+" rows", func() bool { return a.query("SELECT count(*) FROM "+collection) == want })
	}
	for collection := range keys {
		rows(collection, "4") // longer, kept, never, again
	}
	for _, collection := range []string{"coloured", "timed", "numbers", "bytes"} {
		rows(collection, "0")
	}
	rows("walproxy.event", "0")
	if got := a.query("SELECT count(*) FROM walproxy.record"); got != "8" {
		t.Errorf("%s rows in table record, want 4 of each mapped table", got)
	}
	// Another process, which does not touch the collection.
	a.put(set("docs", mutation.String("late"), fields{}, a.until(time.Hour)))
	next := openSink(t, func() Options { o := a.sink.o; o.Registerer = nil; return o }())
	claim := sinks.Claim{Stream: a.cp.Stream, Owner: "next", Lanes: 1}
	closeSink(t, a.sink)
	b := &applier{driver: resumed(t, next, claim), conn: a.conn, clock: a.clock, last: a.last}
	b.inc = a.inc
	b.later(2 * time.Hour)
	rows("docs", "4")
	if b.get("docs", mutation.String("never")) == nil {
		t.Error("a row without an end is gone")
	}
}

// TestExpiredIsThereForLateWrites: a write that was accepted before the record
// ended finds it, however late it is applied: rows go when every lane has passed
// their end. And not before the server's clock says so, too.
func TestExpiredIsThereForLateWrites(t *testing.T) {
	for collection, margin := range map[string]time.Duration{"docs": time.Millisecond, "plain": time.Millisecond, "margin": 23 * time.Hour} {
		e := eager
		e.Margin = margin
		a := newExpiringApplier(t, expiringOptions(e))
		a.clock = time.Now().Add(-2 * time.Hour).UTC()
		// A second lane, by a relane.
		points := []sinks.Move{{Lane: 0, To: a.cp.Lanes[0]}, {Lane: 1, To: a.cp.Lanes[0]}}
		if _, err := a.sink.Apply(bounded(t), &sinks.Batch{Epoch: a.cp.Epoch, Relane: true, Moves: points}); err != nil {
			t.Fatal(err)
		}
		a.cp.Lanes = []sinks.Point{a.cp.Lanes[0], a.cp.Lanes[0]}
		k := mutation.String("k")
		first := a.record(set(collection, k, fields{"n": int64(1)}, a.until(time.Hour)))
		late := a.record(increment(collection, k, fields{"n": int64(1)}))
		send := func(lane int, r sinks.Record) {
			t.Helper()
			b := a.move(lane, r.LSN)
			b.Records = []sinks.Record{r}
			a.apply(b)
		}
		send(1, first)
		a.clock = a.clock.Add(time.Hour + time.Minute)
		send(0, a.record(set("ticks", k, fields{}))) // far ahead of lane 1
		if at, _ := a.sink.sweep.reach(); at.After(late.Accepted) {
			t.Fatalf("%s: horizon %v while lane 1 has not passed what was accepted at %v", collection, at, late.Accepted)
		}
		send(1, late)
		if got := a.query("SELECT count(*) FROM " + collection); got != "1" {
			t.Fatalf("%s: %s rows", collection, got)
		}
		a.apply(a.move(1, a.last))
		gone := func() bool { return a.query("SELECT count(*) FROM "+collection) == "0" }
		if collection != "margin" {
			eventually(t, "it is gone behind the horizon", gone)
			continue
		}
		eventually(t, "the sweeper knows the collection", func() bool { return a.query("SELECT count(*) FROM walproxy.expiring") == "1" })
		r := &removal{sink: a.sink, e: &expiring{collection: collection, limit: 9}, until: a.clock, epoch: a.cp.Epoch}
		if err := a.sink.sweep.byHand(t, r); err != nil || r.found != 0 || gone() {
			t.Errorf("within the margin: %v, %d rows found", err, r.found)
		}
	}
}

// byHand runs a removal by hand.
func (w *sweeper) byHand(t *testing.T, r *removal) error {
	conn, err := w.sink.acquire(bounded(t), w.sink.applyPool)
	if err != nil {
		return err
	}
	defer w.sink.release(conn)
	return r.run(bounded(t), conn.Conn().PgConn())
}

// TestExpiryFenced: who is no longer the owner deletes nothing, and a claim waits
// for a deletion that is under way.
func TestExpiryFenced(t *testing.T) {
	for _, collection := range []string{"docs", "plain"} {
		o := expiringOptions(Expiry{Disabled: true, Margin: time.Millisecond})
		a := newExpiringApplier(t, o)
		a.put(set(collection, mutation.String("k"), fields{}, a.until(time.Hour)))
		r := &removal{sink: a.sink, e: &expiring{collection: collection, limit: 9}, until: a.clock.Add(2 * time.Hour), epoch: a.cp.Epoch}
		next := resumed(t, a.sink, sinks.Claim{Stream: a.cp.Stream, Owner: "next", Lanes: 1})
		if err := a.sink.sweep.byHand(t, r); !errors.Is(err, sinks.ErrFenced) {
			t.Errorf("%s: under the old epoch: %v", collection, err)
		}
		if got := a.query("SELECT count(*) FROM " + collection); got != "1" {
			t.Errorf("%s: a fenced owner deleted it", collection)
		}
		r.epoch = next.cp.Epoch
		if err := a.sink.sweep.byHand(t, r); err != nil || r.removed != 1 {
			t.Errorf("%s: under the new one: %v, %d removed", collection, err, r.removed)
		}
	}
}

// TestExpiryRaces: a row that a batch holds is passed over, and one that was given
// another end meanwhile stays.
func TestExpiryRaces(t *testing.T) {
	for _, collection := range []string{"docs", "plain", "versioned"} {
		a := newExpiringApplier(t, expiringOptions(Expiry{Disabled: true, Margin: time.Millisecond}))
		k := mutation.String("k")
		if collection == "versioned" {
			k = mutation.Composite(k, mutation.Int64(1))
		}
		a.put(set(collection, k, fields{}, a.until(time.Hour)))
		e := &expiring{collection: collection, limit: 9}
		sweep := func() int {
			t.Helper()
			e.cursor = cursor{}
			r := &removal{sink: a.sink, e: e, until: a.clock.Add(2 * time.Hour), epoch: a.cp.Epoch}
			if err := a.sink.sweep.byHand(t, r); err != nil {
				t.Fatal(err)
			}
			return r.removed
		}
		tx, err := a.conn.Begin(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(bounded(t), "SELECT FROM "+collection+" FOR UPDATE"); err != nil {
			t.Fatal(err)
		}
		if n := sweep(); n != 0 {
			t.Errorf("%s: %d rows removed that another transaction holds", collection, n)
		}
		if err := tx.Rollback(bounded(t)); err != nil {
			t.Fatal(err)
		}
		a.put(mutation.Touch(collection, k, a.until(100*time.Hour)))
		if n := sweep(); n != 0 {
			t.Errorf("%s: %d rows removed that were given another end", collection, n)
		}
		a.put(mutation.Touch(collection, k, a.until(time.Hour)))
		if n := sweep(); n != 1 {
			t.Errorf("%s: %d rows removed, want 1", collection, n)
		}
		if collection == "docs" {
			continue
		}
		// A row that somebody deleted around walproxy leaves its end behind.
		a.put(set(collection, k, fields{}, a.until(time.Hour)))
		if _, err := a.conn.Exec(bounded(t), "DELETE FROM "+collection); err != nil {
			t.Fatal(err)
		}
		sweep()
		if got := a.query("SELECT count(*) FROM walproxy.record"); got != "0" {
			t.Errorf("%s: %s orphans in table record", collection, got)
		}
	}
}

// TestExpiryKept: rows that the table does not let go stay, are counted and
// logged once; the others go all the same.
func TestExpiryKept(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	registry := prometheus.NewRegistry()
	o := Options{Expiry: Expiry{Every: time.Millisecond, Margin: time.Millisecond, Batch: 8}, Logger: zap.New(core), Registerer: registry}
	a := newApplier(t, o,
		"CREATE TABLE parent (id text PRIMARY KEY, n int)", "CREATE TABLE child (id text PRIMARY KEY, parent text REFERENCES parent)")
	for i := range 30 {
		a.put(set("parent", mutation.String(fmt.Sprint(i)), fields{"n": int64(i)}, a.until(time.Hour)))
	}
	for _, i := range []string{"3", "17", "18"} {
		a.put(set("child", mutation.String(i), fields{"parent": i}))
	}
	a.clock = a.clock.Add(2 * time.Hour)
	a.put(set("child", mutation.String("x"), fields{}))
	eventually(t, "the others are gone", func() bool { return a.query("SELECT string_agg(id, ' ' ORDER BY n) FROM parent") == "3 17 18" })
	eventually(t, "three are counted", func() bool { return gather(t, registry)["walproxy_postgres_expired_kept_total"] == 3 })
	if n := gather(t, registry)["walproxy_postgres_expired_total"]; n != 27 {
		t.Errorf("%v counted as deleted, want 27", n)
	}
	if n := logs.FilterMessageSnippet("cannot be deleted").Len(); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if a.get("parent", mutation.String("3")) != nil {
		t.Error("a kept row is there for readers")
	}
}

// TestExpiryIsInvisible: with and without deletion, under cut connections, every
// batch has the same results, and readers see the same records and events.
func TestExpiryIsInvisible(t *testing.T) {
	dsn := suiteDatabase(t)
	defer func() { now = time.Now }()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorkload(rt)
		w.ends, w.conditions, w.collections = true, true, []string{"plain", "docs"}
		w.few(3)
		ddl := "CREATE TABLE plain (id text PRIMARY KEY, n bigint, d double precision, dec numeric DEFAULT 3, t text, j jsonb, v bigint)"
		o := Options{AutoCreate: true, Collections: []Collection{{Pattern: "plain", VersionColumn: "v"}}}
		if rapid.Bool().Draw(rt, "without a version column") {
			o.Collections = nil
		}
		keeps := newTarget(rt, dsn, o, 1, ddl)
		defer keeps.end()
		o.Expiry = eager
		deletes := newTarget(rt, dsn, o, 1, ddl)
		defer deletes.end()
		deletes.fault = faults(deletes, rapid.Uint64().Draw(rt, "faults"))
		for range rapid.IntRange(4, 12).Draw(rt, "batches") {
			records := w.records(rapid.IntRange(1, 6).Draw(rt, "records"))
			for _, target := range []*target{keeps, deletes} {
				if err := target.apply(0, records); err != nil {
					rt.Fatal(err)
				}
			}
			if len(keeps.dead) != len(deletes.dead) {
				rt.Fatalf("dead letters %v, with deletion %v", keeps.dead, deletes.dead)
			}
			clock := w.clock
			now = func() time.Time { return clock }
			for _, collection := range w.collections {
				for _, key := range w.keys {
					one, two := keeps.look(collection, key), deletes.look(collection, key)
					if one != two {
						rt.Fatalf("%s %v: %s, with deletion %s", collection, key, one, two)
					}
				}
			}
			if rapid.Bool().Draw(rt, "wait for the deletion") {
				deletes.swept()
			}
		}
	})
}

// look is what a reader sees of a key.
func (t *target) look(collection string, key *walproxyv1.Key) string {
	d, err := t.sink.Read(soon(t.rt), collection, key)
	if errors.Is(err, mutation.ErrNotFound) {
		return "absent"
	}
	if err != nil {
		t.rt.Fatal(err)
	}
	events, err := t.sink.ReadEvents(soon(t.rt), collection, key, 1, 1000)
	if err != nil {
		t.rt.Fatal(err)
	}
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(&walproxyv1.Event{Fields: d.Fields})
	if err != nil {
		t.rt.Fatal(err)
	}
	return fmt.Sprintf("version %d until %v, %x, %d events: %v", d.Version, d.ExpiresAt, text, d.EventCount, len(events))
}

// swept waits until no row is left that ended a moment before the horizon: at most
// until those that a cut-off batch held locked are looked at again. The horizon
// moves all the while, as it does under load: a removal that is cut off, too, is
// made again when it does.
func (t *target) swept() {
	horizon, _ := t.sink.sweep.reach()
	if horizon.IsZero() {
		return
	}
	t.sink.sweep.applied(&sinks.Batch{Epoch: t.cp.Epoch}) // nothing moves
	sql := fmt.Sprintf("SELECT count(*) FROM %s.record WHERE expires_at < '%s'", t.store.options.Schema, horizon.Format(time.RFC3339Nano))
	for end := time.Now().Add(relook + 30*time.Second); ; {
		select {
		case t.sink.sweep.signal <- struct{}{}:
		default:
		}
		var n int
		err := t.store.query(sql, &n)
		if err == nil && n == 0 {
			return
		}
		if time.Now().After(end) {
			t.rt.Fatalf("%d rows are left that ended before %v (%v)", n, horizon, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
