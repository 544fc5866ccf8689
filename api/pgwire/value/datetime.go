package value

import (
	"encoding/binary"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// Only ISO forms are judged: they mean the same with every DateStyle. All others,
// and words such as 'now', are PostgreSQL's.

// twoDigits reads a number of two digits; -1: it is none.
func twoDigits(text string) int {
	if len(text) < 2 || !isDigit(text[0]) || !isDigit(text[1]) {
		return -1
	}
	return int(text[0]-'0')*10 + int(text[1]-'0')
}

// epoch is what dates and timestamps count from.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// dayParts reads YYYY-MM-DD.
func dayParts(text string) (year, month, day int, ok bool) {
	if len(text) != 10 || text[4] != '-' || text[7] != '-' {
		return 0, 0, 0, false
	}
	century, years := twoDigits(text), twoDigits(text[2:])
	month, day = twoDigits(text[5:]), twoDigits(text[8:])
	return century*100 + years, month, day, century >= 0 && years >= 0 && month >= 0 && day >= 0
}

// parseDay returns the days since 2000.
func parseDay(text string) (days int64, matched, valid bool) {
	year, month, day, ok := dayParts(text)
	if !ok {
		return 0, false, false
	}
	t := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if year == 0 || t.Year() != year || int(t.Month()) != month || t.Day() != day {
		return 0, true, false
	}
	return (t.Unix() - epoch.Unix()) / 86400, true, true
}

// parseClock returns microseconds since midnight of HH:MM[:SS[.up to six digits]]. A
// second of 60 and the hour 24 are left to PostgreSQL.
func parseClock(text string) (micros int64, ok bool) {
	if len(text) < 5 || text[2] != ':' {
		return 0, false
	}
	hour, minute, second := twoDigits(text), twoDigits(text[3:]), 0
	fraction := int64(0)
	if rest := text[5:]; rest != "" {
		if len(rest) < 3 || rest[0] != ':' {
			return 0, false
		}
		second = twoDigits(rest[1:])
		if rest = rest[3:]; rest != "" {
			if rest[0] != '.' || len(rest) < 2 || len(rest) > 7 {
				return 0, false
			}
			for i := range 6 {
				fraction *= 10
				if i+1 < len(rest) {
					if !isDigit(rest[i+1]) {
						return 0, false
					}
					fraction += int64(rest[i+1] - '0')
				}
			}
		}
	}
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return 0, false
	}
	return int64(hour)*3600e6 + int64(minute)*60e6 + int64(second)*1e6 + fraction, true
}

// cutZone cuts Z, +HH, +HHMM or +HH:MM, and a space before it, from the end of a
// time; offset in microseconds. false: there is none, or one beyond 15:59.
func cutZone(text string) (clock string, offset int64, zoned, ok bool) {
	if clock, zoned = strings.CutSuffix(text, "Z"); zoned {
		return strings.TrimSuffix(clock, " "), 0, true, true
	}
	at := strings.LastIndexAny(text, "+-")
	if at < 0 {
		return text, 0, false, true
	}
	digits := text[at+1:]
	hours, minutes := twoDigits(digits), 0
	switch {
	case len(digits) == 2:
	case len(digits) == 4:
		minutes = twoDigits(digits[2:])
	case len(digits) == 5 && digits[2] == ':':
		minutes = twoDigits(digits[3:])
	default:
		return "", 0, true, false
	}
	if hours < 0 || hours > 15 || minutes < 0 || minutes > 59 {
		return "", 0, true, false
	}
	if offset = int64(hours*3600+minutes*60) * 1e6; text[at] == '-' {
		offset = -offset
	}
	return strings.TrimSuffix(text[:at], " "), offset, true, true
}

func isInfinity(text string) bool { return text == "infinity" || text == "-infinity" }

// refuseDay refuses what has the form of a day and is none.
func refuseDay(text string, matched bool) (Datum, Verdict, *Error) {
	if !matched {
		return Datum{}, Unknown, nil
	}
	e := refuse(codeDatetime, `date/time field value out of range: "%s"`, text)
	if year, month, day, _ := dayParts(text); year > 0 && (month > 12 || month == 0 || day > 31 || day == 0) {
		e.Hint = `Perhaps you need a different "datestyle" setting.`
	}
	return Datum{}, Bad, e
}

func readDate(_ *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if isInfinity(text) {
		return Datum{}, Good, nil
	}
	days, matched, valid := parseDay(text)
	if !valid {
		return refuseDay(text, matched)
	}
	return Datum{Int: days, Timed: true}, Good, nil
}

func readTime(_ *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if _, ok := parseClock(text); !ok {
		return Datum{}, Unknown, nil
	}
	return Datum{}, Good, nil
}

func readTimestamp(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if isInfinity(text) {
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
	rest, offset, hasZone, ok := cutZone(rest)
	if !ok {
		return Datum{}, Unknown, nil
	}
	clock, ok := parseClock(rest)
	if !ok {
		return Datum{}, Unknown, nil
	}
	d.Timed = d.Timed || hasZone
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
