package pgwire

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestBecomesDeferrable: between ack and apply a key becomes deferrable, with which ON
// CONFLICT cannot be: the write is a dead letter, and its retry is applied when the key is
// as it was. What a deferrable key refuses only at COMMIT is a dead letter, alone.
func TestBecomesDeferrable(t *testing.T) {
	t.Parallel()
	const was, becomes = "ALTER TABLE %t DROP CONSTRAINT %t_pkey, ADD PRIMARY KEY (id)", " DEFERRABLE INITIALLY DEFERRED"
	r := newBehindRig(t, "CREATE TABLE one (id int PRIMARY KEY, v text); CREATE TABLE two (id int PRIMARY KEY, v text); CREATE TABLE three (id int PRIMARY KEY, v text, CONSTRAINT v_key UNIQUE (v)); "+
		"INSERT INTO one VALUES (1, 'a'); INSERT INTO two VALUES (1, 'a'); INSERT INTO three VALUES (1, 'a')",
		[]Table{assumedOf("one"), assumedOf("two"), assumedOf("three")})
	conn := r.connect(pgx.QueryExecModeExec)
	// pending has writes be acknowledged, and ddl done before they are applied.
	pending := func(table, ddl string, writes ...string) {
		t.Helper()
		other := pgtest.Connect(t, r.direct)
		do(t, other, "BEGIN", "LOCK TABLE "+table+" IN SHARE ROW EXCLUSIVE MODE")
		for _, sql := range writes {
			before := r.logged()
			if do(t, conn, sql); r.logged() != before+1 {
				t.Fatalf("%s: not acknowledged from the log: %s", sql, r.why())
			}
		}
		do(t, other, strings.ReplaceAll(ddl, "%t", table), "COMMIT")
	}
	// dead is the one dead letter, once everything is applied or one.
	dead := func(table string) walproxy.DeadLetter {
		t.Helper()
		if err := r.proxy.WaitSink(bounded(t), "main", r.proxy.Newest(table)); err != nil {
			t.Fatal(err)
		}
		letters, err := r.proxy.DeadLetters("main", 0, 10)
		if err != nil || len(letters) != 1 {
			t.Fatalf("%s: the dead letters are %+v %v, want one", table, letters, err)
		}
		return letters[0]
	}
	for table, write := range map[string]string{
		"one": "INSERT INTO one (id, v) VALUES (1, 'again'), (2, 'b') ON CONFLICT DO NOTHING",
		"two": "INSERT INTO two (id, v) VALUES (1, 'again'), (2, 'b') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v",
	} {
		pending(table, was+becomes, write)
		letter := dead(table)
		if said := letter.Details["message"]; !strings.Contains(said, "ON CONFLICT") {
			t.Errorf("%s: the dead letter says %q", write, said)
		}
		do(t, r.admin, strings.ReplaceAll(was, "%t", table))
		again, err := r.proxy.RetryDeadLetter(bounded(t), "main", letter.LSN)
		if err == nil {
			err = r.proxy.WaitSink(bounded(t), "main", again[0].Result.LSN)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.applied()
	}
	if got := one[string](t, r.admin, "SELECT string_agg(v, ' ' ORDER BY id) || (SELECT ' ' || string_agg(v, ' ' ORDER BY id) FROM two) FROM one"); got != "a b again b" {
		t.Errorf("the rows are %q", got)
	}
	pending("three", "ALTER TABLE %t DROP CONSTRAINT v_key, ADD CONSTRAINT v_key UNIQUE (v)"+becomes,
		"INSERT INTO three (id, v) VALUES (2, 'b')", "INSERT INTO three (id, v) VALUES (3, 'a') ON CONFLICT (id) DO NOTHING", "INSERT INTO three (id, v) VALUES (4, 'd')")
	if letter := dead("three"); letter.Details["sqlstate"] != "23505" || letter.Details["constraint"] != "v_key" {
		t.Errorf("the dead letter is %+v, want the one that takes a value again", letter)
	}
	if got := one[string](t, r.admin, "SELECT string_agg(id || v, ' ' ORDER BY id) FROM three"); got != "1a 2b 4d" {
		t.Errorf("the rows are %q", got)
	}
}

func assumedOf(name string) Table {
	t := table(name, items()[0].KeyType)
	t.AssumeRows = true
	return t
}
