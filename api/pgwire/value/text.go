package value

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// checkEncoding is what PostgreSQL does with all text, in a database in UTF-8.
func checkEncoding(raw []byte) *Error {
	bad := bytes.IndexByte(raw, 0)
	if before := raw[:max(bad, 0)]; bad < 0 && utf8.Valid(raw) {
		return nil
	} else if bad < 0 || !utf8.Valid(before) {
		for bad = 0; ; {
			r, size := utf8.DecodeRune(raw[bad:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			bad += size
		}
	}
	length := 1
	switch b := raw[bad]; {
	case b&0xe0 == 0xc0:
		length = 2
	case b&0xf0 == 0xe0:
		length = 3
	case b&0xf8 == 0xf0:
		length = 4
	}
	shown := make([]string, 0, 4)
	for _, b := range raw[bad:min(bad+length, len(raw))] {
		shown = append(shown, fmt.Sprintf("0x%02x", b))
	}
	return refuse(codeEncoding, `invalid byte sequence for encoding "UTF8": %s`, strings.Join(shown, " "))
}

func readText(_ *catalogue.Type, text string) (Datum, Verdict, *Error) {
	return Datum{Text: text}, Good, nil
}

func textBinary(_ *catalogue.Type, raw []byte) (Datum, Verdict, *Error) {
	if err := checkEncoding(raw); err != nil {
		return Datum{}, Bad, err
	}
	return Datum{Text: string(raw)}, Good, nil
}

// readBytea reads the forms hex and escape.
func readBytea(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	if digits, ok := strings.CutPrefix(text, `\x`); ok {
		return readHex(digits)
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '\\':
			out = append(out, text[i])
		case i+1 < len(text) && text[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(text) && isOctal(text[i+1], '3') && isOctal(text[i+2], '7') && isOctal(text[i+3], '7'):
			out = append(out, (text[i+1]-'0')<<6|(text[i+2]-'0')<<3|(text[i+3]-'0'))
			i += 3
		default:
			return Datum{}, Bad, refuse(codeSyntax, "invalid input syntax for type bytea")
		}
	}
	return Datum{Bytes: out}, Good, nil
}

func isOctal(b, highest byte) bool { return '0' <= b && b <= highest }

func readHex(digits string) (Datum, Verdict, *Error) {
	out := make([]byte, 0, len(digits)/2)
	for i := 0; i < len(digits); {
		if strings.IndexByte(" \n\t\r", digits[i]) >= 0 {
			i++
			continue
		}
		var pair [1]byte
		for at := i; at < i+2; at++ {
			if at == len(digits) {
				return Datum{}, Bad, refuse(codeParameterValue, "invalid hexadecimal data: odd number of digits")
			}
			if !isHex(digits[at]) {
				_, size := utf8.DecodeRuneInString(digits[at:])
				return Datum{}, Bad, refuse(codeParameterValue, `invalid hexadecimal digit: "%s"`, digits[at:at+size])
			}
		}
		if _, err := hex.Decode(pair[:], []byte(digits[i:i+2])); err != nil {
			return Datum{}, Unknown, nil
		}
		out = append(out, pair[0])
		i += 2
	}
	return Datum{Bytes: out}, Good, nil
}

func isHex(b byte) bool { return isDigit(b) || 'a' <= b|0x20 && b|0x20 <= 'f' }

// readUUID takes what string_to_uuid takes: braces, and a hyphen behind every
// fourth digit or none.
func readUUID(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	rest, braces := strings.CutPrefix(text, "{")
	var digits [32]byte
	for i := range 16 {
		if len(rest) < 2 || !isHex(rest[0]) || !isHex(rest[1]) {
			return Datum{}, Bad, badSyntax(t.Display, text)
		}
		copy(digits[2*i:], rest[:2])
		if rest = rest[2:]; i%2 == 1 && i < 15 {
			rest = strings.TrimPrefix(rest, "-")
		}
	}
	if braces && rest != "}" || !braces && rest != "" {
		return Datum{}, Bad, badSyntax(t.Display, text)
	}
	var id uuid.UUID
	if _, err := hex.Decode(id[:], digits[:]); err != nil {
		return Datum{}, Unknown, nil
	}
	return Datum{Text: id.String()}, Good, nil
}

func uuidBinary(raw []byte) (Datum, Verdict) {
	return Datum{Text: uuid.UUID(raw).String()}, Good
}

// readEnum: labels are text in both formats.
func readEnum(t *catalogue.Type, format int16, raw []byte, path []string) (Datum, Verdict, *Error) {
	if format == Binary {
		if err := checkEncoding(raw); err != nil {
			return Datum{}, Bad, err
		}
	}
	for _, label := range t.Labels {
		if label == string(raw) {
			return Datum{Text: label}, Good, nil
		}
	}
	name, ok := displayName(t, path)
	if !ok {
		return Datum{}, Unknown, nil
	}
	return Datum{}, Bad, refuse(codeSyntax, `invalid input value for enum %s: "%s"`, name, raw)
}

// displayName is a type's name in a message: with its schema if the search path does
// not find it. false: another type of that name may come first.
func displayName(t *catalogue.Type, path []string) (string, bool) {
	if !plainName(t.Name) || !plainName(t.Schema) {
		return "", false // in quotes, or not: keywords
	}
	if len(path) > 0 && path[0] == t.Schema {
		return t.Name, true
	}
	for _, schema := range path {
		if schema == t.Schema || schema == "$user" {
			return "", false
		}
	}
	return t.Schema + "." + t.Name, true
}

// plainName: needs no quotes unless it is a keyword, which have no underscore or
// digit and are none of these two.
func plainName(name string) bool {
	for i := range len(name) {
		if b := name[i]; (b < 'a' || b > 'z') && b != '_' && (i == 0 || !isDigit(b)) {
			return false
		}
	}
	return name != ""
}
