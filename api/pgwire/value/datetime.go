package value

import (
	"encoding/binary"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// Only ISO forms are judged: they mean the same with every DateStyle. All others,
// and words such as 'now', are PostgreSQL's.
var (
	dateForm = regexp.MustCompile(`^(\d{4})-(\d\d)-(\d\d)$`)
	timeForm = regexp.MustCompile(`^(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?$`)
	zoneForm = regexp.MustCompile(`^(.*?) ?(Z|[+-]\d\d(?::?\d\d)?)$`)
)

// epoch is what dates and timestamps count from.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// digitsOf reads the two to six digits that a form matched.
func digitsOf(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0 // "": left out
	}
	return n
}

// parseDay returns the days since 2000.
func parseDay(text string) (days int64, matched, valid bool) {
	m := dateForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false, false
	}
	year, month, day := digitsOf(m[1]), digitsOf(m[2]), digitsOf(m[3])
	t := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if year == 0 || t.Year() != year || int(t.Month()) != month || t.Day() != day {
		return 0, true, false
	}
	return (t.Unix() - epoch.Unix()) / 86400, true, true
}

// parseClock returns microseconds since midnight. A second of 60 and the hour 24
// are left to PostgreSQL.
func parseClock(text string) (micros int64, matched, valid bool) {
	m := timeForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false, false
	}
	hour, minute, second := digitsOf(m[1]), digitsOf(m[2]), digitsOf(m[3])
	if hour > 23 || minute > 59 || second > 59 {
		return 0, true, false
	}
	fraction := digitsOf((m[4] + "000000")[:6])
	return int64(hour)*3600e6 + int64(minute)*60e6 + int64(second)*1e6 + int64(fraction), true, true
}

// refuseDay refuses what has the form of a day and is none.
func refuseDay(text string, matched bool) (Datum, Verdict, *Error) {
	if !matched {
		return Datum{}, Unknown, nil
	}
	e := refuse(codeDatetime, `date/time field value out of range: "%s"`, text)
	if m := dateForm.FindStringSubmatch(text[:10]); digitsOf(m[1]) > 0 && (digitsOf(m[2]) > 12 || digitsOf(m[2]) == 0 || digitsOf(m[3]) > 31 || digitsOf(m[3]) == 0) {
		e.Hint = `Perhaps you need a different "datestyle" setting.`
	}
	return Datum{}, Bad, e
}

func isInfinity(text string) (int64, bool) {
	switch text {
	case "infinity":
		return math.MaxInt64, true
	case "-infinity":
		return math.MinInt64, true
	}
	return 0, false
}

func readDate(_ *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if _, ok := isInfinity(text); ok {
		return Datum{}, Good, nil
	}
	days, matched, valid := parseDay(text)
	if !valid {
		return refuseDay(text, matched)
	}
	return Datum{Int: days, Timed: true}, Good, nil
}

func readTime(_ *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if _, _, valid := parseClock(text); !valid {
		return Datum{}, Unknown, nil
	}
	return Datum{}, Good, nil
}

func readTimestamp(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if _, ok := isInfinity(text); ok {
		return Datum{}, Good, nil
	}
	zoned := t.Name == "timestamptz"
	day, rest := text, ""
	if len(text) > 10 {
		if text[10] != ' ' && text[10] != 'T' {
			return Datum{}, Unknown, nil
		}
		day, rest = text[:10], text[11:]
	}
	days, matched, valid := parseDay(day)
	if !valid {
		return refuseDay(text, matched && rest == "" && len(text) == 10)
	}
	d := Datum{Int: days * 86400e6, Timed: !zoned}
	if rest == "" {
		if len(text) > 10 {
			return Datum{}, Unknown, nil
		}
		return d, Good, nil
	}
	offset := int64(0)
	if m := zoneForm.FindStringSubmatch(rest); m != nil {
		rest = m[1]
		if m[2] != "Z" {
			digits := strings.ReplaceAll(m[2][1:], ":", "") + "00"
			hours, minutes := digitsOf(digits[:2]), digitsOf(digits[2:4])
			if hours > 15 || minutes > 59 {
				return Datum{}, Unknown, nil
			}
			if offset = int64(hours*3600+minutes*60) * 1e6; m[2][0] == '-' {
				offset = -offset
			}
		}
		d.Timed = true
	}
	clock, _, valid := parseClock(rest)
	if !valid {
		return Datum{}, Unknown, nil
	}
	if d.Int += clock; zoned {
		d.Int -= offset
	}
	return d, Good, nil
}

// The ranges of PostgreSQL's datetime types.
const (
	dayMin, dayEnd             = -2451545, 2147483494 - 2451545
	timestampMin, timestampEnd = -211813488000000000, 9223371331200000000
	microsPerDay               = 86400000000
)

func dateBinary(raw []byte) (Datum, Verdict) {
	n := int64(int32(binary.BigEndian.Uint32(raw)))
	if n == math.MaxInt32 || n == math.MinInt32 {
		return Datum{}, Good
	}
	if n < dayMin || n >= dayEnd {
		return Datum{}, Bad
	}
	return Datum{Int: n, Timed: true}, Good
}

func timestampBinary(raw []byte) (Datum, Verdict) {
	n := bigEndian(raw)
	if n == math.MaxInt64 || n == math.MinInt64 {
		return Datum{}, Good
	}
	if n < timestampMin || n >= timestampEnd {
		return Datum{}, Bad
	}
	return Datum{Int: n, Timed: true}, Good
}

func timeBinary(raw []byte) (Datum, Verdict) {
	if n := bigEndian(raw); n < 0 || n > microsPerDay {
		return Datum{}, Bad
	}
	return Datum{}, Good
}

// intervalForm has no sign: IntervalStyle decides what one means.
var intervalForm = regexp.MustCompile(`^(?:\d{1,4} (?:second|minute|hour|day|week|month|mon|year)s?)(?: \d{1,4} (?:second|minute|hour|day|week|month|mon|year)s?)*(?: \d\d:[0-5]\d:[0-5]\d(?:\.\d{1,6})?)?$|^\d\d:[0-5]\d:[0-5]\d(?:\.\d{1,6})?$`)

func readInterval(_ *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if len(text) > 100 || !intervalForm.MatchString(text) || repeatsUnit(text) {
		return Datum{}, Unknown, nil
	}
	return Datum{}, Good, nil
}

// repeatsUnit: PostgreSQL refuses a unit that comes twice.
func repeatsUnit(text string) bool {
	seen := map[string]bool{}
	clock := strings.Contains(text, ":")
	for word := range strings.FieldsSeq(text) {
		unit := strings.TrimSuffix(word, "s")
		if isDigit(word[0]) {
			continue
		}
		if unit == "mon" {
			unit = "month"
		}
		if seen[unit] || clock && (unit == "hour" || unit == "minute" || unit == "second") {
			return true
		}
		seen[unit] = true
	}
	return false
}
