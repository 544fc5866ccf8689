package pgwire

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// wire is a raw session.
type wire struct {
	t testing.TB
	c net.Conn
	m *inbox
}

func newWire(t *testing.T, dsn string) *wire {
	c := loginRaw(t, dsn)
	t.Cleanup(func() { _ = c.Close() })
	return &wire{t: t, c: c, m: newInbox(c)}
}

// send writes messages.
func (w *wire) send(messages ...pgproto3.FrontendMessage) {
	w.t.Helper()
	var b []byte
	for _, m := range messages {
		b, _ = m.Encode(b) // they fit
	}
	w.raw(b)
}

// raw writes bytes.
func (w *wire) raw(b []byte) {
	w.t.Helper()
	if err := w.c.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.c.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// answer is what comes up to the next ReadyForQuery, a line for each message, without
// what names places in PostgreSQL's source.
func (w *wire) answer() []string {
	w.t.Helper()
	var lines []string
	for {
		frame, err := w.m.next()
		if err != nil {
			w.t.Fatalf("behind %q: %v", lines, err)
		}
		if frame[0] == sParameterStatus || frame[0] == sNotice {
			continue
		}
		lines = append(lines, line(frame))
		if frame[0] == sReady {
			return lines
		}
	}
}

// ask is send and answer.
func (w *wire) ask(messages ...pgproto3.FrontendMessage) []string {
	w.t.Helper()
	w.send(messages...)
	return w.answer()
}

func line(frame []byte) string {
	body := frame[headBytes:]
	if frame[0] == sRowDescription { // of what tables is another matter
		return fmt.Sprintf("T %d", binary.BigEndian.Uint16(body))
	}
	if frame[0] != sError {
		return fmt.Sprintf("%c %q", frame[0], body)
	}
	var fields []string
	for _, field := range strings.Split(string(body), "\x00") {
		if field != "" && !strings.Contains("FLRW", field[:1]) {
			fields = append(fields, field)
		}
	}
	slices.Sort(fields)
	return fmt.Sprintf("E %q", fields)
}

// twinAuthor writes the messages of one query after the other.
type twinAuthor struct {
	r     *rand.Rand
	fresh int
	names []string
	// transactions: more of them, in all ways.
	transactions bool
	// inside: a transaction is open. None is asked for with an isolation there: PostgreSQL
	// refuses it behind a Parse, which is prepared before a transaction that is held begins.
	inside bool
}

func (a *twinAuthor) pick(list ...string) string { return list[a.r.IntN(len(list))] }

func (a *twinAuthor) id() int { return a.r.IntN(6) }

const twinUpsert = " ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, n = EXCLUDED.n"

// literal is a write with its values in the text.
func (a *twinAuthor) literal() string {
	name := a.pick("'a'", "'b''c'", "'ü'", "NULL", "E'x\\n'", "'\\'")
	n := a.pick("1", "2", "-3", "'4'", "70000", "'x'", "NULL")
	if a.r.IntN(3) > 0 {
		name, n = a.pick("'a'", "'q'"), a.pick("1", "7")
	}
	return fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, %s, %s)", a.id(), name, n) + twinUpsert
}

func (a *twinAuthor) values() [][]byte {
	name, n := []byte(a.pick("a", "b", "it's")), []byte(a.pick("1", "2"))
	switch a.r.IntN(8) {
	case 0:
		name = nil
	case 1:
		n = []byte(a.pick("x", "70000", ""))
	case 2:
		name = []byte("\xff")
	}
	return [][]byte{[]byte(fmt.Sprint(a.id())), name, n}
}

const twinText = "INSERT INTO items (id, name, n) VALUES ($1, $2, $3)" + twinUpsert

// next is one query: it has one ReadyForQuery.
func (a *twinAuthor) next() (messages []pgproto3.FrontendMessage) {
	q := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Query{String: sql}}
	}
	s := &pgproto3.Sync{}
	if a.transactions && a.r.IntN(2) == 0 {
		return a.transaction()
	}
	switch a.r.IntN(27) {
	case 0, 1, 2, 3:
		return q(a.literal())
	case 4:
		return q("SELECT id, name, n FROM items ORDER BY id")
	case 5:
		sql := a.pick("BEGIN", "BEGIN", "START TRANSACTION ISOLATION LEVEL REPEATABLE READ")
		if a.inside {
			sql = "BEGIN"
		}
		return q(sql)
	case 6, 7:
		return q(a.pick("COMMIT", "ROLLBACK", "COMMIT", "ROLLBACK", "END"))
	case 8:
		return q(fmt.Sprintf(a.pick("UPDATE items SET n = n + 1 WHERE id = %d", "DELETE FROM items WHERE id = %d", "SELECT name FROM items WHERE id = %d FOR UPDATE",
			"UPDATE items SET name = 'u' WHERE id = %d", "DELETE FROM items WHERE id = %d RETURNING n"), a.id()))
	case 9:
		return q(a.literal() + "; SELECT count(*) FROM items; " + a.literal())
	case 10:
		return q(a.pick("SELECT 1/0", "", "SELEC", "SELECT set_config('search_path', 'public', false)", "SET search_path = public", "SET search_path = pg_catalog", "RESET search_path",
			"SAVEPOINT a", "ROLLBACK TO a", "SET TIME ZONE 'UTC'", "SHOW search_path", "DISCARD ALL", "SELECT sum(n) FROM all_items", "SELECT changed(1)"))
	case 11:
		if len(a.names) > 0 {
			// Whether a statement that was planned before a temporary table took its
			// table's name sees that depends on what else made PostgreSQL plan it again.
			return q("SET LOCAL search_path = other")
		}
		return q(a.pick("CREATE TEMP TABLE items (id int PRIMARY KEY, name text, n int)", "DROP TABLE IF EXISTS pg_temp.items", "SET LOCAL search_path = other"))
	case 12:
		a.fresh++
		return append(q("COPY items (id, name, n) FROM STDIN"), &pgproto3.CopyData{Data: fmt.Appendf(nil, "%d\tcopied\t1\n", 1000+a.fresh)}, &pgproto3.CopyDone{})
	case 13: // the unnamed statement in two steps
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: twinText}, &pgproto3.Describe{ObjectType: 'S'}, s}
	case 14, 15:
		return []pgproto3.FrontendMessage{&pgproto3.Bind{Parameters: a.values()}, &pgproto3.Execute{}, s}
	case 16, 17:
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: twinText}, &pgproto3.Bind{Parameters: a.values()}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{MaxRows: uint32(a.r.IntN(2))}, s}
	case 18:
		name := fmt.Sprintf("s%d", len(a.names))
		a.names = append(a.names, name)
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Name: name, Query: twinText}, &pgproto3.Describe{ObjectType: 'S', Name: name}, s}
	case 19, 20, 21:
		for range 1 + a.r.IntN(3) {
			name := ""
			if len(a.names) > 0 {
				name = a.names[a.r.IntN(len(a.names))]
			}
			messages = append(messages, &pgproto3.Bind{PreparedStatement: name, Parameters: a.values()}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{})
		}
		return append(messages, s)
	case 22:
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: "SELECT id, n FROM items WHERE id < $1 ORDER BY id"}, &pgproto3.Bind{Parameters: [][]byte{[]byte("4")}}, &pgproto3.Execute{}, s}
	case 23:
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: a.literal()}, &pgproto3.Bind{}, &pgproto3.Execute{}, s}
	case 25: // the types of the parameters are asked for before the rest comes, or does not
		list := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: twinText}, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Flush{}}
		switch a.r.IntN(5) {
		case 0:
			return append(list, s)
		case 1:
			return append(list, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Flush{}, &pgproto3.Bind{Parameters: a.values()}, &pgproto3.Execute{}, s)
		case 2:
			return append(list, &pgproto3.Parse{Query: "SELECT count(*) FROM items"}, &pgproto3.Bind{}, &pgproto3.Execute{}, s)
		}
		return append(list, &pgproto3.Bind{Parameters: a.values()}, &pgproto3.Execute{}, s)
	case 24:
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: twinText}, &pgproto3.Flush{}, &pgproto3.Bind{Parameters: a.values()}, &pgproto3.Execute{}, s}
	}
	return []pgproto3.FrontendMessage{&pgproto3.Bind{DestinationPortal: "p", Parameters: a.values()}, &pgproto3.Execute{Portal: "p"}, &pgproto3.Close{ObjectType: 'P', Name: "p"}, &pgproto3.Execute{Portal: "p"}, s}
}

// transaction is a query of one: its begin, its end, a write, or several of them.
func (a *twinAuthor) transaction() (messages []pgproto3.FrontendMessage) {
	parts := []string{a.pick("BEGIN", "begin;", "START TRANSACTION", "BEGIN READ WRITE")}
	switch a.r.IntN(5) {
	case 0:
	case 1:
		parts = []string{a.pick("COMMIT", "END", "COMMIT WORK", "ROLLBACK", "ABORT", "COMMIT AND CHAIN")}
	case 2:
		parts = append(parts, a.literal())
	case 3:
		parts = []string{a.literal(), a.pick("COMMIT", "ROLLBACK", "END")}
	default:
		parts = []string{a.literal()}
	}
	if len(parts) == 1 && a.r.IntN(2) == 0 {
		return []pgproto3.FrontendMessage{&pgproto3.Query{String: parts[0]}}
	}
	for _, part := range parts {
		messages = append(messages, &pgproto3.Parse{Query: part}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{})
	}
	return append(messages, &pgproto3.Sync{})
}

const twinDDL = `CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, n smallint, at text DEFAULT 'then');
CREATE SCHEMA other; CREATE TABLE other.items (id int PRIMARY KEY, name text, n int);
CREATE VIEW all_items AS SELECT * FROM items;
CREATE FUNCTION changed(k int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN UPDATE items SET n = 0 WHERE id = k; RETURN k; END $$`

// TestTwins: sessions of random queries get the same answers by way of the endpoint, with a
// table that is written behind, as directly from a second database, and leave the
// same rows.
func TestTwins(t *testing.T) {
	t.Parallel()
	testTwins(t, false)
}

// TestTwinsPooled: so do those that share a connection to PostgreSQL.
func TestTwinsPooled(t *testing.T) {
	t.Parallel()
	testTwins(t, false, pooling(3))
}

// restless moves the others in a pool from one connection to another: it has one of them
// every now and then, with settings and statements of its own.
type restless struct {
	w      *wire
	inside bool
}

func (d *restless) stir(r *rand.Rand) {
	d.w.t.Helper()
	sql := []string{"BEGIN", "SET search_path = other", "SET search_path = pg_catalog", "SET search_path = public", "RESET search_path", "DEALLOCATE ALL", "DISCARD ALL"}[r.IntN(7)]
	messages := []pgproto3.FrontendMessage{&pgproto3.Query{String: sql}}
	switch {
	case d.inside:
		messages, d.inside = []pgproto3.FrontendMessage{&pgproto3.Query{String: "COMMIT"}}, false
	case r.IntN(3) == 0: // the same text as others'
		name := fmt.Sprint("d", r.IntN(2))
		messages = []pgproto3.FrontendMessage{&pgproto3.Close{ObjectType: 'S', Name: name}, &pgproto3.Parse{Name: name, Query: twinText}, &pgproto3.Sync{}}
	default:
		d.inside = sql == "BEGIN"
	}
	for _, l := range d.w.ask(messages...) {
		if l[0] == sError && !strings.Contains(l, "42P01") { // there are no items in pg_catalog
			d.w.t.Fatalf("%s: %s", said(messages), l)
		}
	}
}

// TestTwinTransactions: so do those whose transactions are held and logged at COMMIT.
func TestTwinTransactions(t *testing.T) {
	t.Parallel()
	testTwins(t, true)
}

func testTwins(t *testing.T, transactions bool, change ...func(*Options)) {
	sessions, queries := 4, 60
	if os.Getenv("WALPROXY_LONG") != "" {
		sessions, queries = 60, 300
	}
	r := newBehindRig(t, twinDDL, items(), func(o *behindOptions) {
		o.change = append(change, func(o *Options) { o.WriteBehind.LogTransactions = transactions })
	})
	twin := pgtest.Shared(t).Database(t)
	direct := pgtest.Connect(t, twin)
	do(t, direct, twinDDL)
	seed := seedOf(t)
	var disturber *restless
	if r.pools != nil {
		disturber = &restless{w: newWire(t, r.through)}
	}
	for session := range sessions {
		a := &twinAuthor{r: rand.New(rand.NewPCG(seed, uint64(session))), fresh: session * 1000, transactions: transactions}
		through, other := newWire(t, r.through), newWire(t, twin)
		var past []string
		for range queries {
			if disturber != nil && a.r.IntN(3) == 0 {
				disturber.stir(a.r)
			}
			messages := a.next()
			past = append(past, said(messages))
			got, want := through.ask(messages...), other.ask(messages...)
			if !slices.Equal(got, want) {
				t.Fatalf("WALPROXY_SEED=%d, session %d: %s\ngot  %q\nwant %q\n%s", seed, session, strings.Join(past, "\n"), got, want, r.why())
			}
			a.inside = !strings.Contains(got[len(got)-1], `"I"`)
		}
		rollback := &pgproto3.Query{String: "ROLLBACK"}
		through.ask(rollback)
		other.ask(rollback)
		_, _ = through.c.Close(), other.c.Close() // what it keeps is another one's
		r.applied()                               // the next session need not see writes of this one that are not
	}
	if r.logged() < sessions*queries/60 {
		t.Errorf("only %d queries were written behind: %s", r.logged(), r.why())
	}
	const all = "SELECT coalesce(string_agg(format('%s %s %s', id, name, n), ', ' ORDER BY id), '') FROM items"
	if got, want := one[string](t, r.admin, all), one[string](t, direct, all); got != want {
		t.Errorf("WALPROXY_SEED=%d: the rows are\n%s\nwant\n%s", seed, got, want)
	}
}

// seedOf is that of WALPROXY_SEED, else one of now.
func seedOf(t *testing.T) uint64 {
	text := os.Getenv("WALPROXY_SEED")
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("WALPROXY_SEED: %v", err)
	}
	return seed
}

func said(messages []pgproto3.FrontendMessage) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "%T%+v ", m, m)
	}
	return strings.ReplaceAll(b.String(), "*pgproto3.", "")
}
