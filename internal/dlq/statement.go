package dlq

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/mutation"
)

// memberStatement is the one member of the document of a statement, which tells it from
// a mutation's.
const memberStatement = "statement"

// StatementText is a statement's form as Parse takes it.
func StatementText(form json.RawMessage) json.RawMessage { return statementDocument(form) }

func statementDocument(form json.RawMessage) json.RawMessage {
	return slices.Concat([]byte(`{"`+memberStatement+`":`), form, []byte("}"))
}

// statementOf is the form within a statement's document; nil: it is another's.
func statementOf(doc []byte) json.RawMessage {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(doc, &object); err != nil || len(object) != 1 {
		return nil
	}
	return object[memberStatement]
}

// statementForm is jsonform.AppendStatement's.
type statementForm struct {
	Collection    string            `json:"collection"`
	Key           json.RawMessage   `json:"key"`
	RequestID     string            `json:"request_id"`
	Text          string            `json:"text"`
	ParameterOIDs []uint32          `json:"parameter_oids"`
	Role          string            `json:"role"`
	SearchPath    string            `json:"search_path"`
	Settings      map[string]string `json:"settings"`
	Parameters    []json.RawMessage `json:"parameters"`
}

// ParseStatement reads what jsonform.AppendStatement has written, maybe mended. Of the
// parameters strings, numbers and booleans are values in text, {"$binary": text} one in
// binary of a type that is known here, {"$bytes": Base64} one in binary as it is.
// Errors are *TextError or *mutation.InvalidError.
func ParseStatement(form json.RawMessage) (*walproxyv1.Statement, error) {
	var in statementForm
	decoder := json.NewDecoder(bytes.NewReader(form))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return nil, statementError(err)
	}
	key, err := jsonform.DecodeKey(in.Key)
	if err != nil {
		return nil, &TextError{Field: "statement.key", Reason: err.Error()}
	}
	parsed, err := pgstatement.Parse(in.Text)
	switch {
	case err != nil:
		return nil, &TextError{Field: "statement.text", Reason: err.Error()}
	case len(in.Parameters) != len(parsed.Targets) || len(in.ParameterOIDs) != len(parsed.Targets):
		return nil, &TextError{Field: "statement.parameters", Reason: fmt.Sprintf("are %d of %d types; the text has %d", len(in.Parameters), len(in.ParameterOIDs), len(parsed.Targets))}
	}
	formats, values := make([]int16, len(in.Parameters)), make([][]byte, len(in.Parameters))
	for i, raw := range in.Parameters {
		if formats[i], values[i], err = parseParameter(in.ParameterOIDs[i], raw); err != nil {
			return nil, &TextError{Field: fmt.Sprintf("statement.parameters[%d]", i), Reason: err.Error()}
		}
	}
	s := &walproxyv1.Statement{
		Text: in.Text, ParameterOids: in.ParameterOIDs, Parameters: pgstatement.AppendParameters(nil, formats, values), Role: in.Role, SearchPath: in.SearchPath,
		Settings: in.Settings, Collection: in.Collection, Key: key, RequestId: in.RequestID,
	}
	return s, mutation.ValidateStatement(s)
}

// memberForms are the forms of a group of statements and mutations; nil: one of them has
// none.
func memberForms(g *walproxyv1.Group) (forms []json.RawMessage) {
	for _, m := range g.GetMembers() {
		form, ok := json.RawMessage(nil), false
		switch {
		case m.GetStatement() != nil:
			form, ok = statementDocument(jsonform.AppendStatement(nil, m.GetStatement())), true
		case m.GetMutation() != nil:
			form, ok = jsonform.AppendMutation(nil, m.GetMutation())
		}
		if !ok {
			return nil
		}
		forms = append(forms, form)
	}
	return forms
}

// statementsAmong are the elements of a list that has a statement in it; nil: it is none.
func statementsAmong(text []byte) (members []json.RawMessage) {
	if !isList(text) || json.Unmarshal(text, &members) != nil || !slices.ContainsFunc(members, func(m json.RawMessage) bool { return statementOf(m) != nil }) {
		return nil
	}
	return members
}

// parseMembers reads what memberForms has written, maybe mended.
func parseMembers(members []json.RawMessage) (*walproxyv1.Group, error) {
	g := &walproxyv1.Group{}
	for i, text := range members {
		var rec *walproxyv1.Record
		var err error
		member := &walproxyv1.Group_Member{}
		if isList(text) {
			err = &TextError{Reason: "a group stands in a group"}
		} else {
			rec, err = Parse(text)
		}
		switch {
		case err != nil:
		case rec.GetStatement() != nil:
			member.Kind = &walproxyv1.Group_Member_Statement{Statement: rec.GetStatement()}
		default:
			member.Kind = &walproxyv1.Group_Member_Mutation{Mutation: rec.GetMutation()}
		}
		if wrong, ok := errors.AsType[*TextError](err); ok { // lines are those of the member alone
			err = &TextError{Field: strings.TrimSuffix(fmt.Sprintf("[%d].%s", i, wrong.Field), "."), Reason: wrong.Reason}
		}
		if err != nil {
			return nil, err
		}
		g.Members = append(g.Members, member)
	}
	return g, nil
}

func statementError(err error) error {
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind):
		return &TextError{Field: "statement." + kind.Field, Reason: "is a " + kind.Value}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &TextError{Field: memberStatement, Reason: "is cut off"}
	}
	return &TextError{Field: memberStatement, Reason: err.Error()}
}

var errParameter = errors.New(`want null, text, a number, true, false, {"$binary": text}, {"$text": Base64} or {"$bytes": Base64}`)

// parseParameter reads one value.
func parseParameter(oid uint32, raw json.RawMessage) (format int16, value []byte, err error) {
	var plain any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&plain); err != nil {
		return 0, nil, errParameter
	}
	switch v := plain.(type) {
	case nil:
		return pgstatement.Text, nil, nil
	case string:
		return pgstatement.Text, []byte(v), nil
	case json.Number, bool:
		return pgstatement.Text, fmt.Append(nil, v), nil
	}
	var wrapped struct {
		Binary *string `json:"$binary"`
		Bytes  []byte  `json:"$bytes"`
		Text   []byte  `json:"$text"`
	}
	decoder = json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&wrapped); err != nil {
		return 0, nil, errParameter
	}
	switch {
	case wrapped.Binary != nil:
		value, err = pgstatement.FromReadable(oid, *wrapped.Binary)
		return pgstatement.Binary, value, err
	case wrapped.Bytes != nil:
		return pgstatement.Binary, wrapped.Bytes, nil
	case wrapped.Text != nil:
		return pgstatement.Text, wrapped.Text, nil
	}
	return 0, nil, errParameter
}
