package pgwire

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestChosen: settings of a startup packet, in every form that PostgreSQL takes.
func TestChosen(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]settings{
		"":                       {ack: ackLogged, read: readSession},
		"-c walproxy.ack=off":    {ack: ackOff, read: readSession},
		"-cwalproxy.ack=APPLIED": {ack: ackApplied, read: readSession},
		"--walproxy.read=all  -c work_mem=4MB -c walproxy.ack=off":  {ack: ackOff, read: readAll},
		`-c walproxy.idempotency-key=a\ b\\ -c application_name=-c`: {ack: ackLogged, read: readSession, requestID: `a b\`},
	} {
		c, f := choose(&startup{parameters: []parameter{{"user", "x"}, {"options", options}}})
		if f != nil || *c.initial() != want {
			t.Errorf("%s: %+v, %v", options, *c.initial(), f)
		}
	}
	c, f := choose(&startup{parameters: []parameter{{"walproxy.read", "any"}}})
	if f != nil || c.initial().read != readAny {
		t.Errorf("by itself: %+v, %v", c, f)
	}
	for options, want := range map[string]string{"-c walproxy.ack=maybe": "22023", "--walproxy.x=1": "42704", "-c walproxy.lsn=1": "55P02"} {
		if _, f := choose(&startup{parameters: []parameter{{"options", options}}}); f == nil || f.code != want {
			t.Errorf("%s: %v", options, f)
		}
	}
}

// TestSettings: SET, SHOW and RESET have the messages of PostgreSQL's own, in each
// protocol, inside of transactions and outside, and what they say is so.
func TestSettings(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) { o.linger = 300 * time.Millisecond })
	conn := r.connect()
	plain := pgtest.Connect(t, r.direct)
	modes := []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec}
	shape := func(conn *pgx.Conn, mode pgx.QueryExecMode, sql string) (columns []pgconn.FieldDescription, values []string, tag string, err error) {
		rows, err := conn.Query(bounded(t), sql, mode)
		if err != nil {
			return nil, nil, "", err
		}
		defer rows.Close()
		columns = slices.Clone(rows.FieldDescriptions())
		for rows.Next() {
			values = append(values, string(rows.RawValues()[0]))
		}
		return columns, values, rows.CommandTag().String(), rows.Err()
	}
	like := strings.NewReplacer("walproxy.ack", "application_name", "'applied'", "'x'", "applied", "'x'")
	for _, mode := range modes {
		for _, sql := range []string{"SET walproxy.ack = applied", "set walproxy.ack to 'applied'", "RESET walproxy.ack", "SHOW walproxy.ack",
			"SELECT current_setting('walproxy.ack')"} {
			columns, values, tag, err := shape(conn, mode, sql)
			want, wantValues, wantTag, wantErr := shape(plain, mode, like.Replace(sql))
			for i := range want {
				want[i].Name = strings.Replace(want[i].Name, "application_name", "walproxy.ack", 1)
			}
			if err != nil || wantErr != nil || tag != wantTag || !slices.Equal(columns, want) || len(values) != len(wantValues) {
				t.Errorf("%v, %s: %v %q %s %v; PostgreSQL: %v %q %s %v", mode, sql, columns, values, tag, err, want, wantValues, wantTag, wantErr)
			}
		}
		for sql, code_ := range map[string]string{"SET walproxy.ack = maybe": "22023", "SET walproxy.ak = 'off'": "42704", "SHOW walproxy.x": "42704",
			"SET walproxy.lsn = 1": "55P02", "SET LOCAL walproxy.ack = 'off'": "0A000"} {
			if _, _, _, err := shape(conn, mode, sql); code(err) != code_ {
				t.Errorf("%v, %s: %v", mode, sql, err)
			}
		}
	}
	show := func(name string) string { return one[string](t, conn, "SHOW walproxy."+name, pgx.QueryExecModeExec) }
	if show("lsn") != "0" || show("pending") != "0" {
		t.Errorf("before any write: %s, %s", show("lsn"), show("pending"))
	}
	do(t, conn, "SET walproxy.idempotency_key = 'k1'", "INSERT INTO items VALUES (1, 'a', 2, '2026-01-01 00:00Z')")
	lsn := show("lsn")
	if lsn == "0" || show("idempotency_key") != "" || show("why") != "written behind" {
		t.Errorf("lsn %s, key %q, why %q", lsn, show("idempotency_key"), show("why"))
	}
	eventually(t, "nothing is pending", func() bool { return show("pending") == "0" && show("applied") >= lsn })
	do(t, conn, "SET walproxy.idempotency_key = 'k1'", "INSERT INTO items VALUES (1, 'a', 2, '2026-01-01 00:00Z')")
	if show("lsn") != lsn {
		t.Errorf("a repeat under one key has the LSN %s instead of %s", show("lsn"), lsn)
	}
	do(t, conn, "SET walproxy.idempotency_key = 'k1'")
	if _, err := conn.Exec(bounded(t), "INSERT INTO items VALUES (2, 'b')"); code(err) != "22023" {
		t.Errorf("another write under one key: %v", err)
	}
	do(t, conn, "RESET walproxy.idempotency_key", "BEGIN", "SET walproxy.ack = off", "SHOW walproxy.ack", "COMMIT")
	before := r.logged()
	do(t, conn, "INSERT INTO items VALUES (3, 'c')")
	if r.logged() != before || !strings.Contains(show("why"), "off") {
		t.Errorf("with ack off: %d, %s", r.logged()-before, show("why"))
	}
	for _, all := range []string{"RESET ALL", "DISCARD ALL"} {
		do(t, conn, "SET walproxy.ack = off", all)
		if show("ack") != "logged" {
			t.Errorf("behind %s: %s", all, show("ack"))
		}
	}
	do(t, conn, "SET walproxy.ack = applied", "INSERT INTO items VALUES (4, 'd')")
	if n := one[int](t, plain, "SELECT count(*) FROM items WHERE id = 4"); n != 1 {
		t.Errorf("with ack applied: %d rows", n)
	}
	chosen, err := pgx.Connect(bounded(t), r.through+"&options=-c%20walproxy.ack%3Doff")
	if err != nil {
		t.Fatal(err)
	}
	defer chosen.Close(bounded(t))
	if ack := one[string](t, chosen, "SHOW walproxy.ack"); ack != "off" {
		t.Errorf("chosen at the login: %s", ack)
	}
	if _, err := pgx.Connect(bounded(t), r.through+"&options=-c%20walproxy.ack%3Dno"); code(err) != "22023" {
		t.Errorf("what there is not, at the login: %v", err)
	}
}

// TestDeadLetterQuery: who may read a table sees its dead letters, others do not.
func TestDeadLetterQuery(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL+"; CREATE UNIQUE INDEX ON items (name)", items())
	conn := r.connect()
	do(t, conn, "INSERT INTO items VALUES (1, 'a')", "INSERT INTO items VALUES (2, 'a')")
	eventually(t, "the dead letter shows", func() bool {
		rows, err := conn.Query(bounded(t), "SELECT * FROM walproxy.dead_letter")
		if err != nil {
			t.Fatal(err)
		}
		all, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil {
			t.Fatal(err)
		}
		return len(all) == 1 && all[0]["table"] == "public.items" && all[0]["key"] == "2" && all[0]["sqlstate"] == "23505" && all[0]["state"] == "dead"
	})
	for _, sql := range []string{"SELECT * FROM walproxy.dead_letter LIMIT 1", "SELECT count(*) FROM walproxy.dead_letter", "TABLE walproxy.dead_letter"} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			if _, err := conn.Exec(bounded(t), sql, mode); code(err) != "0A000" || !strings.Contains(err.Error(), "one query") {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
	do(t, r.admin, "CREATE ROLE unprivileged LOGIN", "GRANT INSERT ON items TO unprivileged")
	defer do(t, r.admin, "DROP OWNED BY unprivileged", "DROP ROLE unprivileged")
	other, err := pgx.Connect(bounded(t), strings.Replace(r.through, "postgres@", "unprivileged@", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(bounded(t))
	sees := func(conn *pgx.Conn, want int) {
		t.Helper()
		rows, err := conn.Query(bounded(t), "SELECT * FROM walproxy.dead_letter")
		if err != nil {
			t.Fatal(err)
		}
		if all, err := pgx.CollectRows(rows, pgx.RowToMap); err != nil || len(all) != want {
			t.Errorf("%v, %v are seen, want %d", all, err, want)
		}
	}
	sees(other, 0)
	conn = r.connect() // it has written nothing
	sees(conn, 1)
	do(t, conn, "SET ROLE unprivileged")
	sees(conn, 0)
	do(t, conn, "RESET ROLE", "BEGIN", "SET LOCAL ROLE unprivileged")
	if _, err := conn.Exec(bounded(t), "SELECT * FROM walproxy.dead_letter", pgx.QueryExecModeSimpleProtocol); code(err) != "57P03" {
		t.Errorf("in a transaction in which the role may have changed: %v", err)
	}
}
