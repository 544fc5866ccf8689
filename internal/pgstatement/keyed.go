package pgstatement

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// KeyError: a statement writes another row than its key says.
type KeyError struct {
	Column    string
	Parameter int    // number from 0, of the column's value
	Key, Row  string // the column's value in the key, and in the row
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("says that column %q is %.60q, and parameters[%d], which is the column's value, is %.60q: change both", e.Column, e.Key, e.Parameter, e.Row)
}

// firstUserOID is the lowest of types that somebody made; keys have enums of them.
const firstUserOID = 16384

// CheckKey compares the key of a statement with the values that it gives the key's
// columns, which are the collection's, in their order. Values in a form that is not known
// here (a time as text, say) are not judged. Errors are *KeyError, ErrText and
// ErrParameters.
func CheckKey(s *walproxyv1.Statement, columns []string) error {
	form, err := Parse(s.GetText())
	if err != nil {
		return err
	}
	formats, values, err := Parameters(s.GetParameters())
	if err != nil {
		return err
	}
	if len(values) != len(form.Targets) || len(s.GetParameterOids()) != len(form.Targets) {
		return fmt.Errorf("%w: %d of %d types; the text has %d", ErrParameters, len(values), len(s.GetParameterOids()), len(form.Targets))
	}
	parts := []*walproxyv1.Key{s.GetKey()}
	if c := s.GetKey().GetComposite(); c != nil {
		parts = c.GetParts()
	}
	if len(parts) != len(columns) {
		return nil // another error's, of who knows the table
	}
	for i, column := range columns {
		at := form.row(column)
		if at < 0 {
			continue // likewise
		}
		key, known := keyText(parts[i])
		row, readable := rowText(s.GetParameterOids()[at], formats[at], values[at])
		if known && readable && !sameKey(key, row) {
			return &KeyError{Column: column, Parameter: at, Key: key, Row: row}
		}
	}
	return nil
}

// row is the place of the parameter that says which row a column's value is of; -1: there
// is none.
func (f *Form) row(column string) int {
	for i, name := range f.Columns {
		if name == column {
			return i
		}
	}
	for _, c := range f.Where {
		if c.Column == column {
			return c.Parameter - 1
		}
	}
	return -1
}

func keyText(key *walproxyv1.Key) (text string, ok bool) {
	switch k := key.GetKind().(type) {
	case *walproxyv1.Key_Int64:
		return strconv.FormatInt(k.Int64, 10), true
	case *walproxyv1.Key_String_:
		return k.String_, true
	case *walproxyv1.Key_Bytes:
		return `\x` + hex.EncodeToString(k.Bytes), true
	}
	return "", false
}

// rowText is a parameter as keyText has a key's part, or in a form that sameKey knows.
func rowText(oid uint32, format int16, value []byte) (text string, ok bool) {
	switch {
	case value == nil:
		return "null", true
	case oid == oidBytea && format == Binary:
		return `\x` + hex.EncodeToString(value), true
	case oid == oidBytea:
		return strings.ToLower(string(value)), bytes.HasPrefix(value, []byte(`\x`))
	case format == Binary && oid < firstUserOID:
		return readable(oid, value)
	case oid == oidDate && format == Text, oid == oidTimestamp, oid == oidTimestamptz && format == Text:
		_, err := time.Parse(time.DateOnly, string(value))
		return string(value), err == nil && oid == oidDate
	}
	return string(value), true
}

// sameKey reports whether two texts are one value: of a text, a number, a UUID or a time.
func sameKey(a, b string) bool {
	if a == b {
		return true
	}
	b = strings.TrimSpace(b)
	if n, err := strconv.ParseInt(a, 10, 64); err == nil {
		m, err := strconv.ParseInt(b, 10, 64)
		return err == nil && n == m
	}
	if id, err := uuid.Parse(a); err == nil {
		other, err := uuid.Parse(b)
		return err == nil && id == other
	}
	if at, err := time.Parse(time.RFC3339Nano, a); err == nil {
		other, err := time.Parse(time.RFC3339Nano, b)
		return err == nil && at.Equal(other)
	}
	return false
}
