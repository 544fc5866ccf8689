package pgwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/behind"
)

// known is what is known of a session in PostgreSQL. It is asked for, on the
// session's own connection, when a write could be written behind and something may
// have changed it since: nothing is guessed from what the client said.
type known struct {
	session behind.Session
	// why nothing of the session can be written behind; "": it can.
	why string
	// store names the database.
	store string
	// asked: PostgreSQL said so, when it had been given so many requests.
	asked  bool
	served uint64
}

// storeSQL names a database, whatever address it has.
const storeSQL = `(SELECT pg_catalog.concat('system ', c.system_identifier, ' database ', d.oid) FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())`

// knownSQL asks for all of it.
const knownSQL = `SELECT pg_catalog.current_setting('search_path'), pg_catalog.current_setting('TimeZone'), current_user,
 ` + storeSQL + `,
 CASE WHEN pg_catalog.current_setting('client_encoding') <> 'UTF8' THEN 'its client_encoding is not UTF8'
 WHEN pg_catalog.current_setting('standard_conforming_strings') <> 'on' THEN 'standard_conforming_strings is off'
 WHEN pg_catalog.current_setting('transaction_read_only') <> 'off' THEN 'its transactions are read-only'
 WHEN pg_catalog.current_setting('session_replication_role') <> 'origin' THEN 'session_replication_role is not origin'
 WHEN pg_catalog.current_setting('array_nulls') <> 'on' THEN 'array_nulls is off'
 WHEN pg_catalog.current_setting('IntervalStyle') = 'sql_standard' THEN 'IntervalStyle is sql_standard'
 WHEN EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) THEN 'it has temporary tables'
 ELSE '' END`

// learn makes sure that x.known is as PostgreSQL has it: settled was called, and the
// session is in no transaction. false: PostgreSQL does not say.
func (x *attended) learn() (ok bool, err error) {
	x.mu.Lock()
	changed := x.guarded.changed
	x.guarded.changed = false
	x.mu.Unlock()
	if !changed {
		return true, nil
	}
	if x.recall() {
		x.mu.Lock()
		x.guarded.changed = true // it is asked when it can be
		x.mu.Unlock()
		return true, nil
	}
	frames, err := x.askSoon(appendQuestion(nil, knownSQL))
	if errors.Is(err, errAskLate) {
		x.mu.Lock()
		x.guarded.changed = true // it is asked again when it answers
		x.mu.Unlock()
		return x.recallLate(), nil
	}
	if err != nil {
		return false, err
	}
	for _, frame := range frames {
		if frame[0] != sDataRow {
			continue
		}
		if row, ok := textRow(frame[headBytes:]); ok && len(row) == 5 {
			x.plans.clear()
			x.known = knownFrom(row)
			x.recollect(row)
			return true, nil
		}
	}
	x.mu.Lock()
	x.guarded.changed = true // it may have gone away just now
	x.mu.Unlock()
	return x.recall(), nil
}

// introduce asks how a session is set whose login was not asked before: so it is known
// for who logs in like this while PostgreSQL is away.
func (x *attended) introduce() error {
	l := x.link.Load()
	if l == nil || x.s.presence.roster.knownOf(l.login) != nil {
		return nil
	}
	if _, away := x.s.presence.away(); away != nil {
		return nil
	}
	_, err := x.learn()
	return err
}

func knownFrom(row []string) known {
	k := known{why: row[4], store: row[3]}
	k.session = behind.Session{Role: row[2], TimeZone: row[1], Location: location(row[1])}
	var ok bool
	if k.session.SearchPath, ok = splitPath(row[0]); !ok && k.why == "" {
		k.why = "its search_path cannot be read"
	}
	return k
}

// location of a zone that PostgreSQL and Go know by the same name; nil: it is not
// surely the same.
func location(zone string) *time.Location {
	if zone == "UTC" || zone == "Etc/UTC" {
		return time.UTC
	}
	if !strings.Contains(zone, "/") || strings.HasPrefix(zone, "posix/") || strings.HasPrefix(zone, "right/") {
		return nil
	}
	l, err := time.LoadLocation(zone)
	if err != nil {
		return nil
	}
	return l
}

// splitPath reads a search_path as PostgreSQL does.
func splitPath(path string) (parts []string, ok bool) {
	rest := strings.TrimSpace(path)
	if rest == "" {
		return nil, true
	}
	for {
		var part string
		if strings.HasPrefix(rest, `"`) {
			if part, rest, ok = quotedName(rest[1:]); !ok {
				return nil, false
			}
		} else {
			end := strings.IndexAny(rest, ", \t\n\r\f\v")
			if end < 0 {
				end = len(rest)
			}
			part, rest = rest[:end], rest[end:]
			for i := range len(part) {
				if part[i] >= 0x80 { // how it folds is the server's
					return nil, false
				}
			}
			part = strings.ToLower(part)
		}
		if part == "" || len(part) > 63 {
			return nil, false
		}
		parts = append(parts, part)
		rest = strings.TrimLeft(rest, " \t\n\r\f\v")
		if rest == "" {
			return parts, true
		}
		if rest[0] != ',' {
			return nil, false
		}
		rest = strings.TrimLeft(rest[1:], " \t\n\r\f\v")
	}
}

// quotedName reads a name behind its first quote.
func quotedName(s string) (name, rest string, ok bool) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '"')
		if i < 0 {
			return "", "", false
		}
		b.WriteString(s[:i])
		if s = s[i+1:]; !strings.HasPrefix(s, `"`) {
			return b.String(), s, true
		}
		b.WriteByte('"')
		s = s[1:]
	}
}

// ownName is of the endpoint's own statements and portals in a session. A simple
// query, or one without a name, would take the place of the client's.
const ownName = "walproxy's own"

// appendQuestion appends an extended query that is asked once.
func appendQuestion(b []byte, sql string) []byte {
	b = appendParse(b, ownName, sql, nil)
	b = appendExecute(appendBind(b, nil, nil))
	return appendEmpty(appendCloseOwn(b), cSync)
}

// appendBind appends the Bind of the endpoint's own statement and portal.
func appendBind(b []byte, formats []int16, values [][]byte) []byte {
	b, start := begin(b, cBind)
	b = appendText(b, ownName, ownName)
	b = binary.BigEndian.AppendUint16(b, uint16(len(formats)))
	for _, f := range formats {
		b = binary.BigEndian.AppendUint16(b, uint16(f))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		size := uint32(len(v))
		if v == nil {
			size = math.MaxUint32 // -1
		}
		b = append(binary.BigEndian.AppendUint32(b, size), v...)
	}
	return finish(append(b, 0, 0), start)
}

// appendExecute appends the Execute of the endpoint's own portal.
func appendExecute(b []byte) []byte {
	b, start := begin(b, cExecute)
	return finish(append(appendText(b, ownName), 0, 0, 0, 0), start)
}

// appendCloseOwn appends the Close of the endpoint's own statement and portal.
func appendCloseOwn(b []byte) []byte {
	for _, object := range []byte{'P', 'S'} {
		var start int
		b, start = begin(b, cClose)
		b = finish(appendText(append(b, object), ownName), start)
	}
	return b
}

// textRow reads a DataRow in text; a null reads as "".
func textRow(body []byte) (row []string, ok bool) {
	if len(body) < 2 {
		return nil, false
	}
	n, body := int(binary.BigEndian.Uint16(body)), body[2:]
	for range n {
		if len(body) < 4 {
			return nil, false
		}
		size := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		if size < 0 {
			row = append(row, "")
			continue
		}
		if size > len(body) {
			return nil, false
		}
		row, body = append(row, string(body[:size])), body[size:]
	}
	return row, true
}

// cutString cuts a string off a message's body.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	before, rest, ok := bytes.Cut(b, []byte{0})
	return string(before), rest, ok
}
