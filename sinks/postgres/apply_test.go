package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// applier applies mutations through a sink with one lane.
type applier struct {
	*driver
	conn  *pgx.Conn // a second client
	last  sinks.LSN
	clock time.Time
}

func newApplier(t testing.TB, o Options, ddl ...string) *applier {
	t.Helper()
	o.DSN = pgtest.Shared(t).Database(t)
	return applierOn(t, o, ddl...)
}

func applierOn(t testing.TB, o Options, ddl ...string) *applier {
	t.Helper()
	conn := pgtest.Connect(t, o.DSN)
	for _, sql := range ddl {
		if _, err := conn.Exec(bounded(t), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return &applier{driver: resumed(t, openSink(t, o), claimOf(1)), conn: conn, clock: time.Unix(1_600_000_000, 0).UTC()}
}

// record makes the next record, a group if there are several mutations.
func (a *applier) record(ms ...*walproxyv1.Mutation) sinks.Record {
	a.last++
	a.clock = a.clock.Add(time.Millisecond)
	body := &walproxyv1.Record{Format: 1}
	if len(ms) == 1 {
		body.Body = &walproxyv1.Record_Mutation{Mutation: ms[0]}
	} else {
		g := &walproxyv1.Group{}
		for _, m := range ms {
			g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
		}
		body.Body = &walproxyv1.Record_Group{Group: g}
	}
	return sinks.Record{LSN: a.last, Accepted: a.clock, Body: body, Bytes: proto.Size(body)}
}

func (a *applier) batch(records ...sinks.Record) *sinks.Batch {
	b := a.move(0, records[len(records)-1].LSN)
	b.Records = records
	return b
}

// try applies records as one batch and returns what is not applied of them.
func (a *applier) try(ctx context.Context, records ...sinks.Record) (results []sinks.Result, err error) {
	b := a.batch(records...)
	if results, err = a.sink.Apply(ctx, b); err != nil {
		return results, err
	}
	for _, r := range results {
		if r.Outcome != sinks.Applied {
			return results, r.Err
		}
	}
	a.cp.Lanes[0] = b.Moves[0].To
	return results, nil
}

// put applies mutations, a record each, as one batch.
func (a *applier) put(ms ...*walproxyv1.Mutation) {
	a.t.Helper()
	var records []sinks.Record
	for _, m := range ms {
		records = append(records, a.record(m))
	}
	if results, err := a.try(bounded(a.t), records...); err != nil {
		a.t.Fatalf("%v (%v)", err, results)
	}
}

// skip moves past a record.
func (a *applier) skip(r sinks.Record) {
	a.t.Helper()
	a.apply(a.move(0, r.LSN))
}

// refused wants a mutation rejected alone, and passes it.
func (a *applier) refused(m *walproxyv1.Mutation) error {
	a.t.Helper()
	r := a.record(m)
	results, err := a.try(bounded(a.t), r)
	outcome := sinks.OutcomeOf(err)
	if results != nil {
		outcome = results[0].Outcome
	}
	if outcome != sinks.Rejected {
		a.t.Fatalf("outcome %v (%v), want rejected: %v", outcome, err, m)
	}
	a.skip(r)
	return err
}

func (a *applier) get(collection string, key *walproxyv1.Key) *mutation.Document {
	a.t.Helper()
	d, err := a.sink.Read(bounded(a.t), collection, key)
	if errors.Is(err, mutation.ErrNotFound) {
		return nil
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return d
}

// query is one value, as text.
func (a *applier) query(sql string) (text string) {
	a.t.Helper()
	if err := a.conn.QueryRow(bounded(a.t), "SELECT coalesce(("+sql+")::text, 'NULL')").Scan(&text); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func must(m *walproxyv1.Mutation, err error) *walproxyv1.Mutation {
	if err != nil {
		panic(err)
	}
	return m
}

type fields = map[string]any

func set(collection string, key *walproxyv1.Key, f fields, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Set(collection, key, f, o...))
}

func merge(collection string, key *walproxyv1.Key, f fields, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Merge(collection, key, f, o...))
}

func increment(collection string, key *walproxyv1.Key, f fields, o ...mutation.Option) *walproxyv1.Mutation {
	return must(mutation.Increment(collection, key, f, o...))
}
