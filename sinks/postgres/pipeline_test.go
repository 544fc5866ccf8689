package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
)

func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func plainLink(t testing.TB) *pgconn.PgConn {
	t.Helper()
	return pgtest.Connect(t, pgtest.Shared(t).Database(t)).PgConn()
}

// TestPipeline: answers belong to their commands, a failure names its command,
// and statements are prepared once, also over many texts.
func TestPipeline(t *testing.T) {
	conn, ctx := plainLink(t), bounded(t)
	echo := command{sql: "SELECT $1::text, NULL::int", types: []uint32{25}, params: [][]byte{[]byte("x")}, results: []int16{formatBinary}}
	for range 3 {
		answers, err := runPipeline(ctx, conn, []command{echo, {sql: "SELECT 1 WHERE false"}, echo})
		if err != nil {
			t.Fatal(err)
		}
		if len(answers[0].rows) != 1 || string(answers[2].rows[0][0]) != "x" || answers[2].rows[0][1] != nil || len(answers[1].rows) != 0 {
			t.Fatalf("answers %v", answers)
		}
	}
	if n := len(preparedOf(conn).names); n != 2 {
		t.Errorf("%d statements prepared, want 2", n)
	}
	bad := command{sql: "SELECT 1/$1::int", types: []uint32{23}, params: [][]byte{[]byte("0")}}
	_, err := runPipeline(ctx, conn, []command{echo, bad, {sql: "SELECT 'never'"}})
	at, ok := errors.AsType[*commandError](err)
	pg, isPg := errors.AsType[*pgconn.PgError](err)
	if !ok || !isPg || at.index != 1 || pg.Code != "22012" {
		t.Fatalf("error %v, want 22012 of command 1", err)
	}
	for i := range 2 * maxStatements {
		if _, err := runPipeline(ctx, conn, []command{{sql: fmt.Sprintf("SELECT %d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	answers, err := runPipeline(ctx, conn, []command{{sql: "SELECT count(*)::text FROM pg_prepared_statements"}})
	if err != nil {
		t.Fatal(err)
	}
	if n := string(answers[0].rows[0][0]); len(n) != 3 || strings.Compare(n, "260") > 0 {
		t.Errorf("%s statements are prepared, want about %d", n, maxStatements)
	}
	if _, err := runPipeline(ctx, conn, []command{echo}); err != nil {
		t.Fatalf("after all that: %v", err)
	}
}
