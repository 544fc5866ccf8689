package pgstatement

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// More types, by PostgreSQL's pg_type.dat.
const (
	oidBytea   = 17
	oidJSON    = 114
	oidNumeric = 1700
	oidJSONB   = 3802
)

// Same returns s with its values in one form, whether a driver sent them in text or in
// binary, as parameters of this integer type or that, or as literals: a write and its
// repeat by another driver, or in another of its modes, have the same. What no form is
// known for stays as it came. It is for comparing, and cannot be applied.
func Same(s *walproxyv1.Statement) *walproxyv1.Statement {
	formats, values, err := Parameters(s.GetParameters())
	if err != nil {
		return s // who applies it says so
	}
	for i, v := range values {
		var oid uint32
		if i < len(s.GetParameterOids()) {
			oid = s.GetParameterOids()[i]
		}
		values[i], formats[i] = same(oid, formats[i], v)
	}
	out := proto.CloneOf(s)
	out.Parameters, out.ParameterOids = AppendParameters(nil, formats, values), nil
	return out
}

// same is one value in its form, which is a text where there is one.
func same(oid uint32, format int16, raw []byte) ([]byte, int16) {
	if raw == nil {
		return nil, Text
	}
	text, ok := "", false
	if format == Binary {
		text, ok = sameBinary(oid, raw)
	} else {
		text, ok = sameText(oid, string(raw))
	}
	if !ok {
		return raw, format
	}
	return []byte(text), Text
}

func sameBinary(oid uint32, raw []byte) (string, bool) {
	switch oid {
	case oidNumeric:
		return numeric(raw)
	case oidBytea:
		return `\x` + hex.EncodeToString(raw), true
	case oidJSON:
		return string(raw), true
	case oidJSONB:
		text, ok := bytes.CutPrefix(raw, []byte{1}) // its version
		if !ok {
			return "", false
		}
		return sameText(oid, string(text))
	}
	return Readable(oid, raw)
}

func sameText(oid uint32, text string) (string, bool) {
	switch oid {
	case oidInt2, oidInt4, oidInt8:
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		return strconv.FormatInt(n, 10), err == nil
	case oidBool:
		switch b := strings.ToLower(strings.TrimSpace(text)); b {
		case "t", "true", "y", "yes", "on", "1":
			return "true", true
		case "f", "false", "n", "no", "off", "0":
			return "false", true
		}
	case oidFloat4, oidFloat8:
		size := map[uint32]int{oidFloat4: 32, oidFloat8: 64}[oid]
		f, err := strconv.ParseFloat(strings.TrimSpace(text), size)
		return strconv.FormatFloat(f, 'g', -1, size), err == nil
	case oidNumeric:
		return decimal(strings.TrimSpace(text))
	case oidUUID:
		id, err := uuid.Parse(text)
		return id.String(), err == nil
	case oidJSONB:
		var out bytes.Buffer
		if err := json.Compact(&out, []byte(text)); err == nil {
			return out.String(), true
		}
	case oidBytea:
		digits, ok := strings.CutPrefix(text, `\x`)
		raw, err := hex.DecodeString(digits)
		return `\x` + hex.EncodeToString(raw), ok && err == nil
	case oidDate:
		at, err := time.Parse(time.DateOnly, text)
		return at.Format(time.DateOnly), err == nil
	case oidTimestamp, oidTimestamptz:
		for _, zone := range zones[oid] {
			if at, err := time.Parse("2006-01-02 15:04:05.999999999"+zone, strings.Replace(text, "T", " ", 1)); err == nil {
				return at.UTC().Round(time.Microsecond).Format(layouts[oid]), true
			}
		}
	}
	return text, true
}

// zones are how a time may end; without a zone it is the session's, if it has one.
var zones = map[uint32][]string{oidTimestamp: {""}, oidTimestamptz: {"Z07", "Z07:00", "Z07:00:00"}}

// decimalMax bounds a number's digits, and its exponent: beyond it stays as it came.
const decimalMax = 2000

// decimal writes a number without an exponent and without zeros that do not count.
func decimal(text string) (string, bool) {
	number, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	e, err := strconv.Atoi(cmp.Or(exponent, "0"))
	if err != nil || len(number) > decimalMax || max(e, -e) > decimalMax {
		return "", false
	}
	number, negative := strings.CutPrefix(number, "-")
	if !negative {
		number = strings.TrimPrefix(number, "+")
	}
	whole, fraction, _ := strings.Cut(number, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" { // NaN, Infinity
		return "", false
	}
	point := len(whole) + e // in digits
	if point < 0 {
		digits, point = strings.Repeat("0", -point)+digits, 0
	} else if point > len(digits) {
		digits += strings.Repeat("0", point-len(digits))
	}
	out := cmp.Or(strings.TrimLeft(digits[:point], "0"), "0")
	if fraction := strings.TrimRight(digits[point:], "0"); fraction != "" {
		out += "." + fraction
	}
	if negative && out != "0" {
		out = "-" + out
	}
	return out, true
}

// numeric reads PostgreSQL's binary form: digits to the base 10,000.
func numeric(raw []byte) (string, bool) {
	if len(raw) < 8 {
		return "", false
	}
	count, weight, sign := int(binary.BigEndian.Uint16(raw)), int(int16(binary.BigEndian.Uint16(raw[2:]))), binary.BigEndian.Uint16(raw[4:])
	if len(raw) != 8+2*count || sign != 0 && sign != 0x4000 || 4*count > decimalMax || max(weight, -weight) > decimalMax/4 {
		return "", false
	}
	n, base := new(big.Int), big.NewInt(10_000)
	for group := range slices.Chunk(raw[8:], 2) {
		n.Add(n.Mul(n, base), big.NewInt(int64(binary.BigEndian.Uint16(group))))
	}
	if sign != 0 {
		n.Neg(n)
	}
	return decimal(n.String() + "e" + strconv.Itoa(4*(weight-count+1)))
}
