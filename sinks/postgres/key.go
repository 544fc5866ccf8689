package postgres

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
)

// keyValues encodes a key for its columns. A key has one form in a column: what
// PostgreSQL would read as the same row written otherwise is rejected, because
// two keys must never be one row. In a document table's text column a composite
// key is JSON.
func (m *mapping) keyValues(key *walproxyv1.Key) ([][]byte, error) {
	parts := []*walproxyv1.Key{key}
	composite, isComposite := key.GetKind().(*walproxyv1.Key_Composite_)
	if isComposite {
		if m.document && m.key[0].codec.element == oidText && len(m.key) == 1 {
			return [][]byte{jsonform.AppendKey(nil, key)}, nil
		}
		parts = composite.Composite.GetParts()
	}
	if len(parts) != len(m.key) {
		return nil, rejected("key", "has %d parts, the key of table %s has %d columns", len(parts), m.table, len(m.key))
	}
	values := make([][]byte, len(parts))
	for i, part := range parts {
		value, err := keyValue(m.key[i], part, isComposite)
		if err != nil {
			return nil, rejected("key", "part %d (%s): %s", i+1, m.key[i].name, err)
		}
		values[i] = value
	}
	return values, nil
}

func keyValue(c *column, key *walproxyv1.Key, part bool) ([]byte, error) {
	text, isText := key.GetKind().(*walproxyv1.Key_String_)
	switch c.base {
	case oidInt2, oidInt4, oidInt8:
		n, isNumber := key.GetKind().(*walproxyv1.Key_Int64)
		var number int64
		if isNumber {
			number = n.Int64
		}
		if isText && !part {
			var err error
			number, err = strconv.ParseInt(text.String_, 10, 64)
			if isNumber = err == nil && strconv.FormatInt(number, 10) == text.String_; !isNumber {
				return nil, fmt.Errorf("%.40q is not a number in plain decimal digits", text.String_)
			}
		}
		if !isNumber {
			return nil, fmt.Errorf("want an int64")
		}
		return c.codec.encode(nil, mutation.Int64Value(number))
	case oidBytea:
		b, ok := key.GetKind().(*walproxyv1.Key_Bytes)
		if !ok {
			return nil, fmt.Errorf("want bytes")
		}
		return append([]byte{}, b.Bytes...), nil
	}
	if !isText {
		if n, isNumber := key.GetKind().(*walproxyv1.Key_Int64); isNumber && !part && c.codec.element == oidText {
			text = &walproxyv1.Key_String_{String_: strconv.FormatInt(n.Int64, 10)}
		} else {
			return nil, fmt.Errorf("want a string")
		}
	}
	s := text.String_
	if strings.IndexByte(s, 0) >= 0 {
		return nil, fmt.Errorf("contains a NUL, which PostgreSQL's text cannot hold")
	}
	switch c.base {
	case oidUUID:
		id, err := uuid.Parse(s)
		if err != nil || id.String() != s {
			return nil, fmt.Errorf("%.60q is not a UUID in lower case", s)
		}
		return id[:], nil
	case oidDate:
		if t, err := time.Parse(time.DateOnly, s); err != nil || t.Format(time.DateOnly) != s {
			return nil, fmt.Errorf("%.40q is not a date as 2006-01-02", s)
		}
	case oidTimestamptz:
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil || string(jsonform.AppendTime(nil, t)) != s || t.Nanosecond()%1000 != 0 {
			return nil, fmt.Errorf("%.40q is not a time as 2006-01-02T15:04:05.123456Z, in UTC and without zeros at the end", s)
		}
		return binary.BigEndian.AppendUint64(nil, uint64(microseconds(t))), nil
	}
	return append([]byte{}, s...), nil
}
