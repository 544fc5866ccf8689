package mutation

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// plainRecords are records that decodePlain reads: every op, value and key.
func plainRecords(t testing.TB) (payloads [][]byte) {
	t.Helper()
	deep := BoolValue(true)
	for range plainDepth {
		deep = ListValue(deep)
	}
	values := fields{
		"null": NullValue(), "yes": BoolValue(true), "no": BoolValue(false), "int": Int64Value(math.MinInt64), "double": DoubleValue(math.NaN()),
		"decimal": DecimalValue("-12.50"), "string": StringValue("grüß"), "empty": StringValue(""), "bytes": BytesValue([]byte{0, 0xff}),
		"no bytes": BytesValue(nil), "time": TimestampValue(time.Unix(-1, 2)), "zero": TimestampValue(time.Unix(0, 0)), "": deep,
		"list": ListValue(Int64Value(1), MapValue(fields{"x": NullValue()}), ListValue()), "map": MapValue(nil),
	}
	ops := []*walproxyv1.Op{
		DeleteOp(), SetOp(values), SetOp(nil), MergeOp(values), UnsetOp("x", ""), IncrementOp(values), AppendOp(values), PrependOp(values), TouchOp(),
		AppendEventOp(&walproxyv1.Event{Fields: values}, &walproxyv1.Event{}),
	}
	keys := []*walproxyv1.Key{String("a\x00b"), String(""), Bytes([]byte{0, 1}), Int64(-7), Composite(String("a"), Int64(1), Bytes(nil)), Composite()}
	options := [][]Option{nil, {IfVersion(7)}, {IfAbsent()}, {IfEventCount(0)}, {ExpiresAt(time.Unix(100, 1)), WithRequestID("r")}}
	add := func(routes []string, m *walproxyv1.Mutation) {
		payload, err := Encode(nil, &walproxyv1.Record{Format: Format, Routes: routes, Principal: "p", Body: &walproxyv1.Record_Mutation{Mutation: m}})
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, payload, AppendAccepted(payload, -5))
	}
	for _, key := range keys {
		for _, o := range options {
			add([]string{"main"}, New("c", key, ops, o...))
		}
		add([]string{"a", "b", "c"}, New("", key, ops[:1]))
		add(nil, Touch("orders", key))
	}
	return payloads
}

// same holds what the two decoders and the outline say of payload against each
// other.
func same(t *testing.T, payload []byte) {
	t.Helper()
	slow, slowErr := decodeAny(payload)
	if fast := decodePlain(string(payload)); fast != nil && (slowErr != nil || !proto.Equal(fast, slow)) {
		t.Fatalf("%x: %v\nwant %v, %v", payload, fast, slow, slowErr)
	}
	if slowErr == nil {
		encodedAlike(t, slow)
	}
	var o Outline
	if !o.Read(payload) || slowErr != nil {
		return
	}
	var collection string
	var key []byte
	n := 0
	Keys(slow, func(c string, k *walproxyv1.Key) { collection, key, n = c, AppendKey(nil, c, k), n+1 })
	if n != 1 || o.Accepted != slow.GetAcceptedUnixNanos() || o.Collection != collection || !bytes.Equal(o.Key, key) || slow.GetOrigin() != nil {
		t.Fatalf("%x: outline of %q, %x; the record is %v", payload, o.Collection, o.Key, slow)
	}
	for _, route := range append(slices.Clone(slow.GetRoutes()), "elsewhere") {
		if want := slices.Contains(slow.GetRoutes(), route); o.Routed(route) != want {
			t.Fatalf("%x: routed to %q: %t, want %t", payload, route, !want, want)
		}
	}
}

// encodedAlike holds the encoding by hand against package proto's, and reports whether it
// was done by hand.
func encodedAlike(t *testing.T, rec *walproxyv1.Record) bool {
	t.Helper()
	want, err := deterministic.MarshalAppend([]byte("before"), rec)
	got, ok := appendMutationRecord([]byte("before"), rec)
	if ok && (err != nil || !bytes.Equal(got, want)) || !ok && string(got) != "before" {
		t.Fatalf("%x\npackage proto: %x, %v", got, want, err)
	}
	m := rec.GetMutation()
	if m == nil {
		return ok
	}
	want, err = deterministic.Marshal(m)
	got, handErr := AppendMutation(nil, m)
	if (err == nil) != (handErr == nil) || !bytes.Equal(got, want) {
		t.Fatalf("%x, %v\npackage proto: %x, %v", got, handErr, want, err)
	}
	if ms, ok := DecodeMutations([]string{string(got), string(got)}); ok && (!proto.Equal(ms[0], m) || !proto.Equal(ms[1], m)) {
		t.Fatalf("%v, want %v twice", ms, m)
	}
	return ok
}

// TestPlainRecords: writes to one key need neither package proto to be decoded
// nor decoding to be given to a lane, and both ways agree.
func TestPlainRecords(t *testing.T) {
	var o Outline
	for _, payload := range plainRecords(t) {
		if decodePlain(string(payload)) == nil {
			t.Errorf("%x is left to package proto", payload)
		}
		if !o.Read(payload) {
			t.Errorf("%x has no outline", payload)
		}
		same(t, payload)
		if rec, err := Decode(payload); err != nil || !encodedAlike(t, rec) {
			t.Errorf("%x is encoded by package proto, %v", payload, err)
		}
	}
	payload := plainRecords(t)[0]
	if n := testing.AllocsPerRun(100, func() { o.Read(payload) }); n != 0 {
		t.Errorf("an outline takes %v allocations", n)
	}
}

// TestOtherRecordsAreNotPlain: what decodePlain does not know in full is left to
// package proto and the checks.
func TestOtherRecordsAreNotPlain(t *testing.T) {
	m := Touch("c", String("k"))
	enc := func(rec *walproxyv1.Record) []byte {
		rec.Format = max(rec.Format, Format)
		b, err := proto.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	body := func(m *walproxyv1.Mutation) *walproxyv1.Record {
		return &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: m}}
	}
	plain := enc(body(m))
	retry := body(m)
	retry.Origin = &walproxyv1.Origin{Lsn: 1, Sink: "main"}
	newer := body(m)
	newer.Format = 2
	tooDeep := BoolValue(true)
	for range plainDepth + 1 {
		tooDeep = ListValue(tooDeep)
	}
	composite := enc(body(Touch("c", Composite(String("k")))))
	for name, payload := range map[string][]byte{
		"empty":            nil,
		"composite twice":  append(slices.Clone(composite), composite...),
		"key twice":        twoKeys(enc(body(m))),
		"retry":            enc(retry),
		"format":           enc(newer),
		"no body":          enc(&walproxyv1.Record{}),
		"mutation twice":   append(slices.Clone(plain), plain...),
		"unknown field":    protowire.AppendVarint(protowire.AppendTag(slices.Clone(plain), 99, protowire.VarintType), 1),
		"group":            protowire.AppendTag(slices.Clone(plain), 99, protowire.StartGroupType),
		"torn":             plain[:len(plain)-1],
		"no key":           enc(body(&walproxyv1.Mutation{Ops: m.Ops})),
		"no ops":           enc(body(&walproxyv1.Mutation{Key: m.Key})),
		"empty key":        enc(body(&walproxyv1.Mutation{Key: &walproxyv1.Key{}, Ops: m.Ops})),
		"empty op":         enc(body(&walproxyv1.Mutation{Key: m.Key, Ops: []*walproxyv1.Op{{}}})),
		"empty condition":  enc(body(&walproxyv1.Mutation{Key: m.Key, Ops: m.Ops, Precondition: &walproxyv1.Precondition{}})),
		"empty value":      enc(body(New("c", m.Key, []*walproxyv1.Op{SetOp(fields{"x": {}})}))),
		"nested composite": enc(body(Touch("c", Composite(Composite(String("x")))))),
		"nested too deep":  enc(body(New("c", m.Key, []*walproxyv1.Op{SetOp(fields{"x": tooDeep})}))),
	} {
		if rec := decodePlain(string(payload)); rec != nil {
			t.Errorf("%s: decoded as plain: %v", name, rec)
		}
		same(t, payload)
	}
	for _, text := range []string{"collection", "key", "field", "text"} { // not UTF-8
		bad := func(name string) string {
			if name == text {
				return "bad"
			}
			return "fine"
		}
		m := New(bad("collection"), String(bad("key")), []*walproxyv1.Op{SetOp(fields{bad("field"): StringValue(bad("text"))})})
		payload := bytes.Replace(enc(body(m)), []byte("bad"), []byte{'b', 0xff, 'd'}, 1)
		if rec := decodePlain(string(payload)); rec != nil {
			t.Errorf("%s: not UTF-8, decoded as plain: %v", text, rec)
		}
		same(t, payload)
	}
}

// twoKeys puts two composite keys into the mutation of a record: package proto
// makes one of their parts.
func twoKeys(payload []byte) []byte {
	rec, err := decodeAny(payload)
	if err != nil {
		panic(err)
	}
	m, err := proto.Marshal(rec.GetMutation())
	if err != nil {
		panic(err)
	}
	key, err := proto.Marshal(Composite(String("k")))
	if err != nil {
		panic(err)
	}
	for range 2 {
		m = protowire.AppendBytes(protowire.AppendTag(m, mutationKey, protowire.BytesType), key)
	}
	rec.Body = nil
	out, err := proto.Marshal(rec)
	if err != nil {
		panic(err)
	}
	return protowire.AppendBytes(protowire.AppendTag(out, recordMutation, protowire.BytesType), m)
}

// smallRecords hold one op each.
func smallRecords(t testing.TB) (payloads [][]byte) {
	t.Helper()
	for _, op := range []*walproxyv1.Op{
		SetOp(fields{"n": Int64Value(-300), "s": StringValue("x")}), MergeOp(fields{"t": TimestampValue(time.Unix(1, 2))}), UnsetOp("x", "y"),
		IncrementOp(fields{"d": DecimalValue("1.5")}), AppendOp(fields{"l": ListValue(NullValue())}), PrependOp(fields{"b": BytesValue([]byte{1})}),
		TouchOp(), DeleteOp(), AppendEventOp(&walproxyv1.Event{Fields: fields{"m": MapValue(fields{"x": BoolValue(true)})}}),
	} {
		payload, err := Encode(nil, &walproxyv1.Record{Format: Format, Routes: []string{"main"}, Body: &walproxyv1.Record_Mutation{
			Mutation: New("c", Composite(String("k"), Int64(300), Bytes([]byte{0})), []*walproxyv1.Op{op}, IfVersion(300)),
		}})
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, payload)
	}
	payloads = append(payloads, statementRecord(t))
	return append(payloads, tracedRecords(t)...)
}

// tracedRecords are a mutation and a statement with the context of a trace.
func tracedRecords(t testing.TB) (payloads [][]byte) {
	t.Helper()
	for _, rec := range []*walproxyv1.Record{
		{Body: &walproxyv1.Record_Mutation{Mutation: New("c", String("k"), []*walproxyv1.Op{TouchOp()})}},
		{Body: &walproxyv1.Record_Statement{Statement: &walproxyv1.Statement{Text: "DELETE", Collection: "c", Key: String("k")}}},
	} {
		rec.Format, rec.Routes, rec.Trace = Format, []string{"main"}, traced("a=b")
		payload, err := Encode(nil, rec)
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, payload)
	}
	return payloads
}

// TestPlainTrace: a record with the context of a trace takes the short ways, and comes
// back whole.
func TestPlainTrace(t *testing.T) {
	for _, payload := range tracedRecords(t) {
		rec := decodePlain(string(payload))
		if rec == nil || !proto.Equal(rec.GetTrace(), traced("a=b")) {
			t.Errorf("decodePlain makes %v of it", rec)
		}
		var o Outline
		if !o.Read(payload) || !o.Routed("main") || !bytes.Equal(o.Key, AppendKey(nil, "c", String("k"))) {
			t.Errorf("the outline is %+v", o)
		}
	}
}

func statementRecord(t testing.TB) []byte {
	t.Helper()
	payload, err := Encode(nil, &walproxyv1.Record{Format: Format, Routes: []string{"main"}, Body: &walproxyv1.Record_Statement{Statement: &walproxyv1.Statement{
		Text: "DELETE", ParameterOids: []uint32{23, 300}, Parameters: []byte{1}, Role: "me", SearchPath: "p", Settings: map[string]string{"TimeZone": "UTC"},
		Collection: "c", Key: Int64(300), RequestId: "r",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// TestPlainStatement: a statement is read without package proto, and its outline has
// the place of a mutation's.
func TestPlainStatement(t *testing.T) {
	payload := statementRecord(t)
	var o Outline
	if rec := decodePlain(string(payload)); rec.GetStatement().GetText() != "DELETE" || !o.Read(payload) {
		t.Fatalf("left to package proto: %v", rec)
	}
	if o.Collection != "c" || !bytes.Equal(o.Key, AppendKey(nil, "c", Int64(300))) || !o.Routed("main") {
		t.Errorf("the outline is %+v", o)
	}
}

// TestDamagedPlainRecords: with any byte changed both ways still agree.
func TestDamagedPlainRecords(t *testing.T) {
	for _, payload := range smallRecords(t) {
		for i := range payload {
			for _, b := range []byte{0, 1, 2, 3, 8, 0x0a, 0x12, 0x1a, 0x22, 0x7f, 0x80, 0xff, payload[i] + 1, payload[i] - 1, payload[i] ^ 0x80} {
				damaged := slices.Clone(payload)
				damaged[i] = b
				same(t, damaged)
			}
			same(t, slices.Delete(slices.Clone(payload), i, i+1))
			same(t, slices.Insert(slices.Clone(payload), i, payload[:min(i, 20)]...))
		}
	}
}

// FuzzDecodePlain: what decodePlain and Outline read is what package proto reads.
func FuzzDecodePlain(f *testing.F) {
	for _, payload := range smallRecords(f) {
		f.Add(payload)
	}
	for _, rec := range everything() {
		payload, err := Encode(nil, rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) { same(t, payload) })
}

func BenchmarkOutline(b *testing.B) {
	m, err := Set("orders", String("42"), map[string]any{"total": 10, "note": "hello", "customer": "c-42", "price": Decimal("12.50")})
	if err != nil {
		b.Fatal(err)
	}
	enc, err := Encode(nil, &walproxyv1.Record{Format: Format, AcceptedUnixNanos: time.Now().UnixNano(), Routes: []string{"main"},
		Body: &walproxyv1.Record_Mutation{Mutation: m}})
	if err != nil {
		b.Fatal(err)
	}
	var o Outline
	b.ReportAllocs()
	for b.Loop() {
		if !o.Read(enc) || !o.Routed("main") {
			b.Fatal("no outline")
		}
	}
}
