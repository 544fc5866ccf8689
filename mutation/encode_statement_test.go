package mutation

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// TestStatementEncodedAlike: the encoding by hand is package proto's, byte for byte, and
// what it leaves to that it does not touch.
func TestStatementEncodedAlike(t *testing.T) {
	some := rapid.SampledFrom([]string{"", "x", "größer", "\xff", string(make([]byte, 200))})
	byHand := 0
	rapid.Check(t, func(t *rapid.T) {
		s := &walproxyv1.Statement{
			Parameters: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "parameters"), Role: some.Draw(t, "role"), SearchPath: some.Draw(t, "path"),
			Collection: some.Draw(t, "collection"), RequestId: some.Draw(t, "id"), Text: some.Draw(t, "text"),
			ParameterOids: rapid.SliceOfN(rapid.Uint32(), 0, 5).Draw(t, "oids"),
			Settings:      rapid.MapOfN(some, some, 0, 2).Draw(t, "settings"),
		}
		s.Key = rapid.SampledFrom([]*walproxyv1.Key{Int64(-3), Int64(1 << 40), Int64(0), String(""), String("k"), String("\xff"), Bytes(nil), Bytes([]byte{0xff}),
			Composite(String("a"), Int64(1))}).Draw(t, "key")
		rec := &walproxyv1.Record{Format: Format, AcceptedUnixNanos: rapid.Int64().Draw(t, "accepted"), Principal: some.Draw(t, "principal"),
			Routes: rapid.SliceOfN(some, 0, 3).Draw(t, "routes"), Body: &walproxyv1.Record_Statement{Statement: s}}
		if rapid.IntRange(0, 5).Draw(t, "origin") == 0 {
			rec.Origin = &walproxyv1.Origin{Lsn: 3}
		}
		if rapid.Bool().Draw(t, "traced") {
			rec.Trace = &walproxyv1.Trace{TraceId: rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "trace"), SpanId: rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "span"),
				Flags: rapid.SampledFrom([]uint32{0, 1, 300, 1 << 31}).Draw(t, "flags"), State: some.Draw(t, "state")}
		}
		want, err := deterministic.MarshalAppend([]byte("before"), rec)
		got, ok := appendStatementRecord([]byte("before"), rec)
		switch {
		case !ok && string(got) != "before":
			t.Fatalf("left, with %q", got)
		case ok && err != nil:
			t.Fatalf("package proto says %v", err)
		case ok && !bytes.Equal(got, want):
			t.Fatalf("%q\npackage proto: %q", got, want)
		case ok:
			byHand++
		}
	})
	if byHand == 0 {
		t.Error("all of them were left to package proto")
	}
	plain, err := Decode(statementRecord(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := appendStatementRecord(nil, plain); !ok {
		t.Error("a plain one is left to package proto")
	}
}
