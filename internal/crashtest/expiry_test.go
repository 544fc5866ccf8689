package crashtest_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestPostgresExpiryKilled kills the server on both sides of the commit of a
// deletion of expired rows, which a log without new records makes; in the end the
// ones that ended are gone, all others are there as they were written.
func TestPostgresExpiryKilled(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, 10*time.Minute)
	c, r := pgtest.Shared(t), rng(t)
	dsn := c.Database(t)
	s := onPostgres(t, dsn, "WALPROXY_SINKS__MAIN__EXPIRY__EVERY=2ms", "WALPROXY_SINKS__MAIN__EXPIRY__BATCH=20",
		"WALPROXY_SINKS__MAIN__EXPIRY__MARGIN=1ms")
	for round := range times(2, 20) {
		s.start(ctx, "WALPROXY_SINKS__MAIN__EXPIRY__DISABLED=true")
		s.fill(ctx, 200, 0)
		s.passing(ctx, round)
		must(t, s.client.WaitDrained(ctx))
		s.process.Kill()
		for _, point := range []string{"expiry-before-commit", "expiry-after-commit"} {
			point = fmt.Sprintf("%s=%d", point, 1+r.IntN(5))
			s.start(ctx, "WALPROXY_FAILPOINTS="+point)
			if code := s.waitEnded(ctx); code != -1 {
				t.Fatalf("%s: ended with exit code %d\n%s", point, code, s.process.Tail())
			}
			noTransactions(t, c, dsn)
		}
		s.start(ctx)
		s.passed(ctx, pgtest.Connect(t, dsn), round+1)
		s.check(ctx)
		s.stop()
	}
}

const passingKeys = 250 // of a round; every fifth does not end

// passing writes records that end a moment later, some of which do not after all.
func (s *server) passing(ctx context.Context, round int) {
	s.Helper()
	for i := range passingKeys {
		// Each ends behind its own write, however long all of them take: a record that
		// had ended would make no row, and the kills need some to remove.
		end := time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)
		path := fmt.Sprintf("/v1/passing/r%d-%d", round, i)
		if code := s.call(ctx, http.MethodPut, path+"?expires_at="+end, `{"n": 1}`, &struct{}{}); code != http.StatusOK {
			s.Fatalf("PUT: %d", code)
		}
		if i%5 > 0 {
			continue
		}
		if code := s.call(ctx, http.MethodPut, path, `{"n": 2}`, &struct{}{}); code != http.StatusOK {
			s.Fatalf("PUT: %d", code)
		}
	}
}

// passed waits until the rows that have ended are gone and looks at those that stay.
func (s *server) passed(ctx context.Context, conn *pgx.Conn, rounds int) {
	s.Helper()
	want := rounds * passingKeys / 5
	for {
		var all, kept int
		must(s.T, conn.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE expires_at IS NULL AND doc = '{"n": 2}') FROM passing`).Scan(&all, &kept))
		if kept != want {
			s.Fatalf("%d of %d rows without an end are there", kept, want)
		}
		if all == kept {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%d rows are left of %d that ended: %v", all-kept, rounds*passingKeys-want, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}
