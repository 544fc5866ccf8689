package peers

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/internal/vfs"
	"github.com/walproxy/walproxy/wal"
)

var (
	budget  = flag.Duration("budget", 0, "how long the measuring may take, about; 0: it is skipped")
	dirFlag = flag.String("dir", "", "a directory on the disk that is measured; default: the one for temporary files")
	docs    = flag.String("docs", "", "where benchmarks.md and its plots go; default: nowhere")
	results = flag.String("results", "", "where the run is kept as JSON; default: nowhere")
	only    = flag.String("only", "", "targets whose name contains one of these, separated by commas")
	writers = flag.String("writers", "1,16,64,256,1024", "numbers of writers")
	sizes   = flag.String("sizes", "128,512,4096", "sizes of records")
)

// TestPeers measures; see the package comment.
func TestPeers(t *testing.T) {
	if *budget == 0 {
		t.Skip("it measures for minutes: -budget 7m")
	}
	if os.Getenv("GOMAXPROCS") == "" { // for all that runs in this process what walproxy serve gives itself
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 1))
	}
	r := &Result{Date: time.Now().UTC().Format("2006-01-02"), Command: fmt.Sprintf("make peers BUDGET=%v", *budget)}
	r.describe(t)
	run := newRun(t, r)
	for _, size := range numbers(t, *sizes) {
		for _, n := range numbers(t, *writers) {
			r.Cells = append(r.Cells, run.cell(t, n, size))
		}
	}
	if *only == "" {
		run.scan(t)
		run.starts(t)
	}
	r.write(t)
}

func numbers(t *testing.T, list string) (out []int) {
	for s := range strings.SplitSeq(list, ",") {
		var n int
		if _, err := fmt.Sscan(s, &n); err != nil || n < 1 {
			t.Fatalf("%q is no number above 0", s)
		}
		out = append(out, n)
	}
	return out
}

type run struct {
	result  *Result
	targets []target
	turn    time.Duration // of one target
	rounds  int
	native  sample // of the last cell
}

// newRun finds out what there is to measure, and how long each turn may be.
func newRun(t *testing.T, r *Result) *run {
	all := []target{
		{name: native, note: "`log.engine: native`, what is durable is released every 10 ms", open: openLog(wal.EngineNative)},
		{name: "walproxy tidwall", note: "`log.engine: tidwall`, likewise", open: openLog(wal.EngineTidwall)},
		{name: "tidwall/wal Write", note: "one fsync for each record, behind a mutex", open: openTidwall},
		{name: "tidwall/wal WriteBatch", note: "group commit around it", open: openTidwallBatch},
		{name: "pebble", note: "Batch.Commit(Sync)", open: openPebble},
		{name: "pebble record", note: "its log writer alone, into a file that was written before, fdatasync", open: openRecord},
		{name: "etcd wal", note: "group commit around Save", open: openEtcd},
		{name: "hashicorp/raft-wal", note: "group commit around StoreLogs", open: openRaftWAL},
		{name: "NATS JetStream", note: "in process, file store, sync always, Publish", open: openJetStream},
	}
	if program, err := exec.LookPath("redis-server"); err == nil {
		all = append(all, target{name: "Redis", note: "appendfsync always, SET, a connection per writer", open: openRedis(program)})
	} else {
		r.Targets = append(r.Targets, Target{Name: "Redis", Skipped: "redis-server is not installed"})
	}
	if _, err := pgtest.Program("postgres"); err == nil {
		p := &postgres{cluster: pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_connections": "300"}})}
		all = append(all, target{name: "PostgreSQL", note: "INSERT of one row, a connection per writer (at most 256)", open: p.open, limit: 256})
	} else {
		r.Targets = append(r.Targets, Target{Name: "PostgreSQL", Skipped: "postgres is not installed"})
	}
	run := &run{result: r, rounds: 3}
	for _, target := range all {
		if *only != "" && !slices.ContainsFunc(strings.Split(*only, ","), func(s string) bool { return strings.Contains(target.name, s) }) {
			continue
		}
		run.targets = append(run.targets, target)
		r.Targets = append(r.Targets, Target{Name: target.name, Note: target.note})
	}
	r.Targets = append(r.Targets, Target{Name: rawName, Note: "the native engine's own groups of the turn before, written to a file that was written before"})
	cells := len(numbers(t, *writers)) * len(numbers(t, *sizes))
	// Opening and closing take a third; the steady load is as long as 4 turns.
	turns := run.rounds*cells*(len(run.targets)+1) + 4*len(run.targets)
	run.turn = *budget * 2 / 3 / time.Duration(turns)
	t.Logf("%d cells, %d targets, turns of %v", cells, len(run.targets), run.turn)
	return run
}

// cell measures all targets in turns.
func (run *run) cell(t *testing.T, writers, size int) Cell {
	c := Cell{Writers: writers, Bytes: size}
	t.Run(fmt.Sprintf("writers=%d/size=%d", writers, size), func(t *testing.T) {
		root := tempDir(t)
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(i * 31)
		}
		raw, err := openRaw(root)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.file.Close() }()
		open := make([]*running, len(run.targets))
		samples := make([]sample, len(run.targets))
		for i, target := range run.targets {
			if target.limit > 0 && writers > target.limit {
				continue
			}
			dir := filepath.Join(root, fmt.Sprint(i))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			open[i] = target.open(t, dir, writers)
			if _, err := closedLoop(open[i], writers, payload, run.turn/10); err != nil {
				t.Fatal(target.name, err)
			}
		}
		var limit sample
		groups, grouped := 0, 0
		for range run.rounds {
			for i, o := range open {
				if o == nil {
					continue
				}
				if o.groups != nil {
					o.groups()
				}
				s, err := closedLoop(o, writers, payload, run.turn)
				if err != nil {
					t.Fatal(run.targets[i].name, err)
				}
				samples[i].add(s)
				if run.targets[i].name != native {
					continue
				}
				sizes := o.groups()
				for _, n := range sizes {
					groups, grouped = groups+1, grouped+n
				}
				s, err = raw.replay(sizes, size+frameHeader, run.turn)
				if err != nil {
					t.Fatal(err)
				}
				limit.add(s)
			}
		}
		for i, o := range open {
			if o != nil {
				c.Rows = append(c.Rows, row(run.targets[i].name, &samples[i]))
			}
		}
		c.Rows = append(c.Rows, row(rawName, &limit))
		c.GroupBytes = float64(grouped) / max(float64(groups), 1)
		if writers == 64 && size == 512 {
			run.steady(t, open, samples, payload)
		}
		for i, o := range open {
			if o == nil {
				continue
			}
			if err := o.close(); err != nil {
				t.Errorf("%s: close: %v", run.targets[i].name, err)
			}
		}
		logCell(t, c)
	})
	return c
}

// frameHeader is what the log adds to a record.
const frameHeader = 36

func row(name string, s *sample) Row {
	p := s.percentiles(0.5, 0.99, 0.999)
	return Row{Name: name, Rate: s.rate(), P50: p[0], P99: p[1], P999: p[2]}
}

func logCell(t *testing.T, c Cell) {
	for _, r := range c.Rows {
		t.Logf("%5d writers, %4d B, groups of %.0f B: %-24s %9.0f/s  p50 %8.0f µs  p99 %8.0f  p99.9 %8.0f",
			c.Writers, c.Bytes, c.GroupBytes, r.Name, r.Rate, r.P50, r.P99, r.P999)
	}
}

// steady measures latencies at half of what each target took.
func (run *run) steady(t *testing.T, open []*running, samples []sample, payload []byte) {
	for i, o := range open {
		if o == nil {
			continue
		}
		s, err := steady(o, 64, payload, samples[i].rate()/2, 4*run.turn)
		if err != nil {
			t.Fatal(run.targets[i].name, err)
		}
		run.result.Steady = append(run.result.Steady, row(run.targets[i].name, &s))
		t.Logf("half load: %+v", run.result.Steady[len(run.result.Steady)-1])
	}
}

func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp(*dirFlag, "walproxy-peers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// fill writes a log of about so many bytes in dir, and stops it.
func fill(t *testing.T, dir string, bytes int64) {
	l, err := wal.Open(dir, wal.Options{Engine: wal.EngineNative, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, 512)
	var last wal.Ticket
	for range max(bytes/(512+frameHeader), 1) {
		if last, err = l.Enqueue(context.Background(), payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := last.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// scan compares verifying a log, by one goroutine, with reading its files.
func (run *run) scan(t *testing.T) {
	dir := filepath.Join(tempDir(t), "log")
	fill(t, dir, 256<<20)
	s := &run.result.Scan
	buf := make([]byte, 256<<10)
	files, err := filepath.Glob(filepath.Join(dir, "segments", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for turn := range 8 {
		cold := turn%2 == 1
		read, verify := &s.Read, &s.Verify
		if cold {
			read, verify = &s.ColdRead, &s.ColdVerify
			forget(t, files)
		}
		began, n := time.Now(), int64(0)
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
			if n += got; err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
		s.Bytes, *read = n, max(*read, float64(n)/time.Since(began).Seconds())
		if cold {
			forget(t, files)
		}
		began = time.Now()
		in, err := wal.Inspect(dir, wal.InspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		report, err := in.Verify(context.Background(), wal.VerifyOptions{Workers: 1})
		if err != nil || report.Damaged {
			t.Fatal(report, err)
		}
		*verify = max(*verify, float64(report.Verified)/time.Since(began).Seconds())
	}
	t.Logf("%+v", *s)
}

// forget drops files from the page cache.
func forget(t *testing.T, files []string) {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// starts measures how long a start takes after a clean stop.
func (run *run) starts(t *testing.T) {
	root := tempDir(t)
	backlogs := []int64{0, 64 << 20, 256 << 20, 1 << 30}
	took := make([][]float64, len(backlogs))
	for i, n := range backlogs {
		fill(t, filepath.Join(root, fmt.Sprint(i)), n)
	}
	for range 7 {
		for i := range backlogs {
			began := time.Now()
			l, err := wal.Open(filepath.Join(root, fmt.Sprint(i)), wal.Options{Engine: wal.EngineNative, MinFree: -1})
			if err != nil {
				t.Fatal(err)
			}
			took[i] = append(took[i], time.Since(began).Seconds()*1000)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, n := range backlogs {
		slices.Sort(took[i])
		run.result.Starts = append(run.result.Starts, Start{n, took[i][len(took[i])/2]})
	}
	t.Logf("%+v", run.result.Starts)
}

// describe notes where the run takes place.
func (r *Result) describe(t *testing.T) {
	dir := *dirFlag
	if dir == "" {
		dir = os.TempDir()
	}
	space, err := vfs.OS().Space(dir)
	if err != nil {
		t.Fatal(err)
	}
	output := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	r.Machine = fmt.Sprintf("%d processors, GOMAXPROCS=%d, %s, %s, %s", runtime.NumCPU(), runtime.GOMAXPROCS(0), model, output("uname", "-sr"), runtime.Version())
	r.Disk = fmt.Sprintf("%s on %s", space.Kind, output("findmnt", "-no", "SOURCE", "-T", dir))
	r.Commit = output("git", "describe", "--always", "--dirty")
}

func (r *Result) write(t *testing.T) {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	save := func(dir, name string, b []byte) {
		if dir == "" {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	save(*results, r.Date+"-peers.json", append(b, '\n'))
	save(*docs, "benchmarks.md", []byte(r.markdown()))
	for name, svg := range r.plots() {
		save(*docs, name, []byte(svg))
	}
}
