package statement

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// seeds are texts that are recombined below.
var seeds = []string{
	"INSERT INTO t (id, a, b) VALUES ($1, $2, $3)",
	"INSERT INTO public.t AS x VALUES (1, 'it''s', 1.5), (-2, E'a\\'b', NULL) ON CONFLICT (id) DO UPDATE SET a = EXCLUDED.a, b = DEFAULT",
	"INSERT INTO t (id, a) VALUES (DEFAULT, $q$x$q$) ON CONFLICT DO NOTHING",
	"INSERT INTO t (id) VALUES (1) ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET a = now()::text WHERE t.b > 0 RETURNING id",
	"INSERT INTO t DEFAULT VALUES; UPDATE t SET b = 1 WHERE id = 1",
	"INSERT INTO t (id, a, c) VALUES ((($1)), CAST('x' AS text), DATE '2020-01-01')",
	"INSERT INTO t (id, c) VALUES (nextval('s'), '2020-01-01'::date) RETURNING *",
	"UPDATE t SET a = $1, b = -5 WHERE id = $2",
	"UPDATE public.t AS x SET a = DEFAULT WHERE ((x.id = 5) AND ('a' = x.a))",
	"UPDATE ONLY t SET (a, b) = ('x', 1) FROM s WHERE t.id = s.id",
	"DELETE FROM t WHERE t.id=-5 AND public.t.a = $1::text",
	"DELETE FROM t x USING t y WHERE x.id = y.id OR true /* comment */ -- end",
	"SELECT id, count(*) FROM t WHERE a LIKE 'x%' GROUP BY 1 ORDER BY 1 DESC LIMIT 1 FOR UPDATE",
	"WITH w AS (SELECT 1) SELECT * FROM w, LATERAL (VALUES (1), (2)) v",
}

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestReservedWords(t *testing.T) {
	conn := connect(t)
	rows, err := conn.Query(t.Context(), "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
	if err != nil {
		t.Fatal(err)
	}
	words, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		if !reserved(word) {
			t.Errorf("%q is not known as reserved", word)
		}
	}
	if len(words) < 90 {
		t.Errorf("the server has only %d reserved words", len(words))
	}
}

// TestServerReadsWhatIsEligible: no text that PostgreSQL cannot read is eligible,
// and what it reads of one is one statement of the same kind on the same table.
func TestServerReadsWhatIsEligible(t *testing.T) {
	conn := connect(t)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (id int PRIMARY KEY, a text, b numeric, c date); CREATE TABLE x (id int); CREATE SEQUENCE s"); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	eligible := 0
	for range 10_000 {
		text := recombine(random)
		got := Parse(text, false)
		if len(got.Statements) != 1 || got.Statements[0].Write == nil {
			continue
		}
		eligible++
		_, err := conn.PgConn().Prepare(t.Context(), "", text, nil)
		refusal, _ := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
		case refusal == nil:
			t.Fatal(err)
		case refusal.Code == "42601" && !strings.Contains(refusal.Message, "more expressions"): // which takes the catalogue to know
			t.Errorf("%s: %s, but is taken as eligible (seed %d)", text, refusal.Message, seed)
		}
	}
	if eligible < 300 {
		t.Errorf("only %d texts were eligible", eligible)
	}
	t.Logf("%d eligible", eligible)
}

// recombine makes a text of the tokens of two seeds, with a few changed.
func recombine(random *rand.Rand) string {
	pick := func() (string, []token) {
		text := seeds[random.IntN(len(seeds))]
		tokens, _ := lex(nil, text)
		return text, tokens[:len(tokens)-1]
	}
	text, tokens := pick()
	var words []string
	for _, t := range tokens {
		words = append(words, text[t.start:t.end])
	}
	for range random.IntN(4) {
		other, from := pick()
		at, t := random.IntN(len(words)), from[random.IntN(len(from))]
		word := other[t.start:t.end]
		switch random.IntN(4) {
		case 0:
			words[at] = word
		case 1:
			words = append(words[:at], append([]string{word}, words[at:]...)...)
		case 2:
			if len(words) > 1 {
				words = append(words[:at], words[at+1:]...)
			}
		case 3: // its tail
			n := random.IntN(len(from))
			words = words[:at+1]
			for _, t := range from[n:] {
				words = append(words, other[t.start:t.end])
			}
		}
	}
	return strings.Join(words, []string{" ", "\n", "/**/"}[random.IntN(3)])
}
