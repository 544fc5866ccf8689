package mutation

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

func TestCanonicalKey(t *testing.T) {
	for _, c := range []struct {
		name string
		key  *walproxyv1.Key
		t    KeyType
		want *walproxyv1.Key // nil: refused
	}{
		{"string", String("42"), KeyString, String("42")},
		{"int as string", Int64(42), KeyString, String("42")},
		{"negative int as string", Int64(-42), KeyString, String("-42")},
		{"padded stays itself", String("042"), KeyString, String("042")},
		{"bytes as string", Bytes([]byte("42")), KeyString, nil},
		{"composite as string", Composite(String("a")), KeyString, nil},
		{"bytes", Bytes([]byte{0xff, 0}), KeyBytes, Bytes([]byte{0xff, 0})},
		{"string as bytes", String("ab"), KeyBytes, Bytes([]byte("ab"))},
		{"int as bytes", Int64(1), KeyBytes, nil},
		{"int", Int64(math.MinInt64), KeyInt64, Int64(math.MinInt64)},
		{"digits as int", String("42"), KeyInt64, Int64(42)},
		{"zero", String("0"), KeyInt64, Int64(0)},
		{"least", String("-9223372036854775808"), KeyInt64, Int64(math.MinInt64)},
		{"plus", String("+42"), KeyInt64, nil},
		{"padded", String("042"), KeyInt64, nil},
		{"minus zero", String("-0"), KeyInt64, nil},
		{"blank", String(" 42"), KeyInt64, nil},
		{"too large", String("9223372036854775808"), KeyInt64, nil},
		{"word", String("x"), KeyInt64, nil},
		{"composite", Composite(String("42"), Int64(42)), KeyComposite, Composite(String("42"), Int64(42))},
		{"string as composite", String("a"), KeyComposite, nil},
		{"empty part", Composite(String(""), Int64(1)), KeyComposite, Composite(String(""), Int64(1))},
		{"no parts", Composite(), KeyComposite, nil},
		{"nested", Composite(Composite(Int64(1))), KeyComposite, nil},
		{"missing part", Composite(nil), KeyComposite, nil},
		{"too many parts", Composite(slices.Repeat([]*walproxyv1.Key{Int64(1)}, MaxKeyParts+1)...), KeyComposite, nil},
		{"empty string", String(""), KeyString, nil},
		{"empty bytes", Bytes(nil), KeyBytes, nil},
		{"no kind", &walproxyv1.Key{}, KeyString, nil},
		{"nil", nil, KeyString, nil},
		{"longest", String(strings.Repeat("x", MaxKeyBytes)), KeyString, String(strings.Repeat("x", MaxKeyBytes))},
		{"too long", String(strings.Repeat("x", MaxKeyBytes+1)), KeyString, nil},
		{"parts too long", Composite(String(strings.Repeat("x", MaxKeyBytes-7)), Int64(1)), KeyComposite, nil},
		{"not UTF-8", String("\xff"), KeyString, nil},
		{"unknown type", String("a"), KeyType(9), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := CanonicalKey(c.key, c.t)
			if c.want == nil {
				var invalid *InvalidError
				if !errors.As(err, &invalid) || !strings.HasPrefix(invalid.Field, "key") || invalid.Reason == "" {
					t.Fatalf("CanonicalKey = %v, %v; want *InvalidError of key", got, err)
				}
				return
			}
			if err != nil || !proto.Equal(got, c.want) {
				t.Fatalf("CanonicalKey = %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

func TestKeyTypeText(t *testing.T) {
	for _, k := range []KeyType{KeyString, KeyBytes, KeyInt64, KeyComposite} {
		if got, err := ParseKeyType(k.String()); err != nil || got != k {
			t.Errorf("ParseKeyType(%q) = %v, %v", k.String(), got, err)
		}
	}
	if _, err := ParseKeyType("uuid"); err == nil {
		t.Error("ParseKeyType(uuid) succeeded")
	}
}

// Lanes are hash(collection, key) mod n across versions: these never change.
func TestHashGolden(t *testing.T) {
	for _, c := range []struct {
		collection string
		key        *walproxyv1.Key
		want       uint64
	}{
		{"orders", String("42"), 0x2721103b0cb15855},
		{"orders", Int64(42), 0x1ed31494b3eeb4f1},
		{"orders", Bytes([]byte{0, 1, 0xff}), 0x3b2e1e1c0311f46b},
		{"orders", Composite(String("a\x00b"), Int64(-1)), 0xefd2e3a5c37d1e03},
		{"o", String("rders42"), 0x14cacfb2ba320f6a},
	} {
		if got := Hash(c.collection, c.key); got != c.want {
			t.Errorf("Hash(%s, %v) = %#x, want %#x", c.collection, c.key, got, c.want)
		}
	}
}

// nastyText is text that tests escapes: NULs, the escape bytes, prefixes.
func nastyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune{0, 1, 'a', 'b', 0xff}), 0, 5, -1),
		rapid.String(),
	)
}

func genPart() *rapid.Generator[*walproxyv1.Key] {
	return rapid.OneOf(
		rapid.Map(nastyText(), String),
		rapid.Map(nastyText(), func(s string) *walproxyv1.Key { return Bytes([]byte(s)) }),
		rapid.Map(rapid.Int64(), Int64),
	)
}

func genKey() *rapid.Generator[*walproxyv1.Key] {
	return rapid.OneOf(genPart(), rapid.Map(rapid.SliceOfN(genPart(), 1, 4),
		func(parts []*walproxyv1.Key) *walproxyv1.Key { return Composite(parts...) }))
}

// compareKeys is the order that AppendKey promises, from the definition.
func compareKeys(a, b *walproxyv1.Key) int {
	rank := func(k *walproxyv1.Key) int {
		switch k.Kind.(type) {
		case *walproxyv1.Key_Int64:
			return 0
		case *walproxyv1.Key_String_:
			return 1
		case *walproxyv1.Key_Bytes:
			return 2
		}
		return 3
	}
	if c := cmp.Compare(rank(a), rank(b)); c != 0 {
		return c
	}
	switch rank(a) {
	case 0:
		return cmp.Compare(a.GetInt64(), b.GetInt64())
	case 1:
		return strings.Compare(a.GetString_(), b.GetString_())
	case 2:
		return bytes.Compare(a.GetBytes(), b.GetBytes())
	}
	return slices.CompareFunc(a.GetComposite().GetParts(), b.GetComposite().GetParts(), compareKeys)
}

func TestKeyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c1, c2 := nastyText().Draw(t, "c1"), nastyText().Draw(t, "c2")
		k1, k2 := genKey().Draw(t, "k1"), genKey().Draw(t, "k2")
		want := strings.Compare(c1, c2)
		if want == 0 {
			want = compareKeys(k1, k2)
		}
		e1, e2 := AppendKey(nil, c1, k1), AppendKey(nil, c2, k2)
		if got := bytes.Compare(e1, e2); got != want {
			t.Fatalf("order %d, want %d: %x %x", got, want, e1, e2)
		}
		if want != 0 && (bytes.HasPrefix(e1, e2) || bytes.HasPrefix(e2, e1)) {
			t.Fatalf("one encoding is a prefix of another: %x %x", e1, e2)
		}
		collection, key, err := ParseKey(e1)
		if err != nil || collection != c1 || compareKeys(key, k1) != 0 {
			t.Fatalf("ParseKey = %q, %v, %v; want %q, %v", collection, key, err, c1, k1)
		}
		s1, s2 := nastyText().Draw(t, "s1"), nastyText().Draw(t, "s2")
		prefix := AppendKeyPrefix(nil, c1, s1)
		if got := bytes.HasPrefix(AppendKey(nil, c1, String(s2)), prefix); got != strings.HasPrefix(s2, s1) {
			t.Fatalf("prefix %q of %q: %v", s1, s2, got)
		}
		if !bytes.HasPrefix(AppendKey(nil, c1, String(s1+s2)), prefix) {
			t.Fatalf("prefix %q of %q is not seen", s1, s1+s2)
		}
		if !bytes.HasPrefix(e1, AppendCollection(nil, c1)) {
			t.Fatal("AppendCollection is no prefix")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	for _, key := range []*walproxyv1.Key{String("a\x00"), Bytes([]byte{0, 0xff}), Int64(-1), Composite(String(""), Int64(7))} {
		f.Add(AppendKey(nil, "orders", key))
	}
	f.Add([]byte("orders\x00\x01\x40\x01"))
	f.Add([]byte{0, 0xff})
	f.Fuzz(func(t *testing.T, enc []byte) {
		collection, key, err := ParseKey(enc)
		if err != nil {
			if !errors.Is(err, ErrKeyEncoding) {
				t.Fatalf("%v is not ErrKeyEncoding", err)
			}
			return
		}
		if again := AppendKey(nil, collection, key); !bytes.Equal(again, enc) {
			t.Fatalf("%x was read as %q %v, which is %x", enc, collection, key, again)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	key := String("customer-0000000000042")
	b.ReportAllocs()
	for b.Loop() {
		Hash("orders", key)
	}
}
