package dlq

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// ErrNoForm: the write has no JSON form, so that it can be retried or discarded, not
// edited.
var ErrNoForm = errors.New("the write has no JSON form: it can be retried as it is, or discarded")

// TextError says what is wrong with an edited write, and where.
type TextError struct {
	Field  string // as "increment.total"; empty: the text itself
	Line   int    // from 1; 0: not known
	Reason string
}

func (e *TextError) Error() string {
	var where []string
	if e.Line > 0 {
		where = append(where, fmt.Sprintf("line %d", e.Line))
	}
	if e.Field != "" {
		where = append(where, e.Field)
	}
	return strings.Join(append(where, e.Reason), ": ")
}

// Text is the write of l for people: an object, {"statement": object}, or an array for
// a group.
func (l *Letter) Text() ([]byte, error) {
	var raw []byte
	switch {
	case l.Whole == nil || l.Mutation == nil && l.Group == nil && l.Statement == nil:
		return nil, ErrNoForm
	case l.Statement != nil:
		raw = statementDocument(l.Statement)
	case l.Mutation != nil:
		raw = l.Mutation
	default:
		raw, _ = json.Marshal(l.Group) // of what was read as JSON
	}
	return indented(raw)
}

func indented(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// Command is what a client's own message does, for people, as the log's tools show it;
// ok: the write is one. It cannot be edited.
func (l *Letter) Command() (text []byte, ok bool) {
	if l.Whole == nil {
		return nil, false
	}
	rec := &walproxyv1.Record{}
	if err := proto.Unmarshal(l.Whole.Record, rec); err != nil || rec.GetCommand() == nil {
		return nil, false
	}
	text, err := indented(jsonform.AppendCommand(nil, rec.GetCommand()))
	return text, err == nil
}

// blankComments puts spaces in place of lines that begin with #: places stay.
func blankComments(text []byte) []byte {
	out := slices.Clone(text)
	for start := 0; start < len(out); {
		end := len(out)
		if i := bytes.IndexByte(out[start:], '\n'); i >= 0 {
			end = start + i
		}
		if out[start] == '#' {
			for i := start; i < end; i++ {
				out[i] = ' '
			}
		}
		start = end + 1
	}
	return out
}

// Parse reads a write: a mutation, as POST /v1/mutations takes it, or {"statement": ...},
// or an array of them, a group. Lines that begin with # are comments. Errors are *TextError, or
// mutation's *InvalidError where the key type decides.
func Parse(text []byte) (*walproxyv1.Record, error) {
	text = blankComments(text)
	if trimmed := bytes.TrimSpace(text); len(trimmed) == 0 {
		return nil, &TextError{Reason: "there is nothing but comments: want a mutation, or an array of those of a group"}
	} else if members := statementsAmong(trimmed); members != nil {
		g, err := parseMembers(members)
		if err != nil {
			return nil, err
		}
		return &walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: g}}, textError(text, mutation.ValidateGroup(g))
	} else if trimmed[0] == '[' {
		ms, err := jsonform.DecodeMutations(text)
		if err != nil {
			return nil, textError(text, err)
		}
		g := &walproxyv1.Group{}
		for _, m := range ms {
			g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}})
		}
		return &walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: g}}, textError(text, mutation.ValidateGroup(g))
	}
	if inner := statementOf(text); inner != nil {
		s, err := ParseStatement(inner)
		if err != nil {
			return nil, textError(text, err)
		}
		return &walproxyv1.Record{Body: &walproxyv1.Record_Statement{Statement: s}}, textError(text, mutation.ValidateStatement(s))
	}
	m, err := jsonform.DecodeMutation(text)
	if err != nil {
		return nil, textError(text, err)
	}
	return &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: m}}, textError(text, mutation.Validate(m))
}

// textError makes an error of a text's decoding, or of what it says, a *TextError.
func textError(text []byte, err error) error {
	var syntax *jsonform.Error
	var invalid *mutation.InvalidError
	switch {
	case errors.As(err, &syntax):
		return &TextError{Field: syntax.Field, Line: 1 + bytes.Count(text[:min(syntax.Offset, len(text))], []byte("\n")), Reason: syntax.Reason}
	case errors.As(err, &invalid):
		return &TextError{Field: invalid.Field, Line: lineOf(text, invalid.Field), Reason: invalid.Reason}
	}
	return err
}

// lineOf is the line of the last part of a field's path, if that stands there once.
func lineOf(text []byte, field string) int {
	name := field[strings.LastIndexByte(field, '.')+1:]
	name, _, _ = strings.Cut(name, "[")
	quoted := jsonform.AppendString(nil, name)
	if name == "" || strings.HasPrefix(field, "members[") || bytes.Count(text, quoted) != 1 {
		return 0
	}
	return 1 + bytes.Count(text[:bytes.Index(text, quoted)], []byte("\n"))
}

// KeepRequestID gives a group, whose JSON form has none, the request id of what it
// takes the place of.
func KeepRequestID(rec, of *walproxyv1.Record) {
	if g := rec.GetGroup(); g != nil {
		g.RequestId = of.GetGroup().GetRequestId()
	}
}

var (
	members    = []string{"collection", "key", "set", "merge", "unset", "increment", "append", "prepend", "append_event", "touch", "delete", "if_version", "if_absent", "if_event_count", "request_id", "expires_at"}
	fieldOps   = []string{"set", "merge", "increment", "append", "prepend"}
	textMember = []string{"collection", "request_id", "expires_at"}
)

// Set puts value at a path of a write: a member of the mutation (key, if_version), a
// field under an op (set.total), or a field's name alone if one op has fields. Parts
// of objects and lists follow behind points: items.0.price; in a group the index of
// the mutation comes first. value is JSON, in jsonform's forms; what is no JSON is
// text.
func Set(doc json.RawMessage, path, value string) (json.RawMessage, error) {
	raw := json.RawMessage(value)
	if !json.Valid(raw) || slices.Contains(textMember, path) && raw[0] != '"' {
		raw = jsonform.AppendString(nil, value)
	}
	return change(doc, path, func(parent map[string]json.RawMessage, name string) error {
		parent[name] = raw
		return nil
	})
}

// Unset removes what is at a path.
func Unset(doc json.RawMessage, path string) (json.RawMessage, error) {
	return change(doc, path, func(parent map[string]json.RawMessage, name string) error {
		if _, ok := parent[name]; !ok {
			return &TextError{Field: path, Reason: "is not there"}
		}
		delete(parent, name)
		return nil
	})
}

// change has f change the object that the last part of path is a member of.
func change(doc json.RawMessage, path string, f func(parent map[string]json.RawMessage, name string) error) (json.RawMessage, error) {
	parts := strings.Split(path, ".")
	if slices.Contains(parts, "") {
		return nil, &TextError{Field: path, Reason: "a part of the path is empty"}
	}
	if isList(doc) { // a group
		return changeElement(doc, path, parts, func(m json.RawMessage, rest []string) (json.RawMessage, error) {
			return changeOne(m, path, rest, f)
		})
	}
	return changeOne(doc, path, parts, f)
}

// changeOne is change for a mutation or a statement.
func changeOne(doc json.RawMessage, path string, parts []string, f func(map[string]json.RawMessage, string) error) (json.RawMessage, error) {
	if statementOf(doc) == nil {
		return changeMutation(doc, path, parts, f)
	}
	if len(parts) > 0 && parts[0] != memberStatement {
		parts = append([]string{memberStatement}, parts...)
	}
	return descend(doc, path, parts, f)
}

func isList(doc json.RawMessage) bool {
	trimmed := bytes.TrimSpace(doc)
	return len(trimmed) > 0 && trimmed[0] == '['
}

func changeMutation(doc json.RawMessage, path string, parts []string, f func(map[string]json.RawMessage, string) error) (json.RawMessage, error) {
	if len(parts) > 0 && !slices.Contains(members, parts[0]) {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(doc, &object); err != nil {
			return nil, err
		}
		var ops []string
		for _, op := range fieldOps {
			if _, ok := object[op]; ok {
				ops = append(ops, op)
			}
		}
		if len(ops) != 1 {
			return nil, &TextError{Field: path, Reason: fmt.Sprintf("is no member of a mutation (%s), and %d of its ops have fields: say which, as set.%s",
				strings.Join(members, ", "), len(ops), path)}
		}
		parts = append(ops, parts...)
	}
	return descend(doc, path, parts, f)
}

// descend follows parts into doc; objects on the way that are not there are made.
func descend(doc json.RawMessage, path string, parts []string, f func(map[string]json.RawMessage, string) error) (json.RawMessage, error) {
	if len(parts) == 0 {
		return nil, &TextError{Field: path, Reason: "names no member"}
	}
	if isList(doc) {
		if len(parts) == 1 {
			return changeElement(doc, path, parts, func(json.RawMessage, []string) (json.RawMessage, error) {
				parent := map[string]json.RawMessage{}
				if err := f(parent, ""); err != nil {
					return nil, err
				}
				return parent[""], nil
			})
		}
		return changeElement(doc, path, parts, func(element json.RawMessage, rest []string) (json.RawMessage, error) {
			return descend(element, path, rest, f)
		})
	}
	object := map[string]json.RawMessage{}
	if len(doc) > 0 {
		if err := json.Unmarshal(doc, &object); err != nil || object == nil {
			return nil, &TextError{Field: path, Reason: "what is above " + parts[0] + " is neither an object nor a list"}
		}
	}
	if len(parts) == 1 {
		if err := f(object, parts[0]); err != nil {
			return nil, err
		}
		return json.Marshal(object)
	}
	inner, err := descend(object[parts[0]], path, parts[1:], f)
	if err != nil {
		return nil, err
	}
	object[parts[0]] = inner
	return json.Marshal(object)
}

func changeElement(doc json.RawMessage, path string, parts []string, f func(json.RawMessage, []string) (json.RawMessage, error)) (json.RawMessage, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, err
	}
	i, err := strconv.Atoi(parts[0])
	if err != nil || i < 0 || i >= len(list) {
		return nil, &TextError{Field: path, Reason: fmt.Sprintf("%q is no index of a list of %d", parts[0], len(list))}
	}
	if list[i], err = f(list[i], parts[1:]); err != nil {
		return nil, err
	}
	return json.Marshal(list)
}
