package pgwire

import (
	"slices"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// traits are what matters of a text where its connection is shared.
type traits struct {
	more      bool // it has several statements
	sequences bool // it may draw from sequences
	sets      bool // it may change settings by which texts are read, or keep its connection
	strips    bool // ... to what they were at the login
	closes    bool // it may close prepared statements
	ends      bool // it ends a transaction
	amid      bool // ... and does something behind that
	returns   bool // settings may become again what they were in the transaction
}

// bears: a text of such traits is passed on.
func (h *held) bears(t traits) {
	h.sequences = h.sequences || t.sequences
	h.stripped = h.stripped || t.strips
	if h.pending != nil && (t.sets || t.returns && h.taint != 0) {
		h.taints++
		h.taint, h.tainting = h.taints, h.current
	}
	if t.closes {
		h.gathered = false
		h.stock.doubt()
	}
}

// splitOutfit returns the statements of an outfit.
func splitOutfit(outfit string) []string {
	if outfit == "" {
		return nil
	}
	return strings.Split(outfit, "\x00")
}

// outfit is what the session has set, as SQL in its order.
func (h *held) outfit() string {
	if h.changed {
		var list []string
		if h.application != "" {
			list = append(list, "SET application_name TO "+quoteLiteral(h.application))
		}
		settings, _ := h.restore()
		h.worn, h.changed = strings.Join(append(list, settings...), "\x00"), false
		list = nil
		for _, e := range h.settings {
			if !isPlain(e.name) {
				list = append(list, e.sql)
			}
		}
		h.readUnder = strings.Join(list, "\x00")
	}
	return h.worn
}

// reading is the part of the outfit that decides how a text is read.
func (h *held) reading() string {
	h.outfit()
	return h.readUnder
}

// review finds out whether each statement could be made again as it was read when it
// was prepared, and whether that takes other settings than there are now.
func (h *held) review() {
	if h.pending == nil || !h.older && !h.tied && !h.unreviewed {
		return
	}
	h.older, h.tied, h.unreviewed = false, false, false
	reading := h.reading()
	for name, p := range h.made {
		older := p.reading != reading
		h.older = h.older || older
		h.tied = h.tied || p.taint != 0 || older && name == ""
	}
}

// effect is what a statement does to the session.
type effect struct {
	kind effectKind
	name string // of the setting, or of the statement
	sql  string
}

type effectKind uint8

const (
	effectSet effectKind = iota
	effectReset
	effectResetAll
	effectDiscard
	effectDeallocate // name; "": all
	effectRollbackTo
)

func (h *held) apply(e effect) {
	h.changed, h.unreviewed = true, true
	switch e.kind {
	case effectSet, effectReset:
		h.settings = slices.DeleteFunc(h.settings, func(old effect) bool {
			return old.name == e.name || old.name == "role" && e.name == "session_authorization" // which takes the role back
		})
		if e.kind == effectSet {
			h.settings = append(h.settings, e)
		}
		if len(h.settings) > settingsMax {
			h.lose("too many settings")
		}
	case effectResetAll:
		h.settings = slices.DeleteFunc(h.settings, func(old effect) bool { return old.name != "role" && old.name != "session_authorization" })
	case effectDeallocate:
		if e.name != "" {
			h.keep(e.name, nil)
			delete(h.sent, e.name)
			return
		}
		clear(h.made)
		clear(h.sent)
		h.bytes = 0
	case effectDiscard:
		h.settings, h.lost = nil, ""
		h.apply(effect{kind: effectDeallocate})
		for name, value := range h.reported.of {
			h.report(name, value)
		}
	}
}

// readText is read, for what is often much as the text before.
func (h *held) readText(sql []byte) (effects []effect, t traits) {
	if list := h.recent.Like(sql, h.backslashes()); len(list) == 1 && list[0] == h.ordinary {
		return nil, h.bore
	}
	return h.read(string(sql))
}

// read says what a text does to the session.
func (h *held) read(sql string) (effects []effect, t traits) {
	text := h.statements.ParseAfter(&h.recent, sql, h.backslashes())
	if !text.Readable {
		h.lose("a statement that cannot be read")
		return nil, unreadable
	}
	if len(text.Statements) == 1 && text.Statements[0] == h.ordinary {
		return nil, h.bore
	}
	t = traitsOf(text)
	if s := text.Statements[0]; !t.more && isOrdinary(s) {
		h.ordinary, h.bore = s, t
	}
	for _, s := range text.Statements {
		if e, ok := h.effect(s, text, sql, len(text.Statements) == 1); ok {
			effects = append(effects, e)
		}
	}
	return effects, t
}

// backslashes: a backslash escapes in plain strings, too.
func (h *held) backslashes() bool { return h.reported.of[conforming] != "on" }

// isOrdinary reports that a statement has no effect, whatever its literals are.
func isOrdinary(s *statement.Statement) bool {
	switch s.Kind {
	case statement.Select, statement.Insert, statement.Update, statement.Delete:
		return lingering(s) == ""
	}
	return false
}

var unreadable = traits{more: true, sequences: true, sets: true, strips: true, closes: true, returns: true}

func traitsOf(text statement.Text) (t traits) {
	if !text.Readable {
		return unreadable
	}
	t.more = len(text.Statements) > 1
	for _, s := range text.Statements {
		t.amid = t.amid || t.ends
		t.add(s)
	}
	return t
}

func (t *traits) add(s *statement.Statement) {
	switch s.Kind {
	case statement.Commit, statement.Rollback:
		t.ends = true
	case statement.Begin, statement.Savepoint, statement.Release, statement.Show, statement.Notify, statement.Lock:
	case statement.Select, statement.Declare, statement.Close:
		_, draws := slices.BinarySearch(s.Names, "nextval")
		_, sets := slices.BinarySearch(s.Names, "setval") // which currval tells
		t.sequences = t.sequences || draws || sets || s.Writes != statement.Nothing
		t.sets = t.sets || lingering(s) != ""
	case statement.Set, statement.Reset:
		t.sets = t.sets || s.Setting == nil || !isPlain(settingName(s.Setting.Name))
		t.strips = t.strips || s.Kind == statement.Reset
	case statement.RollbackTo:
		t.returns = true
	case statement.Deallocate:
		t.closes = t.closes || s.Object == "" || strings.HasPrefix(s.Object, ourName)
	case statement.Discard, statement.Prepare, statement.Execute:
		t.sets, t.strips, t.closes, t.sequences = true, true, true, true
	case statement.Call, statement.Other, statement.Listen:
		t.sets, t.sequences = true, true
	default:
		t.sequences = true
		t.sets = t.sets || lingering(s) != ""
	}
}

// isPlain reports that a setting has no say in how a text is read: what its names mean,
// and its literals. Of what is not known here it is not said.
func isPlain(name string) bool {
	switch name {
	case "application_name", "bytea_output", "client_min_messages", "commit_delay", "commit_siblings", "constraint_exclusion", "constraints",
		"cursor_tuple_fraction", "deadlock_timeout", "effective_cache_size", "effective_io_concurrency", "extra_float_digits", "from_collapse_limit",
		"hash_mem_multiplier", "idle_in_transaction_session_timeout", "idle_session_timeout", "join_collapse_limit", "lock_timeout",
		"maintenance_work_mem", "plan_cache_mode", "statement_timeout", "synchronous_commit", "temp_buffers", "transaction", "transaction_timeout", "work_mem":
		return true
	}
	for _, prefix := range []string{"set session characteristics", "default_transaction_", "enable_", "geqo", "jit", "log_", "max_parallel_", "parallel_", "transaction_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.Contains(name, ".") || strings.HasSuffix(name, "_cost")
}

// effect of one statement; alone: sql is just that.
func (h *held) effect(s *statement.Statement, text statement.Text, sql string, alone bool) (e effect, ok bool) {
	switch s.Kind {
	case statement.Set, statement.Reset:
		return h.setting(s, text, sql, alone)
	case statement.Discard:
		if s.Object == "all" {
			return effect{kind: effectDiscard}, true
		}
	case statement.Deallocate:
		return effect{kind: effectDeallocate, name: s.Object}, true
	case statement.RollbackTo:
		return effect{kind: effectRollbackTo}, true
	case statement.Commit, statement.Rollback:
		if s.Chain {
			h.lose("a chain of transactions")
		}
	case statement.Prepare, statement.Execute:
		h.lose("a statement prepared in SQL")
	case statement.Listen:
		h.lose("LISTEN")
	case statement.Call, statement.Other:
		h.lose("a procedure, or what is not known here")
	default:
		if why := lingering(s); why != "" {
			h.lose(why)
		}
	}
	return effect{}, false
}

func (h *held) setting(s *statement.Statement, text statement.Text, sql string, alone bool) (e effect, ok bool) {
	if s.Setting == nil {
		h.lose("a setting that cannot be read")
		return effect{}, false
	}
	if s.Setting.Local || s.Setting.Name == "transaction" || s.Setting.Name == "constraints" {
		return effect{}, false
	}
	e.name = settingName(s.Setting.Name)
	if slices.ContainsFunc(text.Strings(s.Setting), func(v string) bool { return strings.Contains(v, "pg_temp") }) {
		h.lose("temporary tables in its search_path")
	}
	switch {
	case s.Kind == statement.Reset && e.name == "all":
		return effect{kind: effectResetAll}, true
	case s.Kind == statement.Reset || len(s.Setting.Values) == 0 && e.name != "characteristics":
		e.kind = effectReset
		return e, true
	case e.name == "characteristics":
		e.name = strings.ToLower(sql) // several settings go by that name
	}
	if alone {
		e.sql = strings.TrimRight(sql, "; \t\r\n")
		return e, true
	}
	values := text.Strings(s.Setting)
	if strings.Contains(e.name, " ") || len(values) == 0 {
		h.lose("a setting among other statements")
		return effect{}, false
	}
	for i := range values {
		values[i] = quoteLiteral(values[i])
	}
	parts := strings.Split(e.name, ".")
	for i := range parts {
		parts[i] = quoteIdentifier(parts[i])
	}
	e.sql = "SET " + strings.Join(parts, ".") + " TO " + strings.Join(values, ", ")
	return e, true
}

// settingName is the one that SQL's own words stand for.
func settingName(name string) string {
	switch name {
	case "time zone":
		return "timezone"
	case "names":
		return "client_encoding"
	case "schema":
		return "search_path"
	case "session authorization":
		return "session_authorization"
	case "xml option":
		return "xmloption"
	}
	return name
}

// lingering is what a statement may leave in the session, by the names in it.
func lingering(s *statement.Statement) string {
	for _, name := range s.Names {
		switch {
		case name == "temp", name == "temporary", name == "pg_temp":
			return "a temporary table"
		case name == "hold":
			return "a cursor with hold"
		case name == "pg_settings" && s.Writes != statement.Nothing && s.Kind != statement.Schema: // it sets them
			return name
		case name == "atomic" && s.Kind == statement.Schema: // what follows the body is not told from it
			return "a function with a body in SQL"
		case strings.HasPrefix(name, "pg_advisory_lock"), strings.HasPrefix(name, "pg_try_advisory_lock"):
			return "an advisory lock"
		case name == "set_config", name == "setseed", name == "currval", name == "lastval",
			strings.HasPrefix(name, "query_to_xml"), name == "ts_stat", name == "ts_rewrite", // which run a text
			strings.HasPrefix(name, "dblink"), strings.HasPrefix(name, "pg_create_"):
			return name
		}
	}
	return ""
}
