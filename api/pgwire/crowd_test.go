package pgwire

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestCrowd: many sessions at once, small and large answers, some given up in
// mid-answer. Every answer bears its session's tag: no byte is another's.
func TestCrowd(t *testing.T) { bothWays(t, testCrowd) }

func testCrowd(t *testing.T, way func(*Options)) {
	t.Parallel()
	sessions, rounds := 30, 10
	if os.Getenv("WALPROXY_LONG") != "" {
		sessions, rounds = 1000, 40
	}
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_connections": fmt.Sprint(sessions + 20)}})
	s := start(t, c.Addr(), way, func(o *Options) { o.MaxConnections = sessions })
	dsn := s.through(t, c.DSN("postgres"))
	var failed atomic.Int64
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			if err := crowdMember(bounded(t), dsn, i, rounds); err != nil && failed.Add(1) < 5 {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d sessions failed", n, sessions)
	}
	eventually(t, "no session is left", func() bool { return s.sessionCount() == 0 })
	for _, l := range s.loops {
		left := make(chan [2]int, 1)
		l.post(func() { left <- [2]int{l.live, l.owed} })
		if n := <-left; n != [2]int{} {
			t.Errorf("a loop has %d sessions, of which %d wait for PostgreSQL", n[0], n[1])
		}
	}
}

func crowdMember(ctx context.Context, dsn string, i, rounds int) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for round := range rounds {
		tag := fmt.Sprintf("<%d.%d>", i, round)
		n := 1 << rand.IntN(16)
		switch rand.IntN(4) {
		case 0: // given up in mid-answer
			if round%5 == 0 {
				reader := conn.PgConn().Exec(ctx, "SELECT repeat('"+tag+"', 100000)")
				reader.NextResult()
				_ = conn.PgConn().Conn().Close()
				if conn, err = pgx.Connect(ctx, dsn); err != nil {
					return err
				}
			}
		case 1:
			var got string
			if err := conn.QueryRow(ctx, "SELECT repeat($1, $2)", tag, n).Scan(&got); err != nil {
				return err
			}
			if got != strings.Repeat(tag, n) {
				return fmt.Errorf("%s, repeated: got %.100q", tag, got)
			}
		case 2:
			batch := &pgx.Batch{}
			for range 20 {
				batch.Queue("SELECT $1 || $2", tag, strings.Repeat("x", n/20))
			}
			if err := checkBatch(ctx, conn, batch, tag); err != nil {
				return err
			}
		default:
			var got string
			err := conn.QueryRow(ctx, "SELECT '"+tag+"'", pgx.QueryExecModeSimpleProtocol).Scan(&got)
			if err != nil || got != tag {
				return fmt.Errorf("%s: got %.100q, %w", tag, got, err)
			}
		}
	}
	return nil
}

func checkBatch(ctx context.Context, conn *pgx.Conn, batch *pgx.Batch, tag string) error {
	results := conn.SendBatch(ctx, batch)
	for range batch.Len() {
		var got string
		if err := results.QueryRow().Scan(&got); err != nil || !strings.HasPrefix(got, tag) {
			return fmt.Errorf("%s in a batch: got %.100q, %w", tag, got, err)
		}
	}
	return results.Close()
}
