package pgwire

import (
	"slices"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

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
	switch e.kind {
	case effectSet, effectReset:
		h.settings = slices.DeleteFunc(h.settings, func(old effect) bool { return old.name == e.name })
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
		for name, value := range h.reported {
			h.report(name, value)
		}
	}
}

// read says what a text does to the session; more: it has several statements.
func (h *held) read(sql string) (effects []effect, more bool) {
	text := h.statements.Parse(sql, h.reported["standard_conforming_strings"] != "on")
	if !text.Readable {
		h.lose("a statement that cannot be read")
		return nil, true
	}
	for _, s := range text.Statements {
		if e, ok := h.effect(s, text, sql, len(text.Statements) == 1); ok {
			effects = append(effects, e)
		}
	}
	return effects, len(text.Statements) > 1
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
		case strings.HasPrefix(name, "pg_advisory_lock"), strings.HasPrefix(name, "pg_try_advisory_lock"):
			return "an advisory lock"
		case name == "set_config", name == "setseed", name == "currval", name == "lastval",
			strings.HasPrefix(name, "dblink"), strings.HasPrefix(name, "pg_create_"):
			return name
		}
	}
	return ""
}
