package jsonform

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
)

// TestAppendRecord: every kind of record has a form, and it is JSON.
func TestAppendRecord(t *testing.T) {
	text := func(s string) *walproxyv1.Key { return &walproxyv1.Key{Kind: &walproxyv1.Key_String_{String_: s}} }
	fields := func(n int64) map[string]*walproxyv1.Value {
		return map[string]*walproxyv1.Value{"n": {Kind: &walproxyv1.Value_Int64{Int64: n}}}
	}
	set := &walproxyv1.Op{Kind: &walproxyv1.Op_Set_{Set: &walproxyv1.Op_Set{Fields: fields(1)}}}
	touch := &walproxyv1.Op{Kind: &walproxyv1.Op_Touch_{Touch: &walproxyv1.Op_Touch{}}}
	m := &walproxyv1.Mutation{Collection: "c", Key: text("k"), Ops: []*walproxyv1.Op{set}, RequestId: "r"}
	odd := &walproxyv1.Mutation{Collection: "c", Key: text("k"), Ops: []*walproxyv1.Op{touch, set, set}}
	s := &walproxyv1.Statement{Text: `UPDATE "x"`, ParameterOids: []uint32{23, 25}, Parameters: pgstatement.AppendParameters(nil, []int16{1, 0, 1, 1, 0}, [][]byte{{0, 0, 0, 7}, []byte("a\"b"), {9}, nil, {0xff}}), Role: "me", SearchPath: "public", Settings: map[string]string{"TimeZone": "UTC", "A": "b"}, Collection: "t", Key: text("k")}
	c := &walproxyv1.Command{Message: []byte{2}, Collection: "ns.set", RequestId: "r"}
	spoken := &walproxyv1.Command{Collection: "ns.set", Message: codec.AppendMessage(nil, &codec.Message{
		Header: codec.Header{Info2: codec.Info2Write, Info3: codec.Info3CreateOrReplace, TTL: 60},
		Ops:    []codec.Op{{Type: codec.OpCDTModify, Name: []byte("l"), Value: []byte{0, 1, 0x91, 5}}, {Type: codec.OpTouch}, {Type: codec.OpWrite, Name: []byte("\xff")}},
	})}
	message, _ := json.Marshal(spoken.Message)
	const head = `"time":"2020-01-02T03:04:05Z","routes":["main"],`
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()
	for want, rec := range map[string]*walproxyv1.Record{
		head + `"trace":{"trace_id":"0102030405060708090a0b0c0d0e0f10","span_id":"0102030405060708","flags":1,"state":"a=b"},"kind":"unknown","unknown":null`: {Trace: &walproxyv1.Trace{
			TraceId: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, SpanId: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Flags: 1, State: "a=b"}},
		head + `"kind":"command","command":{"collection":"ns.set","ops":[{"op":"list_append","bin":"l"},{"op":"touch"},{"op":"write","bin":"�"}],"replace":true,"ttl":60,"message":{"$bytes":` + string(message) + `}}`:                                                            {Body: &walproxyv1.Record_Command{Command: spoken}},
		head + `"kind":"mutation","mutation":{"collection":"c","key":"k","set":{"n":1},"request_id":"r"}`:                                                                                                                                                                          {Body: &walproxyv1.Record_Mutation{Mutation: m}},
		head + `"kind":"mutation","mutation":{"collection":"c","key":"k","ops":[{"touch":true},{"set":{"n":1}},{"set":{"n":1}}]}`:                                                                                                                                                  {Body: &walproxyv1.Record_Mutation{Mutation: odd}},
		head + `"kind":"command","command":{"collection":"ns.set","request_id":"r","message":{"$bytes":"Ag=="}}`:                                                                                                                                                                   {Body: &walproxyv1.Record_Command{Command: c}},
		head + `"principal":"p","origin":{"lsn":9,"sink":"main"},"kind":"unknown","unknown":null`:                                                                                                                                                                                  {Principal: "p", Origin: &walproxyv1.Origin{Lsn: 9, Sink: "main"}},
		head + `"kind":"statement","statement":{"collection":"t","key":"k","text":"UPDATE \"x\"","parameter_oids":[23,25],"role":"me","search_path":"public","settings":{"A":"b","TimeZone":"UTC"},"parameters":[{"$binary":"7"},"a\"b",{"$bytes":"CQ=="},null,{"$text":"/w=="}]}`: {Body: &walproxyv1.Record_Statement{Statement: s}},
		head + `"kind":"group","group":{"request_id":"r","members":[{"mutation":{"collection":"c","key":"k","set":{"n":1},"request_id":"r"}},` +
			`{"statement":{"collection":"t","key":"k","text":"UPDATE \"x\"","parameter_oids":[23,25],"role":"me","search_path":"public","settings":{"A":"b","TimeZone":"UTC"},"parameters":[{"$binary":"7"},"a\"b",{"$bytes":"CQ=="},null,{"$text":"/w=="}]}},` +
			`{"command":{"collection":"ns.set","request_id":"r","message":{"$bytes":"Ag=="}}},null]}`: {Body: &walproxyv1.Record_Group{Group: &walproxyv1.Group{RequestId: "r", Members: []*walproxyv1.Group_Member{
			{Kind: &walproxyv1.Group_Member_Mutation{Mutation: m}}, {Kind: &walproxyv1.Group_Member_Statement{Statement: s}},
			{Kind: &walproxyv1.Group_Member_Command{Command: c}}, {},
		}}}},
	} {
		rec.AcceptedUnixNanos, rec.Routes = at, []string{"main"}
		got := AppendRecord(nil, rec)
		if string(got) != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		if !json.Valid(append(append([]byte("{"), got...), '}')) {
			t.Errorf("no JSON: %s", got)
		}
	}
}
