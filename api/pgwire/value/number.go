package value

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// spaces are what C's isspace takes.
const spaces = " \t\n\v\f\r"

var integerSizes = map[string]int{"int2": 2, "int4": 4, "int8": 8}

// inRange reports whether n fits an integer of so many bytes.
func inRange(n int64, size int) bool {
	shift := 64 - 8*size
	return n<<shift>>shift == n
}

func readInteger(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	rest := strings.TrimLeft(text, spaces)
	negative := strings.HasPrefix(rest, "-")
	if negative || strings.HasPrefix(rest, "+") {
		rest = rest[1:]
	}
	digits := 0
	for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
		digits++
	}
	// Since PostgreSQL 16: 0x1f, 0o17, 0b1, 1_000.
	if tail := rest[digits:]; tail != "" && strings.IndexByte("_xXoObB", tail[0]) >= 0 {
		return Datum{}, Unknown, nil
	}
	if digits == 0 {
		return Datum{}, Bad, badSyntax(t.Display, text)
	}
	number := rest[:digits]
	if negative {
		number = "-" + number
	}
	n, err := strconv.ParseInt(number, 10, 64)
	tail := strings.Trim(rest[digits:], spaces)
	if err != nil || !inRange(n, integerSizes[t.Name]) {
		if tail != "" {
			return Datum{}, Unknown, nil // versions find one fault first or the other
		}
		return Datum{}, Bad, refuse(codeRange, `value "%s" is out of range for type %s`, text, t.Display)
	}
	if tail != "" {
		return Datum{}, Bad, badSyntax(t.Display, text)
	}
	return Datum{Int: n}, Good, nil
}

func integerBinary(size int) func(*catalogue.Type, []byte) (Datum, Verdict, *Error) {
	return fixed(size, func(raw []byte) (Datum, Verdict) { return Datum{Int: bigEndian(raw)}, Good })
}

// bigEndian reads an integer of 2, 4 or 8 bytes.
func bigEndian(raw []byte) int64 {
	switch len(raw) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(raw)))
	case 4:
		return int64(int32(binary.BigEndian.Uint32(raw)))
	}
	return int64(binary.BigEndian.Uint64(raw))
}

// booleans are what parse_bool takes: any beginning of these that is of one alone.
func readBool(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	switch word := strings.ToLower(strings.Trim(text, spaces)); word {
	case "t", "tr", "tru", "true", "y", "ye", "yes", "on", "1":
		return Datum{Bool: true}, Good, nil
	case "f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0":
		return Datum{}, Good, nil
	}
	return Datum{}, Bad, badSyntax(t.Display, text)
}

// plainDecimal cuts text behind the longest decimal number at its start:
// [sign] digits [. digits] [e [sign] digits].
func plainDecimal(text string) (length int, mantissa string, exponent string) {
	i := 0
	if i < len(text) && (text[i] == '-' || text[i] == '+') {
		i++
	}
	start, digits := i, 0
	for i < len(text) && (isDigit(text[i]) || text[i] == '.' && !strings.Contains(text[start:i], ".")) {
		if text[i] != '.' {
			digits++
		}
		i++
	}
	if digits == 0 {
		return 0, "", ""
	}
	mantissa = text[start:i]
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		j := i + 1
		if j < len(text) && (text[j] == '-' || text[j] == '+') {
			j++
		}
		from := j
		for j < len(text) && isDigit(text[j]) {
			j++
		}
		if j > from {
			return j, mantissa, text[i+1 : j]
		}
	}
	return i, mantissa, ""
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

func readFloat(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	rest := strings.TrimLeft(text, spaces)
	switch word := strings.ToLower(strings.Trim(rest, spaces)); word {
	case "nan":
		return Datum{Float: math.NaN()}, Good, nil
	case "infinity", "inf", "+infinity", "+inf":
		return Datum{Float: math.Inf(1)}, Good, nil
	case "-infinity", "-inf":
		return Datum{Float: math.Inf(-1)}, Good, nil
	}
	length, mantissa, _ := plainDecimal(rest)
	if length == 0 {
		if w := strings.ToLower(strings.TrimLeft(rest, "+-")); strings.HasPrefix(w, "nan") || strings.HasPrefix(w, "inf") {
			return Datum{}, Unknown, nil // nan(...), the library's
		}
		return Datum{}, Bad, badSyntax(t.Display, text)
	}
	if tail := rest[length:]; tail != "" && strings.IndexByte("xX", tail[0]) >= 0 {
		return Datum{}, Unknown, nil // hexadecimal, which the library may know
	}
	bits := 64
	if t.Name == "float4" {
		bits = 32
	}
	f, err := strconv.ParseFloat(rest[:length], bits)
	if err != nil || f == 0 && strings.Trim(mantissa, "0.") != "" {
		if rest[:length] != text {
			return Datum{}, Unknown, nil // what of it is quoted differs
		}
		return Datum{}, Bad, refuse(codeRange, `"%s" is out of range for type %s`, rest[:length], t.Display)
	}
	if strings.Trim(rest[length:], spaces) != "" {
		return Datum{}, Bad, badSyntax(t.Display, text)
	}
	return Datum{Float: f}, Good, nil
}

func float4Binary(raw []byte) (Datum, Verdict) {
	return Datum{Float: float64(math.Float32frombits(binary.BigEndian.Uint32(raw)))}, Good
}

func float8Binary(raw []byte) (Datum, Verdict) {
	return Datum{Float: math.Float64frombits(binary.BigEndian.Uint64(raw))}, Good
}
