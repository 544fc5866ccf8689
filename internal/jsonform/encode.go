package jsonform

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// AppendFields appends the JSON object of fields, in the order of their names.
func AppendFields(dst []byte, m map[string]*walproxyv1.Value) []byte {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, name), ':')
		dst = AppendValue(dst, m[name])
	}
	return append(dst, '}')
}

// AppendDocument appends a record with its key, as GET answers.
func AppendDocument(dst []byte, key *walproxyv1.Key, d *walproxyv1.Document) []byte {
	dst = AppendKey(append(dst, `{"key":`...), key)
	dst = strconv.AppendUint(append(dst, `,"version":`...), d.GetVersion(), 10)
	if n := d.GetEventCount(); n > 0 {
		dst = strconv.AppendUint(append(dst, `,"event_count":`...), n, 10)
	}
	if at := d.GetExpiresAt(); at != nil {
		dst = append(AppendTime(append(dst, `,"expires_at":"`...), at.AsTime()), '"')
	}
	return append(AppendFields(append(dst, `,"fields":`...), d.GetFields()), '}')
}

// AppendValue appends the JSON form of v; decoding it gives v again.
func AppendValue(dst []byte, v *walproxyv1.Value) []byte {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Bool:
		return strconv.AppendBool(dst, k.Bool)
	case *walproxyv1.Value_Int64:
		return appendInt(dst, k.Int64)
	case *walproxyv1.Value_Double:
		return appendDouble(dst, k.Double)
	case *walproxyv1.Value_Decimal:
		return append(appendString(append(dst, `{"$decimal":`...), k.Decimal), '}')
	case *walproxyv1.Value_String_:
		return appendString(dst, k.String_)
	case *walproxyv1.Value_Bytes:
		dst = append(dst, `{"$bytes":"`...)
		return append(base64.StdEncoding.AppendEncode(dst, k.Bytes), `"}`...)
	case *walproxyv1.Value_Timestamp:
		dst = append(dst, `{"$timestamp":"`...)
		return append(AppendTime(dst, k.Timestamp.AsTime()), `"}`...)
	case *walproxyv1.Value_List_:
		dst = append(dst, '[')
		for i, item := range k.List.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendValue(dst, item)
		}
		return append(dst, ']')
	case *walproxyv1.Value_Map_:
		m := k.Map.GetFields()
		for name := range m {
			if strings.HasPrefix(name, "$") {
				return append(AppendFields(append(dst, `{"$map":`...), m), '}')
			}
		}
		return AppendFields(dst, m)
	}
	return append(dst, "null"...)
}

// AppendTime appends t in RFC 3339, without quotes.
func AppendTime(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, time.RFC3339Nano)
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// appendDouble keeps a point or an exponent, so that a double stays a double.
func appendDouble(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) { // no write stores one
		return append(dst, "null"...)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'g', -1, 64)
	if !slices.ContainsFunc(dst[start:], func(c byte) bool { return c == '.' || c == 'e' }) {
		dst = append(dst, ".0"...)
	}
	return dst
}

// AppendString appends s as a JSON string.
func AppendString(dst []byte, s string) []byte { return appendString(dst, s) }

func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 { // not reached from a valid record
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
