package value

import (
	"math"
	"strings"
	"unicode/utf8"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// Assign judges d, a value of type from, as a value of a column: PostgreSQL's
// assignment cast and the column's modifier. The result is what is stored, as far as the member
// that holds it goes; a float4 of a float8, say, is not computed.
func Assign(d Datum, from, to *catalogue.Type, modifier int32) (Datum, Verdict, *Error) {
	if to.Kind == catalogue.DomainType {
		if to.Checked {
			return d, Unknown, nil
		}
		for modifier = to.BaseModifier; to.Base.Kind == catalogue.DomainType; to, modifier = to.Base, to.Base.BaseModifier {
			if to.Base.Checked || modifier != -1 {
				return d, Unknown, nil
			}
		}
		to = to.Base
	}
	from = from.Plain()
	if from.OID != to.OID {
		var verdict Verdict
		var err *Error
		if d, verdict, err = convert(d, from, to); verdict != Good {
			return d, verdict, err
		}
	}
	return fit(d, to, modifier)
}

// convert is the assignment cast between two types.
func convert(d Datum, from, to *catalogue.Type) (Datum, Verdict, *Error) {
	if from.Kind != catalogue.BaseType || to.Kind != catalogue.BaseType || from.Schema != "pg_catalog" || to.Schema != "pg_catalog" {
		return d, Unknown, nil
	}
	size, toInteger := integerSizes[to.Name]
	_, fromInteger := integerSizes[from.Name]
	switch {
	case fromInteger && toInteger:
		if !inRange(d.Int, size) {
			return d, Bad, refuse(codeRange, "%s out of range", to.Display)
		}
		return d, Good, nil
	case fromInteger && to.Name == "numeric":
		return Datum{Number: integerNumber(d.Int)}, Good, nil
	case fromInteger && (to.Name == "float8" || to.Name == "float4"):
		return Datum{Float: float64(d.Int)}, Good, nil
	case from.Name == "float4" && to.Name == "float8":
		return d, Good, nil
	case from.Name == "float8" && to.Name == "float4":
		if f := math.Abs(d.Float); f < 1e38 && (f > 1e-37 || f == 0) {
			return d, Good, nil
		}
	case isTextual(from) && isTextual(to) && from.Name != "bpchar":
		return d, Good, nil
	case from.Name == "timestamp" && to.Name == "timestamptz", from.Name == "date" && to.Name == "timestamptz":
		if year := d.Timed && inCalendar(from, d.Int); year {
			return Datum{}, Good, nil // which moment that is depends on the zone
		}
	case from.Name == "date" && to.Name == "timestamp":
		if d.Timed && inCalendar(from, d.Int) {
			return Datum{Int: d.Int * microsPerDay, Timed: true}, Good, nil
		}
	}
	return d, Unknown, nil
}

func isTextual(t *catalogue.Type) bool {
	return t.Name == "text" || t.Name == "varchar" || t.Name == "bpchar"
}

// inCalendar: within the years 1 to 9999, far from every limit.
func inCalendar(t *catalogue.Type, n int64) bool {
	if t.Name != "date" {
		n /= microsPerDay
	}
	return -730_000 < n && n < 2_921_000
}

func integerNumber(n int64) number {
	magnitude := uint64(n)
	if n < 0 {
		magnitude = -magnitude
	}
	return newNumber(n < 0, utoa(magnitude), "", 0)
}

func utoa(n uint64) string {
	var b [20]byte
	i := len(b)
	for ; n > 0 || i == len(b); n /= 10 {
		i--
		b[i] = byte('0' + n%10)
	}
	return string(b[i:])
}

// fit holds a value of a type to the type's modifier.
func fit(d Datum, t *catalogue.Type, modifier int32) (Datum, Verdict, *Error) {
	if modifier < 0 {
		return d, Good, nil
	}
	switch t.Kind {
	case catalogue.BaseType:
	case catalogue.ArrayType:
		for i, e := range d.Elements {
			e, verdict, err := fit(e, t.Element, modifier)
			if verdict != Good {
				return d, verdict, err
			}
			d.Elements[i] = e
		}
		return d, Good, nil
	default:
		return d, Unknown, nil
	}
	switch t.Name {
	case "varchar", "bpchar":
		return fitText(d, t, int(modifier)-4)
	case "numeric":
		if err := fitNumber(d.Number, modifier); err != nil {
			return d, Bad, err
		}
		return d, Good, nil
	case "time":
		return d, Good, nil
	case "timestamp", "timestamptz":
		if d.Timed && !inCalendar(t, d.Int) {
			return d, Unknown, nil // rounding could leave the range
		}
		return Datum{}, Good, nil
	case "interval":
		return d, Good, nil
	}
	return d, Unknown, nil
}

// fitText: spaces beyond the length are cut.
func fitText(d Datum, t *catalogue.Type, length int) (Datum, Verdict, *Error) {
	if utf8.RuneCountInString(d.Text) <= length {
		return d, Good, nil
	}
	end := 0
	for range length {
		_, size := utf8.DecodeRuneInString(d.Text[end:])
		end += size
	}
	if strings.Trim(d.Text[end:], " ") != "" {
		return d, Bad, refuse(codeTooLong, "value too long for type %s(%d)", t.Display, length)
	}
	d.Text = d.Text[:end]
	return d, Good, nil
}

// Convertible reports whether Assign can say anything but Unknown: whether there is
// an assignment cast that is known here.
func Convertible(from, to *catalogue.Type) bool {
	from, to = from.Plain(), to.Plain()
	if from.OID == to.OID {
		return true
	}
	_, verdict, _ := convert(Datum{Timed: true}, from, to)
	return verdict == Good
}
