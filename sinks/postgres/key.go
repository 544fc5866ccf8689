package postgres

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
)

// keyValues encodes a key for its columns. A key has one form in a column: what
// PostgreSQL would read as the same row written otherwise is rejected, because
// two keys must never be one row. In a document table's text column a composite
// key is JSON.
func (w *work) keyValues(m *mapping, key *walproxyv1.Key) ([][]byte, error) {
	composite, isComposite := key.GetKind().(*walproxyv1.Key_Composite_)
	if !isComposite && len(m.key) == 1 {
		value, err := w.keyValue(m.key[0], key, false)
		return append(w.slots(1), value), err
	}
	var parts []*walproxyv1.Key
	if isComposite {
		if m.document && m.key[0].codec.element == oidText {
			return [][]byte{jsonform.AppendKey(nil, key)}, nil
		}
		parts = composite.Composite.GetParts()
	}
	if len(parts) != len(m.key) {
		return nil, rejected("key", "has %d parts, the key of table %s has %d columns", max(len(parts), 1), m.table, len(m.key))
	}
	values := w.slots(len(parts))
	for i, part := range parts {
		value, err := w.keyValue(m.key[i], part, true)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

// varcharHead is what a varchar's modifier counts beside its characters (VARHDRSZ).
const varcharHead = 4

// keyValue encodes one column of a key, into the arena.
func (w *work) keyValue(c *column, key *walproxyv1.Key, part bool) ([]byte, error) {
	start := len(w.arena)
	out, err := appendKeyValue(w.arena, c, key, part)
	if err != nil {
		return nil, rejected("key", "column %s: %s", c.name, err)
	}
	w.arena = out
	return out[start:len(out):len(out)], nil
}

func appendKeyValue(dst []byte, c *column, key *walproxyv1.Key, part bool) ([]byte, error) {
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
		size := 8
		switch c.base {
		case oidInt2:
			size = 2
		case oidInt4:
			size = 4
		}
		if shift := 64 - 8*size; number<<shift>>shift != number {
			return nil, fmt.Errorf("%d is beyond the %d bytes of the column", number, size)
		}
		return appendInteger(dst, number, size), nil
	case oidBytea:
		b, ok := key.GetKind().(*walproxyv1.Key_Bytes)
		if !ok {
			return nil, fmt.Errorf("want bytes")
		}
		return append(dst, b.Bytes...), nil
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
	case oidVarchar:
		// Spaces at its end would be cut.
		if most := c.modifier - varcharHead; c.modifier >= 0 && utf8.RuneCountInString(s) > most {
			return nil, fmt.Errorf("%.40q is longer than the column's %d characters", s, most)
		}
	case oidUUID:
		id, err := uuid.Parse(s)
		if err != nil || id.String() != s {
			return nil, fmt.Errorf("%.60q is not a UUID in lower case", s)
		}
		return append(dst, id[:]...), nil
	case oidDate:
		if t, err := time.Parse(time.DateOnly, s); err != nil || t.Format(time.DateOnly) != s {
			return nil, fmt.Errorf("%.40q is not a date as 2006-01-02", s)
		}
	case oidTimestamptz:
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil || string(jsonform.AppendTime(nil, t)) != s || t.Nanosecond()%1000 != 0 {
			return nil, fmt.Errorf("%.40q is not a time as 2006-01-02T15:04:05.123456Z, in UTC and without zeros at the end", s)
		}
		if p := c.modifier; p >= 0 && len(strings.TrimRight(fmt.Sprintf("%06d", t.Nanosecond()/1000), "0")) > p {
			return nil, fmt.Errorf("%.40q is finer than the column's %d digits of a second, to which it would be rounded", s, p)
		}
		return binary.BigEndian.AppendUint64(dst, uint64(microseconds(t))), nil
	}
	return append(dst, s...), nil
}
