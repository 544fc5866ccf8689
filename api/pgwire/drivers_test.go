package pgwire

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgdrivers"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

// driversRig has the tables of pgdrivers.DDL in two databases of one server, which are
// copies of one another: by way of the endpoint, where all but plain are written
// behind, and directly.
type driversRig struct {
	*behindRig
	twin  string       // the DSN of the other one
	conns [2]*pgx.Conn // to the other one, and to the one behind the endpoint
}

func newDriversRig(t *testing.T, c *pgtest.Cluster, change ...func(*Options)) *driversRig {
	t.Helper()
	r := &driversRig{twin: c.Database(t)}
	conn := pgtest.Connect(t, r.twin)
	do(t, conn, pgdrivers.DDL)
	config := conn.Config()
	if err := conn.Close(bounded(t)); err != nil {
		t.Fatal(err)
	}
	admin, name := c.Connect(t, "postgres"), config.Database+"_behind"
	do(t, admin, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, config.Database))
	t.Cleanup(func() {
		if err := c.DropDatabase(name); err != nil {
			t.Error(err)
		}
	})
	assumed := table("assumed", mutation.KeyInt64, "id")
	assumed.AssumeRows = true
	r.behindRig = newBehindRig(t, "", []Table{table("items", mutation.KeyInt64, "id"), table("pairs", mutation.KeyComposite, "a", "b"), assumed},
		func(o *behindOptions) { o.cluster, o.dsn, o.change = c, c.DSN(name), change })
	r.conns = [2]*pgx.Conn{pgtest.Connect(t, r.twin), r.admin}
	return r
}

// empty empties the tables of both.
func (r *driversRig) empty(t *testing.T) {
	t.Helper()
	r.applied()
	for _, conn := range r.conns {
		do(t, conn, "DELETE FROM items; DELETE FROM pairs; DELETE FROM assumed; DELETE FROM plain")
	}
}

// same fails the test unless both have the same rows.
func (r *driversRig) same(t *testing.T) {
	t.Helper()
	r.applied()
	var all [2]string
	for i, conn := range r.conns {
		for _, name := range []string{"items", "pairs", "assumed", "plain"} {
			all[i] += one[string](t, conn, fmt.Sprintf("SELECT '%s: ' || coalesce(string_agg(t::text, ' ' ORDER BY t::text), '') || E'\n' FROM %[1]s t", name))
		}
	}
	if all[0] != all[1] {
		t.Errorf("behind the endpoint are\n%s\ndirectly\n%s", all[1], all[0])
	}
}

func serverOf(t *testing.T, dsn string) pgdrivers.Server {
	t.Helper()
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return pgdrivers.Server{Addr: fmt.Sprintf("%s:%d", c.Host, c.Port), User: c.User, Database: c.Database}
}

// direct are modes in which nothing is written behind without transactions: log, every
// statement being in a transaction; or at all, in one pipeline with its reads.
var direct = map[string]bool{"psycopg2": true, "psycopg3-transactions": true, "psycopg3-pipeline": true}

// TestDriverCorpus sends what each driver was recorded to send: to tables that are written
// behind, through the endpoint, and to PostgreSQL. The answers are the same, message by
// message, but for the number of rows where it is assumed; so are the rows.
func TestDriverCorpus(t *testing.T) {
	t.Parallel()
	t.Run("pass", func(t *testing.T) {
		t.Parallel()
		testDriverCorpus(t, direct)
	})
	t.Run("pool", func(t *testing.T) {
		t.Parallel()
		testDriverCorpus(t, direct, pooling(2))
	})
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		testDriverCorpus(t, map[string]bool{"psycopg3-pipeline": true}, func(o *Options) { o.WriteBehind.LogTransactions = true })
	})
}

func testDriverCorpus(t *testing.T, direct map[string]bool, change ...func(*Options)) {
	corpus, err := pgdrivers.Corpus()
	if err != nil {
		t.Fatal(err)
	}
	if want := len(pgdrivers.Drivers()); len(corpus) != want {
		t.Errorf("%d transcripts of %d drivers", len(corpus), want)
	}
	r := newDriversRig(t, pgtest.Shared(t), change...)
	assumed := 0
	for _, transcript := range corpus {
		if len(change) > 0 && os.Getenv("WALPROXY_LONG") == "" && !slices.Contains([]string{"pgx", "pq", "jdbc", "psycopg2", "psycopg3-transactions"}, transcript.Driver) {
			continue // transactions look alike
		}
		t.Run(transcript.Driver, func(t *testing.T) {
			assumed += r.replay(t, transcript, direct[transcript.Driver])
		})
	}
	if assumed == 0 {
		t.Error("no row was assumed")
	}
}

// replay compares both ways, and returns how often nothing but rows that are assumed
// differ.
func (r *driversRig) replay(t *testing.T, transcript *pgdrivers.Transcript, direct bool) (assumed int) {
	before := r.logged()
	r.empty(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var want, have pgdrivers.Replayed
	var errDirect, err error
	directly, through := serverOf(t, r.twin), serverOf(t, r.through)
	var both sync.WaitGroup
	both.Go(func() { want, errDirect = transcript.Replay(ctx, directly) })
	both.Go(func() { have, err = transcript.Replay(ctx, through) })
	both.Wait()
	if errDirect != nil || err != nil {
		t.Errorf("directly: %v; through the endpoint: %v", errDirect, err)
	}
	for _, d := range transcript.Recorded(want) {
		t.Errorf("directly, not as recorded: %v", d)
	}
	for _, d := range transcript.Compare(want, have) {
		if d.Rows {
			assumed++
			continue
		}
		t.Error(d)
	}
	r.same(t)
	behind := r.logged() - before
	t.Logf("%s: %d queries were acknowledged from the log", transcript.About, behind)
	if behind < 10 && !direct {
		t.Errorf("%d queries were written behind: %s", behind, r.why())
	}
	return assumed
}

// TestDrivers has each driver that is installed do the programme as somebody would who
// tries walproxy: with a password, with TLS checked to the end and without, on tables that
// are written behind, and is told what it is told directly. In the short form those alone that need no
// other program, and psql and pgbench.
func TestDrivers(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	files := map[string][]byte{"server.crt": cert.pem, "server.key": cert.key}
	c, _ := guarded(t, map[string]string{"ssl": "on", "ssl_cert_file": "'server.crt'", "ssl_key_file": "'server.key'"}, files)
	r := newDriversRig(t, c, func(o *Options) {
		o.TLS = cert.server()
		o.Upstream.TLS, o.Upstream.TLSOptional = &tls.Config{RootCAs: cert.pool(), ServerName: "127.0.0.1"}, true
	})
	for _, conn := range r.conns {
		do(t, conn, "GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
	}
	short := []string{"pgx", "pq", "psql", "pgbench-prepared"}
	for _, d := range pgdrivers.Drivers() {
		for _, root := range []string{"", cert.path} {
			name := d.Name
			if root != "" {
				name += "-tls"
			}
			t.Run(name, func(t *testing.T) {
				if os.Getenv("WALPROXY_LONG") == "" && !slices.Contains(short, d.Name) {
					t.Skip("takes long: make pgsuites")
				}
				if why := d.Missing(); why != "" {
					t.Skip(why)
				}
				r.try(t, d, root)
			})
		}
	}
}

// try runs a driver both ways.
func (r *driversRig) try(t *testing.T, d pgdrivers.Driver, root string) {
	before := r.logged()
	r.empty(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	var printed [2]string
	for i, dsn := range []string{r.twin, r.through} {
		s := serverOf(t, dsn)
		var out bytes.Buffer
		at := pgdrivers.Target{Addr: s.Addr, User: "app", Password: "s3cret", Database: s.Database, RootCert: root, Walproxy: i == 1, Describe: true}
		if err := d.Run(ctx, at, &out); err != nil {
			t.Fatalf("by way of %s: %v\n%s", s.Addr, err, out.String())
		}
		printed[i] = out.String()
	}
	own, same := ownAnswers(printed[1])
	_, want := ownAnswers(printed[0])
	name := ""
	for i := range max(len(same), len(want)) {
		have, wanted := "nothing", "nothing"
		if i < len(same) {
			have = same[i]
		}
		if i < len(want) {
			wanted = want[i]
		}
		if before, _, named := strings.Cut(wanted, ":"); named {
			name = before
		}
		if have != wanted && !(name == "assumed rows" && strings.TrimRight(have, "01") == strings.TrimRight(wanted, "01")) {
			t.Errorf("line %d: %q\ndirectly  %q", i+1, have, wanted)
			break
		}
	}
	if strings.HasPrefix(d.Name, "pgbench") {
		own["why"], own["lsn"] = "written behind", "1" // it has no way to show them
	}
	if own["why"] == "" || own["lsn"] == "" {
		t.Errorf("what walproxy alone answers: %q of\n%s", own, printed[1])
	}
	r.same(t)
	if r.logged() == before && !direct[d.Name] {
		t.Errorf("nothing was written behind: %s", r.why())
	}
}

// ownAnswers are what walproxy alone answers, by their names, and the other lines.
func ownAnswers(printed string) (own map[string]string, rest []string) {
	own = map[string]string{}
	lines := strings.Split(printed, "\n")
	for i := 0; i < len(lines); i++ {
		before, text, _ := strings.Cut(lines[i], ":")
		name, ours := strings.CutPrefix(before, "own ")
		if !ours {
			rest = append(rest, lines[i])
			continue
		}
		if text == "" && i+1 < len(lines) && !strings.HasSuffix(lines[i+1], ":") { // psql's in a line of its own
			i++
			text = lines[i]
		}
		own[name] = strings.TrimSpace(text)
	}
	return own, rest
}
