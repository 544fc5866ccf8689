package pgwire

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

func asks(sql string) []pgproto3.FrontendMessage {
	return []pgproto3.FrontendMessage{&pgproto3.Query{String: sql}}
}

// asksExtended is likewise by the extended protocol.
func asksExtended(sql string) []pgproto3.FrontendMessage {
	return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}
}

func prepares(name, sql string) []pgproto3.FrontendMessage {
	return []pgproto3.FrontendMessage{&pgproto3.Parse{Name: name, Query: sql}, &pgproto3.Describe{ObjectType: 'S', Name: name}, &pgproto3.Sync{}}
}

func executes(name string, values ...string) []pgproto3.FrontendMessage {
	b := &pgproto3.Bind{PreparedStatement: name}
	for _, v := range values {
		b.Parameters = append(b.Parameters, []byte(v))
	}
	return []pgproto3.FrontendMessage{b, &pgproto3.Execute{}, &pgproto3.Sync{}}
}

// moved is a session in a pool of two, one of which may be kept from it.
type moved struct {
	t           *testing.T
	s           *Server
	w, other    *wire // the session, and the same directly
	mate        *wire // another one
	first, last *wire // who keep connections from both
}

func newMoved(t *testing.T) *moved {
	s, dsn, direct := pooled(t, 2)
	do(t, direct, "CREATE TABLE t (v smallint)", "CREATE SCHEMA other", "CREATE TABLE other.t (v bigint)")
	m := &moved{t: t, s: s, other: newWire(t, direct.Config().ConnString())}
	for _, w := range []**wire{&m.w, &m.mate, &m.first, &m.last} {
		*w = newWire(t, dsn)
	}
	return m
}

// both asks the session and its twin, and compares.
func (m *moved) both(messages ...pgproto3.FrontendMessage) {
	m.t.Helper()
	if got, want := m.w.ask(messages...), m.other.ask(messages...); !slices.Equal(got, want) {
		m.t.Errorf("%s\ngot  %q\nwant %q", said(messages), got, want)
	}
}

// away keeps the connection from the session that it had last, so that it goes on on the
// other.
func (m *moved) away() {
	m.t.Helper()
	m.back()
	where := func(w *wire) string { return w.ask(asks("SELECT pg_backend_pid()")...)[1] }
	was := where(m.w)
	m.first.ask(asks("BEGIN")...)
	if where(m.first) != was {
		m.last.ask(asks("BEGIN")...)
		m.first.ask(asks("COMMIT")...)
	}
	if where(m.w) == was {
		m.t.Error("the session has not moved")
	}
}

// back lets it have either.
func (m *moved) back() {
	m.first.ask(asks("COMMIT")...)
	m.last.ask(asks("COMMIT")...)
}

func (m *moved) held() string {
	for _, row := range m.s.showClients() {
		if row[8] != "" {
			return row[8]
		}
	}
	return ""
}

// TestPoolReadings: a statement means what it did when it was prepared, whichever
// connection the session changes its settings on, and however; what could not be made
// again elsewhere keeps the session where it is.
func TestPoolReadings(t *testing.T) {
	t.Parallel()
	const insert = "INSERT INTO t VALUES ($1)"
	for name, change := range map[string][][]pgproto3.FrontendMessage{
		"SET":            {asks("SET search_path = pg_catalog")},
		"SET, extended":  {asksExtended("SET search_path = pg_catalog")},
		"SET prepared":   {prepares("set", "SET search_path = other"), executes("set")},
		"SET LOCAL":      {asks("BEGIN"), asks("SET LOCAL search_path = other")},
		"one query":      {asks("BEGIN; SET LOCAL search_path = other")},
		"set_config":     {asks("SELECT set_config('search_path', 'other', false)")},
		"temporary":      {asks("CREATE TEMP TABLE t (v int)")},
		"and back":       {asks("SET search_path = other"), asks("RESET search_path")},
		"in a savepoint": {asks("BEGIN"), asks("SAVEPOINT a"), asks("SET LOCAL search_path = other"), asks("ROLLBACK TO a")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMoved(t)
			m.both(prepares("s", insert)...)
			m.away()
			for _, messages := range change {
				m.both(messages...)
			}
			m.both(executes("s", "x")...) // it is a smallint that x is none of
			m.both(executes("s", "1")...)
			m.both(asks("ROLLBACK")...)
			m.both(executes("s", "1")...)
			m.both(prepares("later", insert)...)
			m.both(executes("later", "70000")...)
			m.back()
			m.both(executes("s", "70000")...)
			m.both(executes("later", "2")...)
			if m.held() == "" {
				m.away()
				m.mate.ask(asks("DEALLOCATE ALL")...) // of all on the one that is left
			}
			m.both(executes("s", "70000")...)
			m.both(executes("later", "70000")...)
			m.both(executes("s", "x")...)
		})
	}
}

// TestPoolUnlike: the same text is another statement under other settings, and in a session
// that has a temporary table, whoever prepared it first.
func TestPoolUnlike(t *testing.T) {
	t.Parallel()
	const query = "SELECT v FROM t WHERE v = $1"
	for name, change := range map[string]string{"SET": "SET search_path = other", "temporary": "CREATE TEMP TABLE t (v int)"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMoved(t)
			m.mate.ask(prepares("a", query)...)
			m.away()
			m.mate.ask(prepares("b", query)...) // both have it
			m.back()
			m.both(asks(change)...)
			m.both(prepares("a", query)...)
			m.both(executes("a", "3000000000")...)
			m.both(asks("DISCARD ALL")...)
			m.both(executes("a", "1")...)
			m.both(prepares("a", query)...)
			m.both(executes("a", "3000000000")...)
		})
	}
}

// TestPoolLetGo: a session that is kept for a statement of a transaction with settings of
// its own is let go when that is closed.
func TestPoolLetGo(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	const why = "a statement prepared under settings of a transaction"
	for _, free := range [][]pgproto3.FrontendMessage{
		asks("DEALLOCATE s"), asks("DEALLOCATE ALL"), asks("DISCARD ALL"),
		{&pgproto3.Close{ObjectType: 'S', Name: "s"}, &pgproto3.Sync{}}, asksExtended("DEALLOCATE s"),
	} {
		for setting, kept := range map[string]string{"work_mem = '5MB'": "", "search_path = other": why} {
			m.both(asks("BEGIN")...)
			m.both(asks("SET LOCAL " + setting)...)
			m.both(prepares("s", "SELECT v FROM t")...)
			m.both(asks("COMMIT")...)
			if got := m.held(); got != kept {
				t.Errorf("%s: it is kept for %q", setting, got)
			}
			m.both(free...)
			if got := m.held(); got != "" {
				t.Errorf("behind %s it is kept for %q", said(free), got)
			}
			m.both(asks("DISCARD ALL")...)
		}
	}
}

// TestPoolTransactionEnds: what becomes of settings where transactions end, or are rolled back
// to a savepoint, amid other statements, and of those that are made in another way than with
// SET alone. A session of which that cannot be said keeps its connection, others do not.
func TestPoolTransactionEnds(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	m.mate.ask(asks("CREATE SEQUENCE drawn")...)
	m.mate.ask(asks("CREATE ROLE ends NOLOGIN")...)
	t.Cleanup(func() { m.mate.ask(asks("DROP ROLE ends")...) })
	pipelined := func(texts ...string) (list []pgproto3.FrontendMessage) {
		for _, text := range texts {
			list = append(list, asksExtended(text)[:3]...)
		}
		return append(list, &pgproto3.Sync{})
	}
	const set = "SET work_mem = '5MB'"
	for _, c := range []struct {
		kept bool
		list [][]pgproto3.FrontendMessage
	}{
		{false, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), asks("COMMIT")}},
		{false, [][]pgproto3.FrontendMessage{asks("BEGIN; " + set + "; COMMIT")}},
		{false, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), asks("ROLLBACK")}},
		{false, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks("COMMIT; BEGIN"), asks("ROLLBACK")}},
		{false, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks("SAVEPOINT a"), asks("SELECT 1/0"), asks("ROLLBACK TO a"), asks("COMMIT")}},
		{false, [][]pgproto3.FrontendMessage{pipelined("BEGIN", set, "COMMIT")}},
		{false, [][]pgproto3.FrontendMessage{asks("SET ROLE ends"), asks("SET SESSION AUTHORIZATION DEFAULT")}},
		{false, [][]pgproto3.FrontendMessage{asks("SET ROLE ends"), asks("RESET SESSION AUTHORIZATION")}},
		{false, [][]pgproto3.FrontendMessage{asks("CREATE TABLE x (); " + set + "; DROP TABLE x")}},
		{false, [][]pgproto3.FrontendMessage{asks("SELECT setval('drawn', 7)")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), asks("COMMIT; BEGIN"), asks("ROLLBACK")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN; " + set + "; COMMIT; BEGIN"), asks("ROLLBACK")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), asks("COMMIT; BEGIN; ROLLBACK")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), asks("ROLLBACK; SELECT 1")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), pipelined("COMMIT", "BEGIN"), asks("ROLLBACK")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN"), asks(set), pipelined("COMMIT", "SELECT 1/0")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN; SAVEPOINT a; " + set + "; ROLLBACK TO a; COMMIT")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN; SAVEPOINT a"), asks(set), asks("ROLLBACK TO a; COMMIT")}},
		{true, [][]pgproto3.FrontendMessage{asks("BEGIN; SAVEPOINT a"), asks(set), asks("ROLLBACK TO a"), asks("COMMIT")}},
		{true, [][]pgproto3.FrontendMessage{asks("UPDATE pg_settings SET setting = '5120' WHERE name = 'work_mem'")}},
		{true, [][]pgproto3.FrontendMessage{asks("CREATE TABLE x (); LISTEN c; DROP TABLE x")}},
		{true, [][]pgproto3.FrontendMessage{asks("SELECT query_to_xml($$SELECT set_config('work_mem', '5MB', false)$$, true, true, '')")}},
		{true, [][]pgproto3.FrontendMessage{asks("CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END; " + set + "; DROP FUNCTION f")}},
	} {
		const look = "SELECT current_user, current_setting('work_mem')"
		var what []string
		for _, messages := range c.list {
			what = append(what, said(messages))
			m.both(messages...)
		}
		if held := m.held(); (held != "") != c.kept {
			t.Errorf("%q: it is kept for %q", what, held)
		}
		m.both(asks(look)...)
		if m.held() == "" {
			m.first.ask(asks("BEGIN")...)
			m.last.ask(asks("BEGIN")...)
			for _, w := range []*wire{m.first, m.last} {
				if got := strings.Join(w.ask(asks(look)...), ""); !strings.Contains(got, "postgres") || !strings.Contains(got, "4MB") {
					t.Errorf("%q: another session has %s", what, got)
				}
				if got := strings.Join(w.ask(asks("SELECT currval('drawn')")...), ""); !strings.Contains(got, "55000") {
					t.Errorf("%q: another session has drawn: %s", what, got)
				}
				w.ask(asks("ROLLBACK")...)
				w.ask(asks("DISCARD ALL")...)
			}
			m.away()
			m.both(asks(look)...)
			m.back()
		}
		m.both(asks("DISCARD ALL")...)
	}
}

// TestPoolFirstQuery: where a statement is there that a session prepares in a transaction,
// the transaction has begun nonetheless.
func TestPoolFirstQuery(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	m.mate.ask(prepares("a", "SELECT v FROM t")...)
	m.away()
	m.mate.ask(prepares("a", "SELECT v FROM t")...)
	m.back()
	m.both(asks("BEGIN")...)
	m.both(prepares("s", "SELECT v FROM t")...)
	m.both(asks("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")...)
	m.both(asks("ROLLBACK")...)
	m.both(slices.Concat(asksExtended("BEGIN")[:3], prepares("s", "SELECT v FROM t"))...)
	m.both(asks("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")...)
}

// TestPoolDeallocate: statements of the protocol are closed by their names in SQL, for their
// session alone.
func TestPoolDeallocate(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	for i, free := range [][][]pgproto3.FrontendMessage{
		{asks("DEALLOCATE s")}, {asks("deallocate PREPARE \"s\" ;")}, {asksExtended("DEALLOCATE s")}, {asks("DEALLOCATE ALL")}, {asks("DISCARD ALL")},
		{asks("BEGIN"), asks("DEALLOCATE s"), executes("s"), asks("ROLLBACK")}, // no transaction takes it back
		{asks("BEGIN"), asksExtended("DEALLOCATE s"), asks("ROLLBACK")},
		{asks("BEGIN"), asks("SELECT 1/0"), asks("DEALLOCATE s"), asks("ROLLBACK"), executes("s"), asks("DEALLOCATE s")},
		{asks("DEALLOCATE s"), asks("DEALLOCATE s")}, {asks("DEALLOCATE nothing"), asks("DEALLOCATE s")},
		{asks("DEALLOCATE s"), prepares("s", "SELECT 2"), executes("s"), asks("DEALLOCATE s")},
	} {
		m.back()
		m.mate.ask(prepares(fmt.Sprint("mine", i), "SELECT 1")...)
		m.both(prepares("s", "SELECT 1")...)
		m.both(prepares("t", "SELECT 1")...)
		m.away() // where it has neither
		m.both(executes("t")...)
		for _, messages := range free {
			m.both(messages...)
		}
		for range 2 {
			m.both(executes("s")...)
			m.both(executes("t")...)
			if got := strings.Join(m.mate.ask(executes(fmt.Sprint("mine", i))...), ""); !strings.Contains(got, "SELECT 1") {
				t.Errorf("%d: the other session has lost its own: %s", i, got)
			}
			m.back()
		}
		m.both(asks("DEALLOCATE ALL")...)
	}
}
