package crashtest_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// command runs walproxy on the server's directory, with its configuration and more.
func (s *server) command(env []string, args ...string) (string, error) {
	s.Helper()
	binary, err := buildServe()
	must(s.T, err)
	cmd := exec.Command(binary, append(args, "--data-dir", s.dir)...)
	cmd.Env = append(append(os.Environ(), s.env...), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// accepts runs `sink accept`, which has to say each of want.
func (s *server) accepts(env []string, args []string, want ...string) {
	s.Helper()
	out, err := s.command(env, append([]string{"sink", "accept", "main", "--yes"}, args...)...)
	if err != nil {
		s.Fatalf("sink accept: %v\n%s", err, out)
	}
	for _, text := range want {
		if !strings.Contains(out, text) {
			s.Errorf("sink accept does not say %q:\n%s", text, out)
		}
	}
}

// TestPostgresAccept makes PostgreSQL refuse in every way that a person can accept,
// and accepts it over a running server and without one: the ledger holds then.
func TestPostgresAccept(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, 2*time.Minute)
	c := pgtest.Shared(t)
	dsn := c.Database(t)
	s := onPostgres(t, dsn, "WALPROXY_SINKS__MAIN__RETAIN=8MiB")
	s.start(ctx)
	s.fill(ctx, 100, 0)
	s.check(ctx)
	config, err := pgx.ParseConfig(dsn)
	must(t, err)
	last := func() string {
		st, err := s.client.Status(ctx)
		must(t, err)
		return fmt.Sprint(st.Log.Durable)
	}

	// A row of the checkpoint deleted: only a person knows what the store has.
	end := last()
	s.stop()
	conn := c.Connect(t, config.Database)
	_, err = conn.Exec(ctx, "DELETE FROM walproxy.lane WHERE lane = 1")
	must(t, err)
	s.start(ctx)
	s.fill(ctx, 10, 0)
	s.halts(ctx, "sink accept main --after LSN")
	if out, err := s.command(nil, "sink", "accept", "main", "--yes"); err == nil || !strings.Contains(out, "say with --after LSN") {
		t.Errorf("without --after: %v\n%s", err, out)
	}
	s.accepts(nil, []string{"--after", end}, "has no checkpoint", "is accepted, and")
	s.check(ctx)

	// The row of the stream, and all of the schema, without a server.
	damages := []string{"DROP SCHEMA walproxy CASCADE"}
	if long() {
		damages = []string{"DELETE FROM walproxy.store", damages[0]}
	}
	for _, damage := range damages {
		end = last()
		s.stop()
		_, err = conn.Exec(ctx, damage)
		must(t, err)
		s.accepts(nil, []string{"--after", end}, "has no checkpoint", "next: walproxy serve")
		s.start(ctx)
		s.fill(ctx, 10, 0)
		if !strings.HasPrefix(damage, "DROP") { // which took the versions with it
			s.check(ctx)
		}
		must(t, s.client.WaitDrained(ctx))
	}

	// A staging copy takes the place of the store; production's is refused then.
	s.stop()
	must(t, conn.Close(ctx))
	staging := config.Database + "_staging"
	_, err = c.Connect(t, "postgres").Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", staging, config.Database))
	must(t, err)
	t.Cleanup(func() { must(t, c.DropDatabase(staging)) })
	onStaging := "WALPROXY_SINKS__MAIN__DSN=" + c.DSN(staging)
	s.start(ctx, onStaging)
	s.fill(ctx, 10, 0)
	s.halts(ctx, "another store than the one claimed")
	s.accepts([]string{onStaging}, nil, "gets nothing any more", "is accepted, and")
	must(t, s.client.WaitDrained(ctx))
	s.process.Kill()
	s.start(ctx)
	s.halts(ctx, "another store than the one claimed")
	s.process.Kill()

	// Another log's store: production's, for a log that begins anew.
	fresh := onPostgres(t, dsn)
	fresh.start(ctx)
	fresh.runs = 100
	fresh.fill(ctx, 10, 0)
	fresh.halts(ctx, "belongs to another stream")
	fresh.accepts(nil, nil, "which is refused by it from then on", "is accepted, and")
	must(t, fresh.client.WaitDrained(ctx))
	fresh.stop()
}
