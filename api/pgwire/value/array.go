package value

import (
	"encoding/binary"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
)

// readArray reads a list without lists in it, nulls or bounds. Of others, and of
// what is malformed, PostgreSQL's versions differ.
func readArray(t *catalogue.Type, text string, path []string) (Datum, Verdict, *Error) {
	texts, ok := splitArray(text)
	if !ok {
		return Datum{}, Unknown, nil
	}
	d := Datum{Elements: make([]Datum, 0, len(texts))}
	for _, element := range texts {
		e, verdict, err := input(t.Element, Text, []byte(element), path)
		if verdict != Good {
			return Datum{}, verdict, err
		}
		d.Elements = append(d.Elements, e)
	}
	return d, Good, nil
}

func splitArray(text string) (elements []string, ok bool) {
	if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
		return nil, false
	}
	inner := text[1 : len(text)-1]
	if strings.Trim(inner, " ") == "" {
		return nil, true
	}
	for at := 0; ; {
		for at < len(inner) && inner[at] == ' ' {
			at++
		}
		var element []byte
		if at < len(inner) && inner[at] == '"' {
			at++
			for ; at < len(inner) && inner[at] != '"'; at++ {
				if inner[at] == '\\' {
					if at++; at == len(inner) {
						return nil, false
					}
				}
				element = append(element, inner[at])
			}
			if at == len(inner) {
				return nil, false
			}
			at++
		} else {
			start := at
			for at < len(inner) && inner[at] != ',' {
				if strings.IndexByte("{}\"\\\t\n\v\f\r", inner[at]) >= 0 {
					return nil, false
				}
				at++
			}
			word := strings.TrimRight(inner[start:at], " ")
			if word == "" || strings.EqualFold(word, "null") {
				return nil, false
			}
			element = []byte(word)
		}
		for at < len(inner) && inner[at] == ' ' {
			at++
		}
		elements = append(elements, string(element))
		if at == len(inner) {
			return elements, true
		}
		if inner[at] != ',' {
			return nil, false
		}
		at++
	}
}

// arrayBinary: dimensions, whether there are nulls, the elements' type, then size
// and first index of each dimension, then each element with its length.
func arrayBinary(t *catalogue.Type, raw []byte, path []string) (Datum, Verdict, *Error) {
	if len(raw) < 12 || binary.BigEndian.Uint32(raw[8:]) != t.Element.OID || binary.BigEndian.Uint32(raw[4:]) > 1 {
		return Datum{}, Unknown, nil
	}
	dimensions, rest := binary.BigEndian.Uint32(raw), raw[12:]
	if dimensions == 0 {
		if len(rest) > 0 {
			return Datum{}, Unknown, nil
		}
		return Datum{}, Good, nil
	}
	if dimensions != 1 || len(rest) < 8 || binary.BigEndian.Uint32(rest[4:]) > 1 {
		return Datum{}, Unknown, nil
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[8:]
	if uint64(count)*4 > uint64(len(rest)) {
		return Datum{}, Unknown, nil
	}
	d := Datum{Elements: make([]Datum, 0, count)}
	for range count {
		if len(rest) < 4 {
			return Datum{}, Unknown, nil
		}
		size := int64(int32(binary.BigEndian.Uint32(rest)))
		rest = rest[4:]
		if size == -1 {
			continue // null
		}
		if size < 0 || size > int64(len(rest)) {
			return Datum{}, Unknown, nil
		}
		e, verdict, _ := input(t.Element, Binary, rest[:size], path)
		if verdict != Good {
			return Datum{}, Unknown, nil // its words for an element's size are others
		}
		d.Elements = append(d.Elements, e)
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return Datum{}, Unknown, nil
	}
	return d, Good, nil
}
