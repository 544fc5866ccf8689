package pgstatement

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// TestCheckKey: a statement's key is the row's that it writes, in whatever form a driver
// sends the value; what cannot be read is not judged.
func TestCheckKey(t *testing.T) {
	id := uuid.MustParse("7b1d7c32-0f2d-4bd5-9b5c-0a4a4f2f2a10")
	four := binary.BigEndian.AppendUint32(nil, 4)
	for _, c := range []struct {
		name   string
		oid    uint32
		format int16
		value  []byte
		key    *walproxyv1.Key
		is     string // the row, where it is another one
	}{
		{"text", oidInt4, Text, []byte("4"), mutation.Int64(4), ""},
		{"spaces", oidInt4, Text, []byte(" 04 "), mutation.Int64(4), ""},
		{"another", oidInt4, Text, []byte("5"), mutation.Int64(4), "5"},
		{"binary", oidInt4, Binary, four, mutation.Int64(4), ""},
		{"another in binary", oidInt4, Binary, four, mutation.Int64(5), "4"},
		{"a number as text", oidInt8, Text, []byte("4"), mutation.String("4"), ""},
		{"null", oidInt4, Text, nil, mutation.Int64(4), "null"},
		{"words", oidVarchar, Binary, []byte("a"), mutation.String("a"), ""},
		{"other words", oidText, Text, []byte("a "), mutation.String("a"), "a "},
		{"an enum", firstUserOID, Binary, []byte("red"), mutation.String("blue"), "red"},
		{"a UUID", oidUUID, Binary, id[:], mutation.String(id.String()), ""},
		{"a UUID as it may be written", oidUUID, Text, []byte("{7B1D7C32-0F2D-4BD5-9B5C-0A4A4F2F2A10}"), mutation.String(id.String()), ""},
		{"another UUID", oidUUID, Binary, make([]byte, 16), mutation.String(id.String()), uuid.UUID{}.String()},
		{"bytes", oidBytea, Binary, []byte{0xff}, mutation.Bytes([]byte{0xff}), ""},
		{"bytes as text", oidBytea, Text, []byte(`\xFF`), mutation.Bytes([]byte{0xff}), ""},
		{"other bytes", oidBytea, Binary, []byte{1}, mutation.Bytes([]byte{0xff}), `\x01`},
		{"bytes as they were once written", oidBytea, Text, []byte(`\377`), mutation.Bytes([]byte{1}), ""},
		{"a day", oidDate, Text, []byte("2026-11-22"), mutation.String("2026-11-21"), "2026-11-22"},
		{"a day in words", oidDate, Text, []byte("22 Nov 2026"), mutation.String("2026-11-21"), ""},
		{"a time", oidTimestamptz, Binary, make([]byte, 8), mutation.String("2000-01-01T00:00:00Z"), ""},
		{"another time", oidTimestamptz, Binary, make([]byte, 8), mutation.String("2000-01-01T00:00:01Z"), "2000-01-01T00:00:00Z"},
		{"a time of a zone that is not known here", oidTimestamptz, Text, []byte("2000-01-01 01:00"), mutation.String("2000-01-01T00:00:00Z"), ""},
	} {
		for text, at := range map[string]int{
			`INSERT INTO "s"."t" ("v", "k") VALUES ($1, $2)`:                                                    1,
			`INSERT INTO "s"."t" ("k", "v") VALUES ($1, $2) ON CONFLICT ("k") DO UPDATE SET "v" = EXCLUDED."v"`: 0,
			`UPDATE "s"."t" SET "v" = $1 WHERE "k" = $2`:                                                        1,
			`DELETE FROM "s"."t" WHERE "k" = $1 AND "l" = $2`:                                                   0,
		} {
			oids, formats, values := []uint32{oidText, oidText}, []int16{Text, Text}, [][]byte{[]byte("z"), []byte("z")}
			oids[at], formats[at], values[at] = c.oid, c.format, c.value
			s := &walproxyv1.Statement{Text: text, ParameterOids: oids, Parameters: AppendParameters(nil, formats, values), Key: c.key}
			columns := []string{"k"}
			if text[0] == 'D' {
				s.Key, columns = mutation.Composite(mutation.String("z"), c.key), []string{"l", "k"}
			}
			err := CheckKey(s, columns)
			wrong, ok := errors.AsType[*KeyError](err)
			if ok != (c.is != "") || err != nil && (!ok || wrong.Row != c.is || wrong.Column != "k" || wrong.Parameter != at) {
				t.Errorf("%s: %s: %v, want that the row is %q", c.name, text, err, c.is)
			}
		}
	}
	bad := &walproxyv1.Statement{Text: `DELETE FROM "s"."t" WHERE "k" = $1`, Key: mutation.Int64(1), Parameters: AppendParameters(nil, nil, nil)}
	if err := CheckKey(bad, []string{"k"}); !errors.Is(err, ErrParameters) {
		t.Errorf("too few parameters: %v", err)
	}
	if err := CheckKey(&walproxyv1.Statement{Text: "DROP TABLE t"}, []string{"k"}); !errors.Is(err, ErrText) {
		t.Errorf("another text: %v", err)
	}
}
