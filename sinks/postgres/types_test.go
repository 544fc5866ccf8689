package postgres

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/walproxy/walproxy/mutation"
)

// TestTypes: every kind of column takes its values exactly, gives them back, and
// refuses what it could only keep otherwise.
func TestTypes(t *testing.T) {
	a := newApplier(t, Options{},
		"CREATE TYPE mood AS ENUM ('sad', 'happy')",
		"CREATE DOMAIN short AS varchar(3) CHECK (VALUE <> 'bad')",
		"CREATE DOMAIN money2 AS numeric(6,2)",
		`CREATE TABLE kinds (id int PRIMARY KEY, v_bool bool, v_int2 int2, v_int4 int4, v_int8 int8, v_float4 float4, v_float8 float8,
			v_numeric numeric, v_numeric62 numeric(6,2), v_text text, v_varchar varchar(5), v_char char(4), v_bytea bytea, v_uuid uuid,
			v_date date, v_timestamp timestamp, v_timestamptz timestamptz, v_time time, v_interval interval, v_json json, v_jsonb jsonb,
			v_inet inet, v_cidr cidr, v_macaddr macaddr, v_bit bit(3), v_varbit varbit, v_mood mood, v_short short, v_money2 money2,
			v_ints int[], v_texts text[], v_moods mood[], v_times timestamptz[], v_jsons jsonb[], v_numerics numeric[], v_bytes bytea[],
			v_range int4range, v_point point, v_tsvector tsvector, v_xml xml, v_name name, v_oid oid, v_bools bool[], v_floats float8[])`)
	at := time.Date(2026, 2, 3, 4, 5, 6, 123_456_000, time.UTC)
	type list = []any
	same := struct{}{}
	for _, c := range []struct {
		column string
		in     any
		out    any // same: as in; nil: rejected
	}{
		{"v_bool", true, same}, {"v_bool", false, same}, {"v_bool", "true", nil},
		{"v_int2", int64(-32768), same}, {"v_int2", int64(32768), nil}, {"v_int2", 1.0, nil},
		{"v_int4", int64(math.MinInt32), same}, {"v_int4", int64(math.MaxInt32 + 1), nil},
		{"v_int8", int64(math.MinInt64), same}, {"v_int8", "1", nil},
		{"v_float4", 0.5, same}, {"v_float4", 0.1, float64(float32(0.1))}, {"v_float4", 1e300, nil},
		{"v_float8", 0.1, same}, {"v_float8", -1e-300, same}, {"v_float8", int64(7), 7.0}, {"v_float8", int64(math.MaxInt64), nil},
		{"v_numeric", mutation.Decimal("123456789012345678901234567890.000100"), same}, {"v_numeric", int64(7), mutation.Decimal("7")},
		{"v_numeric", mutation.Decimal("1e3"), mutation.Decimal("1000")}, {"v_numeric", 0.1, mutation.Decimal("0.1")}, {"v_numeric", "1", nil},
		{"v_numeric62", mutation.Decimal("1234.567"), mutation.Decimal("1234.57")}, {"v_numeric62", mutation.Decimal("12345.67"), nil},
		{"v_text", "ä\n'\\\"{}NULL", same}, {"v_text", "", same}, {"v_text", "a\x00b", nil}, {"v_text", int64(1), nil},
		{"v_varchar", "12345", same}, {"v_varchar", "123456", nil}, {"v_varchar", "12345 ", "12345"},
		{"v_char", "ab", "ab"}, {"v_char", "abcde", nil},
		{"v_bytea", []byte{0, 1, 0xff}, same}, {"v_bytea", []byte{}, same}, {"v_bytea", "text", nil},
		{"v_uuid", "0123e4d5-a6b7-4890-8abc-0123456789ab", same}, {"v_uuid", "0123E4D5-A6B7-4890-8ABC-0123456789AB", "0123e4d5-a6b7-4890-8abc-0123456789ab"}, {"v_uuid", "{x}", nil},
		{"v_date", "2026-02-03", same}, {"v_date", at.Truncate(24 * time.Hour), "2026-02-03"}, {"v_date", at, nil}, {"v_date", "today", nil}, {"v_date", "infinity", same},
		{"v_timestamp", at, same}, {"v_timestamp", "2026-02-03T04:05:06.123456", at}, {"v_timestamp", "2026-02-03T04:05:06Z", nil}, {"v_timestamp", "now", nil},
		{"v_timestamptz", at, same}, {"v_timestamptz", at.Add(600 * time.Nanosecond), at.Add(time.Microsecond)},
		{"v_timestamptz", "2026-02-03T05:05:06.123456+01:00", at}, {"v_timestamptz", "infinity", same},
		{"v_timestamptz", time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), same}, {"v_timestamptz", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), same},
		{"v_time", "04:05:06", same}, {"v_interval", "P1DT2H3M4.5S", same}, {"v_interval", "1 day", "P1D"}, {"v_interval", "soon", nil},
		{"v_json", fields{"b": int64(1), "a": list{true, nil, "x"}}, same},
		{"v_jsonb", fields{"a": int64(1), "b": 1.0, "c": mutation.Decimal("1.10"), "d": []byte("x"), "e": at, "f": list{}, "g": fields{"$bytes": "no"}, "h": 1e300, "i": "nul\x00", "j": nil}, same},
		{"v_jsonb", "text", same}, {"v_jsonb", list{int64(1), list{}}, same}, {"v_jsonb", 5e-324, same}, {"v_jsonb", math.Copysign(0, -1), same},
		{"v_inet", "10.0.0.1/8", same}, {"v_inet", "no", nil}, {"v_cidr", "10.0.0.0/8", same}, {"v_macaddr", "08:00:2b:01:02:03", same},
		{"v_bit", "101", same}, {"v_bit", "1011", nil}, {"v_varbit", "1011", same},
		{"v_mood", "happy", same}, {"v_mood", "angry", nil}, {"v_short", "abc", same}, {"v_short", "abcd", nil}, {"v_short", "bad", nil},
		{"v_money2", mutation.Decimal("1.239"), mutation.Decimal("1.24")}, {"v_money2", mutation.Decimal("123456"), nil},
		{"v_ints", list{int64(1), nil, int64(-3)}, same}, {"v_ints", list{list{int64(1), int64(2)}, list{int64(3), int64(4)}}, same}, {"v_ints", list{}, same}, {"v_ints", list{list{}}, nil}, {"v_ints", list{list{}, list{}}, nil}, {"v_ints", list{"1"}, nil}, {"v_ints", int64(1), nil},
		{"v_texts", list{"", "NULL", nil, "a,b", `"q\`, "{}", "ä b"}, same}, {"v_moods", list{"sad", "happy"}, same}, {"v_moods", list{"angry"}, nil},
		{"v_times", list{at, nil}, same}, {"v_jsons", list{fields{"a": int64(1)}, list{int64(1)}, "x"}, same},
		{"v_numerics", list{mutation.Decimal("1.10"), mutation.Decimal("2")}, same}, {"v_bytes", list{[]byte{1, 2}, []byte{}}, same},
		{"v_bools", list{true, false}, same}, {"v_floats", list{0.1, -1e300}, same},
		{"v_range", "[1,5)", same}, {"v_point", "(1,2)", same}, {"v_tsvector", "'a':1 'b':2", same}, {"v_xml", "<a/>", same}, {"v_name", "n", same}, {"v_oid", "7", same},
		{"v_text", nil, same}, {"v_ints", nil, same}, {"v_jsonb", nil, same},
	} {
		key := mutation.Int64(1)
		m := set("kinds", key, fields{c.column: c.in})
		if c.out == nil {
			if err := a.refused(m); err == nil {
				t.Errorf("%s: %#v was refused without a reason", c.column, c.in)
			}
			continue
		}
		a.put(m)
		want := c.out
		if want == same {
			want = c.in
		}
		got := mutation.ToAny(a.get("kinds", key).Fields[c.column])
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: wrote %#v, read %#v, want %#v", c.column, c.in, got, want)
		}
		// The codec's own idea of what was stored, if it has one.
		column := a.sink.planner.(*tablePlanner).mapping("kinds").byField[c.column]
		v, err := mutation.FromAny(c.in)
		if err != nil || isNull(v) || !column.exact {
			continue
		}
		enc, err := column.codec.encode(nil, v)
		if err != nil {
			t.Errorf("%s: encode: %v", c.column, err)
			continue
		}
		back, err := column.codec.decode(enc)
		if err != nil {
			t.Errorf("%s: decode: %v", c.column, err)
			continue
		}
		if !reflect.DeepEqual(mutation.ToAny(back), want) && column.base != oidNumeric { // 1e3 is 1000
			t.Errorf("%s: %#v is said to be stored as %#v, read %#v", c.column, c.in, mutation.ToAny(back), want)
		}
	}
}
