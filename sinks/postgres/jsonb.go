package postgres

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// The form of values in jsonb is that of the API (package jsonform), with two
// more wraps for what jsonb loses: it keeps numbers as numeric, without
// exponents and without -0, and no NUL in text.
//
//	{"$bytes": "base64"}  {"$decimal": "1.23"}  {"$timestamp": "RFC 3339"}
//	{"$double": "1e+300"}  {"$string": "base64"}  {"$map": {...}}
//
// A number without a point is an int64. What somebody else wrote is read too: a
// whole number beyond int64 is a decimal, and an object with another name that
// begins with $ is a map.

type fieldMap = map[string]*walproxyv1.Value

// appendJSON appends the form of v.
func appendJSON(dst []byte, v *walproxyv1.Value) []byte {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Double:
		return appendJSONDouble(dst, k.Double)
	case *walproxyv1.Value_String_:
		if strings.IndexByte(k.String_, 0) >= 0 {
			dst = append(dst, `{"$string":"`...)
			return append(base64.StdEncoding.AppendEncode(dst, []byte(k.String_)), `"}`...)
		}
	case *walproxyv1.Value_List_:
		dst = append(dst, '[')
		for i, item := range k.List.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, item)
		}
		return append(dst, ']')
	case *walproxyv1.Value_Map_:
		for name := range k.Map.GetFields() {
			if strings.HasPrefix(name, "$") {
				dst = appendJSONFields(append(dst, `{"$map":`...), k.Map.GetFields())
				return append(dst, '}')
			}
		}
		return appendJSONFields(dst, k.Map.GetFields())
	}
	return jsonform.AppendValue(dst, v)
}

// appendJSONFields appends an object in the order of its names.
func appendJSONFields(dst []byte, m fieldMap) []byte {
	var few [16]string
	names := few[:0]
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(jsonform.AppendString(dst, name), ':')
		dst = appendJSON(dst, m[name])
	}
	return append(dst, '}')
}

func appendJSONDouble(dst []byte, f float64) []byte {
	abs := math.Abs(f)
	if f == 0 && !math.Signbit(f) || 1e-7 <= abs && abs < 1e21 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if bytes.IndexByte(dst[start:], '.') < 0 {
			dst = append(dst, ".0"...)
		}
		return dst
	}
	dst = append(dst, `{"$double":"`...)
	return append(strconv.AppendFloat(dst, f, 'g', -1, 64), `"}`...)
}

// decodeJSON reads one value.
func decodeJSON(data []byte) (*walproxyv1.Value, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("unreadable JSON: %w", err)
	}
	return fromJSON(v), nil
}

// decodeJSONFields reads an object of fields.
func decodeJSONFields(data []byte) (fieldMap, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	return fieldsFromJSON(v), nil
}

func fieldsFromJSON(v map[string]any) fieldMap {
	m := make(fieldMap, len(v))
	for name, item := range v {
		m[name] = fromJSON(item)
	}
	return m
}

func fromJSON(v any) *walproxyv1.Value {
	switch v := v.(type) {
	case bool:
		return mutation.BoolValue(v)
	case string:
		return mutation.StringValue(v)
	case json.Number:
		return fromJSONNumber(string(v))
	case []any:
		items := make([]*walproxyv1.Value, len(v))
		for i, item := range v {
			items[i] = fromJSON(item)
		}
		return mutation.ListValue(items...)
	case map[string]any:
		if len(v) == 1 {
			for name, inner := range v {
				if value := unwrapJSON(name, inner); value != nil {
					return value
				}
			}
		}
		return mutation.MapValue(fieldsFromJSON(v))
	}
	return mutation.NullValue()
}

func fromJSONNumber(text string) *walproxyv1.Value {
	if strings.ContainsAny(text, ".eE") {
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return mutation.DoubleValue(f)
		}
		return mutation.DecimalValue(text)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return mutation.Int64Value(n)
	}
	return mutation.DecimalValue(text)
}

// unwrapJSON returns the value of an object of one member, nil if it is a map.
func unwrapJSON(name string, inner any) *walproxyv1.Value {
	if name == "$map" {
		if m, ok := inner.(map[string]any); ok {
			return mutation.MapValue(fieldsFromJSON(m))
		}
		return nil
	}
	text, ok := inner.(string)
	if !ok {
		return nil
	}
	switch name {
	case "$bytes":
		if b, err := base64.StdEncoding.Strict().DecodeString(text); err == nil {
			return mutation.BytesValue(b)
		}
	case "$string":
		if b, err := base64.StdEncoding.Strict().DecodeString(text); err == nil {
			return mutation.StringValue(strings.ToValidUTF8(string(b), "\ufffd"))
		}
	case "$decimal":
		return mutation.DecimalValue(text)
	case "$double":
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return mutation.DoubleValue(f)
		}
	case "$timestamp":
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return &walproxyv1.Value{Kind: &walproxyv1.Value_Timestamp{Timestamp: timestamppb.New(t)}}
		}
	}
	return nil
}
