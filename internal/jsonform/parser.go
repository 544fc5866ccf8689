// Package jsonform is the JSON form of records, keys, values and mutations.
//
// A record is an object of fields. The values that JSON lacks are objects with
// one member whose name begins with $:
//
//	{"$bytes": "base64"}  {"$decimal": "1.23"}  {"$timestamp": "RFC 3339"}
//	{"$map": {...}}       a map with names that begin with $
//
// Numbers without fraction and exponent are int64, others are double; a whole
// number beyond int64 is an error, never silently a float. Decoding is strict:
// a name that stands twice, an unknown member, text that is not UTF-8, a lone
// surrogate and anything after the value are errors, *Error, which names the
// place. Nothing is decoded from a broken text.
package jsonform

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects nest at most.
const MaxDepth = 64

// maxNumber is the longest text of a number.
const maxNumber = 1024

// Error says what is wrong with a JSON text, and where.
type Error struct {
	Field  string // path of the value, as "set.items[2].price"; empty: the text itself
	Offset int    // bytes from the start of the text
	Reason string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("at byte %d: %s", e.Offset, e.Reason)
	}
	return fmt.Sprintf("%s: at byte %d: %s", e.Field, e.Offset, e.Reason)
}

// within puts a member or element in front of the path.
func (e *Error) within(parent string) *Error {
	switch {
	case e == nil:
		return nil
	case e.Field == "":
		e.Field = parent
	case e.Field[0] == '[':
		e.Field = parent + e.Field
	default:
		e.Field = parent + "." + e.Field
	}
	return e
}

func (e *Error) at(index int) *Error {
	if e == nil {
		return nil
	}
	return e.within("[" + strconv.Itoa(index) + "]")
}

// parser walks one JSON text. Methods leave pos behind what they read.
type parser struct {
	data  []byte
	pos   int
	depth int
}

// whole runs read over all of data.
func whole(data []byte, read func(p *parser) *Error) error {
	p := &parser{data: data}
	if err := read(p); err != nil {
		return err
	}
	if p.space(); p.pos < len(p.data) {
		return p.fail("%s after the end of the value", p.found())
	}
	return nil
}

func (p *parser) fail(format string, args ...any) *Error {
	return &Error{Offset: p.pos, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) space() {
	for p.pos < len(p.data) {
		switch p.data[p.pos] {
		case ' ', '\t', '\r', '\n':
			p.pos++
		default:
			return
		}
	}
}

// peek returns the first byte of the next token, 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.pos == len(p.data) {
		return 0
	}
	return p.data[p.pos]
}

// found names the next byte for an error.
func (p *parser) found() string {
	if p.pos >= len(p.data) {
		return "the end"
	}
	if c := p.data[p.pos]; c < utf8.RuneSelf {
		return strconv.QuoteRune(rune(c))
	}
	return "a byte that is no JSON"
}

func (p *parser) expect(c byte) *Error {
	if p.peek() != c {
		return p.fail("want %q, found %s", c, p.found())
	}
	p.pos++
	return nil
}

// object calls f for each member; f reads the value.
func (p *parser) object(f func(name string) *Error) *Error {
	return p.nested('{', '}', func(int) *Error {
		name, err := p.string()
		if err != nil {
			return err
		}
		if err := p.expect(':'); err != nil {
			return err.within(name)
		}
		p.space()
		return f(name).within(name)
	})
}

// array calls f for each element; f reads it.
func (p *parser) array(f func(index int) *Error) *Error {
	return p.nested('[', ']', func(index int) *Error { return f(index).at(index) })
}

// nested reads what stands between open and end, separated by commas.
func (p *parser) nested(open, end byte, item func(index int) *Error) *Error {
	if err := p.expect(open); err != nil {
		return err
	}
	if p.depth++; p.depth > MaxDepth {
		return p.fail("nests deeper than %d", MaxDepth)
	}
	defer func() { p.depth-- }()
	if p.peek() == end {
		p.pos++
		return nil
	}
	for index := 0; ; index++ {
		if err := item(index); err != nil {
			return err
		}
		switch p.peek() {
		case ',':
			p.pos++
		case end:
			p.pos++
			return nil
		default:
			return p.fail("want ',' or %q, found %s", end, p.found())
		}
	}
}

// string reads a string.
func (p *parser) string() (string, *Error) {
	if err := p.expect('"'); err != nil {
		return "", err
	}
	start := p.pos
	for ; p.pos < len(p.data); p.pos++ {
		switch c := p.data[p.pos]; {
		case c == '"':
			text := p.data[start:p.pos]
			if !utf8.Valid(text) {
				p.pos = start
				return "", p.fail("text is not UTF-8")
			}
			p.pos++
			return string(text), nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", p.fail("a control character stands unescaped in text")
		}
	}
	return "", p.fail("text does not end")
}

// escaped goes on with a string at its first backslash.
func (p *parser) escaped(start int) (string, *Error) {
	text := append(make([]byte, 0, p.pos-start+64), p.data[start:p.pos]...)
	for p.pos < len(p.data) {
		switch c := p.data[p.pos]; {
		case c == '"':
			if !utf8.Valid(text) {
				p.pos = start
				return "", p.fail("text is not UTF-8")
			}
			p.pos++
			return string(text), nil
		case c == '\\':
			var err *Error
			if text, err = p.escape(text); err != nil {
				return "", err
			}
		case c < ' ':
			return "", p.fail("a control character stands unescaped in text")
		default:
			text = append(text, c)
			p.pos++
		}
	}
	return "", p.fail("text does not end")
}

// escape reads one escape sequence and appends what it stands for.
func (p *parser) escape(text []byte) ([]byte, *Error) {
	if p.pos+1 >= len(p.data) {
		return nil, p.fail("text does not end")
	}
	const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	c := p.data[p.pos+1]
	if i := strings.IndexByte(from, c); i >= 0 {
		p.pos += 2
		return append(text, to[i]), nil
	}
	first, ok := p.hex(p.pos)
	if !ok {
		return nil, p.fail("unknown escape sequence in text")
	}
	if !utf16.IsSurrogate(first) {
		p.pos += 6
		return utf8.AppendRune(text, first), nil
	}
	second, ok := p.hex(p.pos + 6)
	both := utf16.DecodeRune(first, second)
	if !ok || both == utf8.RuneError {
		return nil, p.fail("half of a surrogate pair stands alone in text")
	}
	p.pos += 12
	return utf8.AppendRune(text, both), nil
}

// hex reads \uXXXX at pos.
func (p *parser) hex(pos int) (rune, bool) {
	if pos+6 > len(p.data) || p.data[pos] != '\\' || p.data[pos+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range p.data[pos+2 : pos+6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// number reads a number's text and says whether it has neither fraction nor
// exponent.
func (p *parser) number() (text string, isInt bool, err *Error) {
	start := p.pos
	isInt = true
	if p.data[p.pos] == '-' {
		p.pos++
	}
	leading := p.pos
	if p.digits() == 0 {
		return "", false, p.fail("want a digit, found %s", p.found())
	}
	if p.data[leading] == '0' && p.pos-leading > 1 {
		p.pos = leading
		return "", false, p.fail("a number begins with a superfluous 0")
	}
	if p.pos < len(p.data) && p.data[p.pos] == '.' {
		isInt = false
		p.pos++
		if p.digits() == 0 {
			return "", false, p.fail("want a digit, found %s", p.found())
		}
	}
	if p.pos < len(p.data) && p.data[p.pos]|0x20 == 'e' {
		isInt = false
		p.pos++
		if p.pos < len(p.data) && (p.data[p.pos] == '+' || p.data[p.pos] == '-') {
			p.pos++
		}
		if p.digits() == 0 {
			return "", false, p.fail("want a digit, found %s", p.found())
		}
	}
	if p.pos-start > maxNumber {
		p.pos = start
		return "", false, p.fail("a number is longer than %d digits", maxNumber)
	}
	return string(p.data[start:p.pos]), isInt, nil
}

func (p *parser) digits() int {
	start := p.pos
	for p.pos < len(p.data) && '0' <= p.data[p.pos] && p.data[p.pos] <= '9' {
		p.pos++
	}
	return p.pos - start
}

// integer reads a whole number in the range of int64.
func (p *parser) integer() (int64, *Error) {
	if c := p.peek(); c != '-' && (c < '0' || c > '9') {
		return 0, p.fail("want a whole number, found %s", p.found())
	}
	start := p.pos
	text, isInt, err := p.number()
	if err != nil {
		return 0, err
	}
	n, parseErr := strconv.ParseInt(text, 10, 64)
	if !isInt || parseErr != nil {
		p.pos = start
		return 0, p.fail("want a whole number of at most 64 bits")
	}
	return n, nil
}

// unsigned reads a whole number from 0.
func (p *parser) unsigned() (uint64, *Error) {
	if c := p.peek(); c < '0' || c > '9' {
		return 0, p.fail("want a whole number from 0, found %s", p.found())
	}
	start := p.pos
	text, isInt, err := p.number()
	if err != nil {
		return 0, err
	}
	n, parseErr := strconv.ParseUint(text, 10, 64)
	if !isInt || parseErr != nil {
		p.pos = start
		return 0, p.fail("want a whole number from 0 to %d", uint64(math.MaxUint64))
	}
	return n, nil
}

// literal reads one of true, false and null.
func (p *parser) literal(word string) *Error {
	if len(p.data)-p.pos < len(word) || string(p.data[p.pos:p.pos+len(word)]) != word {
		return p.fail("want %s", word)
	}
	p.pos += len(word)
	return nil
}

// isTrue reads true: the form of a switch.
func (p *parser) isTrue() *Error {
	p.space()
	if err := p.literal("true"); err != nil {
		return p.fail("want true, or leave the member out")
	}
	return nil
}
