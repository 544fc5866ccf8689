package postgres

import (
	"errors"
	"strings"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// arrayCodec is an array column's: a list, of lists for several dimensions, as
// the text of an array literal that the server casts.
func arrayCodec(element *codec) *codec {
	c := asText(
		func(v *walproxyv1.Value) (string, error) {
			if _, ok := v.GetKind().(*walproxyv1.Value_List_); !ok {
				return "", mismatch(v, "a list")
			}
			var b strings.Builder
			err := appendArray(&b, v, element)
			return b.String(), err
		},
		func(text string) (*walproxyv1.Value, error) { return parseArray(text, element) },
	)
	c.exact = element.exact
	return c
}

// appendArray writes an array literal. JSON elements stay what they are, also
// when they are lists.
func appendArray(b *strings.Builder, v *walproxyv1.Value, element *codec) error {
	list, nested := v.GetKind().(*walproxyv1.Value_List_)
	if nested && !(element.element == oidJSON || element.element == oidJSONB) || b.Len() == 0 {
		if b.Len() > 0 && len(list.List.GetValues()) == 0 {
			return errors.New("has an empty list in a list, which an array does not keep")
		}
		b.WriteByte('{')
		for i, item := range list.List.GetValues() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := appendArray(b, item, element); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	}
	if isNull(v) {
		b.WriteString("NULL")
		return nil
	}
	text, err := element.text(v)
	if err != nil {
		return err
	}
	b.WriteByte('"')
	for i := range len(text) {
		if text[i] == '"' || text[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	b.WriteByte('"')
	return nil
}

var errArray = errors.New("unreadable array")

// maxArrayDepth is PostgreSQL's MAXDIM.
const maxArrayDepth = 6

// parseArray reads an array literal as the server writes it: [lower:upper]=
// in front of it is left out.
func parseArray(text string, element *codec) (*walproxyv1.Value, error) {
	if strings.HasPrefix(text, "[") {
		i := strings.IndexByte(text, '=')
		if i < 0 {
			return nil, errArray
		}
		text = text[i+1:]
	}
	v, rest, err := parseList(text, element, 0)
	if err == nil && rest != "" {
		err = errArray
	}
	return v, err
}

func parseList(text string, element *codec, depth int) (*walproxyv1.Value, string, error) {
	if !strings.HasPrefix(text, "{") || depth == maxArrayDepth {
		return nil, "", errArray
	}
	text = text[1:]
	var items []*walproxyv1.Value
	if rest, empty := strings.CutPrefix(text, "}"); empty {
		return mutation.ListValue(), rest, nil
	}
	for {
		var item *walproxyv1.Value
		var err error
		if strings.HasPrefix(text, "{") {
			item, text, err = parseList(text, element, depth+1)
		} else {
			item, text, err = parseElement(text, element)
		}
		if err != nil {
			return nil, "", err
		}
		items = append(items, item)
		if text == "" {
			return nil, "", errArray
		}
		end := text[0]
		text = text[1:]
		switch end {
		case ',':
		case '}':
			return mutation.ListValue(items...), text, nil
		default:
			return nil, "", errArray
		}
	}
}

func parseElement(text string, element *codec) (*walproxyv1.Value, string, error) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ",}")
		if end < 0 {
			return nil, "", errArray
		}
		if text[:end] == "NULL" {
			return mutation.NullValue(), text[end:], nil
		}
		v, err := element.parse(text[:end])
		return v, text[end:], err
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			v, err := element.parse(b.String())
			return v, text[i+1:], err
		case '\\':
			if i++; i == len(text) {
				return nil, "", errArray
			}
		}
		b.WriteByte(text[i])
	}
	return nil, "", errArray
}
