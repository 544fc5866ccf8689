package jsonform

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

type fields = map[string]*walproxyv1.Value

// fields reads an object of fields.
func (p *parser) fields() (fields, *Error) {
	if p.peek() != '{' {
		return nil, p.fail("want an object of fields, found %s", p.found())
	}
	m := fields{}
	err := p.object(func(name string) *Error {
		if _, twice := m[name]; twice {
			return p.fail("stands twice")
		}
		value, err := p.value()
		m[name] = value
		return err
	})
	return m, err
}

// value reads any value.
func (p *parser) value() (*walproxyv1.Value, *Error) {
	switch c := p.peek(); c {
	case '"':
		s, err := p.string()
		return mutation.StringValue(s), err
	case '{':
		return p.mapOrWrapped()
	case '[':
		return p.list()
	case 't':
		return mutation.BoolValue(true), p.literal("true")
	case 'f':
		return mutation.BoolValue(false), p.literal("false")
	case 'n':
		return mutation.NullValue(), p.literal("null")
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return p.numberValue()
		}
		return nil, p.fail("want a value, found %s", p.found())
	}
}

func (p *parser) list() (*walproxyv1.Value, *Error) {
	var values []*walproxyv1.Value
	err := p.array(func(int) *Error {
		value, err := p.value()
		values = append(values, value)
		return err
	})
	return mutation.ListValue(values...), err
}

func (p *parser) numberValue() (*walproxyv1.Value, *Error) {
	start := p.pos
	text, isInt, err := p.number()
	if err != nil {
		return nil, err
	}
	if isInt {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			p.pos = start
			return nil, p.fail(`%s is beyond int64; write {"$decimal":"%s"} for a decimal`, clip(text), clip(text))
		}
		return mutation.Int64Value(n), nil
	}
	f, parseErr := strconv.ParseFloat(text, 64)
	if parseErr != nil {
		p.pos = start
		return nil, p.fail("%s is beyond double", clip(text))
	}
	return mutation.DoubleValue(f), nil
}

func clip(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// mapOrWrapped reads an object: a map, or a value that JSON lacks.
func (p *parser) mapOrWrapped() (*walproxyv1.Value, *Error) {
	m := fields{}
	var wrapped *walproxyv1.Value
	err := p.object(func(name string) *Error {
		if wrapped != nil || strings.HasPrefix(name, "$") && len(m) > 0 {
			return p.fail(`names that begin with $ are reserved: write the map as {"$map": {...}}`)
		}
		if _, twice := m[name]; twice {
			return p.fail("stands twice")
		}
		var err *Error
		if strings.HasPrefix(name, "$") {
			wrapped, err = p.unwrap(name)
			return err
		}
		m[name], err = p.value()
		return err
	})
	if err != nil {
		return nil, err
	}
	if wrapped != nil {
		return wrapped, nil
	}
	return mutation.MapValue(m), nil
}

// unwrap reads the value of a member whose name begins with $.
func (p *parser) unwrap(name string) (*walproxyv1.Value, *Error) {
	if name == "$map" {
		m, err := p.fields()
		return mutation.MapValue(m), err
	}
	if name != "$bytes" && name != "$decimal" && name != "$timestamp" {
		return nil, p.fail("unknown; want $bytes, $decimal, $timestamp or $map")
	}
	start := p.pos
	text, err := p.string()
	if err != nil {
		return nil, err
	}
	switch name {
	case "$decimal":
		return mutation.DecimalValue(text), nil
	case "$timestamp":
		t, err := ParseTime(text)
		if err != nil {
			p.pos = start
			return nil, p.fail("%s", err)
		}
		return &walproxyv1.Value{Kind: &walproxyv1.Value_Timestamp{Timestamp: t}}, nil
	}
	b, decodeErr := base64.StdEncoding.Strict().DecodeString(text)
	if decodeErr != nil {
		p.pos = start
		return nil, p.fail("want base64 with padding")
	}
	return mutation.BytesValue(b), nil
}

type timeError string

func (e timeError) Error() string { return string(e) }

// ParseTime reads a time in RFC 3339 of at most nanoseconds.
func ParseTime(text string) (*timestamppb.Timestamp, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, timeError("want a time in RFC 3339, as 2006-01-02T15:04:05Z")
	}
	if _, fraction, ok := strings.Cut(text, "."); ok && len(strings.TrimRight(fraction, "Zz+-:0123456789")) == 0 &&
		leadingDigits(fraction) > 9 {
		return nil, timeError("a time has at most nine digits after the point")
	}
	return timestamppb.New(t), nil
}

func leadingDigits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}
