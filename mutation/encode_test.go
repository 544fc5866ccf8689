package mutation

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// everything returns records that together hold every message of the schema.
func everything() []*walproxyv1.Record {
	values := fields{
		"null": NullValue(), "bool": BoolValue(true), "int": Int64Value(-1), "double": DoubleValue(1.5),
		"decimal": DecimalValue("-12.50"), "string": StringValue("s"), "bytes": BytesValue([]byte{0}),
		"time": TimestampValue(time.Unix(1, 2)), "list": ListValue(Int64Value(1), MapValue(fields{"x": NullValue()})),
	}
	numbers, texts := fields{"n": Int64Value(1)}, fields{"s": StringValue("x")}
	m := New("orders", Composite(String("a"), Int64(1), Bytes([]byte{1})), []*walproxyv1.Op{
		DeleteOp(), SetOp(values), MergeOp(values), UnsetOp("x"), IncrementOp(numbers), AppendOp(texts), PrependOp(texts),
		AppendEventOp(&walproxyv1.Event{Fields: values}),
	}, IfVersion(7), ExpiresAt(time.Unix(100, 0)), WithRequestID("r"))
	statement := &walproxyv1.Statement{Text: "DELETE", ParameterOids: []uint32{23}, Parameters: []byte{1}, Role: "r", SearchPath: "p", RequestId: "i", Collection: "t", Key: Int64(1), Settings: map[string]string{"TimeZone": "UTC", "DateStyle": "ISO"}}
	command := &walproxyv1.Command{Message: []byte{1}, Collection: "t", Key: Int64(1)}
	group := &walproxyv1.Group{Members: []*walproxyv1.Group_Member{
		{Kind: &walproxyv1.Group_Member_Mutation{Mutation: Touch("c", String("k"))}},
		{Kind: &walproxyv1.Group_Member_Statement{Statement: statement}},
		{Kind: &walproxyv1.Group_Member_Command{Command: command}},
	}}
	record := func() *walproxyv1.Record {
		return &walproxyv1.Record{Format: Format, AcceptedUnixNanos: 5, Routes: []string{"main"}, Principal: "p",
			Origin: &walproxyv1.Origin{Lsn: 3, Sink: "main"}}
	}
	r1, r2, r3, r4 := record(), record(), record(), record()
	r1.Body = &walproxyv1.Record_Mutation{Mutation: m}
	r2.Body = &walproxyv1.Record_Group{Group: group}
	r3.Body = &walproxyv1.Record_Statement{Statement: statement}
	r4.Body = &walproxyv1.Record_Command{Command: command}
	r1.Trace, r3.Trace = traced("vendor=1"), traced("")
	return []*walproxyv1.Record{r1, r2, r3, r4}
}

func traced(state string) *walproxyv1.Trace {
	return &walproxyv1.Trace{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8), Flags: 1, State: state}
}

func TestEncodeRoundTrip(t *testing.T) {
	for _, rec := range everything() {
		enc, err := Encode([]byte("before"), rec)
		if err != nil {
			t.Fatal(err)
		}
		payload, found := bytes.CutPrefix(enc, []byte("before"))
		if !found {
			t.Fatal("Encode did not append")
		}
		got, err := Decode(payload)
		if err != nil || !proto.Equal(got, rec) {
			t.Fatalf("Decode = %v, %v; want %v", got, err, rec)
		}
		for range 5 { // maps are ordered
			if again, _ := Encode(nil, rec); !bytes.Equal(again, payload) {
				t.Fatal("two encodings of one record differ")
			}
		}
	}
}

// Request ids outlive an upgrade by the hash of this encoding.
func TestEncodeGolden(t *testing.T) {
	rec := &walproxyv1.Record{Format: Format, AcceptedUnixNanos: 1, Routes: []string{"main"},
		Body: &walproxyv1.Record_Mutation{Mutation: New("c", String("k"),
			[]*walproxyv1.Op{SetOp(fields{"b": Int64Value(2), "a": StringValue("x")})})}}
	enc, err := Encode(nil, rec)
	if err != nil {
		t.Fatal(err)
	}
	const want = "080110021a046d61696e521f0a016312030a016b1a150a130a080a016112033201780a070a016212021804"
	if got := hex.EncodeToString(enc); got != want {
		t.Fatalf("encoding %s, want %s", got, want)
	}
}

// messages calls f for every message inside m, m included.
func messages(m protoreflect.Message, f func(protoreflect.Message)) {
	f(m)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					messages(v.Message(), f)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				messages(v.List().Get(i).Message(), f)
			}
		default:
			messages(v.Message(), f)
		}
		return true
	})
}

// An unknown field in any message, of any depth, and a oneof without a kind
// are errors.
func TestDecodeRefusesUnknown(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1)
	seen := map[protoreflect.FullName]bool{}
	for _, rec := range everything() {
		messages(rec.ProtoReflect(), func(m protoreflect.Message) {
			seen[m.Descriptor().FullName()] = true
			m.SetUnknown(unknown)
			refused(t, rec, "unknown field in "+string(m.Descriptor().FullName()))
			m.SetUnknown(nil)
			for i := range m.Descriptor().Oneofs().Len() {
				fd := m.WhichOneof(m.Descriptor().Oneofs().Get(i))
				v := m.Get(fd)
				m.Clear(fd)
				refused(t, rec, "no kind in "+string(m.Descriptor().FullName()))
				m.Set(fd, v)
			}
		})
		if _, err := Encode(nil, rec); err != nil {
			t.Fatalf("the record was not restored: %v", err)
		}
	}
	var all func(ms protoreflect.MessageDescriptors)
	all = func(ms protoreflect.MessageDescriptors) {
		for i := range ms.Len() {
			m := ms.Get(i)
			if !m.IsMapEntry() && m.Name() != "Document" && m.FullName() != "walproxy.v1.Op.Touch" && !seen[m.FullName()] {
				t.Errorf("no test record holds a %s", m.FullName())
			}
			all(m.Messages())
		}
	}
	all(walproxyv1.File_walproxy_v1_walproxy_proto.Messages())
}

func refused(t *testing.T, rec *walproxyv1.Record, what string) {
	t.Helper()
	if _, err := Encode(nil, rec); !errors.Is(err, ErrEncoding) {
		t.Errorf("%s: Encode says %v", what, err)
	}
	payload, err := proto.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(payload); !errors.Is(err, ErrEncoding) {
		t.Errorf("%s: Decode says %v", what, err)
	}
}

func TestDecodeRefusesFormat(t *testing.T) {
	for _, format := range []uint32{0, 2} {
		rec := everything()[0]
		rec.Format = format
		refused(t, rec, "format")
	}
	for _, payload := range [][]byte{nil, {0xff}, {0x08}} {
		if _, err := Decode(payload); !errors.Is(err, ErrEncoding) {
			t.Errorf("Decode(%x) = %v", payload, err)
		}
	}
}

func TestMutationsOfRecord(t *testing.T) {
	recs := everything()
	if ms, err := Mutations(recs[0]); err != nil || len(ms) != 1 {
		t.Errorf("mutation: %v, %v", ms, err)
	}
	for _, rec := range recs[1:] {
		var kind *KindError
		if _, err := Mutations(rec); !errors.As(err, &kind) {
			t.Errorf("Mutations = %v, want *KindError", err)
		}
	}
	var keys []string
	for _, rec := range recs {
		Keys(rec, func(collection string, key *walproxyv1.Key) { keys = append(keys, collection+"/"+KeyText(key)) })
	}
	want := []string{"orders/(a, 1, 0x01)", "c/k", "t/1", "t/1", "t/1", "t/1"}
	if len(keys) != len(want) {
		t.Fatalf("keys %q, want %q", keys, want)
	}
	for i := range want {
		if keys[i] != want[i] {
			t.Fatalf("keys %q, want %q", keys, want)
		}
	}
	if id := RequestID(recs[0]); id != "r" {
		t.Errorf("request id %q", id)
	}
}

func FuzzDecode(f *testing.F) {
	for _, rec := range everything() {
		enc, err := Encode(nil, rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(enc)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		rec, err := Decode(payload)
		if err != nil {
			if !errors.Is(err, ErrEncoding) {
				t.Fatalf("%v is not ErrEncoding", err)
			}
			return
		}
		enc, err := Encode(nil, rec)
		if err != nil {
			t.Fatalf("decoded, but: %v", err)
		}
		again, err := Decode(enc)
		if err != nil {
			t.Fatalf("second round: %v", err)
		}
		if enc2, err := Encode(nil, again); err != nil || !bytes.Equal(enc2, enc) {
			t.Fatalf("second round: %x, %v; want %x", enc2, err, enc)
		}
		if ms, err := Mutations(rec); err == nil {
			for _, m := range ms { // whatever was logged, applying it does not panic
				_, _ = Apply(nil, m, 1, time.Unix(0, rec.AcceptedUnixNanos))
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	m, err := Set("orders", String("42"), map[string]any{"total": 10, "note": "hello", "customer": "c-42", "price": Decimal("12.50")})
	if err != nil {
		b.Fatal(err)
	}
	enc, err := Encode(nil, &walproxyv1.Record{Format: Format, AcceptedUnixNanos: time.Now().UnixNano(), Routes: []string{"main"},
		Body: &walproxyv1.Record_Mutation{Mutation: m}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(enc); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAppendAccepted(t *testing.T) {
	for _, nanos := range []int64{0, 1, -1, 1 << 62} {
		rec := everything()[0]
		rec.AcceptedUnixNanos = 7 // the later one counts
		enc, err := Encode(nil, rec)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(AppendAccepted(enc, nanos))
		rec.AcceptedUnixNanos = nanos
		if err != nil || !proto.Equal(got, rec) {
			t.Fatalf("Decode = %v, %v; want %v", got, err, rec)
		}
	}
}
