package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// way is how pgbench reaches PostgreSQL.
type way struct {
	name string
	addr string
	pid  int // of what stands between; 0: nothing
}

// BenchmarkPGWire has pgbench -S run through the PostgreSQL endpoint, through
// pgbouncer and directly, in turns, -benchtime rounds of five to nine
// seconds each (-benchtime=7x). walproxy and pgbouncer are processes of their own. Where
// sessions have connections of their own PostgreSQL starts a process for each, about 20 ms of
// processor time, which pgbouncer's have from the round before: of a round of one second
// that is a tenth with 8 clients, and a third with 32.
//
// Reported are the medians over the rounds: ratio, a way's transactions per second
// to those through pgbouncer in the same round, in the same mode (session, where this
// pgbouncer was not measured in transaction mode) and over the same transport to
// PostgreSQL (-socket: a Unix socket); tps; and cpu-us, the processor
// time of what stands between per transaction. WALPROXY_BENCH_WAYS names the only ways to be
// measured ("pgbouncer,walproxy"); those have to be among them that others are compared with.
func BenchmarkPGWire(b *testing.B) {
	for _, program := range []string{"pgbench", "pgbouncer"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Skip("NOT MEASURED: needs " + program)
		}
	}
	c := pgtest.New(b, pgtest.Options{Settings: map[string]string{"max_connections": "1000", "shared_buffers": "'128MB'"}})
	initPGBench(b, c)
	ways := chosenWays(pgwireWays(b, c))
	for _, protocol := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 8, 32, 128} {
			b.Run(fmt.Sprintf("protocol=%s/clients=%d", protocol, clients), func(b *testing.B) {
				pgwireRounds(b, ways, protocol, clients)
			})
		}
	}
}

func initPGBench(b *testing.B, c *pgtest.Cluster) {
	b.Helper()
	cmd := exec.Command("pgbench", "-i", "-q", "-s", "10", "-h", c.Socket(), "-p", strconv.Itoa(c.Port()), "-U", pgtest.Superuser, "postgres")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

func pgwireWays(b *testing.B, c *pgtest.Cluster) []way {
	b.Helper()
	socket := fmt.Sprintf("postgres:///?host=%s&port=%d", c.Socket(), c.Port())
	binary := buildWalproxy(b)
	ways := []way{{name: "direct", addr: c.Addr()}}
	for _, p := range []struct {
		name string
		pgtest.PoolerOptions
	}{
		{"pgbouncer", pgtest.PoolerOptions{Mode: "session"}},
		{"pgbouncer-socket", pgtest.PoolerOptions{Mode: "session", Socket: true}},
		{"pgbouncer-transaction", pgtest.PoolerOptions{Mode: "transaction"}},
	} {
		p.Connections = 200
		started := c.StartPooler(b, p.PoolerOptions)
		ways = append(ways, way{p.name, started.Addr, started.PID})
	}
	return append(ways,
		startWalproxy(b, binary, "walproxy", "postgres://"+c.Addr()+"/?sslmode=disable", "", "log: {min_free: -1}\n"),
		startWalproxy(b, binary, "walproxy-socket", socket, "", "log: {min_free: -1}\n"),
		startWalproxy(b, binary, "walproxy-transaction", "postgres://"+c.Addr()+"/?sslmode=disable", ", pool: {mode: transaction, size: 200}", "log: {min_free: -1}\n"))
}

// chosenWays are those of WALPROXY_BENCH_WAYS; none: all.
func chosenWays(ways []way) []way {
	names := os.Getenv("WALPROXY_BENCH_WAYS")
	if names == "" {
		return ways
	}
	chosen := strings.Split(names, ",")
	return slices.DeleteFunc(ways, func(w way) bool { return !slices.Contains(chosen, w.name) })
}

func buildWalproxy(b *testing.B) (binary string) {
	b.Helper()
	binary = filepath.Join(b.TempDir(), "walproxy")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/walproxy").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// startWalproxy runs a server with an endpoint until the benchmark ends; endpoint
// and more are added to its configuration.
func startWalproxy(b *testing.B, binary, name, upstream, endpoint, more string) way {
	b.Helper()
	dir := b.TempDir()
	addr := freeAddr(b)
	config := filepath.Join(dir, "w.yaml")
	text := fmt.Sprintf("data_dir: %s/data\napi: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\npgwire: {listen: %q, upstream: %q%s}\n%s", dir, addr, upstream, endpoint, more)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binary, "serve", "--config", config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("%s: %v\n%s", name, err, out.String())
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp4", addr)
		if err == nil {
			_ = conn.Close()
			return way{name, addr, cmd.Process.Pid}
		}
		if time.Now().After(end) {
			b.Fatalf("%s: %v\n%s", name, err, out.String())
		}
	}
}

func freeAddr(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func pgwireRounds(b *testing.B, ways []way, protocol string, clients int) {
	tps, cpu := map[string][]float64{}, map[string][]float64{}
	if protocol == "prepared" { // which belong to a session
		ways = slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return w.name == "pgbouncer-transaction" })
	}
	for range b.N {
		for _, w := range ways {
			before := cpuOf(b, w.pid)
			rate, transactions := pgbench(b, w.addr, clients, "-S", "-M", protocol, "-T", strconv.Itoa(5+clients/32))
			tps[w.name] = append(tps[w.name], rate)
			if w.pid != 0 {
				cpu[w.name] = append(cpu[w.name], float64((cpuOf(b, w.pid)-before).Microseconds())/transactions)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		base := "pgbouncer"
		if _, mode, _ := strings.Cut(w.name, "-"); mode != "" && tps["pgbouncer-"+mode] != nil {
			base += "-" + mode
		}
		ratios := make([]float64, b.N)
		for i := range ratios {
			ratios[i] = tps[w.name][i] / tps[base][i]
		}
		b.ReportMetric(middle(tps[w.name]), w.name+"-tps")
		b.ReportMetric(middle(ratios), w.name+"-ratio")
		if w.pid != 0 {
			b.ReportMetric(middle(cpu[w.name]), w.name+"-cpu-us")
		}
	}
}

func middle(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

var pgbenchSays = regexp.MustCompile(`(?s)number of transactions actually processed: (\d+).*tps = ([\d.]+)`)

// pgbench runs; with many clients it should run for longer than a second, as it takes
// them to connect.
func pgbench(b *testing.B, addr string, clients int, more ...string) (tps, transactions float64) {
	b.Helper()
	host, port, _ := net.SplitHostPort(addr)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "pgbench", append([]string{"-n", "-c", strconv.Itoa(clients), "-j", "1",
		"-h", host, "-p", port, "-U", pgtest.Superuser}, append(more, "postgres")...)...)
	out, err := cmd.CombinedOutput()
	found := pgbenchSays.FindSubmatch(out)
	if err != nil || found == nil {
		b.Fatalf("%s: %v\n%s", addr, err, out)
	}
	transactions, _ = strconv.ParseFloat(string(found[1]), 64)
	tps, _ = strconv.ParseFloat(string(found[2]), 64)
	return tps, transactions
}

// cpuOf is the processor time that a process has taken; 0: none.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	if pid == 0 {
		return 0
	}
	own, _ := cpuTimes(pid)
	return own
}

// cpuTimes are a process' and those of its children that have ended.
func cpuTimes(pid int) (own, children time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0 // it has ended
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks [4]int64
	for i := range ticks {
		ticks[i], _ = strconv.ParseInt(fields[11+i], 10, 64)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100
	return time.Duration(ticks[0]+ticks[1]) * tick, time.Duration(ticks[2]+ticks[3]) * tick
}

// serverCPU is what the processes of a server have taken, those that have ended too.
func serverCPU(b *testing.B, dir string) (total time.Duration) {
	b.Helper()
	file, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(file), "\n")
	postmaster, _ := strconv.Atoi(first)
	_, total = cpuTimes(postmaster)
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == dir {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			own, _ := cpuTimes(pid)
			total += own
		}
	}
	return total
}
