package mutation

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// FromAny returns the value that v stands for:
//
//	nil                              null
//	bool                             bool
//	int, int8 ... int64, uint8 ...   int64 (a uint64 above its range is an error)
//	float32, float64                 double
//	Decimal                          decimal
//	string                           string
//	[]byte                           bytes, not copied
//	time.Time                        timestamp
//	[]any                            list
//	map[string]any                   map
//	*walproxyv1.Value                itself
//
// Everything else, and what Validate refuses, is *InvalidError.
func FromAny(v any) (*walproxyv1.Value, error) { return fromAny("value", v, 0) }

// FieldsFromAny is FromAny for the fields of a record or event.
func FieldsFromAny(fields map[string]any) (map[string]*walproxyv1.Value, error) {
	return fieldsFromAny("fields", fields, 0)
}

func fieldsFromAny(path string, fields map[string]any, depth int) (map[string]*walproxyv1.Value, error) {
	values := make(map[string]*walproxyv1.Value, len(fields))
	for name, v := range fields {
		value, err := fromAny(path+"."+name, v, depth)
		if err != nil {
			return nil, err
		}
		values[name] = value
	}
	return values, nil
}

func fromAny(path string, v any, depth int) (*walproxyv1.Value, error) {
	switch v := v.(type) {
	case []any, map[string]any:
		if depth >= MaxDepth { // here, because a Go value can contain itself
			return nil, &InvalidError{path, fmt.Sprintf("nests deeper than %d", MaxDepth)}
		}
		return nestedFromAny(path, v, depth+1)
	case *walproxyv1.Value:
		return v, validateValue(path, v, depth)
	}
	value, reason := scalarFromAny(v)
	if reason != "" {
		return nil, &InvalidError{path, reason}
	}
	return value, validateValue(path, value, depth)
}

func nestedFromAny(path string, v any, depth int) (*walproxyv1.Value, error) {
	if v, ok := v.(map[string]any); ok {
		fields, err := fieldsFromAny(path, v, depth)
		if err != nil {
			return nil, err
		}
		return MapValue(fields), nil
	}
	list := v.([]any)
	values := make([]*walproxyv1.Value, len(list))
	for i, item := range list {
		value, err := fromAny(fmt.Sprintf("%s[%d]", path, i), item, depth)
		if err != nil {
			return nil, err
		}
		values[i] = value
	}
	return ListValue(values...), nil
}

func scalarFromAny(v any) (value *walproxyv1.Value, reason string) {
	switch v := v.(type) {
	case nil:
		return NullValue(), ""
	case bool:
		return BoolValue(v), ""
	case int:
		return Int64Value(int64(v)), ""
	case int8:
		return Int64Value(int64(v)), ""
	case int16:
		return Int64Value(int64(v)), ""
	case int32:
		return Int64Value(int64(v)), ""
	case int64:
		return Int64Value(v), ""
	case uint8:
		return Int64Value(int64(v)), ""
	case uint16:
		return Int64Value(int64(v)), ""
	case uint32:
		return Int64Value(int64(v)), ""
	case uint:
		return unsigned(uint64(v))
	case uint64:
		return unsigned(v)
	case float32:
		return DoubleValue(float64(v)), ""
	case float64:
		return DoubleValue(v), ""
	case Decimal:
		return DecimalValue(string(v)), ""
	case string:
		return StringValue(v), ""
	case []byte:
		return BytesValue(v), ""
	case time.Time:
		return TimestampValue(v), ""
	}
	return nil, fmt.Sprintf("type %T has no value", v)
}

func unsigned(n uint64) (value *walproxyv1.Value, reason string) {
	if n > math.MaxInt64 {
		return nil, fmt.Sprintf("%d is beyond int64", n)
	}
	return Int64Value(int64(n)), ""
}

// ToAny is the inverse of FromAny: numbers come back as int64, float64 and
// Decimal, times in UTC.
func ToAny(v *walproxyv1.Value) any {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Bool:
		return k.Bool
	case *walproxyv1.Value_Int64:
		return k.Int64
	case *walproxyv1.Value_Double:
		return k.Double
	case *walproxyv1.Value_Decimal:
		return Decimal(k.Decimal)
	case *walproxyv1.Value_String_:
		return k.String_
	case *walproxyv1.Value_Bytes:
		return k.Bytes
	case *walproxyv1.Value_Timestamp:
		return k.Timestamp.AsTime()
	case *walproxyv1.Value_List_:
		list := make([]any, len(k.List.GetValues()))
		for i, item := range k.List.GetValues() {
			list[i] = ToAny(item)
		}
		return list
	case *walproxyv1.Value_Map_:
		return FieldsToAny(k.Map.GetFields())
	}
	return nil
}

// FieldsToAny is ToAny for fields.
func FieldsToAny(fields map[string]*walproxyv1.Value) map[string]any {
	m := make(map[string]any, len(fields))
	for name, v := range fields {
		m[name] = ToAny(v)
	}
	return m
}

// NullValue returns null.
func NullValue() *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Null{Null: structpb.NullValue_NULL_VALUE}}
}

// BoolValue returns b as a value.
func BoolValue(b bool) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Bool{Bool: b}}
}

// Int64Value returns n as a value.
func Int64Value(n int64) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Int64{Int64: n}}
}

// DoubleValue returns f as a value; NaN and the infinities are refused later.
func DoubleValue(f float64) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Double{Double: f}}
}

// DecimalValue returns a decimal; its text is checked later.
func DecimalValue(text string) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Decimal{Decimal: text}}
}

// StringValue returns s as a value.
func StringValue(s string) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_String_{String_: s}}
}

// BytesValue returns b as a value. It keeps b.
func BytesValue(b []byte) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Bytes{Bytes: b}}
}

// TimestampValue returns t as a value.
func TimestampValue(t time.Time) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Timestamp{Timestamp: timestamppb.New(t)}}
}

// ListValue returns a list.
func ListValue(values ...*walproxyv1.Value) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_List_{List: &walproxyv1.Value_List{Values: values}}}
}

// MapValue returns a map. It keeps fields.
func MapValue(fields map[string]*walproxyv1.Value) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Map_{Map: &walproxyv1.Value_Map{Fields: fields}}}
}
