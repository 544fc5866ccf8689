package pgstatement

import (
	"bytes"
	"testing"
)

func TestReadable(t *testing.T) {
	for _, c := range []struct {
		oid  uint32
		raw  []byte
		want string
	}{
		{oidBool, []byte{1}, "true"}, {oidInt2, []byte{0xff, 0xfe}, "-2"}, {oidInt4, []byte{0, 0, 1, 0}, "256"}, {oidInt8, []byte{0x80, 0, 0, 0, 0, 0, 0, 0}, "-9223372036854775808"},
		{oidFloat4, []byte{0x3f, 0xc0, 0, 0}, "1.5"}, {oidFloat8, []byte{0x7f, 0xf0, 0, 0, 0, 0, 0, 0}, "+Inf"}, {oidText, []byte("é"), "é"},
		{oidUUID, []byte("0123456789abcdef"), "30313233-3435-3637-3839-616263646566"}, {oidDate, []byte{0xff, 0xff, 0xff, 0xff}, "1999-12-31"},
		{oidTimestamp, []byte{0, 0, 0, 0, 0, 0, 0, 1}, "2000-01-01T00:00:00.000001"}, {oidTimestamptz, []byte{0, 0, 0, 0, 0, 0, 0, 0}, "2000-01-01T00:00:00Z"},
	} {
		got, ok := Readable(c.oid, c.raw)
		if !ok || got != c.want {
			t.Errorf("%d % x is read as %q (%v), want %q", c.oid, c.raw, got, ok, c.want)
		}
	}
	for _, c := range []struct {
		oid uint32
		raw string
	}{{oidBool, "\x02"}, {oidInt4, "\x01"}, {oidText, "\xff"}, {1700, "xx"}, {oidDate, "\x7f\xff\xff\xff"}, {oidTimestamptz, "\x7f\xff\xff\xff\xff\xff\xff\xff"}, {oidFloat8, "\x7f\xf8\x00\x00\x00\x00\x00\x07"}} {
		if got, ok := Readable(c.oid, []byte(c.raw)); ok {
			t.Errorf("%d %q is read as %q", c.oid, c.raw, got)
		}
	}
}

func FuzzReadable(f *testing.F) {
	f.Add(uint32(oidInt4), []byte{0, 0, 0, 1})
	f.Add(uint32(oidDate), []byte{0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, oid uint32, raw []byte) {
		text, ok := Readable(oid, raw)
		if !ok {
			return
		}
		if again, err := FromReadable(oid, text); err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%d % x became %q and % x (%v)", oid, raw, text, again, err)
		}
	})
}
