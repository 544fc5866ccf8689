package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// OIDs of built-in types, from PostgreSQL's pg_type.dat.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidText        = 25
	oidJSON        = 114
	oidFloat4      = 700
	oidFloat8      = 701
	oidDate        = 1082
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidNumeric     = 1700
	oidUUID        = 2950
	oidJSONB       = 3802
	oidBpchar      = 1042
	oidVarchar     = 1043

	oidTextArray = 1009
)

// codec says how values of one type travel. A column of values is one array
// parameter: of the type itself, in binary, or of text that the server casts.
// No method is given null.
type codec struct {
	element uint32 // type of the array's elements
	array   uint32 // the array's own type
	// encode appends an element; its error is a reason, for a RejectedError.
	encode func(dst []byte, v *walproxyv1.Value) ([]byte, error)
	// decode reads what a SELECT returned: in binary if the codec is, else text.
	decode func(raw []byte) (*walproxyv1.Value, error)
	binary bool
	// exact: decode gives back, of an encoded value, what the store will return,
	// so that a later write of the same batch need not read it again.
	exact bool
	// text forms, for elements of arrays.
	text  func(v *walproxyv1.Value) (string, error)
	parse func(text string) (*walproxyv1.Value, error)
}

// format is that of the results.
func (c *codec) format() int16 {
	if c.binary {
		return formatBinary
	}
	return formatText
}

func mismatch(v *walproxyv1.Value, want string) error {
	return fmt.Errorf("is %s; the column takes %s", mutation.KindName(v), want)
}

func isNull(v *walproxyv1.Value) bool {
	if v == nil {
		return true
	}
	_, null := v.GetKind().(*walproxyv1.Value_Null)
	return null
}

// builtin are the types with a codec of their own; all others travel as text.
var builtin = map[uint32]*codec{
	oidBool: {element: oidBool, array: 1000, binary: true, exact: true,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			b, ok := v.GetKind().(*walproxyv1.Value_Bool)
			if !ok {
				return dst, mismatch(v, "a bool")
			}
			if b.Bool {
				return append(dst, 1), nil
			}
			return append(dst, 0), nil
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) {
			if len(raw) != 1 {
				return nil, malformedRow("bool", raw)
			}
			return mutation.BoolValue(raw[0] != 0), nil
		},
		text: func(v *walproxyv1.Value) (string, error) {
			b, ok := v.GetKind().(*walproxyv1.Value_Bool)
			if !ok {
				return "", mismatch(v, "a bool")
			}
			return strconv.FormatBool(b.Bool), nil
		},
		parse: func(text string) (*walproxyv1.Value, error) {
			return mutation.BoolValue(strings.HasPrefix(text, "t")), nil
		}},
	oidInt2:        integerCodec(oidInt2, 1005, 2),
	oidInt4:        integerCodec(oidInt4, 1007, 4),
	oidInt8:        integerCodec(oidInt8, 1016, 8),
	oidFloat4:      floatCodec(oidFloat4, 1021, 32),
	oidFloat8:      floatCodec(oidFloat8, 1022, 64),
	oidText:        textCodec(true),
	oidVarchar:     textCodec(false),
	oidBpchar:      textCodec(false),
	oidBytea:       byteaCodec(),
	oidUUID:        uuidCodec(),
	oidTimestamptz: timestampCodec(oidTimestamptz, 1185),
	oidTimestamp:   timestampCodec(oidTimestamp, 1115),
	oidDate:        asText(dateText, parseString),
	oidNumeric:     numericCodec(),
	oidJSONB:       jsonCodec(oidJSONB, 3807),
	oidJSON:        jsonCodec(oidJSON, 199),
}

// otherCodec is for every type without one: strings in the type's own text form.
var otherCodec = asText(func(v *walproxyv1.Value) (string, error) {
	return plainText(v, "a string, in the text form of its type")
}, parseString)

func malformedRow(what string, raw []byte) error {
	return fmt.Errorf("unreadable %s of %d bytes", what, len(raw))
}

func integerCodec(oid, array uint32, size int) *codec {
	number := func(v *walproxyv1.Value) (int64, error) {
		n, ok := v.GetKind().(*walproxyv1.Value_Int64)
		if !ok {
			return 0, mismatch(v, "an int64")
		}
		if shift := 64 - 8*size; n.Int64<<shift>>shift != n.Int64 {
			return 0, fmt.Errorf("is %d, beyond the %d bytes of the column", n.Int64, size)
		}
		return n.Int64, nil
	}
	return &codec{element: oid, array: array, binary: true, exact: true,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			n, err := number(v)
			if err != nil {
				return dst, err
			}
			return appendInteger(dst, n, size), nil
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) {
			if len(raw) != size {
				return nil, malformedRow("integer", raw)
			}
			return mutation.Int64Value(readInteger(raw)), nil
		},
		text: func(v *walproxyv1.Value) (string, error) {
			n, err := number(v)
			return strconv.FormatInt(n, 10), err
		},
		parse: func(text string) (*walproxyv1.Value, error) {
			n, err := strconv.ParseInt(text, 10, 64)
			return mutation.Int64Value(n), err
		},
	}
}

func appendInteger(dst []byte, n int64, size int) []byte {
	switch size {
	case 2:
		return binary.BigEndian.AppendUint16(dst, uint16(n))
	case 4:
		return binary.BigEndian.AppendUint32(dst, uint32(n))
	}
	return binary.BigEndian.AppendUint64(dst, uint64(n))
}

// readInteger reads an integer of 2, 4 or 8 bytes.
func readInteger(raw []byte) int64 {
	switch len(raw) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(raw)))
	case 4:
		return int64(int32(binary.BigEndian.Uint32(raw)))
	}
	return int64(binary.BigEndian.Uint64(raw))
}

func floatCodec(oid, array uint32, bits int) *codec {
	number := func(v *walproxyv1.Value) (float64, error) {
		var f float64
		switch k := v.GetKind().(type) {
		case *walproxyv1.Value_Double:
			f = k.Double
		case *walproxyv1.Value_Int64:
			if f = float64(k.Int64); int64(f) != k.Int64 || k.Int64 == math.MaxInt64 {
				return 0, fmt.Errorf("is %d, which no double holds exactly", k.Int64)
			}
		default:
			return 0, mismatch(v, "a double or an int64")
		}
		if bits == 32 && math.Abs(f) > math.MaxFloat32 {
			return 0, fmt.Errorf("is %v, beyond the column's real", f)
		}
		return f, nil
	}
	return &codec{element: oid, array: array, binary: true, exact: true,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			f, err := number(v)
			if err != nil {
				return dst, err
			}
			if bits == 32 {
				return binary.BigEndian.AppendUint32(dst, math.Float32bits(float32(f))), nil
			}
			return binary.BigEndian.AppendUint64(dst, math.Float64bits(f)), nil
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) {
			switch {
			case bits == 32 && len(raw) == 4:
				return doubleOrText(float64(math.Float32frombits(binary.BigEndian.Uint32(raw)))), nil
			case bits == 64 && len(raw) == 8:
				return doubleOrText(math.Float64frombits(binary.BigEndian.Uint64(raw))), nil
			}
			return nil, malformedRow("float", raw)
		},
		text: func(v *walproxyv1.Value) (string, error) {
			f, err := number(v)
			return strconv.FormatFloat(f, 'g', -1, 64), err
		},
		parse: func(text string) (*walproxyv1.Value, error) {
			f, err := strconv.ParseFloat(text, bits)
			return doubleOrText(f), err
		},
	}
}

// doubleOrText: a record holds finite numbers only.
func doubleOrText(f float64) *walproxyv1.Value {
	switch {
	case math.IsNaN(f):
		return mutation.StringValue("NaN")
	case math.IsInf(f, 1):
		return mutation.StringValue("Infinity")
	case math.IsInf(f, -1):
		return mutation.StringValue("-Infinity")
	}
	return mutation.DoubleValue(f)
}

func plainText(v *walproxyv1.Value, want string) (string, error) {
	s, ok := v.GetKind().(*walproxyv1.Value_String_)
	if !ok {
		return "", mismatch(v, want)
	}
	if strings.IndexByte(s.String_, 0) >= 0 {
		return "", fmt.Errorf("contains a NUL, which PostgreSQL's text cannot hold")
	}
	return s.String_, nil
}

func parseString(text string) (*walproxyv1.Value, error) { return mutation.StringValue(text), nil }

// textCodec is text itself and, never exact, its kin that pad, cut or fold.
func textCodec(exact bool) *codec {
	text := func(v *walproxyv1.Value) (string, error) { return plainText(v, "a string") }
	c := asText(text, parseString)
	c.exact = exact
	c.encode = func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
		s, err := text(v)
		return append(dst, s...), err
	}
	return c
}

// asText is a codec whose values travel as text that the server casts.
func asText(text func(*walproxyv1.Value) (string, error), parse func(string) (*walproxyv1.Value, error)) *codec {
	return &codec{element: oidText, array: oidTextArray, text: text, parse: parse,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			s, err := text(v)
			return append(dst, s...), err
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) { return parse(string(raw)) },
	}
}

func byteaCodec() *codec {
	value := func(v *walproxyv1.Value) ([]byte, error) {
		b, ok := v.GetKind().(*walproxyv1.Value_Bytes)
		if !ok {
			return nil, mismatch(v, "bytes")
		}
		return b.Bytes, nil
	}
	return &codec{element: oidBytea, array: 1001, binary: true, exact: true,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			b, err := value(v)
			return append(dst, b...), err
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) {
			return mutation.BytesValue(append([]byte{}, raw...)), nil
		},
		text: func(v *walproxyv1.Value) (string, error) {
			b, err := value(v)
			return `\x` + hex.EncodeToString(b), err
		},
		parse: func(text string) (*walproxyv1.Value, error) {
			digits, ok := strings.CutPrefix(text, `\x`)
			b, err := hex.DecodeString(digits)
			if !ok {
				err = malformedRow("bytea", []byte(text))
			}
			return mutation.BytesValue(b), err
		},
	}
}

func uuidCodec() *codec {
	value := func(v *walproxyv1.Value) (uuid.UUID, error) {
		s, ok := v.GetKind().(*walproxyv1.Value_String_)
		if !ok {
			return uuid.Nil, mismatch(v, "a UUID as a string")
		}
		id, err := uuid.Parse(s.String_)
		if err != nil || len(s.String_) != 36 {
			return uuid.Nil, fmt.Errorf("%.60q is not a UUID of 36 characters", s.String_)
		}
		return id, nil
	}
	return &codec{element: oidUUID, array: 2951, binary: true, exact: true,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			id, err := value(v)
			return append(dst, id[:]...), err
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) {
			id, err := uuid.FromBytes(raw)
			return mutation.StringValue(id.String()), err
		},
		text: func(v *walproxyv1.Value) (string, error) {
			id, err := value(v)
			return id.String(), err
		},
		parse: parseString,
	}
}

// jsonCodec: jsonb in binary is a version byte and its text.
// overflowCodec writes the fields of an overflow column: as an object of fields, not as
// a value, which would wrap a map with names that begin with $.
var overflowCodec = &codec{element: oidJSONB, array: 3807, binary: true,
	encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
		return appendJSONFields(append(dst, 1), v.GetMap().GetFields()), nil
	}}

func jsonCodec(oid, array uint32) *codec {
	c := &codec{element: oid, array: array, binary: true, exact: true,
		text: func(v *walproxyv1.Value) (string, error) { return string(appendJSON(nil, v)), nil },
		parse: func(text string) (*walproxyv1.Value, error) {
			return decodeJSON([]byte(text))
		},
	}
	head := 0
	if oid == oidJSONB {
		head = 1
	}
	c.encode = func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
		for range head {
			dst = append(dst, 1)
		}
		return appendJSON(dst, v), nil
	}
	c.decode = func(raw []byte) (*walproxyv1.Value, error) {
		if len(raw) < head || head == 1 && raw[0] != 1 {
			return nil, malformedRow("jsonb", raw)
		}
		return decodeJSON(raw[head:])
	}
	return c
}

// numericCodec: exact in the number, not in how it is written (1e3 is 1000).
func numericCodec() *codec {
	c := asText(numericText, parseNumeric)
	c.exact = true
	return c
}

// numericText accepts what is exact.
func numericText(v *walproxyv1.Value) (string, error) {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_Decimal:
		return k.Decimal, nil
	case *walproxyv1.Value_Int64:
		return strconv.FormatInt(k.Int64, 10), nil
	case *walproxyv1.Value_Double:
		return strconv.FormatFloat(k.Double, 'g', -1, 64), nil
	}
	return "", mismatch(v, "a decimal, int64 or double")
}

func parseNumeric(text string) (*walproxyv1.Value, error) {
	switch text {
	case "NaN", "Infinity", "-Infinity":
		return mutation.StringValue(text), nil
	}
	return mutation.DecimalValue(text), nil
}

// dateText accepts days, never words such as "today": what a write does must not
// depend on when it is applied.
func dateText(v *walproxyv1.Value) (string, error) {
	if t, ok := v.GetKind().(*walproxyv1.Value_Timestamp); ok {
		day := t.Timestamp.AsTime()
		if !day.Equal(day.Truncate(24 * time.Hour)) {
			return "", fmt.Errorf("is a time within a day; the column is a date")
		}
		return day.Format(time.DateOnly), nil
	}
	text, err := plainText(v, "a date as the string 2006-01-02, or a timestamp at midnight UTC")
	if err != nil {
		return "", err
	}
	if _, err := time.Parse(time.DateOnly, text); err != nil && text != "infinity" && text != "-infinity" {
		return "", fmt.Errorf("%.40q is not a date as 2006-01-02", text)
	}
	return text, nil
}

// pgEpoch is what binary timestamps count from, in microseconds.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// microseconds of t since pgEpoch, rounded to the nearest.
func microseconds(t time.Time) int64 {
	t = t.Round(time.Microsecond)
	return (t.Unix()-pgEpoch.Unix())*1e6 + int64(t.Nanosecond())/1e3
}

func fromMicroseconds(n int64) time.Time {
	seconds, micros := n/1e6, n%1e6
	return time.Unix(pgEpoch.Unix()+seconds, micros*1e3).UTC()
}

func timestampCodec(oid, array uint32) *codec {
	zoned := oid == oidTimestamptz
	value := func(v *walproxyv1.Value) (int64, error) {
		switch k := v.GetKind().(type) {
		case *walproxyv1.Value_Timestamp:
			return microseconds(k.Timestamp.AsTime()), nil
		case *walproxyv1.Value_String_:
			return parseTimestamp(k.String_, zoned)
		}
		return 0, mismatch(v, "a timestamp")
	}
	return &codec{element: oid, array: array, binary: true, exact: true,
		encode: func(dst []byte, v *walproxyv1.Value) ([]byte, error) {
			n, err := value(v)
			return binary.BigEndian.AppendUint64(dst, uint64(n)), err
		},
		decode: func(raw []byte) (*walproxyv1.Value, error) {
			if len(raw) != 8 {
				return nil, malformedRow("timestamp", raw)
			}
			return timestampValue(readInteger(raw)), nil
		},
		text: func(v *walproxyv1.Value) (string, error) {
			n, err := value(v)
			switch n {
			case math.MaxInt64:
				return "infinity", err
			case math.MinInt64:
				return "-infinity", err
			}
			return string(jsonform.AppendTime(nil, fromMicroseconds(n))), err
		},
		parse: func(text string) (*walproxyv1.Value, error) {
			layout := "2006-01-02 15:04:05.999999"
			if zoned {
				layout += "Z07"
			}
			for _, layout := range []string{layout, time.RFC3339Nano} { // the server's, and text's
				if t, err := time.Parse(layout, text); err == nil {
					return mutation.TimestampValue(t), nil
				}
			}
			return mutation.StringValue(text), nil // infinity, a year before 1
		},
	}
}

func parseTimestamp(text string, zoned bool) (int64, error) {
	switch text {
	case "infinity":
		return math.MaxInt64, nil
	case "-infinity":
		return math.MinInt64, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil && zoned {
		return microseconds(t), nil
	}
	if t, err := time.Parse("2006-01-02T15:04:05.999999999", text); err == nil && !zoned {
		return microseconds(t), nil
	}
	if zoned {
		return 0, fmt.Errorf("%.40q is not a time as 2006-01-02T15:04:05Z", text)
	}
	return 0, fmt.Errorf("%.40q is not a time as 2006-01-02T15:04:05: the column has no zone", text)
}

// timestampValue is a timestamp, or text if none can say it.
func timestampValue(n int64) *walproxyv1.Value {
	switch n {
	case math.MaxInt64:
		return mutation.StringValue("infinity")
	case math.MinInt64:
		return mutation.StringValue("-infinity")
	}
	ts := timestamppb.New(fromMicroseconds(n))
	if ts.CheckValid() != nil {
		return mutation.StringValue(fromMicroseconds(n).Format("2006-01-02T15:04:05.999999"))
	}
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Timestamp{Timestamp: ts}}
}
