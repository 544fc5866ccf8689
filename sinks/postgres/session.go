package postgres

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/sinks"
)

// session is what of the session that a statement came by it is applied under, for
// the rest of the transaction or until another one is taken on.
type session struct {
	role string // "none": who the connection was made as
	path string // search_path
	zone string // TimeZone
}

const (
	// ownZone is the TimeZone of the sink's own sessions.
	ownZone = "UTC"
	// sessionKey is where a connection keeps its own session, in its CustomData.
	sessionKey = "walproxy.session"
)

// settingZone is the one setting that a statement's record can have.
const settingZone = "TimeZone"

// sessionOf is the session of a statement.
func sessionOf(s *walproxyv1.Statement) (session, error) {
	of := session{role: s.GetRole(), path: s.GetSearchPath(), zone: ownZone}
	for name, value := range s.GetSettings() {
		if name != settingZone {
			return of, rejected("settings", "%q is not one that this version knows", name)
		}
		of.zone = value
	}
	if of.role == "" {
		return of, rejected("role", "is missing")
	}
	return of, nil
}

// sessionSQL takes a session on. Path and zone may be set whatever the role.
const sessionSQL = "SELECT pg_catalog.set_config('role', $1, true), pg_catalog.set_config('search_path', $2, true), pg_catalog.set_config('TimeZone', $3, true)"

// become makes what follows run under to, as the only record, or -1, wants it; nil:
// under the sink's own session.
func (w *work) become(to *session, record int, commands []command, owners []origin) ([]command, []origin) {
	own := w.link.own()
	next := own
	if to != nil {
		next = *to
	}
	if next == w.session {
		return commands, owners
	}
	commands = append(commands, command{sql: sessionSQL, params: texts(next.role, next.path, next.zone), path: w.path()})
	w.session = next
	return commands, append(owners, origin{record: record, becomes: to != nil})
}

// path names the session that is on, for command.path.
func (w *work) path() string {
	if w.session == w.link.own() {
		return ""
	}
	return w.session.role + "\x00" + w.session.path
}

// writersFault reports a code that halts the sink where it writes itself, and that is
// the record's own where the record brings the statement and its role: what the table
// does not let this statement, or this role, do. A table that is gone is everybody's.
func writersFault(code string) bool {
	return code != "42P01" && (strings.HasPrefix(code, "42") || strings.HasPrefix(code, "0A") || strings.HasPrefix(code, "55"))
}

// judgeFrom is what an error of a command means, by what is behind the command.
func judgeFrom(err error, from origin, outcome sinks.Outcome, said error) (sinks.Outcome, error) {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok:
	case from.becomes && pgErr.Code == "42501":
		return sinks.Halt, &ServerError{Err: pgErr, Remedy: "the sink's login applies statements as the role that wrote them: GRANT that role TO the login"}
	case from.writer && outcome == sinks.Halt && writersFault(pgErr.Code):
		return sinks.Rejected, &ServerError{Err: pgErr}
	}
	return outcome, said
}

// fits says why a statement cannot be applied to the collection's table, or nil.
func (m *mapping) fits(form *pgstatement.Form) error {
	t := m.table
	switch {
	case m.document:
		return rejected("text", "table %s holds documents of walproxy's own: SQL does not write them", t)
	case m.version != nil:
		return halt("collection %q has a version_column, which SQL does not move, so that versions would lie: take version_column from the collection, or its table from what is written behind", m.collection)
	case form.Schema != t.schema || form.Table != t.name:
		return halt("collection %q is mapped to table %s, and there are statements of it in the log that write %s.%s: correct sinks.*.collections.*.table", m.collection, t, form.Schema, form.Table)
	}
	named := append(append([]string(nil), form.Columns...), form.Targets...)
	for _, a := range form.Sets {
		named = append(named, a.Column)
	}
	if c := form.Conflict; c != nil {
		named = append(named, c.Columns...)
		for _, a := range c.Sets {
			named = append(named, a.Column)
		}
	}
	for _, name := range named {
		if t.byName[name] == nil {
			return rejected("text", "table %s has no column %q", t, name)
		}
	}
	return m.fitsKey(form)
}

// fitsKey: a statement writes the row of its key, and leaves it its key.
func (m *mapping) fitsKey(form *pgstatement.Form) error {
	given, set := map[string]bool{}, map[string]bool{}
	for _, name := range form.Columns {
		given[name] = true
	}
	for _, c := range form.Where {
		given[c.Column] = true
	}
	sets := form.Sets
	if form.Conflict != nil {
		sets = form.Conflict.Sets
	}
	for _, a := range sets {
		set[a.Column] = a.Excluded != a.Column
	}
	for _, c := range m.key {
		if !given[c.name] || set[c.name] {
			return rejected("text", "it does not give the key column %q of table %s, or changes it", c.name, m.table)
		}
	}
	if form.Kind != pgstatement.Insert && len(form.Where) != len(m.key) {
		return rejected("text", "its condition is not the key of table %s", m.table)
	}
	return nil
}
