package behind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// TestKeysAreTheSinks: the key of a statement, in a mutation, is the statement's row to
// the sink. Rows are written directly; mutations with the keys of their statements
// delete them all.
func TestKeysAreTheSinks(t *testing.T) {
	ddl := "CREATE TYPE mood AS ENUM ('sad', 'ok');"
	var tables []catalogue.Declared
	var collections []postgres.Collection
	for i, f := range keyForms {
		ddl += fmt.Sprintf("CREATE TABLE k%d (k %s PRIMARY KEY); CREATE TABLE p%d (k %s, other int8, PRIMARY KEY (other, k));", i, f.definition, i, f.definition)
		single, pair := fmt.Sprintf("k%d", i), fmt.Sprintf("p%d", i)
		tables = append(tables, catalogue.Declared{Name: single, KeyType: f.collection}, catalogue.Declared{Name: pair, KeyType: mutation.KeyComposite, Key: []string{"k", "other"}})
		collections = append(collections, postgres.Collection{Pattern: pair, Table: "public." + pair, Key: []string{"k", "other"}}, postgres.Collection{Pattern: single, Table: "public." + single})
	}
	r := newRig(t, ddl, tables...)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	var records []sinks.Record
	written := 0
	for i, f := range keyForms {
		for range 20 {
			format, value := f.draw(random)
			for _, a := range []attempt{
				{sql: fmt.Sprintf("INSERT INTO k%d (k) VALUES ($1) ON CONFLICT DO NOTHING", i), formats: []int16{format}, values: [][]byte{value}},
				{sql: fmt.Sprintf("INSERT INTO p%d (k, other) VALUES ($1, 7) ON CONFLICT DO NOTHING", i), formats: []int16{format}, values: [][]byte{value}},
			} {
				plan, rows, refusal, why := r.judge(a)
				if refusal != nil || why != nil {
					t.Fatalf("%s %q: %v %v", a.sql, a.values, refusal, why)
				}
				tag, refused := r.direct(a)
				if refused != nil {
					t.Fatal(refused)
				}
				if tag == "INSERT 0 1" {
					written++
				}
				remove := &walproxyv1.Mutation{Collection: plan.Table.Collection, Key: rows[0].Key, Ops: []*walproxyv1.Op{{Kind: &walproxyv1.Op_Delete_{Delete: &walproxyv1.Op_Delete{}}}}}
				if err := mutation.Validate(remove); err != nil {
					t.Fatal(err)
				}
				records = append(records, sinks.Record{LSN: sinks.LSN(len(records) + 1), Accepted: time.Now(), Bytes: 100,
					Body: &walproxyv1.Record{Format: mutation.Format, Body: &walproxyv1.Record_Mutation{Mutation: remove}}})
			}
		}
	}
	if written < 3*len(keyForms) {
		t.Fatalf("only %d rows were written", written)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sink, err := postgres.Open(postgres.Options{DSN: r.dsn, Collections: collections})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sink.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	checkpoint, err := sink.Resume(ctx, sinks.Claim{Stream: uuid.New(), Owner: "test", Lanes: 1, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := sink.Apply(ctx, &sinks.Batch{Epoch: checkpoint.Epoch, Records: records, Moves: []sinks.Move{{Lane: 0, From: checkpoint.Lanes[0],
		To: sinks.Point{Incarnation: uuid.New(), LSN: sinks.LSN(len(records))}}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outcomes {
		if o.Outcome != sinks.Applied {
			t.Errorf("%v: %v %v", records[i].Body, o.Outcome, o.Err)
		}
	}
	for _, table := range tables {
		if left := r.must("SELECT * FROM " + table.Name); len(left) > 0 {
			t.Errorf("table %s (%s) still has %q", table.Name, table.KeyType, left)
		}
	}
}

// TestAsSink runs random statements directly on one database, and through the sink, from
// their records and in batches, on another, whose types have other numbers: the same are
// refused, and the rows are the same.
func TestAsSink(t *testing.T) {
	direct := newRig(t, modelDDL, catalogue.Declared{Name: "t"}, catalogue.Declared{Name: "pair", Key: []string{"a", "b"}})
	stored := newRig(t, "CREATE TYPE another AS ENUM ('x');"+modelDDL, catalogue.Declared{Name: "t"})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	sink, err := postgres.Open(postgres.Options{DSN: stored.dsn, Collections: []postgres.Collection{{Pattern: "pair", Key: []string{"a", "b"}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sink.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	checkpoint, err := sink.Resume(ctx, sinks.Claim{Stream: uuid.New(), Owner: "test", Lanes: 1, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	at, incarnation := checkpoint.Lanes[0], uuid.New()
	// apply returns whether records were applied; alone, what is not is passed.
	apply := func(records []sinks.Record) bool {
		move := sinks.Move{Lane: 0, From: at, To: sinks.Point{Incarnation: incarnation, LSN: records[len(records)-1].LSN}}
		results, err := sink.Apply(ctx, &sinks.Batch{Epoch: checkpoint.Epoch, Records: records, Moves: []sinks.Move{move}})
		applied := err == nil
		outcome := sinks.OutcomeOf(err)
		for _, r := range results {
			if applied = applied && r.Outcome == sinks.Applied; r.Outcome == sinks.Rejected {
				outcome = sinks.Rejected
			}
		}
		switch {
		case applied:
		case outcome != sinks.Rejected:
			t.Fatalf("%v: %v %v", records, err, results)
		case len(records) > 1:
			return false
		default:
			if _, err := sink.Apply(ctx, &sinks.Batch{Epoch: checkpoint.Epoch, Moves: []sinks.Move{move}}); err != nil {
				t.Fatal(err)
			}
		}
		at = move.To
		return applied
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	var batch []sinks.Record
	var refused []*pgconn.PgError // directly, by the batch's records
	done, rejected := 0, 0
	flush := func() {
		if len(batch) == 1 || len(batch) > 0 && !apply(batch) { // one alone is not applied twice
			for i := range batch {
				ok := apply(batch[i : i+1])
				if ok != (refused[i] == nil) {
					t.Fatalf("applied: %v, directly: %v (seed %d): %v", ok, refused[i], seed, batch[i].Body)
				}
				if !ok {
					rejected++
				}
			}
		} else if i := slices.IndexFunc(refused, func(e *pgconn.PgError) bool { return e != nil }); i >= 0 {
			t.Fatalf("applied; directly: %v (seed %d): %v", refused[i], seed, batch[i].Body)
		}
		batch, refused = nil, nil
	}
	for range 1500 {
		by := &author{random: random, simple: random.IntN(2) == 0}
		a := attempt{sql: by.write()}
		for _, v := range by.values {
			value := []byte(v)
			if v == "\x00" {
				value = nil
			}
			a.values = append(a.values, value)
		}
		plan, rows, refusal, why := direct.judge(a)
		if refusal != nil || why != nil || len(rows) == 0 || len(by.values) == 0 && !by.simple {
			continue
		}
		_, want := direct.direct(a)
		body := &walproxyv1.Record{Format: mutation.Format}
		group := &walproxyv1.Group{}
		for _, row := range rows {
			statement := plan.Record(row, direct.session)
			body.Body = &walproxyv1.Record_Statement{Statement: statement}
			group.Members = append(group.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Statement{Statement: statement}})
		}
		if len(rows) > 1 {
			body.Body = &walproxyv1.Record_Group{Group: group}
		}
		done++
		batch, refused = append(batch, sinks.Record{LSN: sinks.LSN(done), Accepted: time.Now(), Bytes: 300, Body: body}), append(refused, want)
		if random.IntN(30) == 0 {
			flush()
		}
	}
	flush()
	for _, table := range []string{"t", "pair"} {
		dump := "SELECT * FROM " + table + " ORDER BY 1, 2, 3"
		if got, want := fmt.Sprint(stored.must(dump)), fmt.Sprint(direct.must(dump)); got != want {
			t.Errorf("table %s is\n%s\nwant\n%s (seed %d)", table, got, want, seed)
		}
	}
	t.Logf("%d logged, %d rejected", done, rejected)
	if done < 300 || rejected < 20 {
		t.Error("too few to mean anything")
	}
}
