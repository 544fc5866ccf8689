package jsonform

import (
	"encoding/base64"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
)

// KindOf names what a record is, as AppendRecord does.
func KindOf(rec *walproxyv1.Record) string {
	switch rec.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		return "mutation"
	case *walproxyv1.Record_Group:
		return "group"
	case *walproxyv1.Record_Statement:
		return "statement"
	case *walproxyv1.Record_Command:
		return "command"
	}
	return "unknown"
}

// AppendRecord appends the members of a JSON object that say all that is in a
// record of the log: time, routes, principal, origin, trace, kind, and under the name of
// the kind what it does. The braces are the caller's.
func AppendRecord(dst []byte, rec *walproxyv1.Record) []byte {
	if at := rec.GetAcceptedUnixNanos(); at != 0 {
		dst = append(AppendTime(append(dst, `"time":"`...), time.Unix(0, at)), `",`...)
	}
	dst = append(appendList(append(dst, `"routes":`...), rec.GetRoutes(), appendString), ',')
	if p := rec.GetPrincipal(); p != "" {
		dst = append(appendString(append(dst, `"principal":`...), p), ',')
	}
	if o := rec.GetOrigin(); o != nil {
		dst = strconv.AppendUint(append(dst, `"origin":{"lsn":`...), o.GetLsn(), 10)
		dst = append(appendString(append(dst, `,"sink":`...), o.GetSink()), "},"...)
	}
	if t := rec.GetTrace(); t != nil {
		dst = append(hex.AppendEncode(append(dst, `"trace":{"trace_id":"`...), t.GetTraceId()), '"')
		dst = append(hex.AppendEncode(append(dst, `,"span_id":"`...), t.GetSpanId()), '"')
		dst = strconv.AppendUint(append(dst, `,"flags":`...), uint64(t.GetFlags()), 10)
		if state := t.GetState(); state != "" {
			dst = appendString(append(dst, `,"state":`...), state)
		}
		dst = append(dst, "},"...)
	}
	kind := KindOf(rec)
	dst = appendString(append(dst, `"kind":`...), kind)
	dst = append(appendString(append(dst, ','), kind), ':')
	switch body := rec.GetBody().(type) {
	case *walproxyv1.Record_Mutation:
		return appendAnyMutation(dst, body.Mutation)
	case *walproxyv1.Record_Group:
		return appendGroup(dst, body.Group)
	case *walproxyv1.Record_Statement:
		return appendStatement(dst, body.Statement)
	case *walproxyv1.Record_Command:
		return appendCommand(dst, body.Command)
	}
	return append(dst, "null"...)
}

// appendAnyMutation is AppendMutation; if that has no form for the order of the
// ops they are a list, which no API reads.
func appendAnyMutation(dst []byte, m *walproxyv1.Mutation) []byte {
	if out, ok := AppendMutation(dst, m); ok {
		return out
	}
	rest := &walproxyv1.Mutation{Collection: m.GetCollection(), Key: m.GetKey(), Precondition: m.GetPrecondition(),
		RequestId: m.GetRequestId(), ExpiresAt: m.GetExpiresAt()}
	dst, _ = AppendMutation(dst, rest) // without ops there is an order
	dst = append(dst[:len(dst)-1], `,"ops":`...)
	return append(appendList(dst, m.GetOps(), func(dst []byte, op *walproxyv1.Op) []byte {
		kind := kindOf(op)
		if kind < 0 {
			return append(dst, "null"...)
		}
		start := len(dst)
		dst = appendOp(dst, kind, op) // begins with a comma
		dst[start] = '{'
		return append(dst, '}')
	}), '}')
}

func appendGroup(dst []byte, g *walproxyv1.Group) []byte {
	dst = append(dst, '{')
	if id := g.GetRequestId(); id != "" {
		dst = append(appendString(append(dst, `"request_id":`...), id), ',')
	}
	dst = appendList(append(dst, `"members":`...), g.GetMembers(), func(dst []byte, m *walproxyv1.Group_Member) []byte {
		switch body := m.GetKind().(type) {
		case *walproxyv1.Group_Member_Mutation:
			return append(appendAnyMutation(append(dst, `{"mutation":`...), body.Mutation), '}')
		case *walproxyv1.Group_Member_Statement:
			return append(appendStatement(append(dst, `{"statement":`...), body.Statement), '}')
		case *walproxyv1.Group_Member_Command:
			return append(appendCommand(append(dst, `{"command":`...), body.Command), '}')
		}
		return append(dst, "null"...)
	})
	return append(dst, '}')
}

// appendTarget appends what a statement or a command writes, and a comma.
func appendTarget(dst []byte, collection string, key *walproxyv1.Key, requestID string) []byte {
	dst = append(appendString(append(dst, `"collection":`...), collection), ',')
	if key != nil {
		dst = append(AppendKey(append(dst, `"key":`...), key), ',')
	}
	if requestID != "" {
		dst = append(appendString(append(dst, `"request_id":`...), requestID), ',')
	}
	return dst
}

func appendStatement(dst []byte, s *walproxyv1.Statement) []byte {
	dst = appendTarget(append(dst, '{'), s.GetCollection(), s.GetKey(), s.GetRequestId())
	dst = appendString(append(dst, `"text":`...), s.GetText())
	dst = appendList(append(dst, `,"parameter_oids":`...), s.GetParameterOids(), func(dst []byte, oid uint32) []byte {
		return strconv.AppendUint(dst, uint64(oid), 10)
	})
	dst = appendString(append(dst, `,"role":`...), s.GetRole())
	dst = appendString(append(dst, `,"search_path":`...), s.GetSearchPath())
	if settings := s.GetSettings(); len(settings) > 0 {
		dst = append(dst, `,"settings":{`...)
		for i, name := range slices.Sorted(maps.Keys(settings)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(append(appendString(dst, name), ':'), settings[name])
		}
		dst = append(dst, '}')
	}
	return append(appendParameters(append(dst, `,"parameters":`...), s), '}')
}

// AppendStatement appends a statement as an object.
func AppendStatement(dst []byte, s *walproxyv1.Statement) []byte { return appendStatement(dst, s) }

// appendParameters appends the values of a statement: those that came as text are
// strings; binary ones {"$binary": text}, where that gives back the same bytes, else
// {"$bytes": Base64}.
func appendParameters(dst []byte, s *walproxyv1.Statement) []byte {
	formats, values, err := pgstatement.Parameters(s.GetParameters())
	if err != nil {
		return appendBytes(dst, s.GetParameters())
	}
	dst = append(dst, '[')
	for i, value := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		readable, ok := "", false
		if oids := s.GetParameterOids(); i < len(oids) && formats[i] == pgstatement.Binary && value != nil {
			readable, ok = pgstatement.Readable(oids[i], value)
		}
		switch {
		case value == nil:
			dst = append(dst, "null"...)
		case ok:
			dst = append(appendString(append(dst, `{"$binary":`...), readable), '}')
		case formats[i] == pgstatement.Text && utf8.Valid(value):
			dst = appendString(dst, string(value))
		case formats[i] == pgstatement.Text:
			dst = append(base64.StdEncoding.AppendEncode(append(dst, `{"$text":"`...), value), `"}`...)
		default:
			dst = appendBytes(dst, value)
		}
	}
	return append(dst, ']')
}

// AppendCommand appends what a command does, for people: no API reads it.
func AppendCommand(dst []byte, c *walproxyv1.Command) []byte { return appendCommand(dst, c) }

func appendCommand(dst []byte, c *walproxyv1.Command) []byte {
	dst = appendTarget(append(dst, '{'), c.GetCollection(), c.GetKey(), c.GetRequestId())
	if m, err := codec.ParseMessage(c.GetMessage()); err == nil { // in words, for people
		dst = appendCommandOps(dst, m)
	}
	return append(appendBytes(append(dst, `"message":`...), c.GetMessage()), '}')
}

// appendCommandOps appends what a message does to which bins, its time to live in
// seconds if it says one, and a comma. The values are in the message.
func appendCommandOps(dst []byte, m *codec.Message) []byte {
	dst = append(dst, `"ops":[`...)
	for i := range m.Ops {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(append(dst, `{"op":`...), command.Name(&m.Ops[i]))
		if bin := m.Ops[i].Name; len(bin) > 0 {
			dst = appendString(append(dst, `,"bin":`...), strings.ToValidUTF8(string(bin), "\uFFFD"))
		}
		dst = append(dst, '}')
	}
	dst = append(dst, "],"...)
	if m.Info3&codec.Info3CreateOrReplace != 0 {
		dst = append(dst, `"replace":true,`...)
	}
	switch m.TTL {
	case command.TTLDefault, command.TTLNever, command.TTLDontUpdate:
		return dst
	}
	return append(strconv.AppendUint(append(dst, `"ttl":`...), uint64(m.TTL), 10), ',')
}

func appendBytes(dst, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(dst, `{"$bytes":"`...), b), `"}`...)
}
