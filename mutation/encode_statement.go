package mutation

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// appendStatementRecord appends what package proto makes of a plain record with a
// statement, in a third of the time; false: it is left to that, and dst is as it was.
// checkRecord has found nothing wrong with it.
func appendStatementRecord(dst []byte, rec *walproxyv1.Record) ([]byte, bool) {
	body, ok := rec.Body.(*walproxyv1.Record_Statement)
	if !ok || rec.Origin != nil || len(body.Statement.Settings) > 1 {
		return dst, false
	}
	s := body.Statement
	var buf [64]byte
	key, ok := appendPlainKey(buf[:0], s.Key)
	if !ok {
		return dst, false
	}
	for _, text := range [...]string{s.Role, s.SearchPath, s.Collection, s.RequestId, s.Text} {
		ok = ok && utf8.ValidString(text)
	}
	for name, value := range s.Settings {
		ok = ok && utf8.ValidString(name) && utf8.ValidString(value)
	}
	out, head := appendHead(dst, rec)
	if !ok || !head {
		return dst, false
	}
	out = protowire.AppendVarint(protowire.AppendTag(out, recordStatement, protowire.BytesType), uint64(sizeStatement(s, len(key))))
	return appendStatement(out, s, key), true
}

func appendTrace(dst []byte, t *walproxyv1.Trace) ([]byte, bool) {
	if t == nil {
		return dst, true
	}
	if !utf8.ValidString(t.State) {
		return dst, false
	}
	size := sizeField(len(t.TraceId)) + sizeField(len(t.SpanId)) + sizeField(len(t.State))
	if t.Flags != 0 {
		size += 1 + protowire.SizeVarint(uint64(t.Flags))
	}
	dst = protowire.AppendVarint(protowire.AppendTag(dst, recordTrace, protowire.BytesType), uint64(size))
	if len(t.TraceId) > 0 {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, traceID, protowire.BytesType), t.TraceId)
	}
	if len(t.SpanId) > 0 {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, traceSpanID, protowire.BytesType), t.SpanId)
	}
	if t.Flags != 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, traceFlags, protowire.VarintType), uint64(t.Flags))
	}
	return appendField(dst, traceState, t.State), true
}

func appendStatement(dst []byte, s *walproxyv1.Statement, key []byte) []byte {
	if len(s.Parameters) > 0 {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, statementParameters, protowire.BytesType), s.Parameters)
	}
	dst = appendField(dst, statementRole, s.Role)
	dst = appendField(dst, statementSearchPath, s.SearchPath)
	dst = appendField(dst, statementCollection, s.Collection)
	dst = protowire.AppendBytes(protowire.AppendTag(dst, statementKey, protowire.BytesType), key)
	dst = appendField(dst, statementRequestID, s.RequestId)
	for name, value := range s.Settings {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, statementSettings, protowire.BytesType), uint64(sizeSetting(name, value)))
		dst = protowire.AppendString(protowire.AppendTag(dst, 1, protowire.BytesType), name) // also if it is empty
		dst = protowire.AppendString(protowire.AppendTag(dst, 2, protowire.BytesType), value)
	}
	dst = appendField(dst, statementText, s.Text)
	if len(s.ParameterOids) > 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, statementParameterOIDs, protowire.BytesType), uint64(sizeOIDs(s.ParameterOids)))
		for _, oid := range s.ParameterOids {
			dst = protowire.AppendVarint(dst, uint64(oid))
		}
	}
	return dst
}

func appendField(dst []byte, number protowire.Number, text string) []byte {
	if text == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), text)
}

func sizeStatement(s *walproxyv1.Statement, key int) int {
	n := 1 + protowire.SizeBytes(key)
	for _, field := range [...]int{len(s.Parameters), len(s.Role), len(s.SearchPath), len(s.Collection), len(s.RequestId), len(s.Text)} {
		n += sizeField(field)
	}
	for name, value := range s.Settings {
		n += 1 + protowire.SizeBytes(sizeSetting(name, value))
	}
	if len(s.ParameterOids) > 0 {
		n += 1 + protowire.SizeBytes(sizeOIDs(s.ParameterOids))
	}
	return n
}

// sizeField is what a field of so many bytes takes; all numbers are below 16.
func sizeField(bytes int) int {
	if bytes == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(bytes)
}

func sizeSetting(name, value string) int {
	return 2 + protowire.SizeBytes(len(name)) + protowire.SizeBytes(len(value))
}

func sizeOIDs(oids []uint32) (n int) {
	for _, oid := range oids {
		n += protowire.SizeVarint(uint64(oid))
	}
	return n
}

// appendPlainKey appends a key that is no composite; false: it is one.
func appendPlainKey(dst []byte, key *walproxyv1.Key) ([]byte, bool) {
	switch k := key.Kind.(type) {
	case *walproxyv1.Key_Int64:
		return protowire.AppendVarint(protowire.AppendTag(dst, keyInt64, protowire.VarintType), protowire.EncodeZigZag(k.Int64)), true
	case *walproxyv1.Key_String_:
		return protowire.AppendString(protowire.AppendTag(dst, keyString, protowire.BytesType), k.String_), utf8.ValidString(k.String_)
	case *walproxyv1.Key_Bytes:
		return protowire.AppendBytes(protowire.AppendTag(dst, keyBytes, protowire.BytesType), k.Bytes), true
	}
	return dst, false
}
