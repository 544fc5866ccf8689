package mutation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// The byte form of (collection, key). No encoding is a prefix of another, so
// that a store can put something behind it, and bytes.Compare orders as the
// collection, then the kind (int64, string, bytes, composite), then the value:
//
//	text       its bytes, 0x00 as 0x00 0xFF, then 0x00 0x01
//	whole      text(collection) part
//	part       0x10 big-endian int64 with its sign bit flipped
//	           0x20 text(string)
//	           0x30 text(bytes)
//	           0x40 part... 0x01   (composite; 0x01 is below every tag, so a
//	                                shorter key comes before those it begins)
const (
	tagEnd       = 0x01
	tagInt64     = 0x10
	tagString    = 0x20
	tagBytes     = 0x30
	tagComposite = 0x40

	textEscape = 0xFF
	textEnd    = 0x01
)

// AppendCollection appends the common prefix of AppendKey of all keys of
// collection.
func AppendCollection(dst []byte, collection string) []byte {
	return append(appendText(dst, collection), 0x00, textEnd)
}

// AppendKey appends an encoding of (collection, key) that is unambiguous and
// orders as the collection, then the key: strings and bytes by their bytes,
// int64 by number, composites part by part. A string prefix is a byte prefix of
// the encoding made by AppendKeyPrefix. No encoding is a prefix of another one.
func AppendKey(dst []byte, collection string, key *walproxyv1.Key) []byte {
	return appendPart(AppendCollection(dst, collection), key)
}

// AppendKeyPrefix appends the common prefix of AppendKey of all string keys of
// collection that start with prefix.
func AppendKeyPrefix(dst []byte, collection, prefix string) []byte {
	return appendText(append(AppendCollection(dst, collection), tagString), prefix)
}

// Hash is a stable hash of (collection, key): lanes depend on it across
// versions. It is xxHash64, seed 0, of AppendKey.
func Hash(collection string, key *walproxyv1.Key) uint64 {
	var buf [256]byte
	return HashEncoded(AppendKey(buf[:0], collection, key))
}

// HashEncoded is Hash of what AppendKey made.
func HashEncoded(enc []byte) uint64 { return xxhash.Sum64(enc) }

func appendText[T ~string | ~[]byte](dst []byte, text T) []byte {
	for i := range len(text) {
		dst = append(dst, text[i])
		if text[i] == 0 {
			dst = append(dst, textEscape)
		}
	}
	return dst
}

func appendPart(dst []byte, key *walproxyv1.Key) []byte {
	switch k := key.GetKind().(type) {
	case *walproxyv1.Key_Int64:
		return binary.BigEndian.AppendUint64(append(dst, tagInt64), uint64(k.Int64)^(1<<63))
	case *walproxyv1.Key_String_:
		return append(appendText(append(dst, tagString), k.String_), 0x00, textEnd)
	case *walproxyv1.Key_Bytes:
		return append(appendText(append(dst, tagBytes), k.Bytes), 0x00, textEnd)
	case *walproxyv1.Key_Composite_:
		dst = append(dst, tagComposite)
		for _, part := range k.Composite.GetParts() {
			dst = appendPart(dst, part)
		}
		return append(dst, tagEnd)
	}
	return dst // not valid: ParseKey refuses what comes of it
}

// ErrKeyEncoding: the bytes are not one that AppendKey makes.
var ErrKeyEncoding = errors.New("mutation: malformed key encoding")

// ParseKey is the inverse of AppendKey. Errors are ErrKeyEncoding.
func ParseKey(enc []byte) (collection string, key *walproxyv1.Key, err error) {
	name, rest, err := parseText(enc)
	if err != nil {
		return "", nil, err
	}
	if !utf8.Valid(name) {
		return "", nil, fmt.Errorf("%w: the collection is not UTF-8", ErrKeyEncoding)
	}
	key, rest, err = parsePart(rest, true)
	if err != nil {
		return "", nil, err
	}
	if len(rest) > 0 {
		return "", nil, fmt.Errorf("%w: %d bytes behind the key", ErrKeyEncoding, len(rest))
	}
	return string(name), key, nil
}

// parseText returns the text at the start of enc and what follows it.
func parseText(enc []byte) (text, rest []byte, err error) {
	rest = enc
	for {
		i := bytes.IndexByte(rest, 0)
		if i < 0 || i+1 >= len(rest) {
			return nil, nil, fmt.Errorf("%w: text without an end", ErrKeyEncoding)
		}
		text = append(text, rest[:i]...)
		mark := rest[i+1]
		rest = rest[i+2:]
		switch mark {
		case textEnd:
			return text, rest, nil
		case textEscape:
			text = append(text, 0)
		default:
			return nil, nil, fmt.Errorf("%w: byte 0x%02x behind 0x00", ErrKeyEncoding, mark)
		}
	}
}

func parsePart(enc []byte, composite bool) (key *walproxyv1.Key, rest []byte, err error) {
	if len(enc) == 0 {
		return nil, nil, fmt.Errorf("%w: no key", ErrKeyEncoding)
	}
	tag, enc := enc[0], enc[1:]
	switch {
	case tag == tagInt64:
		if len(enc) < 8 {
			return nil, nil, fmt.Errorf("%w: int64 of %d bytes", ErrKeyEncoding, len(enc))
		}
		return Int64(int64(binary.BigEndian.Uint64(enc) ^ (1 << 63))), enc[8:], nil
	case tag == tagString:
		text, rest, err := parseText(enc)
		if err != nil {
			return nil, nil, err
		}
		if !utf8.Valid(text) {
			return nil, nil, fmt.Errorf("%w: a string key is not UTF-8", ErrKeyEncoding)
		}
		return String(string(text)), rest, nil
	case tag == tagBytes:
		text, rest, err := parseText(enc)
		if err != nil {
			return nil, nil, err
		}
		return Bytes(text), rest, nil
	case tag == tagComposite && composite:
		return parseComposite(enc)
	}
	return nil, nil, fmt.Errorf("%w: tag 0x%02x", ErrKeyEncoding, tag)
}

func parseComposite(enc []byte) (key *walproxyv1.Key, rest []byte, err error) {
	var parts []*walproxyv1.Key
	for {
		if len(enc) > 0 && enc[0] == tagEnd {
			break
		}
		var part *walproxyv1.Key
		if part, enc, err = parsePart(enc, false); err != nil {
			return nil, nil, err
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return nil, nil, fmt.Errorf("%w: a composite without parts", ErrKeyEncoding)
	}
	return Composite(parts...), enc[1:], nil
}

// KeyText is key for people: logs, messages, dead letters. It is not canonical
// and cannot be parsed.
func KeyText(key *walproxyv1.Key) string {
	switch k := key.GetKind().(type) {
	case *walproxyv1.Key_String_:
		return k.String_
	case *walproxyv1.Key_Bytes:
		return fmt.Sprintf("0x%x", k.Bytes)
	case *walproxyv1.Key_Int64:
		return fmt.Sprint(k.Int64)
	case *walproxyv1.Key_Composite_:
		texts := make([]string, len(k.Composite.GetParts()))
		for i, part := range k.Composite.GetParts() {
			texts[i] = KeyText(part)
		}
		return "(" + strings.Join(texts, ", ") + ")"
	}
	return ""
}
