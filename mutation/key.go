package mutation

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// String returns a string key.
func String(s string) *walproxyv1.Key {
	return &walproxyv1.Key{Kind: &walproxyv1.Key_String_{String_: s}}
}

// Bytes returns a key of bytes. It keeps b.
func Bytes(b []byte) *walproxyv1.Key {
	return &walproxyv1.Key{Kind: &walproxyv1.Key_Bytes{Bytes: b}}
}

// Int64 returns a key that is a number.
func Int64(n int64) *walproxyv1.Key {
	return &walproxyv1.Key{Kind: &walproxyv1.Key_Int64{Int64: n}}
}

// Composite returns a key of several parts.
func Composite(parts ...*walproxyv1.Key) *walproxyv1.Key {
	return &walproxyv1.Key{Kind: &walproxyv1.Key_Composite_{Composite: &walproxyv1.Key_Composite{Parts: parts}}}
}

func (t KeyType) String() string {
	switch t {
	case KeyString:
		return "string"
	case KeyBytes:
		return "bytes"
	case KeyInt64:
		return "int64"
	case KeyComposite:
		return "composite"
	}
	return fmt.Sprintf("keytype(%d)", int(t))
}

// ParseKeyType is the inverse of KeyType.String; "" is KeyString.
func ParseKeyType(s string) (KeyType, error) {
	switch s {
	case "", "string":
		return KeyString, nil
	case "bytes":
		return KeyBytes, nil
	case "int64":
		return KeyInt64, nil
	case "composite":
		return KeyComposite, nil
	}
	return 0, fmt.Errorf("unknown key type %q: want string, bytes, int64 or composite", s)
}

// CanonicalKey returns key in the form that t asks for: 42 and "42" are one key
// or two, never both. It returns *InvalidError for a key that has no such form.
//
//	type       accepts
//	string     string; int64 as its decimal digits
//	bytes      bytes; string as its bytes
//	int64      int64; string of canonical decimal digits: no "+42", "042", "-0"
//	composite  composite of string, bytes and int64 parts, as they are
//
// The result may share memory with key, which is not changed.
func CanonicalKey(key *walproxyv1.Key, t KeyType) (*walproxyv1.Key, error) {
	if err := validateKey("key", key); err != nil {
		return nil, err
	}
	switch t {
	case KeyString:
		switch k := key.Kind.(type) {
		case *walproxyv1.Key_String_:
			return key, nil
		case *walproxyv1.Key_Int64:
			return String(strconv.FormatInt(k.Int64, 10)), nil
		}
	case KeyBytes:
		switch k := key.Kind.(type) {
		case *walproxyv1.Key_Bytes:
			return key, nil
		case *walproxyv1.Key_String_:
			return Bytes([]byte(k.String_)), nil
		}
	case KeyInt64:
		switch k := key.Kind.(type) {
		case *walproxyv1.Key_Int64:
			return key, nil
		case *walproxyv1.Key_String_:
			n, err := strconv.ParseInt(k.String_, 10, 64)
			if err != nil || strconv.FormatInt(n, 10) != k.String_ {
				return nil, &InvalidError{"key", fmt.Sprintf("%.40q is not an int64 in plain decimal digits", k.String_)}
			}
			return Int64(n), nil
		}
	case KeyComposite:
		if _, ok := key.Kind.(*walproxyv1.Key_Composite_); ok {
			return key, nil
		}
	default:
		return nil, &InvalidError{"key", "the collection has the unknown key type " + t.String()}
	}
	return nil, &InvalidError{"key", fmt.Sprintf("is %s; the collection's keys are of type %s", keyKind(key), t)}
}

func keyKind(key *walproxyv1.Key) string {
	switch key.GetKind().(type) {
	case *walproxyv1.Key_String_:
		return "a string"
	case *walproxyv1.Key_Bytes:
		return "bytes"
	case *walproxyv1.Key_Int64:
		return "an int64"
	case *walproxyv1.Key_Composite_:
		return "a composite"
	}
	return "empty"
}

// validateKey checks a key's shape and size, whatever its type.
func validateKey(path string, key *walproxyv1.Key) error {
	c, ok := key.GetKind().(*walproxyv1.Key_Composite_)
	if !ok {
		size, err := keyPartSize(path, key)
		if err != nil {
			return err
		}
		if size == 0 {
			return &InvalidError{path, "must not be empty"}
		}
		if size > MaxKeyBytes {
			return &InvalidError{path, fmt.Sprintf("is %d bytes; at most %d", size, MaxKeyBytes)}
		}
		return nil
	}
	parts := c.Composite.GetParts()
	if n := len(parts); n < 1 || n > MaxKeyParts {
		return &InvalidError{path + ".composite", fmt.Sprintf("has %d parts; 1 to %d", n, MaxKeyParts)}
	}
	total := 0
	for i, part := range parts {
		size, err := keyPartSize(fmt.Sprintf("%s.composite[%d]", path, i), part)
		if err != nil {
			return err
		}
		total += size
	}
	if total > MaxKeyBytes {
		return &InvalidError{path, fmt.Sprintf("is %d bytes; at most %d", total, MaxKeyBytes)}
	}
	return nil
}

func keyPartSize(path string, key *walproxyv1.Key) (int, error) {
	switch k := key.GetKind().(type) {
	case *walproxyv1.Key_String_:
		if !utf8.ValidString(k.String_) {
			return 0, &InvalidError{path, "is not valid UTF-8; use a bytes key"}
		}
		return len(k.String_), nil
	case *walproxyv1.Key_Bytes:
		return len(k.Bytes), nil
	case *walproxyv1.Key_Int64:
		return 8, nil
	case *walproxyv1.Key_Composite_:
		return 0, &InvalidError{path, "a part of a composite must be a string, bytes or an int64"}
	}
	return 0, &InvalidError{path, "is missing"}
}
