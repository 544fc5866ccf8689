package aerospike

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	as "github.com/aerospike/aerospike-client-go/v7"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// A field is a bin. Integers, doubles, booleans, strings, bytes, lists and maps are
// what they are there; null is the absence of the bin. What Aerospike has no type
// for is a map of one entry whose name says what it is, and comes back as what it
// was:
//
//	{"$decimal": "1.23"}  {"$timestamp": "2026-11-21T18:00:00Z"}
//
// and what the log's values cannot say (GeoJSON, HyperLogLog, a string that is no
// UTF-8) is a map {"$aerospike": bytes}: the particle's type and its content, as in
// package api/aerowire.
const (
	wrapDecimal   = "$decimal"
	wrapTimestamp = "$timestamp"
	wrapParticle  = "$aerospike"
)

func wraps(name string) bool {
	return name == wrapDecimal || name == wrapTimestamp || name == wrapParticle
}

// Particle types that matter here (as_particle_type of the server).
const (
	particleFloat   = 2
	particleString  = 3
	particleHLL     = 18
	particleGeoJSON = 23
)

// geoHeader stands before the text of GeoJSON: flags, and the number of cells,
// which the server computes.
const geoHeader = 3

// errNoValue: a bin holds what no value of the log can say.
var errNoValue = errors.New("has a content that walproxy has no value for")

// toBin returns what a field's value is as a bin; nil removes it. It may share
// memory with v. reason says why there is none.
func toBin(v *walproxyv1.Value) (bin any, reason string) {
	if content, ok := particle(v); ok {
		if len(content) == 0 {
			return nil, "is an empty " + wrapParticle
		}
		return as.NewRawBlobValue(int(content[0]), content[1:]), ""
	}
	return toItem(v)
}

// particle returns the content of a wrapped particle.
func particle(v *walproxyv1.Value) (content []byte, ok bool) {
	fields := v.GetMap().GetFields()
	if len(fields) != 1 {
		return nil, false
	}
	b, ok := fields[wrapParticle].GetKind().(*walproxyv1.Value_Bytes)
	if !ok {
		return nil, false
	}
	return b.Bytes, true
}

// toItem is toBin within a list or map.
func toItem(v *walproxyv1.Value) (item any, reason string) {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Null:
		return nil, ""
	case *walproxyv1.Value_Bool:
		return as.BoolValue(k.Bool), ""
	case *walproxyv1.Value_Int64:
		return k.Int64, ""
	case *walproxyv1.Value_Double:
		return k.Double, ""
	case *walproxyv1.Value_String_:
		return k.String_, ""
	case *walproxyv1.Value_Bytes:
		return append([]byte{}, k.Bytes...), "" // never nil, which is null there
	case *walproxyv1.Value_Decimal:
		return map[any]any{wrapDecimal: k.Decimal}, ""
	case *walproxyv1.Value_Timestamp:
		return map[any]any{wrapTimestamp: k.Timestamp.AsTime().Format(time.RFC3339Nano)}, ""
	case *walproxyv1.Value_List_:
		return toList(k.List.GetValues())
	case *walproxyv1.Value_Map_:
		return toMap(k.Map.GetFields())
	}
	return nil, "is of an unknown kind"
}

func toList(values []*walproxyv1.Value) (list []any, reason string) {
	list = make([]any, len(values))
	for i, v := range values {
		if list[i], reason = toItem(v); reason != "" {
			return nil, fmt.Sprintf("[%d] %s", i, reason)
		}
	}
	return list, ""
}

func toMap(fields map[string]*walproxyv1.Value) (m map[any]any, reason string) {
	m = make(map[any]any, len(fields))
	for name, v := range fields {
		if len(fields) == 1 && wraps(name) {
			return nil, fmt.Sprintf("is a map with the one name %s, which is reserved", name)
		}
		if m[name], reason = toItem(v); reason != "" {
			return nil, fmt.Sprintf(".%s %s", name, reason)
		}
	}
	return m, ""
}

// fromBin returns the value of a bin, which anybody may have written. Errors are
// errNoValue.
func fromBin(bin any) (*walproxyv1.Value, error) {
	switch b := bin.(type) {
	case as.GeoJSONValue:
		return wrapped(particleGeoJSON, append(make([]byte, geoHeader), b...)), nil
	case as.HLLValue:
		return wrapped(particleHLL, b), nil
	case float64:
		if math.IsNaN(b) || math.IsInf(b, 0) {
			return wrapped(particleFloat, binary.BigEndian.AppendUint64(nil, math.Float64bits(b))), nil
		}
	case string:
		if !utf8.ValidString(b) {
			return wrapped(particleString, []byte(b)), nil
		}
	}
	return fromItem(bin, 0)
}

func wrapped(kind byte, content []byte) *walproxyv1.Value {
	return mutation.MapValue(map[string]*walproxyv1.Value{
		wrapParticle: mutation.BytesValue(append([]byte{kind}, content...)),
	})
}

func fromItem(item any, depth int) (*walproxyv1.Value, error) {
	if depth > mutation.MaxDepth {
		return nil, fmt.Errorf("%w: nests deeper than %d", errNoValue, mutation.MaxDepth)
	}
	switch i := item.(type) {
	case nil:
		return mutation.NullValue(), nil
	case bool:
		return mutation.BoolValue(i), nil
	case int:
		return mutation.Int64Value(int64(i)), nil
	case int64:
		return mutation.Int64Value(i), nil
	case float32:
		return fromItem(float64(i), depth)
	case float64:
		if math.IsNaN(i) || math.IsInf(i, 0) {
			return nil, fmt.Errorf("%w: %v in a list or map", errNoValue, i)
		}
		return mutation.DoubleValue(i), nil
	case string:
		if !utf8.ValidString(i) {
			return nil, fmt.Errorf("%w: a string that is no UTF-8 in a list or map", errNoValue)
		}
		return mutation.StringValue(i), nil
	case []byte:
		return mutation.BytesValue(i), nil
	case []any:
		return fromList(i, depth)
	case map[any]any:
		pairs := make([]as.MapPair, 0, len(i))
		for name, v := range i {
			pairs = append(pairs, as.MapPair{Key: name, Value: v})
		}
		return fromPairs(pairs, depth)
	case []as.MapPair: // a map in the order of its keys
		return fromPairs(i, depth)
	}
	return nil, fmt.Errorf("%w: a %T", errNoValue, item)
}

func fromList(items []any, depth int) (*walproxyv1.Value, error) {
	values := make([]*walproxyv1.Value, len(items))
	for i, item := range items {
		v, err := fromItem(item, depth+1)
		if err != nil {
			return nil, err
		}
		values[i] = v
	}
	return mutation.ListValue(values...), nil
}

func fromPairs(pairs []as.MapPair, depth int) (*walproxyv1.Value, error) {
	if len(pairs) == 1 {
		if v, ok := unwrap(pairs[0]); ok {
			return v, nil
		}
	}
	fields := make(map[string]*walproxyv1.Value, len(pairs))
	for _, p := range pairs {
		name, ok := p.Key.(string)
		if !ok || !utf8.ValidString(name) {
			return nil, fmt.Errorf("%w: a map with a key that is no text (%T)", errNoValue, p.Key)
		}
		v, err := fromItem(p.Value, depth+1)
		if err != nil {
			return nil, err
		}
		fields[name] = v
	}
	return mutation.MapValue(fields), nil
}

// unwrap is the inverse of toItem for what Aerospike has no type for. What is not
// exactly that is a map like others.
func unwrap(p as.MapPair) (*walproxyv1.Value, bool) {
	text, ok := p.Value.(string)
	if !ok {
		return nil, false
	}
	switch p.Key {
	case wrapDecimal:
		v, err := mutation.FromAny(mutation.Decimal(text))
		return v, err == nil
	case wrapTimestamp:
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, false
		}
		stamp := timestamppb.New(t)
		if stamp.CheckValid() != nil {
			return nil, false
		}
		return &walproxyv1.Value{Kind: &walproxyv1.Value_Timestamp{Timestamp: stamp}}, true
	}
	return nil, false
}

// nameFault is why a field cannot be a bin; "": it can.
func nameFault(name string) string {
	switch {
	case name == "":
		return "is empty, which no bin's name may be"
	case len(name) > maxBin:
		return fmt.Sprintf("is %d bytes long; a bin's name in Aerospike has at most %d", len(name), maxBin)
	case isOwn(name):
		return "begins with " + reserved + ", which is reserved for walproxy"
	}
	return ""
}
