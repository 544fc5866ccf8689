package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

const rowsDDL = `CREATE TABLE rows (id bigint PRIMARY KEY, name text NOT NULL, body text NOT NULL,
	amount double precision NOT NULL, at timestamptz NOT NULL, version bigint NOT NULL)`

// serverSettings are PostgreSQL's own where pgtest has smaller ones, but for room
// for the tables of all that take turns, which would else push each other out, and
// segments of the log that are there already: making them would be measured with
// the first that write.
var serverSettings = map[string]string{"shared_buffers": "'1GB'", "max_wal_size": "'1GB'", "min_wal_size": "'1GB'"}

// slowCommits makes a commit wait 1 ms longer before its fsync, holding the lock
// that it holds for the fsync: what a commit costs on most disks.
var slowCommits = []string{"commit_delay=1000", "commit_siblings=0"}

var body = strings.Repeat("b", 140)

func rowOf(i int) []any {
	return []any{int64(i), fmt.Sprintf("name %09d", i), body, float64(i) / 8, time.Unix(1_700_000_000+int64(i), 0).UTC(), int64(i + 1)}
}

// contender is a way to write rows. Its database is its own.
type contender struct {
	method string
	share  int // of a round's rows it writes a share'th: slow ones are steady
	// open returns what writes the rows from up to to, b.N in all.
	open func(b *testing.B, dsn string, conns, per int) func(from, to int)
	// existing: with write=upsert its rows exist.
	existing bool
	fill     int // the table's fillfactor; 0: PostgreSQL's own, full pages
	// worn: its rows have been updated for a while, and vacuum has passed now and
	// then; it does again, off the clock, whenever wornShare of them have been.
	worn bool
}

// wornShare is the part of a table's rows, one in so many, that is updated until
// autovacuum would look after it (autovacuum_vacuum_scale_factor is 0.2), and
// wornRounds how often that has happened before.
const (
	wornShare  = 5
	wornRounds = 15
)

// BenchmarkPostgres writes rows of five columns, about 200 bytes, and their
// version into a table that is empty (write=insert) or holds all of them
// (write=upsert).
//
//   - sink: sinks/postgres, lanes at once; rows that exist fill their pages, so
//     that every one of them gets another place and another entry in the index
//   - room (upsert): the same with a fillfactor of 50: there is room for another
//     version on each page
//   - random (upsert): the first in no order of the keys
//   - random90, random80 (upsert): the same with a fillfactor of 90 and of 80
//   - sparse (upsert): the first with every fourth key in a transaction, as each of four
//     lanes has of keys that are written in their order
//   - worn (upsert): random on a table that lives under updates, of three times as
//     many rows as it has, in no order, with a vacuum after every fifth of them: some
//     pages have room, some have not (vacuum's own time is not counted)
//   - copy: plain COPY on as many connections, which can only insert: into an
//     empty table, with the same primary key
//   - copy-random (upsert): copy in no order of the keys: the same data as random and worn write
//   - merge (upsert): COPY into a temporary table, INSERT .. ON CONFLICT from it
//   - pipeline (one lane): one transaction of pipelined INSERTs, or upserts
//   - autocommit (one lane): an INSERT, or upsert, after another
//
// All but autocommit commit rows=N in a transaction. They take turns, a few
// transactions each, so that whatever else the machine does hits all alike; what
// is reported are rows per second, the median of the rounds' ratios, and the
// processor time per row, here (client) and in the server's sessions, with the
// median of the ratios of both together (work-%copy): what counts where all
// processors are busy, and what a loaded machine changes less. commit=1ms
// is slowCommits. Run it with -benchtime=100000x: an operation is a row of each.
func BenchmarkPostgres(b *testing.B) {
	cluster := pgtest.New(b, pgtest.Options{Settings: serverSettings})
	for _, rows := range []int{1000, 10000} {
		for _, commit := range []string{"disk", "1ms"} {
			if rows > 1000 && commit != "disk" {
				continue
			}
			for _, write := range []string{"insert", "upsert"} {
				for _, lanes := range []int{1, 4} {
					b.Run(fmt.Sprintf("rows=%d/commit=%s/write=%s/lanes=%d", rows, commit, write, lanes), func(b *testing.B) {
						var more []string
						if commit == "1ms" {
							more = slowCommits
						}
						compare(b, cluster, contenders(write == "upsert", lanes), rowsDDL, lanes, rows, more)
					})
				}
			}
		}
	}
}

func contenders(upsert bool, lanes int) []contender {
	list := []contender{
		{method: "copy", share: 1, open: openCopy},
		{method: "sink", share: 1, open: openSink, existing: upsert},
	}
	if upsert {
		list = append(list,
			contender{method: "room", share: 1, existing: true, fill: 50, open: openSink},
			contender{method: "random", share: 1, existing: true, open: openRandom},
			contender{method: "random90", share: 1, existing: true, fill: 90, open: openRandom},
			contender{method: "random80", share: 1, existing: true, fill: 80, open: openRandom},
			contender{method: "sparse", share: 1, existing: true, open: openSparse},
			contender{method: "worn", share: 1, existing: true, worn: true, open: openRandom},
			contender{method: "copy-random", share: 1, open: openCopyRandom},
			contender{method: "merge", share: 1, open: openMerge, existing: true})
	}
	if lanes == 1 {
		list = append(list,
			contender{method: "pipeline", share: 1, existing: upsert, open: func(b *testing.B, dsn string, _, per int) func(from, to int) {
				return openPipeline(b, dsn, upsert, per)
			}},
			contender{method: "autocommit", share: 20, existing: upsert, open: func(b *testing.B, dsn string, _, _ int) func(from, to int) { return openPipeline(b, dsn, upsert, 1) }})
	}
	return list
}

// turn is what a contender did in a round.
type turn struct {
	rows           int
	took           time.Duration
	client, server time.Duration // of processors
}

func (t turn) rate() float64 { return float64(t.rows) / t.took.Seconds() }

// work is the processor time per row, here and in the server's sessions.
func (t turn) work() float64 { return (t.client + t.server).Seconds() / float64(t.rows) }

// compare has them all write b.N rows.
func compare(b *testing.B, cluster *pgtest.Cluster, list []contender, ddl string, lanes, per int, more []string) {
	write := make([]func(from, to int), len(list))
	conns := make([]*pgx.Conn, len(list))
	for i, c := range list {
		dsn := cluster.Database(b, more...)
		conns[i] = pgtest.Connect(b, dsn)
		execute(b, conns[i], ddl)
		if c.fill > 0 {
			execute(b, conns[i], fmt.Sprintf("ALTER TABLE rows SET (fillfactor = %d)", c.fill))
		}
		if c.existing {
			openCopy(b, dsn, 1, 1000)(0, b.N)
		}
		execute(b, conns[i], "VACUUM ANALYZE rows")
		if c.worn {
			wear(b, dsn, per)
		}
		write[i] = c.open(b, dsn, lanes, per)
	}
	execute(b, conns[0], "CHECKPOINT")
	turns := make([][]turn, len(list))
	updated := make([]int, len(list)) // since the last vacuum
	transactions := max(1, 4000/per)  // of each lane in a round
	b.ResetTimer()
	for from := 0; from < b.N; from += transactions * lanes * per {
		to := min(from+transactions*lanes*per, b.N)
		for i, c := range list {
			t := turn{rows: (to - from + c.share - 1) / c.share}
			client, server := clientTime(), serverTime(b, conns[i])
			began := time.Now()
			write[i](from, from+t.rows)
			t.took = time.Since(began)
			t.client, t.server = clientTime()-client, serverTime(b, conns[i])-server
			turns[i] = append(turns[i], t)
			if updated[i] += t.rows; c.worn && updated[i] >= b.N/wornShare {
				execute(b, conns[i], "VACUUM rows")
				updated[i] = 0
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(0, "ns/op")
	for i, c := range list {
		var all turn
		var ratios, works []float64
		for j, t := range turns[i] {
			all.rows, all.took, all.client, all.server = all.rows+t.rows, all.took+t.took, all.client+t.client, all.server+t.server
			ratios = append(ratios, 100*t.rate()/turns[0][j].rate())
			works = append(works, 100*turns[0][j].work()/t.work())
		}
		slices.Sort(ratios)
		slices.Sort(works)
		b.ReportMetric(all.rate(), c.method+"-rows/s")
		b.ReportMetric(all.client.Seconds()*1e6/float64(all.rows), c.method+"-client-us/row")
		b.ReportMetric(all.server.Seconds()*1e6/float64(all.rows), c.method+"-server-us/row")
		if i > 0 {
			b.ReportMetric(ratios[len(ratios)/2], c.method+"-%copy")
			b.ReportMetric(works[len(works)/2], c.method+"-work-%copy")
		}
		var n int
		if err := conns[i].QueryRow(b.Context(), "SELECT count(*) FROM rows").Scan(&n); err != nil || n < all.rows {
			b.Fatalf("%s: %d rows in the table, %v; want %d", c.method, n, err, all.rows)
		}
	}
}

// wear updates rows in no order, per in a transaction, with a vacuum now and then.
func wear(b *testing.B, dsn string, per int) {
	conn := pgtest.Connect(b, dsn)
	execute(b, conn, "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; SET enable_seqscan = off")
	r := rand.New(rand.NewPCG(3, 4))
	for range wornRounds {
		for left := b.N / wornShare; left > 0; left -= per {
			ids := make([]int64, min(per, left))
			for i := range ids {
				ids[i] = r.Int64N(int64(b.N))
			}
			if _, err := conn.Exec(b.Context(), "UPDATE rows AS t SET version = t.version + 1 FROM unnest($1::bigint[]) AS s (id) WHERE t.id = s.id", ids); err != nil {
				b.Fatal(err)
			}
		}
		execute(b, conn, "VACUUM rows")
	}
	if err := conn.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// clientTime is the processor time of this process.
func clientTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverTime is that of the sessions of conn's database, where Linux tells.
func serverTime(b *testing.B, conn *pgx.Conn) (sum time.Duration) {
	rows, err := conn.Query(b.Context(), "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if err != nil {
		b.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		b.Fatal(err)
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue
		}
		ran, _, _ := strings.Cut(string(stat), " ")
		ns, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

func execute(b *testing.B, conn *pgx.Conn, sql string) {
	b.Helper()
	if _, err := conn.Exec(b.Context(), sql); err != nil {
		b.Fatal(err)
	}
}

var copyColumns = []string{"id", "name", "body", "amount", "at", "version"}

// made are the rows of the benchmark, made before they are written.
func made(n int) [][]any {
	rows := make([][]any, n)
	for i := range rows {
		rows[i] = rowOf(i)
	}
	return rows
}

// inTurns calls f for the transactions from up to to, on conns connections.
func inTurns(b *testing.B, dsn string, conns, per int, f func(conn *pgx.Conn, from, to int) error) func(from, to int) {
	open := make([]*pgx.Conn, conns)
	for i := range open {
		open[i] = pgtest.Connect(b, dsn)
	}
	return func(from, to int) {
		var wg sync.WaitGroup
		for i, conn := range open {
			wg.Go(func() {
				for at := from + i*per; at < to; at += conns * per {
					if err := f(conn, at, min(at+per, to)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func openCopy(b *testing.B, dsn string, conns, per int) func(from, to int) {
	return openCopyOf(made(b.N), b, dsn, conns, per)
}

// openCopyRandom is openCopy in no order of the keys.
func openCopyRandom(b *testing.B, dsn string, conns, per int) func(from, to int) {
	rows := made(b.N)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	return openCopyOf(rows, b, dsn, conns, per)
}

func openCopyOf(rows [][]any, b *testing.B, dsn string, conns, per int) func(from, to int) {
	return inTurns(b, dsn, conns, per, func(conn *pgx.Conn, from, to int) error {
		_, err := conn.CopyFrom(b.Context(), pgx.Identifier{"rows"}, copyColumns, pgx.CopyFromRows(rows[from:to]))
		return err
	})
}

const (
	insertSQL = "INSERT INTO rows (id, name, body, amount, at, version) "
	upsertSQL = " ON CONFLICT (id) DO UPDATE SET name = excluded.name, body = excluded.body, amount = excluded.amount, at = excluded.at, version = excluded.version"
)

func openMerge(b *testing.B, dsn string, conns, per int) func(from, to int) {
	rows := made(b.N)
	staged := map[*pgx.Conn]bool{}
	var mu sync.Mutex
	return inTurns(b, dsn, conns, per, func(conn *pgx.Conn, from, to int) error {
		mu.Lock()
		first := !staged[conn]
		staged[conn] = true
		mu.Unlock()
		if first {
			if _, err := conn.Exec(b.Context(), "CREATE TEMPORARY TABLE staged (LIKE rows) ON COMMIT DELETE ROWS"); err != nil {
				return err
			}
		}
		return pgx.BeginFunc(b.Context(), conn, func(tx pgx.Tx) error {
			_, err := tx.CopyFrom(b.Context(), pgx.Identifier{"staged"}, copyColumns, pgx.CopyFromRows(rows[from:to]))
			if err == nil {
				_, err = tx.Exec(b.Context(), insertSQL+"SELECT id, name, body, amount, at, version FROM staged"+upsertSQL)
			}
			return err
		})
	})
}

func openPipeline(b *testing.B, dsn string, upsert bool, per int) func(from, to int) {
	sql := insertSQL + "VALUES ($1, $2, $3, $4, $5, $6)"
	if upsert {
		sql += upsertSQL
	}
	rows := made(b.N)
	return inTurns(b, dsn, 1, per, func(conn *pgx.Conn, from, to int) error {
		if per == 1 {
			_, err := conn.Exec(b.Context(), sql, rows[from]...)
			return err
		}
		batch := &pgx.Batch{}
		for i := from; i < to; i++ {
			batch.Queue(sql, rows[i]...)
		}
		return pgx.BeginFunc(b.Context(), conn, func(tx pgx.Tx) error { return tx.SendBatch(b.Context(), batch).Close() })
	})
}

// writer applies sets to a sink, lanes at once.
type writer struct {
	b           *testing.B
	sink        *postgres.Sink
	cp          sinks.Checkpoint
	incarnation uuid.UUID
	lsn         sinks.LSN
}

func newWriter(b *testing.B, dsn string, lanes int) *writer {
	return writerOf(b, postgres.Collection{Pattern: "rows", VersionColumn: "version"}, dsn, lanes)
}

func writerOf(b *testing.B, c postgres.Collection, dsn string, lanes int) *writer {
	sink, err := postgres.Open(postgres.Options{DSN: dsn, Collections: []postgres.Collection{c}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := sink.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	cp, err := sink.Resume(b.Context(), sinks.Claim{Stream: uuid.New(), Owner: "bench", Lanes: lanes, Fresh: true})
	if err != nil {
		b.Fatal(err)
	}
	return &writer{b: b, sink: sink, cp: cp, incarnation: uuid.New()}
}

// records are a set of each row, in order.
func (w *writer) records(order []int) []sinks.Record {
	records := make([]sinks.Record, len(order))
	for i, row := range order {
		w.lsn++
		records[i] = recordOf(w.b, row, w.lsn)
	}
	return records
}

func (w *writer) write(records []sinks.Record, per int) {
	var wg sync.WaitGroup
	lanes := len(w.cp.Lanes)
	for lane := range lanes {
		wg.Go(func() {
			for at := lane * per; at < len(records); at += lanes * per {
				batch := &sinks.Batch{Epoch: w.cp.Epoch, Records: records[at:min(at+per, len(records))]}
				move := sinks.Move{Lane: lane, From: w.cp.Lanes[lane]}
				move.To = sinks.Point{Incarnation: w.incarnation, LSN: batch.Records[len(batch.Records)-1].LSN}
				batch.Moves = []sinks.Move{move}
				if _, err := w.sink.Apply(w.b.Context(), batch); err != nil {
					w.b.Error(err)
					return
				}
				w.cp.Lanes[lane] = move.To
			}
		})
	}
	wg.Wait()
}

// openSink writes in the order of the keys; the records are made before, as the
// loop hands them over decoded.
func openSink(b *testing.B, dsn string, lanes, per int) func(from, to int) {
	w := newWriter(b, dsn, lanes)
	order := make([]int, b.N)
	for i := range order {
		order[i] = i
	}
	records := w.records(order)
	return func(from, to int) { w.write(records[from:to], per) }
}

// openRandom writes in no order.
func openRandom(b *testing.B, dsn string, lanes, per int) func(from, to int) {
	w := newWriter(b, dsn, lanes)
	records := w.records(rand.New(rand.NewPCG(1, 2)).Perm(b.N))
	return func(from, to int) { w.write(records[from:to], per) }
}

// openSparse writes every fourth row in a transaction.
func openSparse(b *testing.B, dsn string, lanes, per int) func(from, to int) {
	w := newWriter(b, dsn, lanes)
	order := make([]int, 0, b.N)
	for at := 0; at < b.N; at += 4 * per {
		for first := range 4 {
			for i := at + first; i < min(at+4*per, b.N); i += 4 {
				order = append(order, i)
			}
		}
	}
	records := w.records(order)
	return func(from, to int) { w.write(records[from:to], per) }
}

func recordOf(b *testing.B, i int, lsn sinks.LSN) sinks.Record {
	row := rowOf(i)
	m, err := mutation.Set("rows", mutation.Int64(row[0].(int64)), map[string]any{
		"name": row[1], "body": row[2], "amount": row[3], "at": row[4],
	})
	if err != nil {
		b.Fatal(err)
	}
	return sinks.Record{
		LSN: lsn, Accepted: time.Unix(1_700_000_000, int64(lsn)),
		Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: m}}, Bytes: 250,
	}
}
