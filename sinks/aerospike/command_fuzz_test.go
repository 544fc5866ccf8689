package aerospike

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// FuzzCommand: whatever message stands in the log, it halts the sink or is sent as it
// is, with a filter and the guard; nothing else is changed, and it is never half read.
func FuzzCommand(f *testing.F) {
	o := Options{Hosts: []string{"h"}, Namespace: "test", Collections: []Collection{{Pattern: rawCollection, Set: "s", Digest: true}}}.withDefaults()
	guard := guardName(uuid.UUID{1})
	digest := bytes.Repeat([]byte{9}, codec.DigestBytes)
	key, place, err := o.keyOf(rawCollection, mutation.Bytes(digest))
	if err != nil {
		f.Fatal(err)
	}
	for _, ops := range [][]codec.Op{{intOp(codec.OpWrite, "n", 1)}, {intOp(codec.OpIncrement, "n", 1), {Type: codec.OpTouch}},
		{{Type: codec.OpCDTModify, Particle: 4, Name: []byte("l"), Value: []byte{0, 1, 0x91, 5}}}} {
		for _, info3 := range []byte{0, codec.Info3CreateOrReplace, codec.Info3UpdateOnly} {
			m := &codec.Message{Header: codec.Header{Info2: wr, Info3: info3, TTL: 100}, Fields: fieldsOfKey(key), Ops: ops}
			f.Add(codec.AppendMessage(nil, m), uint64(5), false)
			f.Add(codec.AppendMessage(nil, m), uint64(0), true)
		}
	}
	f.Fuzz(func(t *testing.T, message []byte, floor uint64, anew bool) {
		w := &work{key: key, place: place, floor: sinks.LSN(floor % 10)}
		c := &walproxyv1.Command{Message: message, Collection: rawCollection, Key: mutation.Bytes(digest)}
		m, err := parseCommand(c, w)
		if err != nil {
			return
		}
		w.steps = []step{{lsn: 10, accepted: time.Now(), command: m}}
		ord := &order{work: w, anew: anew}
		sent, _ := ord.guarded(guard, time.Now())
		if err := command.Shape(m); err != nil || !bytes.Equal(codec.AppendMessage(nil, m), codec.AppendMessage(nil, mustParse(t, message))) {
			t.Fatalf("what was logged is changed: %v", err)
		}
		again := mustParse(t, codec.AppendMessage(nil, sent))
		filter, ok := again.Field(codec.FieldFilter)
		if !ok || len(again.Fields) != len(m.Fields)+1 || !reflect.DeepEqual(again.Fields[:len(m.Fields)], m.Fields) || len(filter) == 0 {
			t.Fatalf("sent with the fields %v, logged with %v", again.Fields, m.Fields)
		}
		if string(codec.AppendOp(nil, &again.Ops[len(again.Ops)-1])) != string(codec.AppendOp(nil, new(guardOp(guard, 10)))) {
			t.Fatalf("the last op is %v, want the guard", again.Ops[len(again.Ops)-1])
		}
		for i := range m.Ops {
			if string(codec.AppendOp(nil, &again.Ops[i])) != string(codec.AppendOp(nil, &m.Ops[i])) {
				t.Fatalf("op %d was changed", i)
			}
		}
		if own := len(again.Ops) - len(m.Ops); own > 2 || again.Info2 != codec.Info2Write || again.Info1 != 0 {
			t.Fatalf("%d ops more, info %x %x", own, again.Info1, again.Info2)
		}
	})
}

func mustParse(t *testing.T, b []byte) *codec.Message {
	t.Helper()
	m, err := codec.ParseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
