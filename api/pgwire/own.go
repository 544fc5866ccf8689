package pgwire

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/mutation"
)

// settingPrefix begins the names of the endpoint's own settings.
const settingPrefix = "walproxy."

// own returns how a statement is answered here; nil: it is not. Where it is not
// alone in its query, or other statements stand before the same Sync, all of it
// goes to PostgreSQL.
func (x *attended) own(text statement.Text, st *statement.Statement) *answered {
	switch st.Kind {
	case statement.Set, statement.Reset, statement.Show:
		if st.Setting == nil {
			return nil
		}
		name, ok := strings.CutPrefix(st.Setting.Name, settingPrefix)
		switch {
		case !ok:
			return nil
		case st.Kind == statement.Show:
			return x.show(name, st.Setting.Name, "SHOW")
		case st.Kind == statement.Reset:
			return x.set(name, nil, false, "RESET")
		}
		return x.set(name, text.Strings(st.Setting), st.Setting.Local, "SET")
	case statement.Select:
		return x.ownSelect(text, st)
	}
	return nil
}

// ownSelect knows two queries, word by word. Of others that read the dead letters it says so:
// PostgreSQL has no such table.
func (x *attended) ownSelect(text statement.Text, st *statement.Statement) *answered {
	switch {
	case slices.Equal(st.Names, []string{"current_setting", "select"}) && len(text.Literals) == 1:
		if name, ok := strings.CutPrefix(strings.ToLower(text.Literals[0].Value), settingPrefix); ok {
			return x.show(name, "current_setting", "SELECT 1")
		}
	case slices.Equal(st.Names, []string{"*", "dead_letter", "from", "select", "walproxy"}) && len(text.Literals) == 0:
		return &answered{columns: deadLetterColumns, run: x.deadLetters}
	case slices.Contains(st.Names, "dead_letter") && slices.Contains(st.Names, "walproxy"):
		return &answered{run: func(context.Context) ([][]string, string, *failure) {
			return nil, "", &failure{code: "0A000", reason: "dead_letter", message: "walproxy has one query for its dead letters: SELECT * FROM walproxy.dead_letter",
				hint: "Without columns, WHERE, ORDER BY or LIMIT. walproxy dlq ls has filters."}
		}}
	}
	return nil
}

// show answers with a setting, or what the session is told like one.
func (x *attended) show(name, column, tag string) *answered {
	return &answered{columns: []string{column}, run: func(context.Context) ([][]string, string, *failure) {
		value, ok := x.settingValue(name)
		if !ok {
			return nil, "", unknownSetting(name)
		}
		return [][]string{{value}}, tag, nil
	}}
}

func (x *attended) settingValue(name string) (value string, ok bool) {
	s := &x.settings
	switch name {
	case "lsn":
		return strconv.FormatUint(uint64(s.last), 10), true
	case "why":
		if s.ack == ackOff {
			return "passed through: walproxy.ack is off", true
		}
		return s.why, true
	case "applied":
		return strconv.FormatUint(uint64(x.applied()), 10), true
	case "pending":
		applied, n := x.applied(), 0
		for _, w := range x.unseen.writes {
			if w.lsn > applied {
				n++
			}
		}
		if x.unseen.lost > 0 {
			return strconv.Itoa(n) + " or more", true
		}
		return strconv.Itoa(n), true
	}
	return s.value(name)
}

// applied is how far the sink has come.
func (x *attended) applied() walproxy.LSN {
	for _, sink := range x.t.o.Core.Status().Sinks {
		if sink.Name == x.t.o.Sink {
			return sink.Applied
		}
	}
	return 0
}

// set changes a setting; no values: to what it was at the login.
func (x *attended) set(name string, values []string, local bool, tag string) *answered {
	return &answered{run: func(context.Context) ([][]string, string, *failure) {
		if local {
			return nil, "", &failure{code: "0A000", reason: "setting", message: "walproxy." + name + " is the session's: SET LOCAL does not go",
				hint: "Use SET."}
		}
		if values == nil {
			value, ok := x.chosen.initial().value(name)
			if !ok {
				return nil, "", unknownSetting(name)
			}
			values = []string{value}
		}
		if len(values) != 1 {
			return nil, "", &failure{code: "22023", reason: "setting", message: "SET walproxy." + name + " takes only one argument"}
		}
		if f := x.settings.change(name, values[0]); f != nil {
			return nil, "", f
		}
		return nil, tag, nil
	}}
}

// value of a setting that can be set.
func (s *settings) value(name string) (value string, ok bool) {
	switch name {
	case "ack":
		return string(s.ack), true
	case "read":
		return string(s.read), true
	case "idempotency_key":
		return s.requestID, true
	}
	return "", false
}

// change sets what can be set. Errors are PostgreSQL's of an enumeration.
func (s *settings) change(name, value string) *failure {
	bad := func(hint string) *failure {
		return &failure{code: "22023", reason: "setting", message: fmt.Sprintf("invalid value for parameter %q: %q", settingPrefix+name, value), hint: hint}
	}
	switch name {
	case "ack":
		level := ackLevel(strings.ToLower(value))
		if !slices.Contains([]ackLevel{ackLogged, ackApplied, ackOff}, level) {
			return bad("Available values: logged, applied, off.")
		}
		s.ack = level
	case "read":
		level := readLevel(strings.ToLower(value))
		if !slices.Contains([]readLevel{readSession, readAll, readAny}, level) {
			return bad("Available values: session, all, any.")
		}
		s.read = level
	case "idempotency_key":
		if len(value) > mutation.MaxRequestIDBytes {
			return bad(fmt.Sprintf("It has at most %d bytes.", mutation.MaxRequestIDBytes))
		}
		s.requestID = value
	case "lsn", "pending", "applied", "why":
		return &failure{code: "55P02", reason: "setting", message: fmt.Sprintf("parameter %q cannot be changed", settingPrefix+name)}
	default:
		return unknownSetting(name)
	}
	return nil
}

func unknownSetting(name string) *failure {
	return &failure{code: "42704", reason: "setting", message: fmt.Sprintf("unrecognized configuration parameter %q", settingPrefix+name),
		hint: "walproxy has ack, read and idempotency_key to set, and lsn, pending, applied and why to show."}
}

// chosen are the settings of a startup packet, as walproxy.ack=applied by itself or
// in options.
type chosen []parameter

// initial are the settings that a session begins with, and comes back to.
func (c chosen) initial() *settings {
	s := defaultSettings()
	for _, p := range c {
		_ = s.change(p.Name, p.Value) // checked at the login
	}
	return &s
}

// reset is RESET ALL.
func (s *settings) reset(c chosen) {
	from := c.initial()
	s.ack, s.read, s.requestID = from.ack, from.read, from.requestID
}

// choose reads the settings of a startup packet.
func choose(st *startup) (c chosen, f *failure) {
	take := func(name, value string) {
		if name, ok := strings.CutPrefix(strings.ToLower(name), settingPrefix); ok {
			c = append(c, parameter{name, value})
		}
	}
	for _, p := range st.parameters {
		if p.Name != "options" {
			take(p.Name, p.Value)
			continue
		}
		words := optionWords(p.Value)
		for i := 0; i < len(words); i++ {
			word, ok := words[i], false
			if word == "-c" && i+1 < len(words) {
				i++
				word, ok = words[i], true
			} else if word, ok = strings.CutPrefix(word, "-c"); !ok {
				word, ok = strings.CutPrefix(word, "--")
			}
			if name, value, set := strings.Cut(word, "="); ok && set {
				take(strings.ReplaceAll(name, "-", "_"), value)
			}
		}
	}
	s := defaultSettings()
	for _, p := range c {
		if f := s.change(p.Name, p.Value); f != nil {
			return nil, f
		}
	}
	return c, nil
}

// optionWords splits options as PostgreSQL does: at white space without a backslash
// before it.
func optionWords(text string) (words []string) {
	var word strings.Builder
	inside, escaped := false, false
	for _, c := range []byte(text) {
		switch {
		case escaped:
			word.WriteByte(c)
			escaped = false
		case c == '\\':
			escaped, inside = true, true
		case strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			if inside {
				words = append(words, word.String())
				word.Reset()
			}
			inside = false
		default:
			word.WriteByte(c)
			inside = true
		}
	}
	if inside {
		words = append(words, word.String())
	}
	return words
}

var deadLetterColumns = []string{"lsn", "table", "key", "state", "sqlstate", "reason", "since"}

// deadLettersMax bounds one answer; walproxy dlq has them all.
const deadLettersMax = 1000

// deadLetters of the tables that the session may read, oldest first.
func (x *attended) deadLetters(ctx context.Context) ([][]string, string, *failure) {
	x.mu.Lock()
	asked, idle := !x.guarded.changed, x.mu.turn.tx == txIdle
	x.mu.Unlock()
	if !asked && idle { // the role may be another one since
		var err error
		if asked, err = x.learn(); err != nil {
			asked = false
		}
	}
	known := x.t.catalogue(ctx)
	if known == nil || !asked {
		return nil, "", &failure{code: "57P03", reason: "dead_letter", message: "walproxy cannot tell yet which tables you may read",
			hint: "It asks outside of transactions, while PostgreSQL is there."}
	}
	letters, err := x.t.o.Core.DeadLetters(x.t.o.Sink, 0, deadLettersMax)
	if err != nil {
		return nil, "", &failure{code: "58000", reason: "dead_letter", message: "walproxy: dead letters cannot be read: " + err.Error()}
	}
	readable := map[string]string{}
	for _, t := range known.Tables {
		if t.May(x.known.session.Role, catalogue.MaySelect) {
			readable[t.Collection] = t.String()
		}
	}
	rows := [][]string{}
	for i := range letters {
		d := &letters[i]
		collection, key, err := d.Key()
		table, ok := readable[collection]
		if err != nil || !ok {
			continue
		}
		state := walproxy.StateDead
		if d.IsParked() {
			state = walproxy.StateParked
		}
		rows = append(rows, []string{strconv.FormatUint(uint64(d.LSN), 10), table, mutation.KeyText(key), state,
			d.Details["sqlstate"], d.Reason, d.When.UTC().Format("2006-01-02 15:04:05Z")})
	}
	return rows, "SELECT " + strconv.Itoa(len(rows)), nil
}
