package pgstatement

import (
	"bytes"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

func statementOf(oid uint32, format int16, value []byte) *walproxyv1.Statement {
	return &walproxyv1.Statement{Text: `DELETE FROM "t" WHERE "k" = $1`, ParameterOids: []uint32{oid},
		Parameters: AppendParameters(nil, []int16{format}, [][]byte{value})}
}

// TestSame: a value that the driver encodes in text and in binary is the same; another
// one is not.
func TestSame(t *testing.T) {
	t.Parallel()
	types := pgtype.NewMap()
	for _, c := range []struct {
		oid          uint32
		value, other string
		more         []string // texts of the same value
	}{
		{oidInt8, "42", "43", []string{" 42", "042"}},
		{oidInt4, "-42", "42", nil},
		{oidInt2, "7", "8", nil},
		{oidBool, "t", "f", []string{"true", "ON", "1"}},
		{oidFloat8, "1.5", "1.25", []string{"15e-1", "1.50"}},
		{oidFloat4, "0.1", "0.2", []string{"1e-1"}},
		{oidNumeric, "12345678.90", "12345678.91", []string{"12345678.9", "1.23456789e7"}},
		{oidNumeric, "-0.00010", "-0.0002", []string{"-1e-4"}},
		{oidNumeric, "100000000", "10000", []string{"1e8"}},
		{oidNumeric, "0", "1", []string{"0.00"}},
		{oidText, "O'Hara", "O'Harb", nil},
		{oidVarchar, "", "x", nil},
		{oidUUID, "0190f6a4-0000-7000-8000-000000000001", "0190f6a4-0000-7000-8000-000000000002", []string{"0190F6A4-0000-7000-8000-000000000001"}},
		{oidDate, "2026-11-22", "2026-11-23", nil},
		{oidTimestamp, "2026-11-22 01:02:03.25", "2026-11-22 01:02:04", []string{"2026-11-22T01:02:03.250"}},
		{oidTimestamptz, "2026-11-22 01:02:03.25+00", "2026-11-22 01:02:03.25+01", []string{"2026-11-22T02:02:03.25+01:00", "2026-11-22 01:02:03.25Z"}},
		{oidBytea, `\x00ff`, `\x00fe`, []string{`\x00FF`}},
		{oidJSONB, `{"a": 1}`, `{"a": 2}`, []string{`{"a":1}`}},
		{oidJSON, `{"a":1}`, `{"a": 1}`, nil},
	} {
		typ, ok := types.TypeForOID(c.oid)
		if !ok {
			t.Fatalf("%d: no such type", c.oid)
		}
		value, err := typ.Codec.DecodeValue(types, c.oid, pgtype.TextFormatCode, []byte(c.value))
		if err != nil {
			t.Fatal(err)
		}
		inBinary, err := types.Encode(c.oid, pgtype.BinaryFormatCode, value, []byte{})
		if err != nil {
			t.Fatal(err)
		}
		of := func(format int16, value []byte) *walproxyv1.Statement {
			return Same(statementOf(c.oid, format, value))
		}
		want := of(Text, []byte(c.value))
		for _, text := range c.more {
			if got := of(Text, []byte(text)); !proto.Equal(got, want) {
				t.Errorf("%d: %q and %q: %q, %q", c.oid, text, c.value, got.GetParameters(), want.GetParameters())
			}
		}
		if got := of(Binary, inBinary); !proto.Equal(got, want) {
			t.Errorf("%d: %q in binary: %q, %q", c.oid, c.value, got.GetParameters(), want.GetParameters())
		}
		if got := of(Text, []byte(c.other)); proto.Equal(got, want) {
			t.Errorf("%d: %q and %q are the same", c.oid, c.other, c.value)
		}
		if got := of(Text, nil); proto.Equal(got, want) {
			t.Errorf("%d: null and %q are the same", c.oid, c.value)
		}
	}
}

// FuzzSame: whatever the bytes, it ends, and what has a form keeps it.
func FuzzSame(f *testing.F) {
	f.Add(uint32(oidNumeric), true, []byte{0, 1, 0, 0, 0, 0, 0, 0, 0, 5})
	f.Add(uint32(oidNumeric), false, []byte("1e999999999"))
	f.Add(uint32(oidTimestamptz), false, []byte("2026-11-22 01:02:03+00"))
	f.Fuzz(func(t *testing.T, oid uint32, inBinary bool, raw []byte) {
		format := Text
		if inBinary {
			format = Binary
		}
		once, of := same(oid, format, raw)
		again, ofAgain := same(oid, of, once)
		if of == Text && (!bytes.Equal(once, again) || ofAgain != Text) {
			t.Errorf("%d: %q becomes %q, that %q", oid, raw, once, again)
		}
	})
}
