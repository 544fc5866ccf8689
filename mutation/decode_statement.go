package mutation

import (
	"unsafe"

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

// plainStatement is a record with a statement, in one allocation.
type plainStatement struct {
	record    walproxyv1.Record
	body      walproxyv1.Record_Statement
	statement walproxyv1.Statement
	key       walproxyv1.Key
	keyText   walproxyv1.Key_String_
	routes    [1]string
}

// decodeStatement is decodeMutation for a statement; false: left to others.
func (p *plainStatement) decodeStatement(payload string) bool {
	w, s := wire{rest: payload}, &p.statement
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case kind != wireBytes:
			return false
		case number == statementParameters:
			b := w.bytes()
			if len(b) == 0 {
				return false // as good as none
			}
			s.Parameters = unsafe.Slice(unsafe.StringData(b), len(b)) // nobody changes them
		case number == statementRole:
			s.Role = w.text()
		case number == statementSearchPath:
			s.SearchPath = w.text()
		case number == statementCollection:
			s.Collection = w.text()
		case number == statementKey && s.Key == nil:
			s.Key = &p.key
			w.bad = !decodeKey(w.bytes(), &p.key, &p.keyText) || w.bad
		case number == statementRequestID:
			s.RequestId = w.text()
		case number == statementSettings:
			w.bad = !addSetting(s, w.bytes()) || w.bad
		case number == statementText:
			s.Text = w.text()
		case number == statementParameterOIDs && s.ParameterOids == nil:
			oids := wire{rest: w.bytes()}
			s.ParameterOids = make([]uint32, 0, oids.varints())
			for len(oids.rest) > 0 && !w.bad {
				oid := oids.varint()
				s.ParameterOids = append(s.ParameterOids, uint32(oid))
				w.bad = w.bad || oids.bad
			}
		default:
			return false
		}
	}
	return !w.bad && s.Key != nil
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
