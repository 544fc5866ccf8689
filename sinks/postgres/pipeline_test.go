package postgres

import (
	"bytes"
	"context"
	"crypto/md5"
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

// TestMemoryOfMessages: the memory that messages are put together in belongs to one
// stream until they are written, and is used again then.
func TestMemoryOfMessages(t *testing.T) {
	ctx := bounded(t)
	conns := []*pgconn.PgConn{plainLink(t), plainLink(t), plainLink(t)}
	echo := func(c byte, size int) command {
		return command{sql: "SELECT md5($1::text)", types: []uint32{25}, params: [][]byte{bytes.Repeat([]byte{c}, size)}}
	}
	for round := range 4 {
		streams := make([]*stream, len(conns))
		for part := range 3 {
			for i, conn := range conns {
				if streams[i] == nil {
					streams[i] = openStream(ctx, conn)
				}
				streams[i].queue([]command{echo(byte('a'+i), 5000<<round<<part)})
			}
		}
		for i, s := range streams {
			if i == 1 {
				if err := s.flush(); err != nil {
					t.Fatal(err)
				}
				s.queue([]command{echo('x', 100_000)})
			}
		}
		for i, s := range streams {
			answers, err := s.end()
			if err != nil {
				t.Fatal(err)
			}
			for part := range 3 {
				want := fmt.Sprintf("%x", md5.Sum(bytes.Repeat([]byte{byte('a' + i)}, 5000<<round<<part)))
				if got := string(answers[part].rows[0][0]); got != want {
					t.Fatalf("stream %d, command %d: other bytes than were queued", i, part)
				}
			}
			if s.memory != nil {
				t.Fatal("a stream that has ended has memory")
			}
		}
	}
}

// TestSend: the server works at what is sent before the rest is there; its errors
// come with the next run, counted from the first command, and answers are those of
// run's own commands.
func TestSend(t *testing.T) {
	conn, ctx := plainLink(t), bounded(t)
	other := pgtest.Connect(t, pgtest.Shared(t).DSN("postgres"))
	number := func(n string) command {
		return command{sql: "SELECT $1::int", types: []uint32{23}, params: [][]byte{[]byte(n)}}
	}
	l := &transaction{conn: conn, lead: []command{{sql: "BEGIN"}, {sql: "SELECT 'moved'"}}}
	buffer := []byte("4711")
	lock := command{sql: "SELECT pg_advisory_lock($1::int)", types: []uint32{23}, params: [][]byte{buffer}}
	if err := l.send(ctx, []command{lock}); err != nil {
		t.Fatal(err)
	}
	copy(buffer, "9999") // the memory is the caller's again
	eventually(t, "the statement was run before the round trip's end", func() bool {
		var held bool
		err := other.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND granted)").Scan(&held)
		return err == nil && held
	})
	if err := l.send(ctx, []command{number("2")}); err != nil {
		t.Fatal(err)
	}
	answers, err := l.run(ctx, []command{number("3"), number("4")}, false)
	if err != nil || len(answers) != 2 || string(answers[0].rows[0][0]) != "3" || string(answers[1].rows[0][0]) != "4" {
		t.Fatalf("answers %v, %v", answers, err)
	}
	for range 2 { // the second round trip has no lead
		if err := l.send(ctx, []command{number("1"), number("none"), number("5")}); err != nil {
			t.Fatal(err)
		}
		_, err = l.run(ctx, []command{number("6")}, false)
		if at, ok := errors.AsType[*commandError](err); !ok || at.index != 1 || codeOf(err) != "22P02" {
			t.Fatalf("error %v, want 22P02 of command 1", err)
		}
		l = &transaction{conn: conn, lead: []command{{sql: "ROLLBACK"}, {sql: "BEGIN"}}}
	}
	if _, err := l.run(ctx, []command{{sql: "SELECT 1"}}, true); err != nil || !l.done {
		t.Fatalf("the connection is of no use any more: %v", err)
	}
}
