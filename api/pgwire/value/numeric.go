package value

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// number is a numeric: 0.digits times 10^point.
type number struct {
	special  string // "NaN", "Infinity", "-Infinity"
	negative bool
	digits   string // without zeros at either end; "": zero
	point    int
}

// numericDigitsMax bounds what is judged: beyond it PostgreSQL's own limits begin.
const numericDigitsMax = 1000

func newNumber(negative bool, whole, fraction string, exponent int) number {
	digits := strings.TrimLeft(whole+fraction, "0")
	n := number{negative: negative, digits: strings.TrimRight(digits, "0"), point: len(digits) - len(fraction) + exponent}
	if n.digits == "" {
		return number{}
	}
	return n
}

func readNumeric(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	rest := strings.Trim(text, spaces)
	switch word := strings.ToLower(rest); {
	case word == "nan":
		return Datum{Number: number{special: "NaN"}}, Good, nil
	case strings.HasPrefix(strings.TrimLeft(word, "+-"), "inf"):
		return Datum{}, Unknown, nil // known since PostgreSQL 14
	}
	length, mantissa, exponent := plainDecimal(rest)
	if length < len(rest) || length == 0 {
		// Since PostgreSQL 16: 0x1f, 1_000. And a bad exponent has its own rules.
		if strings.ContainsAny(rest, "_xXoObB") || length > 0 && strings.ContainsAny(rest[length:], "eE") {
			return Datum{}, Unknown, nil
		}
		return Datum{}, Bad, badSyntax(t.Display, text)
	}
	e := 0
	if exponent != "" {
		var err error
		if e, err = strconv.Atoi(exponent); err != nil || e > numericDigitsMax || e < -numericDigitsMax {
			return Datum{}, Unknown, nil
		}
	}
	if len(mantissa) > numericDigitsMax {
		return Datum{}, Unknown, nil
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	return Datum{Number: newNumber(rest[0] == '-', whole, fraction, e)}, Good, nil
}

// numericBinary reads ndigits, weight, sign, scale, and digits to the base 10,000.
// What is not well formed is left to PostgreSQL.
func numericBinary(_ *catalogue.Type, raw []byte) (Datum, Verdict, *Error) {
	if len(raw) < 8 {
		return Datum{}, Unknown, nil
	}
	count, weight := int(binary.BigEndian.Uint16(raw)), int(int16(binary.BigEndian.Uint16(raw[2:])))
	sign, scale := binary.BigEndian.Uint16(raw[4:]), int(binary.BigEndian.Uint16(raw[6:]))
	if len(raw) != 8+2*count || count*4 > numericDigitsMax || scale > numericDigitsMax || weight > numericDigitsMax/4 || weight < -numericDigitsMax/4 {
		return Datum{}, Unknown, nil
	}
	switch sign {
	case 0xC000:
		return Datum{Number: number{special: "NaN"}}, Good, nil
	case 0x0000, 0x4000:
	default:
		return Datum{}, Unknown, nil
	}
	var digits strings.Builder
	for i := range count {
		digit := int(binary.BigEndian.Uint16(raw[8+2*i:]))
		if digit > 9999 {
			return Datum{}, Unknown, nil
		}
		four := strconv.Itoa(10_000 + digit)
		digits.WriteString(four[1:])
	}
	n := newNumber(sign == 0x4000, digits.String(), "", 4*(weight-count+1))
	if len(n.digits)-n.point > scale {
		return Datum{}, Unknown, nil // it is cut to its scale
	}
	return Datum{Number: n}, Good, nil
}

// fitNumber rounds n as numeric(precision, scale) and says whether it fits.
func fitNumber(n number, modifier int32) *Error {
	precision, scale := int((modifier-4)>>16)&0xffff, int((modifier-4)&0x7ff^1024)-1024
	if n.special == "NaN" || n.digits == "" {
		return nil
	}
	most := precision - scale // digits before the point
	point := n.point
	if keep := n.point + scale; keep < 0 {
		return nil // rounds to zero
	} else if keep < len(n.digits) && n.digits[keep] >= '5' && strings.Trim(n.digits[:keep], "9") == "" {
		point++ // 99.9 becomes 100
		if keep == 0 {
			point = 1 - scale // 0.5 becomes one of the last digit
		}
	} else if keep == 0 {
		return nil
	}
	if point <= most {
		return nil
	}
	e := refuse(codeRange, "numeric field overflow")
	limit := "1"
	if most != 0 {
		limit = "10^" + strconv.Itoa(most)
	}
	e.Detail = "A field with precision " + strconv.Itoa(precision) + ", scale " + strconv.Itoa(scale) + " must round to an absolute value less than " + limit + "."
	return e
}
