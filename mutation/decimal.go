package mutation

import (
	"fmt"

	"github.com/cockroachdb/apd/v3"
)

// Decimal is an exact decimal number as text: digits with an optional sign,
// point and exponent, "-12.50". FromAny turns it into a decimal value.
type Decimal string

// exact has precision 0: no rounding, ever.
var exact = apd.BaseContext.WithPrecision(0)

// checkDecimal returns why s is no decimal within the limits, or "".
func checkDecimal(s string) string {
	if len(s) > MaxDecimalBytes {
		return fmt.Sprintf("is %d bytes; at most %d", len(s), MaxDecimalBytes)
	}
	rest := s
	if len(rest) > 0 && (rest[0] == '+' || rest[0] == '-') {
		rest = rest[1:]
	}
	whole, rest := digits(rest)
	fraction := ""
	if len(rest) > 0 && rest[0] == '.' {
		fraction, rest = digits(rest[1:])
	}
	if whole == "" && fraction == "" {
		return fmt.Sprintf("%.40q is not a decimal", s)
	}
	if rest == "" {
		return ""
	}
	if rest[0] != 'e' && rest[0] != 'E' {
		return fmt.Sprintf("%.40q is not a decimal", s)
	}
	rest = rest[1:]
	if len(rest) > 0 && (rest[0] == '+' || rest[0] == '-') {
		rest = rest[1:]
	}
	exponent, rest := digits(rest)
	if exponent == "" || rest != "" {
		return fmt.Sprintf("%.40q is not a decimal", s)
	}
	n := 0
	for _, d := range []byte(exponent) {
		if n = n*10 + int(d-'0'); n > MaxDecimalExponent {
			return fmt.Sprintf("exponent %.40s is beyond %d", exponent, MaxDecimalExponent)
		}
	}
	return ""
}

// digits splits s behind its leading ASCII digits.
func digits(s string) (run, rest string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

// addDecimals returns the exact sum of two decimals; reason says why there is
// none within the limits.
func addDecimals(a, b string) (sum, reason string) {
	for _, s := range []string{a, b} {
		if reason := checkDecimal(s); reason != "" {
			return "", reason
		}
	}
	var x, y, z apd.Decimal
	for _, in := range []struct {
		d *apd.Decimal
		s string
	}{{&x, a}, {&y, b}} {
		if _, _, err := in.d.SetString(in.s); err != nil {
			return "", err.Error()
		}
	}
	if _, err := exact.Add(&z, &x, &y); err != nil {
		return "", err.Error()
	}
	sum = z.Text('G')
	if reason := checkDecimal(sum); reason != "" {
		return "", "the sum is out of range: " + reason
	}
	return sum, ""
}
