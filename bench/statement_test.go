package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/walproxy/walproxy"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/postgres"
)

const (
	insertText = `INSERT INTO "public"."rows" ("id", "name", "body", "amount", "at", "version") VALUES ($1, $2, $3, $4, $5, $6)`
	upsertText = insertText + ` ON CONFLICT ("id") DO UPDATE SET "name" = EXCLUDED."name", "body" = EXCLUDED."body", "amount" = EXCLUDED."amount", "at" = EXCLUDED."at", "version" = EXCLUDED."version"`
	updateText = `UPDATE "public"."rows" SET "name" = $1, "body" = $2, "amount" = $3, "at" = $4, "version" = $5 WHERE "id" = $6`
)

var rowOIDs = []uint32{20, 25, 25, 701, 1184, 20}

// BenchmarkPostgresStatements is BenchmarkPostgres with records that are statements, as
// the PostgreSQL endpoint logs them: their parameters in binary (statement), or all in
// text (text). write=insert into an empty table; upsert and update of rows that exist.
// COPY inserts. Run it with -benchtime=100000x.
func BenchmarkPostgresStatements(b *testing.B) {
	cluster := pgtest.New(b, pgtest.Options{Settings: serverSettings})
	for _, write := range []string{"insert", "upsert", "update"} {
		for _, lanes := range []int{1, 4} {
			b.Run(fmt.Sprintf("write=%s/lanes=%d", write, lanes), func(b *testing.B) {
				open := func(text bool) func(b *testing.B, dsn string, lanes, per int) func(from, to int) {
					return func(b *testing.B, dsn string, lanes, per int) func(from, to int) {
						w := writerOf(b, postgres.Collection{Pattern: "rows"}, dsn, lanes)
						records := make([]sinks.Record, b.N)
						for i := range records {
							w.lsn++
							records[i] = sinks.Record{LSN: w.lsn, Accepted: time.Unix(1_700_000_000, int64(w.lsn)), Body: rowStatement(i, write, text), Bytes: 500}
						}
						return func(from, to int) { w.write(records[from:to], per) }
					}
				}
				existing := write != "insert"
				compare(b, cluster, []contender{
					{method: "copy", share: 1, open: openCopy},
					{method: "sink", share: 1, open: openSink, existing: existing},
					{method: "statement", share: 1, open: open(false), existing: existing},
					{method: "text", share: 1, open: open(true), existing: existing},
				}, rowsDDL, lanes, 1000, nil)
			})
		}
	}
}

// rowStatement writes row i.
func rowStatement(i int, write string, text bool) *walproxyv1.Record {
	row := rowOf(i)
	at := row[4].(time.Time)
	number := func(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	values := [][]byte{
		number(row[0].(int64)), []byte(row[1].(string)), []byte(row[2].(string)), binary.BigEndian.AppendUint64(nil, math.Float64bits(row[3].(float64))),
		number(at.UnixMicro() - time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()), number(row[5].(int64)),
	}
	formats := []int16{1, 1, 1, 1, 1, 1}
	if text {
		for j, v := range row {
			values[j], formats[j] = fmt.Append(nil, v), 0
		}
		values[4] = []byte(at.Format(time.RFC3339Nano))
	}
	oids, sql := rowOIDs, insertText
	switch write {
	case "upsert":
		sql = upsertText
	case "update":
		sql = updateText
		oids = append(slices.Clone(oids[1:]), oids[0])
		values = append(slices.Clone(values[1:]), values[0])
	}
	return &walproxyv1.Record{Format: mutation.Format, Body: &walproxyv1.Record_Statement{Statement: &walproxyv1.Statement{
		Text: sql, ParameterOids: oids, Parameters: pgstatement.AppendParameters(nil, formats, values), Role: pgtest.Superuser, SearchPath: `"public"`,
		Collection: "rows", Key: mutation.Int64(row[0].(int64)),
	}}}
}

// BenchmarkStatementText is what a statement's text costs in the log: 64 writers log
// statements of five columns with their text of about 150 bytes (whole), and with one
// byte in its place (bare), in turns. Reported are the bytes of a record, acknowledged
// records per second, and the median of the rounds' ratios.
func BenchmarkStatementText(b *testing.B) {
	const writers, rounds = 64, 40
	texts := map[string]string{"whole": `INSERT INTO "public"."orders" ("id", "customer_id", "status", "total", "created_at") VALUES ($1, $2, $3, $4, $5) ON CONFLICT ("id") DO NOTHING`, "bare": "-"}
	names := []string{"whole", "bare"}
	proxies, sizes, rates := map[string]*walproxy.Proxy{}, map[string]int{}, map[string][]float64{}
	for _, name := range names {
		o := walproxy.Options{Dir: b.TempDir(), Sinks: []walproxy.SinkOptions{{Name: "main", Sink: null{lanes: 1}}}}
		o.Log.MinFree = -1
		p, err := walproxy.Open(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		defer func() {
			if err := p.Close(context.Background()); err != nil {
				b.Error(err)
			}
		}()
		proxies[name] = p
	}
	record := func(name string, i int) *walproxyv1.Record {
		number := binary.BigEndian.AppendUint64(nil, uint64(i))
		return &walproxyv1.Record{Body: &walproxyv1.Record_Statement{Statement: &walproxyv1.Statement{
			Text: texts[name], ParameterOids: []uint32{20, 20, 25, 1700, 1184}, Role: "app", SearchPath: `"$user", "public"`,
			Parameters: pgstatement.AppendParameters(nil, []int16{1, 1, 0, 0, 1}, [][]byte{number, number, []byte("pending"), []byte("129.95"), number}),
			Collection: "public.orders", Key: mutation.Int64(int64(i)),
		}}}
	}
	each := max(1, b.N/rounds/writers)
	next := 0
	for range rounds {
		slices.Reverse(names) // neither is always the first
		for _, name := range names {
			sizes[name] = proto.Size(record(name, 1<<40))
			began := time.Now()
			var wg sync.WaitGroup
			for writer := range writers {
				wg.Go(func() {
					for i := range each {
						pending, err := proxies[name].AppendRecord(b.Context(), record(name, next+writer*each+i))
						if err == nil {
							_, err = pending.Wait(b.Context())
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			rates[name] = append(rates[name], float64(writers*each)/time.Since(began).Seconds())
		}
		next += writers * each
	}
	var ratios []float64
	for i := range rates["whole"] {
		ratios = append(ratios, 100*rates["whole"][i]/rates["bare"][i])
	}
	for _, name := range names {
		slices.Sort(rates[name])
		b.ReportMetric(float64(sizes[name]), name+"-bytes")
		b.ReportMetric(rates[name][rounds/2], name+"-acks/s")
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[rounds/2], "whole-%bare")
	b.ReportMetric(float64(len(texts["whole"])), "text-bytes")
}
