package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// BenchmarkPGBehind has pgbench insert rows of about 200 bytes, one to a
// transaction, directly and into tables that are written behind, in turns, on a
// durable server; -benchtime rounds of three to seven seconds each (-benchtime=7x).
// WALPROXY_BENCH_LINGER is the sink's batch.linger, WALPROXY_BENCH_DELAY how much longer
// a round trip to PostgreSQL takes, of both ways, WALPROXY_BENCH_WAYS the only ways to be
// measured ("direct,native"), direct among them.
//
// Reported are the medians over the rounds: tps, acknowledged rows per second; ratio,
// to the direct way in the same round; rows/txn, rows to a transaction of PostgreSQL's
// (1: they were passed through); drain, how many seconds it took after the
// last ack until all rows were in PostgreSQL, in parts of the round; and the processor
// time per row until then, connecting included, in µs: cpu-us of walproxy, pg-us of PostgreSQL.
func BenchmarkPGBehind(b *testing.B) {
	if _, err := exec.LookPath("pgbench"); err != nil {
		b.Skip("NOT MEASURED: needs pgbench")
	}
	c := pgtest.New(b, pgtest.Options{Settings: map[string]string{"max_connections": "500", "shared_buffers": "'256MB'", "max_wal_size": "'4GB'"}})
	admin := c.Connect(b, "postgres")
	linger := os.Getenv("WALPROXY_BENCH_LINGER")
	if linger == "" {
		linger = "100ms"
	}
	addr := c.Addr()
	if text := os.Getenv("WALPROXY_BENCH_DELAY"); text != "" {
		delay, err := time.ParseDuration(text)
		if err != nil {
			b.Fatalf("WALPROXY_BENCH_DELAY: %v", err)
		}
		addr = farAway(b, addr, delay)
	}
	dsn := pgtest.DSN(addr, pgtest.Superuser, "postgres")
	binary := buildWalproxy(b)
	ways := []way{{name: "direct", addr: addr}}
	tables := map[string]string{"direct": "direct"}
	scripts := map[string]string{}
	for _, engine := range []string{"", "tidwall", "native"} {
		table := engine
		if engine == "" {
			table = "direct"
		}
		if _, err := admin.Exec(context.Background(), fmt.Sprintf("CREATE TABLE %s (id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12,2) NOT NULL, note text, at timestamptz NOT NULL)", table)); err != nil {
			b.Fatal(err)
		}
		scripts[table] = filepath.Join(b.TempDir(), table+".sql")
		text := fmt.Sprintf("\\set id random(1, 9000000000000000000)\n\\set customer random(1, 1000000)\nINSERT INTO public.%s (id, customer, amount, note, at) VALUES (:id, :customer, 12.34, '%0140d', now());\n", table, 7)
		if err := os.WriteFile(scripts[table], []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
		if engine == "" {
			continue
		}
		tables[engine] = table
		ways = append(ways, startWalproxy(b, binary, engine, "postgres://"+addr+"/?sslmode=disable",
			fmt.Sprintf(", sink: main, write_behind: {public.%s: {}}", table),
			fmt.Sprintf("log: {min_free: -1, engine: %s}\nsinks:\n  main:\n    type: postgres\n    dsn: %q\n    schema: walproxy_%s\n    batch: {linger: %s}\n    collections:\n      %s: {table: public.%s, key: [id], key_type: int64}\n",
				engine, dsn, engine, linger, table, table)))
	}
	ways = chosenWays(ways)
	for _, clients := range []int{1, 8, 16, 32, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			tps, ratio, drain, perTransaction := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
			cpu, server := map[string][]float64{}, map[string][]float64{}
			seconds := 3 + clients/64 // some of it is connecting
			for range b.N {
				base := 0.0
				for _, w := range ways {
					table := tables[w.name]
					if _, err := admin.Exec(context.Background(), "TRUNCATE "+table); err != nil {
						b.Fatal(err)
					}
					cpuBefore, serverBefore := cpuOf(b, w.pid), serverCPU(b, c.Dir())
					rate, rows := pgbench(b, w.addr, clients, "-M", "prepared", "-f", scripts[table], "-T", strconv.Itoa(seconds))
					ended := time.Now()
					for count := 0.0; count < rows; time.Sleep(10 * time.Millisecond) {
						if err := admin.QueryRow(context.Background(), "SELECT count(*) FROM "+table).Scan(&count); err != nil {
							b.Fatal(err)
						}
						if time.Since(ended) > time.Minute {
							b.Fatalf("%s: %v rows of %v after a minute", w.name, count, rows)
						}
					}
					cpu[w.name] = append(cpu[w.name], float64((cpuOf(b, w.pid)-cpuBefore).Microseconds())/rows)
					server[w.name] = append(server[w.name], float64((serverCPU(b, c.Dir())-serverBefore).Microseconds())/rows)
					transactions := 0.0
					if err := admin.QueryRow(context.Background(), "SELECT count(DISTINCT xmin::text) FROM "+table).Scan(&transactions); err != nil {
						b.Fatal(err)
					}
					perTransaction[w.name] = append(perTransaction[w.name], rows/transactions)
					if w.name == "direct" {
						base = rate
					}
					tps[w.name] = append(tps[w.name], rate)
					ratio[w.name] = append(ratio[w.name], rate/base)
					drain[w.name] = append(drain[w.name], time.Since(ended).Seconds()/float64(seconds))
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, w := range ways {
				b.ReportMetric(middle(tps[w.name]), w.name+"-tps")
				b.ReportMetric(middle(server[w.name]), w.name+"-pg-us")
				if w.name != "direct" {
					b.ReportMetric(middle(ratio[w.name]), w.name+"-ratio")
					b.ReportMetric(middle(drain[w.name]), w.name+"-drain")
					b.ReportMetric(middle(cpu[w.name]), w.name+"-cpu-us")
					b.ReportMetric(middle(perTransaction[w.name]), w.name+"-rows/txn")
				}
			}
		})
	}
}
