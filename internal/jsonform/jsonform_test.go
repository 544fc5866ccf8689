package jsonform

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

func TestFaults(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	for _, c := range []struct{ in, field, reason string }{
		{``, "", "want an object"},
		{`[]`, "", "want an object"},
		{`{"collection":"c"`, "", "want ','"},
		{`{"collection":"c"}}`, "", "after the end"},
		{`{"colection":"c"}`, "colection", "unknown member"},
		{`{"collection":1}`, "collection", `want '"'`},
		{`{"collection":"a","collection":"b"}`, "collection", "stands twice"},
		{`{"set":{"a":1,"a":2}}`, "set.a", "stands twice"},
		{`{"set":{"m":{"a":1,"a":2}}}`, "set.m.a", "stands twice"},
		{`{"set":{"m":[1,{"x":9223372036854775808}]}}`, "set.m[1].x", "beyond int64"},
		{`{"set":{"n":-9223372036854775809}}`, "set.n", "beyond int64"},
		{`{"set":{"n":1e400}}`, "set.n", "beyond double"},
		{`{"set":{"n":01}}`, "set.n", "superfluous 0"},
		{`{"set":{"n":1.}}`, "set.n", "want a digit"},
		{`{"set":{"n":-}}`, "set.n", "want a digit"},
		{`{"set":{"n":1e}}`, "set.n", "want a digit"},
		{`{"set":{"n":+1}}`, "set.n", "want a value"},
		{`{"set":{"n":NaN}}`, "set.n", "want a value"},
		{`{"set":{"n":nul}}`, "set.n", "want null"},
		{`{"set":{"n":1` + strings.Repeat("0", 2000) + `}}`, "set.n", "longer than"},
		{`{"set":{"d":` + deep + `}}`, "set.d" + strings.Repeat("[0]", MaxDepth-2), "nests deeper"},
		{`{"set":{"s":"` + "\xff" + `"}}`, "set.s", "not UTF-8"},
		{`{"set":{"s":"\n` + "\xff" + `"}}`, "set.s", "not UTF-8"},
		{"{\"set\":{\"s\":\"a\nb\"}}", "set.s", "control character"},
		{`{"set":{"s":"\ud800"}}`, "set.s", "surrogate"},
		{`{"set":{"s":"\ud800\u0041"}}`, "set.s", "surrogate"},
		{`{"set":{"s":"\udc00\ud800"}}`, "set.s", "surrogate"},
		{`{"set":{"s":"\x"}}`, "set.s", "escape"},
		{`{"set":{"s":"\u12g4"}}`, "set.s", "escape"},
		{`{"set":{"s":"abc`, "set.s", "does not end"},
		{`{"set":{"s":"abc\`, "set.s", "does not end"},
		{`{"set":{"b":{"$bytes":"AA"}}}`, "set.b.$bytes", "base64"},
		{`{"set":{"b":{"$bytes":"AA==","x":1}}}`, "set.b.x", "reserved"},
		{`{"set":{"b":{"x":1,"$bytes":"AA=="}}}`, "set.b.$bytes", "reserved"},
		{`{"set":{"b":{"$float":"1"}}}`, "set.b.$float", "unknown"},
		{`{"set":{"b":{"$timestamp":"yesterday"}}}`, "set.b.$timestamp", "RFC 3339"},
		{`{"set":{"b":{"$timestamp":"2026-01-01T00:00:00.1234567891Z"}}}`, "set.b.$timestamp", "nine digits"},
		{`{"set":{"b":{"$decimal":1}}}`, "set.b.$decimal", `want '"'`},
		{`{"set":1}`, "set", "want an object of fields"},
		{`{"unset":{"a":1}}`, "unset", "want an array"},
		{`{"unset":["a",1]}`, "unset[1]", `want '"'`},
		{`{"append_event":{"a":1}}`, "append_event", "want an array"},
		{`{"append_event":[{"a":1},2]}`, "append_event[1]", "want an object"},
		{`{"touch":false}`, "touch", "want true"},
		{`{"delete":1}`, "delete", "want true"},
		{`{"if_version":-1}`, "if_version", "from 0"},
		{`{"if_version":1.5}`, "if_version", "from 0"},
		{`{"if_version":18446744073709551616}`, "if_version", "from 0"},
		{`{"if_version":1,"if_absent":true}`, "if_absent", "one precondition"},
		{`{"if_absent":false}`, "if_absent", "want true"},
		{`{"expires_at":"soon"}`, "expires_at", "RFC 3339"},
		{`{"key":1.5}`, "key", "64 bits"},
		{`{"key":null}`, "key", "want a key"},
		{`{"key":{"a":1}}`, "key", "want a key"},
		{`{"key":["a",["b"]]}`, "key[1]", "want a key"},
		{`{"set":{"a":1},}`, "", `want '"'`},
		{`{"set":{"a":[1,]}}`, "set.a[1]", "want a value"},
	} {
		_, err := DecodeMutation([]byte(c.in))
		var fault *Error
		if !errors.As(err, &fault) {
			t.Errorf("%.80s: got %v, want an *Error", c.in, err)
			continue
		}
		if fault.Field != c.field || !strings.Contains(fault.Reason, c.reason) {
			t.Errorf("%.80s:\n got %q %q,\nwant %q %q", c.in, fault.Field, fault.Reason, c.field, c.reason)
		}
	}
}

func TestMutation(t *testing.T) {
	got, err := DecodeMutation([]byte(` {
		"if_event_count": 3, "expires_at": "2030-01-02T03:04:05.5Z", "request_id": "r\u00e9\ud83d\ude00\/",
		"append_event": [{"kind": "paid"}, {}], "prepend": {"l": [1]}, "append": {"s": "x"},
		"increment": {"n": -5, "d": {"$decimal": "0.10"}}, "unset": ["gone"], "merge": {"note": null},
		"collection": "orders", "key": ["eu", -7, {"$bytes": "AP8="}], "set": {
			"f": 1.0, "e": 1E2, "i": -0, "max": 9223372036854775807, "min": -9223372036854775808,
			"t": {"$timestamp": "2026-01-02T03:04:05+01:00"}, "m": {"$map": {"$bytes": "plain"}}, "o": {}, "y": true
		} } `))
	if err != nil {
		t.Fatal(err)
	}
	if err := mutation.Validate(got); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, op := range got.GetOps() {
		kinds = append(kinds, string(op.ProtoReflect().WhichOneof(op.ProtoReflect().Descriptor().Oneofs().Get(0)).Name()))
	}
	if s := strings.Join(kinds, " "); s != "set merge unset increment append prepend append_event" {
		t.Errorf("ops in order %s", s)
	}
	set := got.GetOps()[0].GetSet().GetFields()
	for name, want := range map[string]*walproxyv1.Value{
		"f": mutation.DoubleValue(1), "e": mutation.DoubleValue(100), "i": mutation.Int64Value(0),
		"max": mutation.Int64Value(math.MaxInt64), "min": mutation.Int64Value(math.MinInt64),
		"m": mutation.MapValue(fields{"$bytes": mutation.StringValue("plain")}), "o": mutation.MapValue(nil),
		"y": mutation.BoolValue(true),
	} {
		if !proto.Equal(set[name], want) {
			t.Errorf("%s: got %v, want %v", name, set[name], want)
		}
	}
	if at := set["t"].GetTimestamp().AsTime().Format("15:04:05"); at != "02:04:05" {
		t.Errorf("timestamp: got %s", at)
	}
	if got.GetRequestId() != "ré😀/" || got.GetPrecondition().GetIfEventCount() != 3 ||
		got.GetExpiresAt().AsTime().Nanosecond() != 5e8 {
		t.Errorf("got %v", got)
	}
	if key := string(AppendKey(nil, got.GetKey())); key != `["eu",-7,{"$bytes":"AP8="}]` {
		t.Errorf("key: got %s", key)
	}
}

// values draws any value that a record may hold.
func values(depth int) *rapid.Generator[*walproxyv1.Value] {
	return rapid.Custom(func(t *rapid.T) *walproxyv1.Value {
		most := 9
		if depth == 0 {
			most = 7
		}
		switch rapid.IntRange(0, most).Draw(t, "kind") {
		case 0:
			return mutation.NullValue()
		case 1:
			return mutation.BoolValue(rapid.Bool().Draw(t, "bool"))
		case 2:
			return mutation.Int64Value(rapid.Int64().Draw(t, "int"))
		case 3:
			whole := rapid.SampledFrom([]float64{0, 1, -3, 100, 1e6, 1e20, 1e21, math.MaxInt64, math.MaxFloat64})
			f := rapid.OneOf(rapid.Float64(), whole).Draw(t, "double")
			if math.IsNaN(f) || math.IsInf(f, 0) {
				f = -1
			}
			return mutation.DoubleValue(f)
		case 4:
			return mutation.DecimalValue(rapid.StringMatching(`-?[0-9]{1,30}(\.[0-9]{1,9})?`).Draw(t, "decimal"))
		case 5:
			return mutation.StringValue(rapid.String().Draw(t, "string"))
		case 6:
			return mutation.BytesValue(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		case 7:
			sec, ns := rapid.Int64Range(-62135596800, 253402300799), rapid.Int32Range(0, 999999999)
			v := mutation.TimestampValue(timeOf(sec.Draw(t, "sec"), ns.Draw(t, "ns")))
			return v
		case 8:
			return mutation.ListValue(rapid.SliceOfN(values(depth-1), 0, 4).Draw(t, "list")...)
		}
		names := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"$bytes", "$map", "$", "a"}))
		return mutation.MapValue(rapid.MapOfN(names, values(depth-1), 0, 4).Draw(t, "map"))
	})
}

// TestRoundTrip: what is written is JSON, and reading it gives the same values
// of the same kinds.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOfN(rapid.String(), values(4), 0, 5).Draw(t, "fields")
		text := AppendFields(nil, m)
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		back, err := DecodeFields(text)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if !proto.Equal(mutation.MapValue(m), mutation.MapValue(back)) {
			t.Fatalf("%s\n is read as\n%s", text, AppendFields(nil, back))
		}
	})
}

// TestAppendMutation: what has no JSON form is not given one.
func TestAppendMutation(t *testing.T) {
	set := mutation.SetOp(map[string]*walproxyv1.Value{"a": mutation.Int64Value(1)})
	merge := mutation.MergeOp(map[string]*walproxyv1.Value{"b": mutation.Int64Value(1)})
	for _, c := range []struct {
		ops  []*walproxyv1.Op
		want string
	}{
		{[]*walproxyv1.Op{set, merge}, `{"collection":"c","key":7,"set":{"a":1},"merge":{"b":1}}`},
		{[]*walproxyv1.Op{merge, set}, ""},
		{[]*walproxyv1.Op{set, set}, ""},
		{[]*walproxyv1.Op{{}}, ""},
	} {
		got, ok := AppendMutation([]byte("x"), mutation.New("c", mutation.Int64(7), c.ops))
		if want := "x" + c.want; string(got) != want || ok != (c.want != "") {
			t.Errorf("%v: %s, %v; want %s", c.ops, got, ok, want)
		}
	}
}

// FuzzMutation: what is accepted is JSON to encoding/json too, and has one
// meaning: fields written out and read again are the same.
func FuzzMutation(f *testing.F) {
	f.Add([]byte(`{"collection":"c","key":"k","set":{"a":[1,2.5,{"$bytes":"AA=="}],"b":null}}`))
	f.Add([]byte(`{"key":[1,"a"],"increment":{"n":{"$decimal":"1.5"}},"if_version":3}`))
	f.Add([]byte(`{"append_event":[{"a":"\ud83d\ude00"}],"touch":true,"delete":true}`))
	f.Add([]byte(`{"set":{"m":{"$map":{"$x":{}}},"t":{"$timestamp":"2026-01-02T03:04:05Z"}}}`))
	f.Add([]byte(`{"set":{"a":1e999}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeMutation(data)
		if err != nil {
			var fault *Error
			if !errors.As(err, &fault) || fault.Offset < 0 || fault.Offset > len(data) || !utf8.ValidString(fault.Error()) {
				t.Fatalf("a fault without a place: %v", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted, but not JSON: %q", data)
		}
		text, ok := AppendMutation(nil, m)
		again, err := DecodeMutation(text)
		if !ok || err != nil || !json.Valid(text) || !proto.Equal(again, m) {
			t.Fatalf("%q is written as %q and then: %v", data, text, err)
		}
		for _, op := range m.GetOps() {
			for _, fs := range []fields{op.GetSet().GetFields(), op.GetMerge().GetFields(), op.GetIncrement().GetFields()} {
				text := AppendFields(nil, fs)
				back, err := DecodeFields(text)
				if err != nil || !bytes.Equal(AppendFields(nil, back), text) {
					t.Fatalf("%q is written as %q and then: %v", data, text, err)
				}
			}
		}
	})
}

func BenchmarkDecodeMutation(b *testing.B) {
	data := []byte(`{"collection":"orders","key":"customer-0042","set":{"total":1299,"currency":"EUR","paid":true,` +
		`"items":[{"sku":"A-1","n":2},{"sku":"B-7","n":1}],"note":"leave it at the door","at":{"$timestamp":"2026-01-02T03:04:05Z"}}}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeMutation(data); err != nil {
			b.Fatal(err)
		}
	}
}

func timeOf(sec int64, ns int32) time.Time { return time.Unix(sec, int64(ns)) }
