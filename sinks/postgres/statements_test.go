package postgres

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// sql is a statement of collection t whose key is a number; args are its parameters, an
// int as int4 in binary, a string as text of an unnamed type's text form.
func sql(key int64, text string, args ...any) *walproxyv1.Statement {
	s := &walproxyv1.Statement{Text: text, Collection: "t", Key: mutation.Int64(key), Role: pgtest.Superuser, SearchPath: `"public"`}
	var formats []int16
	var values [][]byte
	for _, arg := range args {
		oid, format, value := uint32(oidText), formatText, []byte(nil)
		switch v := arg.(type) {
		case int:
			oid, format, value = oidInt4, formatBinary, appendInteger(nil, int64(v), 4)
		case string:
			value = []byte(v)
		}
		s.ParameterOids, formats, values = append(s.ParameterOids, oid), append(formats, format), append(values, value)
	}
	s.Parameters = pgstatement.AppendParameters(nil, formats, values)
	return s
}

func insertSQL(key int, name any) *walproxyv1.Statement {
	return sql(int64(key), `INSERT INTO "public"."t" ("id", "name") VALUES ($1, $2)`, key, name)
}

func updateSQL(key int, name any) *walproxyv1.Statement {
	return sql(int64(key), `UPDATE "public"."t" SET "name" = $1 WHERE "id" = $2`, name, key)
}

func deleteSQL(key int) *walproxyv1.Statement {
	return sql(int64(key), `DELETE FROM "public"."t" WHERE "id" = $1`, key)
}

// recordOf makes the next record of a statement, or of a group of several.
func (a *applier) recordOf(list ...*walproxyv1.Statement) sinks.Record {
	r := a.record(set("t", mutation.Int64(0), nil))
	r.Body = &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Statement{Statement: list[0]}}
	if len(list) > 1 {
		g := &walproxyv1.Group{}
		for _, s := range list {
			g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Statement{Statement: s}})
		}
		r.Body.Body = &walproxyv1.Record_Group{Group: g}
	}
	r.Bytes = proto.Size(r.Body)
	return r
}

// run applies statements, a record each, as one batch.
func (a *applier) run(list ...*walproxyv1.Statement) {
	a.t.Helper()
	var records []sinks.Record
	for _, s := range list {
		records = append(records, a.recordOf(s))
	}
	if results, err := a.try(bounded(a.t), records...); err != nil {
		a.t.Fatalf("%v (%v)", err, results)
	}
}

// outcome is that of one statement alone, which is then passed.
func (a *applier) outcome(s *walproxyv1.Statement) (sinks.Outcome, error) {
	a.t.Helper()
	r := a.recordOf(s)
	results, err := a.try(bounded(a.t), r)
	outcome := sinks.OutcomeOf(err)
	if results != nil {
		outcome = results[0].Outcome
	}
	if outcome != sinks.Applied {
		a.skip(r)
	}
	return outcome, err
}

// statementLedger makes of the ledger a table that statements can write: what is applied
// again is refused.
const statementLedger = "ALTER TABLE ledger ADD PRIMARY KEY (lane, lsn)"

// ledgerStatement inserts a row of the ledger.
func ledgerStatement(lane int, lsn sinks.LSN) *walproxyv1.Record {
	s := sql(0, `INSERT INTO "public"."ledger" ("lane", "lsn", "filler") VALUES ($1, $2, $3)`, lane, int(lsn), "x")
	s.Collection, s.Key = "ledger", mutation.Composite(mutation.Int64(int64(lane)), mutation.Int64(int64(lsn)))
	return &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Statement{Statement: s}}
}

// TestStatementsServerKilled: kill -9 of PostgreSQL, of a backend and of all of it, in the
// middle of statements being applied: none is lost, doubled or out of order.
func TestStatementsServerKilled(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	dsn, database := newDatabase(t, c)
	if _, err := pgtest.Connect(t, dsn).Exec(bounded(t), statementLedger); err != nil {
		t.Fatal(err)
	}
	s := openSink(t, Options{DSN: dsn, Timeouts: hasty()})
	cp, err := s.Resume(bounded(t), claimOf(3))
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(s, cp)
	l.statements = true
	l.during(t, func() {
		for range times(2, 20) {
			l.progress(t, 3)
			c.Kill(t)
			c.Start(t)
			l.progress(t, 2)
			c.TerminateAll(t, database)
		}
		l.progress(t, 3)
	})
	l.check(t, dsn)
	settled(t, c, database)
}

// TestStatementsProcessKilled: kill -9 of the process that applies statements, again and
// again.
func TestStatementsProcessKilled(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	if _, err := pgtest.Connect(t, dsn).Exec(bounded(t), statementLedger); err != nil {
		t.Fatal(err)
	}
	stream := uuid.New()
	for i := range times(3, 50) {
		p := startProcess(t, processOptions{DSN: dsn, Stream: stream, Name: fmt.Sprint("life ", i), Lanes: 3, Statements: true})
		eventually(t, "it applies", p.applies)
		p.Kill()
	}
	settled(t, c, database)
	checkLedger(t, dsn, 3, nil, nil)
}

const statementTable = "CREATE TABLE t (id int PRIMARY KEY, name text CHECK (name <> 'bad'))"

// TestStatementsAreJoined: a run of statements of one text is one statement of the
// server's, one that comes alone is as it was written, and a key that comes again
// begins the next.
func TestStatementsAreJoined(t *testing.T) {
	a := newApplier(t, Options{}, statementTable)
	var list []*walproxyv1.Statement
	for i := range 200 {
		list = append(list, insertSQL(i, fmt.Sprint("n", i)))
	}
	a.run(list...)
	statements := func(which string) int { // tests have them small
		n, err := strconv.Atoi(a.query("SELECT count(DISTINCT (xmin::text, cmin::text)) FROM t" + which))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := statements(""); n > 20 {
		t.Errorf("200 rows were inserted by %d statements", n)
	}
	list = nil
	for i := range 100 {
		list = append(list, updateSQL(i, "x"))
	}
	a.run(append(list, updateSQL(7, "y"))...)
	if n := statements(" WHERE name IN ('x', 'y')"); n > 12 {
		t.Errorf("100 rows and one again were updated by %d statements", n)
	}
	if name := a.query("SELECT name FROM t WHERE id = 7"); name != "y" {
		t.Errorf("the second update of a row left %q", name)
	}
	list = []*walproxyv1.Statement{insertSQL(500, nil), deleteSQL(7), insertSQL(7, "again"), updateSQL(7, "last"), deleteSQL(8), deleteSQL(9), deleteSQL(10)}
	a.run(list...)
	if got := a.query("SELECT string_agg(coalesce(name, '-'), ' ' ORDER BY id) FROM t WHERE id IN (7, 8, 9, 10, 500)"); got != "last -" {
		t.Errorf("the rows are %q", got)
	}
	group := a.recordOf(insertSQL(600, "a"), updateSQL(600, "bad"))
	if results, err := a.try(bounded(t), group); err == nil || results != nil && results[0].Outcome != sinks.Rejected {
		t.Errorf("a group with a bad member: %v %v", results, err)
	}
	a.skip(group)
	if n := a.query("SELECT count(*) FROM t WHERE id = 600"); n != "0" {
		t.Error("half of a group was applied")
	}
}

// TestStatementSession: a statement is applied as who wrote it, in that session's search
// path and TimeZone, and what follows is not.
func TestStatementSession(t *testing.T) {
	c := pgtest.Shared(t)
	role := c.CreateRole(t)
	a := newApplier(t, Options{}, `CREATE TABLE t (id int PRIMARY KEY, name text, at timestamptz DEFAULT '2026-01-01 00:00:00+00');
		CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;
		CREATE TABLE seen (id int, who text, path text, zone text); GRANT INSERT ON seen TO PUBLIC;
		CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.seen VALUES (NEW.id, current_user, current_setting('search_path'), current_setting('TimeZone')); RETURN NEW; END $$;
		CREATE TRIGGER look BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION look();
		GRANT SELECT, INSERT ON t TO `+role)
	as := func(s *walproxyv1.Statement) *walproxyv1.Statement {
		s.Role, s.SearchPath, s.Settings = role, `"other", "public"`, map[string]string{"TimeZone": "Asia/Kolkata"}
		return s
	}
	zoned := as(sql(3, `INSERT INTO "public"."t" ("id", "at") VALUES ($1, $2)`, 3, "2026-01-02 03:04:05"))
	zoned.ParameterOids[1] = oidTimestamptz
	records := []sinks.Record{a.recordOf(insertSQL(1, "a")), a.recordOf(as(insertSQL(2, "b"))), a.recordOf(zoned),
		a.record(set("t", mutation.Int64(4), fields{"name": "d"})), a.recordOf(insertSQL(5, "e"))}
	if results, err := a.try(bounded(t), records...); err != nil {
		t.Fatalf("%v %v", results, err)
	}
	own := a.query("SELECT current_user || ' ' || current_setting('search_path')")
	path, zone := `"other", "public"`, "Asia/Kolkata"
	want := fmt.Sprintf(`1 postgres "public" UTC|2 %[1]s %[2]s %[3]s|3 %[1]s %[2]s %[3]s|4 %[4]s UTC|5 postgres "public" UTC`, role, path, zone, own)
	if got := a.query("SELECT string_agg(concat_ws(' ', id, who, path, zone), '|' ORDER BY id) FROM seen"); got != want {
		t.Errorf("triggers saw %s\nwant %s", got, want)
	}
	if at := a.query("SELECT at AT TIME ZONE 'UTC' FROM t WHERE id = 3"); at != "2026-01-01 21:34:05" {
		t.Errorf("a time without a zone was read as %s", at)
	}
	// What the role may not do is the record's own fault, found whatever stands beside it.
	good := a.recordOf(insertSQL(6, "f"))
	bad := a.recordOf(as(updateSQL(1, "x")))
	results, err := a.try(bounded(t), good, bad)
	if err == nil || results == nil || results[0].Outcome != sinks.Retry || results[1].Outcome != sinks.Rejected {
		t.Fatalf("an update without the privilege: %v %v", results, err)
	}
	var said *ServerError
	if !errors.As(results[1].Err, &said) || said.Details()["sqlstate"] != "42501" || said.Remedy != "" {
		t.Errorf("the dead letter says %v", results[1].Err)
	}
	a.skip(bad)
	gone := insertSQL(7, "g")
	gone.Role = "nobody_of_this_name"
	if outcome, err := a.outcome(gone); outcome != sinks.Rejected || codeOf(err) != "22023" {
		t.Errorf("a role that is gone: %v %v", outcome, err)
	}
	if got := a.query("SELECT count(*) FROM t WHERE id > 5"); got != "0" {
		t.Errorf("%s rows were written that should not be", got)
	}
}

// TestStatementNeedsMembership: a sink whose login may not become the writer halts, and
// says what to grant; with that it goes on.
func TestStatementNeedsMembership(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	login, writer := c.CreateRole(t), c.CreateRole(t)
	admin := pgtest.Connect(t, dsn)
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.PgConn().Exec(bounded(t), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	exec(InitSQL("", login) + ";" + statementTable + "; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO " + writer)
	a := applierOn(t, Options{DSN: pgtest.DSN(c.Addr(), login, database)})
	s := insertSQL(1, "a")
	s.Role = writer
	r := a.recordOf(s)
	_, err := a.try(bounded(t), r)
	if sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), "GRANT") || codeOf(err) != "42501" {
		t.Fatalf("without membership: %v", err)
	}
	// As docs/postgres.md lists it: membership for what the role writes, and to read what
	// is in the table for nothing else.
	exec("GRANT " + writer + " TO " + login)
	if results, err := a.try(bounded(t), r); err != nil {
		t.Fatalf("with membership: %v %v", results, err)
	}
	if name := a.query("SELECT name FROM t"); name != "a" {
		t.Errorf("the row has %q", name)
	}
}

// TestStatementRefusals: what does not fit its table is the record's own fault, or the
// configuration's.
func TestStatementRefusals(t *testing.T) {
	a := newApplier(t, Options{AutoCreate: true, Collections: []Collection{{Pattern: "versioned", Table: "versioned", VersionColumn: "v"}, {Pattern: "moved", Table: "other"}}},
		statementTable, "CREATE TABLE versioned (id int PRIMARY KEY, v bigint); CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO t VALUES (9, 'nine')",
		"CREATE TABLE unable (id int PRIMARY KEY); CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE feature_not_supported; END $$; CREATE TRIGGER no BEFORE INSERT ON unable FOR EACH ROW EXECUTE FUNCTION no()")
	a.put(set("docs", mutation.Int64(1), fields{"a": 1}))
	of := func(s *walproxyv1.Statement, collection string) *walproxyv1.Statement {
		s.Collection = collection
		return s
	}
	change := func(s *walproxyv1.Statement, f func(*walproxyv1.Statement)) *walproxyv1.Statement { f(s); return s }
	for _, c := range []struct {
		name string
		s    *walproxyv1.Statement
		want sinks.Outcome
		says string
	}{
		{"check", insertSQL(1, "bad"), sinks.Rejected, "23514"},
		{"unique", insertSQL(9, "x"), sinks.Rejected, "23505"},
		{"value", change(insertSQL(1, "x"), func(s *walproxyv1.Statement) { s.ParameterOids[1] = oidInt8 }), sinks.Rejected, "22P02"},
		{"a trigger's", of(sql(1, `INSERT INTO "public"."unable" ("id") VALUES ($1)`, 1), "unable"), sinks.Rejected, "0A000"},
		{"other text", sql(1, "DELETE FROM t"), sinks.Rejected, "not one that is logged"},
		{"two statements", sql(1, `DELETE FROM "public"."t" WHERE "id" = $1; DROP TABLE t`, 1), sinks.Rejected, "not one that is logged"},
		{"column", sql(1, `UPDATE "public"."t" SET "gone" = $1 WHERE "id" = $2`, "x", 1), sinks.Rejected, `no column "gone"`},
		{"key", sql(1, `UPDATE "public"."t" SET "name" = $1 WHERE "name" = $2`, "x", "y"), sinks.Rejected, "key"},
		{"changes its key", sql(1, `UPDATE "public"."t" SET "id" = $1 WHERE "id" = $2`, 2, 1), sinks.Rejected, "key"},
		{"more than its key", sql(1, `DELETE FROM "public"."t" WHERE "id" = $1 AND "name" = $2`, 9, "nine"), sinks.Rejected, "key"},
		{"without its key", sql(1, `INSERT INTO "public"."t" ("name") VALUES ($1)`, "x"), sinks.Rejected, "key"},
		{"parameters", change(insertSQL(1, "x"), func(s *walproxyv1.Statement) { s.Parameters = []byte{9} }), sinks.Rejected, "unreadable parameters"},
		{"too few", change(insertSQL(1, "x"), func(s *walproxyv1.Statement) { s.ParameterOids = s.ParameterOids[:1] }), sinks.Rejected, "parameters"},
		{"setting", change(insertSQL(1, "x"), func(s *walproxyv1.Statement) { s.Settings = map[string]string{"role": "x"} }), sinks.Rejected, "settings"},
		{"zone", change(insertSQL(1, "x"), func(s *walproxyv1.Statement) { s.Settings = map[string]string{"TimeZone": "nowhere"} }), sinks.Rejected, "22023"},
		{"no role", change(insertSQL(1, "x"), func(s *walproxyv1.Statement) { s.Role = "" }), sinks.Rejected, "role"},
		{"constraint", sql(1, `INSERT INTO "public"."t" ("id") VALUES ($1) ON CONFLICT ON CONSTRAINT "nosuch" DO NOTHING`, 1), sinks.Rejected, "42704"},
		{"conflict", sql(1, `INSERT INTO "public"."t" ("id") VALUES ($1) ON CONFLICT ("name") DO NOTHING`, 1), sinks.Rejected, "42P10"},
		{"documents", of(sql(1, `DELETE FROM "public"."docs" WHERE "key" = $1`, 1), "docs"), sinks.Rejected, "documents"},
		{"version column", of(sql(1, `DELETE FROM "public"."versioned" WHERE "id" = $1`, 1), "versioned"), sinks.Halt, "version_column"},
		{"another table", of(deleteSQL(9), "moved"), sinks.Halt, "public.other"},
		{"no table", of(deleteSQL(9), "nosuch"), sinks.Halt, "there is no table"},
	} {
		outcome, err := a.outcome(c.s)
		if outcome != c.want || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v %v, want %v and %q", c.name, outcome, err, c.want, c.says)
		}
	}
	if got := a.query("SELECT string_agg(t::text, ' ') FROM t"); got != "(9,nine)" {
		t.Errorf("the table has %s", got)
	}
}

// TestStatementMovesTheVersion: where table record has a version of a row a statement
// moves it, so that nobody's condition holds that saw the row before; what is deleted
// has none; and a row that only SQL wrote never gets one.
func TestStatementMovesTheVersion(t *testing.T) {
	claim, dsn := claimOf(1), pgtest.Shared(t).Database(t)
	conn := pgtest.Connect(t, dsn)
	if _, err := conn.Exec(bounded(t), statementTable); err != nil {
		t.Fatal(err)
	}
	a := &applier{driver: resumed(t, openSink(t, Options{DSN: dsn}), claim), conn: conn}
	key := mutation.Int64(1)
	versions := func() string {
		return a.query("SELECT string_agg(version::text, ' ' ORDER BY key) FROM walproxy.record")
	}
	a.run(insertSQL(1, "sql"))
	if d := a.get("t", key); d == nil || d.Version != 0 || versions() != "NULL" {
		t.Fatalf("a row of a statement: %+v, versions %s", d, versions())
	}
	a.put(merge("t", key, fields{"name": "mutation"}))
	before := a.get("t", key).Version
	a.run(updateSQL(1, "again"), insertSQL(2, "two"))
	if d := a.get("t", key); d.Version != before+1 || d.Fields["name"].GetString_() != "again" {
		t.Fatalf("behind a statement at %d: %+v", before+1, d)
	}
	if err := a.refused(set("t", key, fields{"name": "x"}, mutation.IfVersion(before))); !strings.Contains(err.Error(), "version") {
		t.Errorf("a condition on what was there before the statement: %v", err)
	}
	// In one batch, between mutations that look at the row.
	batch := []sinks.Record{a.record(set("t", key, fields{"name": "a"}, mutation.IfVersion(before+1))), a.recordOf(updateSQL(1, "b"))}
	last := batch[1].LSN
	batch = append(batch, a.record(mutation.New("t", key, []*walproxyv1.Op{mutation.AppendOp(map[string]*walproxyv1.Value{"name": mutation.StringValue("c")})}, mutation.IfVersion(last))),
		a.recordOf(deleteSQL(1)), a.recordOf(insertSQL(1, "d")))
	if results, err := a.try(bounded(t), batch...); err != nil {
		t.Fatalf("%v %v", results, err)
	}
	if d := a.get("t", key); d.Version != 0 || d.Fields["name"].GetString_() != "d" || versions() != "NULL" {
		t.Errorf("deleted and inserted by statements: %+v, versions %s", d, versions())
	}
	// A restart finds out whether there are versions to move.
	a.put(set("t", key, fields{"name": "e"}))
	closeSink(t, a.sink)
	claim.Fresh = false
	b := &applier{driver: resumed(t, openSink(t, Options{DSN: dsn}), claim), conn: conn, clock: a.clock, last: a.last}
	b.run(updateSQL(1, "f"))
	if d := b.get("t", key); d.Version != b.last {
		t.Errorf("behind a restart: %+v, want version %d", d, b.last)
	}
}
