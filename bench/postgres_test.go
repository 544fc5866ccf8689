package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/postgres"
)

// rowsPerTransaction of every method but autocommit.
const rowsPerTransaction = 1000

const rowsDDL = `CREATE TABLE rows (id bigint PRIMARY KEY, name text NOT NULL, body text NOT NULL,
	amount double precision NOT NULL, at timestamptz NOT NULL, version bigint NOT NULL)`

var body = strings.Repeat("b", 140)

func rowOf(i int) []any {
	return []any{int64(i), fmt.Sprintf("name %09d", i), body, float64(i) / 8, time.Unix(1_700_000_000+int64(i), 0).UTC(), int64(i + 1)}
}

// BenchmarkPostgres writes rows of five columns, about 200 bytes, and their
// version, 1,000 in a transaction, into a table that is empty (write=insert) or
// holds all of them (write=upsert). The server syncs its commits.
//
//   - method=sink: sinks/postgres, lanes at once
//   - method=autocommit: an INSERT after another on one connection
//   - method=pipeline: one transaction of pipelined INSERTs, or upserts
//   - method=copy: plain COPY, which can only insert, on as many connections
//
// Run it with -benchtime=100000x: an operation is one row.
func BenchmarkPostgres(b *testing.B) {
	cluster := pgtest.New(b, pgtest.Options{})
	for _, write := range []string{"insert", "upsert"} {
		for _, m := range []struct {
			method string
			conns  int
			run    func(b *testing.B, dsn, write string, conns int) int
		}{
			{"copy", 1, copyRows}, {"sink", 1, sinkRows}, {"copy", 4, copyRows}, {"sink", 4, sinkRows},
			{"pipeline", 1, pipelineRows}, {"autocommit", 1, autocommitRows},
		} {
			if m.method == "copy" && write == "upsert" {
				continue
			}
			b.Run(fmt.Sprintf("write=%s/method=%s/lanes=%d", write, m.method, m.conns), func(b *testing.B) {
				dsn := cluster.Database(b)
				conn := pgtest.Connect(b, dsn)
				execute(b, conn, rowsDDL)
				if write == "upsert" {
					copyPart(b, conn, 0, 1, b.N)
				}
				execute(b, conn, "VACUUM ANALYZE rows")
				execute(b, conn, "CHECKPOINT")
				rows := m.run(b, dsn, write, m.conns)
				b.StopTimer()
				b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
				b.ReportMetric(0, "ns/op")
				var n int
				if err := conn.QueryRow(b.Context(), "SELECT count(*) FROM rows").Scan(&n); err != nil || n < rows {
					b.Fatalf("%d rows in the table, %v; want %d", n, err, rows)
				}
			})
		}
	}
}

func execute(b *testing.B, conn *pgx.Conn, sql string) {
	b.Helper()
	if _, err := conn.Exec(b.Context(), sql); err != nil {
		b.Fatal(err)
	}
}

// copyPart copies every conns-th transaction of n rows.
func copyPart(b *testing.B, conn *pgx.Conn, part, conns, n int) {
	columns := []string{"id", "name", "body", "amount", "at", "version"}
	for from := part * rowsPerTransaction; from < n; from += conns * rowsPerTransaction {
		size := min(rowsPerTransaction, n-from)
		_, err := conn.CopyFrom(b.Context(), pgx.Identifier{"rows"}, columns, pgx.CopyFromSlice(size, func(i int) ([]any, error) {
			return rowOf(from + i), nil
		}))
		if err != nil {
			b.Error(err)
			return
		}
	}
}

func copyRows(b *testing.B, dsn, _ string, conns int) int {
	var open []*pgx.Conn
	for range conns {
		open = append(open, pgtest.Connect(b, dsn))
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, conn := range open {
		wg.Go(func() { copyPart(b, conn, i, conns, b.N) })
	}
	wg.Wait()
	return b.N
}

const insertSQL = "INSERT INTO rows (id, name, body, amount, at, version) VALUES ($1, $2, $3, $4, $5, $6)"

func insertFor(write string) string {
	if write == "insert" {
		return insertSQL
	}
	return insertSQL + " ON CONFLICT (id) DO UPDATE SET name = excluded.name, body = excluded.body, amount = excluded.amount, at = excluded.at, version = excluded.version"
}

func autocommitRows(b *testing.B, dsn, write string, _ int) int {
	conn, sql := pgtest.Connect(b, dsn), insertFor(write)
	rows := min(b.N, 5000) // it is slow, and steady
	b.ResetTimer()
	for i := range rows {
		if _, err := conn.Exec(b.Context(), sql, rowOf(i)...); err != nil {
			b.Fatal(err)
		}
	}
	return rows
}

func pipelineRows(b *testing.B, dsn, write string, _ int) int {
	conn, sql := pgtest.Connect(b, dsn), insertFor(write)
	b.ResetTimer()
	for from := 0; from < b.N; from += rowsPerTransaction {
		batch := &pgx.Batch{}
		for i := from; i < min(from+rowsPerTransaction, b.N); i++ {
			batch.Queue(sql, rowOf(i)...)
		}
		err := pgx.BeginFunc(b.Context(), conn, func(tx pgx.Tx) error { return tx.SendBatch(b.Context(), batch).Close() })
		if err != nil {
			b.Fatal(err)
		}
	}
	return b.N
}

// sinkRows applies sets; the records are made before, as the loop hands them
// over decoded.
func sinkRows(b *testing.B, dsn, _ string, lanes int) int {
	sink, err := postgres.Open(postgres.Options{DSN: dsn, Collections: []postgres.Collection{{Pattern: "rows", VersionColumn: "version"}}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := sink.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	cp, err := sink.Resume(b.Context(), sinks.Claim{Stream: uuid.New(), Owner: "bench", Lanes: lanes, Fresh: true})
	if err != nil {
		b.Fatal(err)
	}
	incarnation := uuid.New()
	plan := make([][]*sinks.Batch, lanes)
	for from := 0; from < b.N; from += rowsPerTransaction {
		lane := from / rowsPerTransaction % lanes
		batch := &sinks.Batch{Epoch: cp.Epoch}
		for i := from; i < min(from+rowsPerTransaction, b.N); i++ {
			batch.Records = append(batch.Records, recordOf(b, i))
		}
		to := sinks.Point{Incarnation: incarnation, LSN: batch.Records[len(batch.Records)-1].LSN}
		batch.Moves = []sinks.Move{{Lane: lane, From: cp.Lanes[lane], To: to}}
		cp.Lanes[lane] = to
		plan[lane] = append(plan[lane], batch)
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, batches := range plan {
		wg.Go(func() {
			for _, batch := range batches {
				if _, err := sink.Apply(b.Context(), batch); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return b.N
}

func recordOf(b *testing.B, i int) sinks.Record {
	row := rowOf(i)
	m, err := mutation.Set("rows", mutation.Int64(row[0].(int64)), map[string]any{
		"name": row[1], "body": row[2], "amount": row[3], "at": row[4],
	})
	if err != nil {
		b.Fatal(err)
	}
	return sinks.Record{
		LSN: sinks.LSN(i + 1), Accepted: time.Unix(1_700_000_000, int64(i)),
		Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: m}}, Bytes: 250,
	}
}
