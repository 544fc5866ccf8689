package pgwire

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestKilledUnderPgbench: while pgbench writes to a table that is written behind PostgreSQL
// is killed and started again, twice. No transaction fails and no row is lost; a read
// fails at once and says why.
func TestKilledUnderPgbench(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("pgbench")
	if err != nil {
		t.Skipf("NOT TESTED: needs pgbench: %v", err)
	}
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL)", items(), func(o *behindOptions) {
		o.cluster, o.change = c, append(o.change, quick(nil))
	})
	_ = r.admin.Close(bounded(t))
	reader := r.connect(pgx.QueryExecModeSimpleProtocol)
	script := filepath.Join(t.TempDir(), "script")
	text := "\\set id random(1, 9000000000000000000)\nINSERT INTO items (id, name) VALUES (:id, 'by pgbench');\n"
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// So many a second that the machine is left for other tests, and in all enough for
	// what is done meanwhile.
	rate, clients, transactions := 300, 4, 1000
	if os.Getenv("WALPROXY_LONG") != "" {
		rate, clients, transactions = 5000, 16, 10_000
	}
	bench := exec.CommandContext(t.Context(), program, "-n", "-M", "prepared", "-P", "1", "-c", strconv.Itoa(clients), "-t", strconv.Itoa(transactions),
		"-R", strconv.Itoa(rate), "-f", script, r.through)
	var out strings.Builder
	bench.Stdout, bench.Stderr = &out, &out
	if err := bench.Start(); err != nil {
		t.Fatal(err)
	}
	waited := false
	defer func() {
		if !waited {
			_ = bench.Process.Kill()
			_ = bench.Wait()
		}
	}()
	more := func() {
		t.Helper()
		from := r.logged()
		eventually(t, "more is written", func() bool { return r.logged() >= min(from+transactions/4, clients*transactions) }) // a slow machine comes to the end
	}
	for range 2 {
		more()
		c.KillAll(t)
		r.isAway(t, true)
		began := time.Now()
		if _, err := reader.Exec(bounded(t), "SELECT count(*) FROM items"); code(err) != "57P03" && code(err) != "08006" {
			t.Errorf("a read while PostgreSQL is away: %v", err)
		} else if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it failed after %v", took)
		}
		more()
		c.Start(t)
		r.isAway(t, false)
		_ = reader.Close(bounded(t))
		reader = r.connect(pgx.QueryExecModeSimpleProtocol)
	}
	more()
	waited = true
	err = bench.Wait()
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	want := clients * transactions
	if done := regexp.MustCompile(`transactions actually processed: (\d+)`).FindStringSubmatch(out.String()); done == nil || done[1] != strconv.Itoa(want) {
		t.Errorf("%q transactions, want %d", done, want)
	}
	if n := r.logged(); n != want {
		t.Errorf("%d were written behind, want %d: %s", n, want, r.why())
	}
	r.applied()
	if n := one[int64](t, pgtest.Connect(t, r.direct), "SELECT count(*) FROM items"); n != int64(want) {
		t.Errorf("%d rows, want %d", n, want)
	}
}
