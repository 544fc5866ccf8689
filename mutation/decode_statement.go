package mutation

import (
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Field numbers of a statement.
const (
	statementParameters    = 2
	statementRole          = 3
	statementSearchPath    = 4
	statementCollection    = 5
	statementKey           = 6
	statementRequestID     = 7
	statementSettings      = 8
	statementText          = 9
	statementParameterOIDs = 10
)

// decodeStatement is decodeMutation for a statement; nil: left to others.
func decodeStatement(payload string) *walproxyv1.Statement {
	a := &struct {
		statement walproxyv1.Statement
		key       walproxyv1.Key
		keyText   walproxyv1.Key_String_
	}{}
	w, s := wire{rest: payload}, &a.statement
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case kind != wireBytes:
			return nil
		case number == statementParameters:
			if s.Parameters = []byte(w.bytes()); len(s.Parameters) == 0 {
				return nil // as good as none
			}
		case number == statementRole:
			s.Role = w.text()
		case number == statementSearchPath:
			s.SearchPath = w.text()
		case number == statementCollection:
			s.Collection = w.text()
		case number == statementKey && s.Key == nil:
			s.Key = &a.key
			w.bad = !decodeKey(w.bytes(), &a.key, &a.keyText) || w.bad
		case number == statementRequestID:
			s.RequestId = w.text()
		case number == statementSettings:
			w.bad = !addSetting(s, w.bytes()) || w.bad
		case number == statementText:
			s.Text = w.text()
		case number == statementParameterOIDs && s.ParameterOids == nil:
			for oids := (wire{rest: w.bytes()}); len(oids.rest) > 0 && !w.bad; {
				oid := oids.varint()
				s.ParameterOids = append(s.ParameterOids, uint32(oid))
				w.bad = w.bad || oids.bad
			}
		default:
			return nil
		}
	}
	if w.bad || s.Key == nil {
		return nil
	}
	return s
}

func addSetting(s *walproxyv1.Statement, payload string) bool {
	entry := wire{rest: payload}
	number, kind, _ := entry.next()
	if number != 1 || kind != wireBytes {
		return false
	}
	name := entry.text()
	number, kind, _ = entry.next()
	if number != 2 || kind != wireBytes {
		return false
	}
	value := entry.text()
	if entry.bad || len(entry.rest) > 0 {
		return false
	}
	if s.Settings == nil {
		s.Settings = map[string]string{}
	}
	s.Settings[name] = value
	return true
}
