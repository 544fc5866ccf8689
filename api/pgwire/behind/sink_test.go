package behind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

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
