package value

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// jsonDepthMax is how deep what is judged may nest: PostgreSQL's limit is its stack.
const jsonDepthMax = 100

// exponent of a number: jsonb has limits there.
var exponent = regexp.MustCompile(`[0-9][eE]|[0-9]{300}`)

func readJSON(t *catalogue.Type, text string) (Datum, Verdict, *Error) {
	depth, deepest := 0, 0
	for i := range len(text) {
		switch text[i] {
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		}
	}
	if deepest > jsonDepthMax || t.Name == "jsonb" && (strings.Contains(text, `\u`) || exponent.MatchString(text)) {
		return Datum{}, Unknown, nil
	}
	if json.Valid([]byte(text)) {
		return Datum{Text: text}, Good, nil
	}
	return Datum{}, Unknown, nil // the answer says which token is wrong, and where
}

// jsonBinary: jsonb has a version before its text.
func jsonBinary(t *catalogue.Type, raw []byte) (Datum, Verdict, *Error) {
	if t.Name == "jsonb" {
		if len(raw) == 0 || raw[0] != 1 {
			return Datum{}, Unknown, nil
		}
		raw = raw[1:]
	}
	if err := checkEncoding(raw); err != nil {
		return Datum{}, Bad, err
	}
	return readJSON(t, string(raw))
}
