package crashtest_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgproto3"
)

// twinDDL is what both databases have. Journals say in which order the rows of each
// key came to be what they are.
const twinDDL = `
CREATE TABLE items (id int PRIMARY KEY, name varchar(20) NOT NULL, n smallint, at text DEFAULT 'then');
CREATE TABLE parts (item int, part text, n int NOT NULL, PRIMARY KEY (item, part));
CREATE VIEW all_items AS SELECT * FROM items;
CREATE FUNCTION changed(k int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN UPDATE items SET n = 0 WHERE id = k; RETURN k; END $$;
CREATE TABLE journal (seq bigserial PRIMARY KEY, of text NOT NULL, was text NOT NULL);
CREATE FUNCTION journalled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO journal (of, was) VALUES (TG_TABLE_NAME || ' ' || CASE WHEN TG_OP = 'DELETE' THEN TG_ARGV[0] ELSE '' END, CASE WHEN TG_OP = 'DELETE' THEN OLD::text ELSE NEW::text END);
  RETURN NULL;
END $$;
CREATE TRIGGER journalled AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION journalled('deleted');
CREATE TRIGGER journalled AFTER INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION journalled('deleted')`

// twinState is all of a database, and the past of each key.
const twinState = `SELECT coalesce((SELECT string_agg(i::text, E'\n' ORDER BY id) FROM items i), '') || E'\n-- parts\n' ||
 coalesce((SELECT string_agg(p::text, E'\n' ORDER BY item, part) FROM parts p), '') || E'\n-- past\n' ||
 coalesce((SELECT string_agg(k || ': ' || past, E'\n' ORDER BY k) FROM
 (SELECT left(of, 5) || ' ' || split_part(was, ',', 1) || CASE WHEN of LIKE 'parts%' THEN ' ' || split_part(was, ',', 2) ELSE '' END AS k, string_agg(of || was, ' ' ORDER BY seq) AS past FROM journal GROUP BY 1) p), '')`

// query is one that has one ReadyForQuery, and what the model knows of it.
type query struct {
	messages []pgproto3.FrontendMessage
	does     string // for people
	// begins and ends say what it does to the transaction. changes: it may leave
	// something behind if it is not in one.
	begins, ends, changes bool
	assumed               bool // how many rows it affects is not known to walproxy
	taken                 bool // of a key that may be taken: what only PostgreSQL knows
}

// simple is a query of a text.
func simple(sql string, changes bool) query {
	return query{messages: []pgproto3.FrontendMessage{&pgproto3.Query{String: sql}}, does: sql, changes: changes}
}

// twinAuthor writes the queries of one session. Its keys are its own, but for the hot ones.
type twinAuthor struct {
	r      *rand.Rand
	number int
	fresh  int
	values int
	names  []string // statements that are prepared
	made   int
	hot    bool // it may use them now
	inside bool // a transaction
}

const (
	hotItems = 4
	ownItems = 6
)

func (a *twinAuthor) pick(list ...string) string { return list[a.r.IntN(len(list))] }

// first of the session's own keys; those that are used once are above.
func (a *twinAuthor) first() int { return 100 * a.number }

func (a *twinAuthor) id() int {
	if a.hot && a.r.IntN(3) == 0 {
		return a.r.IntN(hotItems)
	}
	return a.first() + a.r.IntN(ownItems)
}

func (a *twinAuthor) freshID() int {
	a.fresh++
	return a.number*1_000_000 + a.fresh
}

// name is another one each time.
func (a *twinAuthor) name() string {
	a.values++
	return fmt.Sprintf("%d-%d", a.number, a.values)
}

const (
	twinUpsert = " ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, n = EXCLUDED.n"
	twinText   = "INSERT INTO items (id, name, n) VALUES ($1, $2, $3)" + twinUpsert
	twinPart   = "INSERT INTO parts (item, part, n) VALUES ($1, $2, $3) ON CONFLICT (item, part) DO UPDATE SET n = EXCLUDED.n"
)

// literal is a write with its values in the text; some are bad.
func (a *twinAuthor) literal() string {
	name, n := "'"+a.name()+"'", a.pick("1", "2", "-3", "'4'", "NULL")
	switch a.r.IntN(16) {
	case 0:
		name = a.pick("NULL", "'"+longName+"'")
	case 1:
		n = a.pick("70000", "'x'", "1.5")
	}
	switch a.r.IntN(6) {
	case 0:
		return fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, %s, %s)", a.freshID(), name, n)
	case 1:
		return fmt.Sprintf("INSERT INTO parts (item, part, n) VALUES (%d, '%s', %d) ON CONFLICT (item, part) DO UPDATE SET n = EXCLUDED.n", a.id(), a.pick("a", "b'' c", "ü"), a.r.IntN(1000))
	case 2:
		return fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, %s, %s), (%d, '%s', 5)", a.freshID(), name, n, a.freshID(), a.name())
	}
	return fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, %s, %s)", a.id(), name, n) + twinUpsert
}

const longName = "a name that is longer than a name may be"

// parameters of twinText.
func (a *twinAuthor) parameters() [][]byte {
	name, n := []byte(a.name()), []byte(strconv.Itoa(a.r.IntN(100)))
	switch a.r.IntN(16) {
	case 0:
		name = nil
	case 1:
		n = []byte(a.pick("x", "70000", ""))
	case 2:
		name = []byte("\xff")
	}
	return [][]byte{[]byte(strconv.Itoa(a.id())), name, n}
}

func extended(does string, changes bool, messages ...pgproto3.FrontendMessage) query {
	return query{messages: append(messages, &pgproto3.Sync{}), does: does, changes: changes}
}

// bindExecute of a prepared statement; "": the unnamed one.
func bindExecute(name string, values [][]byte) []pgproto3.FrontendMessage {
	return []pgproto3.FrontendMessage{&pgproto3.Bind{PreparedStatement: name, Parameters: values}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}}
}

// write is one that may be written behind.
func (a *twinAuthor) write() query {
	switch a.r.IntN(12) {
	case 0, 1, 2:
		return simple(a.literal(), true)
	case 3, 4, 5:
		values := a.parameters()
		return extended(fmt.Sprintf("%s %q", twinText, values), true, append([]pgproto3.FrontendMessage{&pgproto3.Parse{Query: twinText}}, bindExecute("", values)...)...)
	case 6:
		values := [][]byte{[]byte(strconv.Itoa(a.id())), []byte(a.pick("a", "b")), []byte(strconv.Itoa(a.r.IntN(1000)))}
		return extended(fmt.Sprintf("%s %q", twinPart, values), true, append([]pgproto3.FrontendMessage{&pgproto3.Parse{Query: twinPart}}, bindExecute("", values)...)...)
	case 7, 8:
		q := simple(fmt.Sprintf(a.pick("UPDATE items SET name = '%s' WHERE id = %d", "UPDATE items SET name = '%s', n = 3 WHERE id = %d"), a.name(), a.id()), true)
		q.assumed = true
		return q
	case 9:
		q := simple(fmt.Sprintf("DELETE FROM items WHERE id = %d", a.id()), true)
		q.assumed = true
		return q
	case 10:
		if len(a.names) == 0 {
			return a.prepare()
		}
		return a.group()
	}
	q := simple(fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, '%s', 1) ON CONFLICT DO NOTHING", a.id(), a.name()), true)
	q.assumed = true
	return q
}

// prepare a statement by name.
func (a *twinAuthor) prepare() query {
	a.made++
	name := fmt.Sprintf("s%d", a.made)
	a.names = append(a.names, name)
	return extended("prepare "+name, false, &pgproto3.Parse{Name: name, Query: twinText}, &pgproto3.Describe{ObjectType: 'S', Name: name})
}

// group is several executions up to one Sync.
func (a *twinAuthor) group() query {
	var messages []pgproto3.FrontendMessage
	does := "group"
	for range 1 + a.r.IntN(4) {
		name, values := "", a.parameters()
		if len(a.names) > 0 && a.r.IntN(2) == 0 {
			name = a.pick(a.names...)
		}
		if name == "" {
			messages = append(messages, &pgproto3.Parse{Query: twinText})
		}
		messages = append(messages, bindExecute(name, values)...)
		does += fmt.Sprintf(" %s%q", name, values)
	}
	return extended(does, true, messages...)
}

// direct is what is never written behind.
func (a *twinAuthor) direct() query {
	id := a.id()
	switch a.r.IntN(8) {
	case 0, 1:
		return simple(fmt.Sprintf("UPDATE items SET n = n + 1 WHERE id = %d", id), true)
	case 2:
		return simple(fmt.Sprintf("DELETE FROM items WHERE id = %d RETURNING name, n", id), true)
	case 3:
		return simple(fmt.Sprintf("SELECT changed(%d)", id), true)
	case 4:
		return simple(a.literal()+fmt.Sprintf("; SELECT name FROM items WHERE id = %d; ", a.first())+a.literal(), true)
	case 5:
		q := simple("COPY items (id, name, n) FROM STDIN", true)
		q.messages = append(q.messages, &pgproto3.CopyData{Data: fmt.Appendf(nil, "%d\t%s\t1\n", a.freshID(), a.name())}, &pgproto3.CopyDone{})
		return q
	case 6:
		return simple(fmt.Sprintf("INSERT INTO items (id, name, n) SELECT %d, name, n FROM all_items WHERE id = %d", a.freshID(), a.first()), true)
	}
	return simple(fmt.Sprintf("SELECT name FROM items WHERE id = %d FOR UPDATE", id), false)
}

// other is neither.
func (a *twinAuthor) other() query {
	return simple(a.pick("SELECT 1/0", "", "SELEC", "SET search_path = public", "RESET search_path", "SET TIME ZONE 'UTC'", "SHOW search_path", "SET n.a = 'x'",
		"SELECT current_setting('n.a', true)", "INSERT INTO items (id) VALUES (1, 2)", "INSERT INTO absent VALUES (1)", "SAVEPOINT a", "ROLLBACK TO a"), false)
}

// next query; what has to be said about keys that others lock is in a.hot.
func (a *twinAuthor) next() query {
	n := a.r.IntN(24)
	switch {
	case n < 11:
		return a.write()
	case n < 13:
		return a.group()
	case n < 16:
		return a.direct()
	case n < 17:
		return a.other()
	case n < 18:
		return a.prepare()
	case n < 20:
		return a.control()
	case n < 21 && !a.inside: // INSERT of a key that may be taken
		q := simple(fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, '%s', 1)", a.first()+a.r.IntN(ownItems), a.name()), true)
		q.taken = true
		return q
	case n < 22 && a.inside:
		return a.control()
	}
	return a.write()
}

// control begins or ends a transaction.
func (a *twinAuthor) control() query {
	if !a.inside {
		q := simple(a.pick("BEGIN", "BEGIN", "BEGIN", "START TRANSACTION", "BEGIN ISOLATION LEVEL REPEATABLE READ"), false)
		q.begins = true
		return q
	}
	q := simple(a.pick("COMMIT", "COMMIT", "END", "ROLLBACK"), true)
	if a.r.IntN(4) == 0 {
		q = simple(a.literal(), true)
		q.does += "; COMMIT"
		q.messages = nil
		for _, text := range []string{q.does[:len(q.does)-len("; COMMIT")], "COMMIT"} {
			q.messages = append(q.messages, &pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{})
		}
		q.messages = append(q.messages, &pgproto3.Sync{})
	}
	q.ends = true
	return q
}

// pipeline is several queries that are sent at once.
func (a *twinAuthor) pipeline() (list []query) {
	for range 2 + a.r.IntN(4) {
		q := a.write()
		for len(q.messages) == 1 { // simple ones and the unnamed statement of before do not mix
			q = a.group()
		}
		list = append(list, q)
	}
	return list
}

// rows reads the session's own, or with all everybody's.
func (a *twinAuthor) rows(all bool) query {
	if all {
		return simple(a.pick("SELECT i, i.name FROM items i ORDER BY id", "SELECT count(*), sum(n), min(name) FROM all_items", "SELECT p FROM parts p ORDER BY item, part"), false)
	}
	table, key := "items", "id"
	if a.r.IntN(3) == 0 {
		table, key = "parts", "item"
	}
	return simple(fmt.Sprintf("SELECT t FROM %s t WHERE %s >= %d AND %s < %d ORDER BY t", table, key, a.first(), key, a.first()+100), false)
}

// comparable is a reply without the numbers of rows that walproxy may assume.
func (q query) comparable(r reply) reply {
	if !q.assumed {
		return r
	}
	r.lines = slices.Clone(r.lines)
	for i, l := range r.lines {
		switch l {
		case "C UPDATE 0", "C UPDATE 1":
			r.lines[i] = "C UPDATE"
		case "C DELETE 0", "C DELETE 1":
			r.lines[i] = "C DELETE"
		case "C INSERT 0 0", "C INSERT 0 1":
			r.lines[i] = "C INSERT"
		}
	}
	return r
}
