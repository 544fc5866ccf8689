package transcript

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

var at = time.UnixMilli(1_763_748_000_123)

// frame is a message as it is sent.
func frame(messages ...codec.Message) []byte {
	b := codec.AppendProto(nil, codec.TypeMessage, 0)
	for i := range messages {
		b = codec.AppendMessage(b, &messages[i])
	}
	codec.SetProto(b, codec.TypeMessage)
	return b
}

func ask(ops ...codec.Op) []byte {
	return frame(codec.Message{Header: codec.Header{Info1: codec.Info1Read}, Ops: ops, Fields: []codec.Field{
		{Type: codec.FieldNamespace, Data: []byte("test")}, {Type: codec.FieldSet, Data: []byte("s")},
		{Type: codec.FieldDigest, Data: make([]byte, codec.DigestBytes)},
	}})
}

func bin(name string, v value.Value) codec.Op {
	p := v.Particle()
	return codec.Op{Type: codec.OpRead, Particle: p.Type, Name: []byte(name), Value: p.Data}
}

func TestFile(t *testing.T) {
	want := &Transcript{About: "a server", Exchanges: []Exchange{
		{Case: "one", At: at, Request: ask(), Answer: frame(codec.Message{})},
		{Case: "one", At: at, Request: ask(bin("a", value.OfInt(1))), Answer: []byte{}, Together: true},
		{Case: "two", At: at, Request: ask(), Answer: frame(codec.Message{})},
	}}
	path := filepath.Join(t.TempDir(), "x.gz")
	if err := want.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("came back as %+v, %v", got, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil {
		t.Error("half a file is a transcript")
	}
	for _, text := range []string{"another file\n", title + "\n> x 00\n", title + "\n> 1 0\n", title + "\n< 00\n", title + "\n?\n"} {
		if _, err := read(strings.NewReader(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What the rules leave open is no difference, and nothing else.
func TestCompare(t *testing.T) {
	one, two := bin("a", value.OfInt(1)), bin("b", value.OfInt(2))
	ordered := bin("m", value.OfMap([]value.Pair{{Key: value.OfInt(1)}}, value.Ordered))
	unordered := bin("m", value.OfMap([]value.Pair{{Key: value.OfInt(1)}}, value.Unordered))
	ends := func(in time.Duration) codec.Message {
		return codec.Message{Header: codec.Header{TTL: uint32(at.Add(in).Sub(epoch) / time.Second)}}
	}
	all := frame(codec.Message{Header: codec.Header{Info1: codec.Info1Read | codec.Info1GetAll}, Fields: []codec.Field{{Type: codec.FieldDigest, Data: make([]byte, 20)}}})
	for _, c := range []struct {
		name       string
		request    []byte
		want, have []byte
		same       bool
	}{
		{"the same", ask(one), frame(codec.Message{Ops: []codec.Op{one}}), frame(codec.Message{Ops: []codec.Op{one}}), true},
		{"another value", ask(one), frame(codec.Message{Ops: []codec.Op{one}}), frame(codec.Message{Ops: []codec.Op{two}}), false},
		{"another result", ask(), frame(codec.Message{}), frame(codec.Message{Header: codec.Header{Result: codec.NotFound}}), false},
		{"another generation", ask(), frame(codec.Message{}), frame(codec.Message{Header: codec.Header{Generation: 1}}), false},
		{"no answer", ask(), frame(codec.Message{}), nil, false},
		{"answers to ops in another order", ask(one, two), frame(codec.Message{Ops: []codec.Op{one, two}}), frame(codec.Message{Ops: []codec.Op{two, one}}), false},
		{"all bins in another order", all, frame(codec.Message{Ops: []codec.Op{one, two}}), frame(codec.Message{Ops: []codec.Op{two, one}}), true},
		{"another order of a map", ask(), frame(codec.Message{Ops: []codec.Op{ordered}}), frame(codec.Message{Ops: []codec.Op{unordered}}), false},
		{"a minute later", ask(), frame(ends(time.Hour)), frame(ends(time.Hour + time.Minute)), true},
		{"an hour later", ask(), frame(ends(time.Hour)), frame(ends(2 * time.Hour)), false},
		{"never", ask(), frame(ends(time.Hour)), frame(codec.Message{}), false},
	} {
		req, err := parse(c.request)
		if err != nil {
			t.Fatal(err)
		}
		if text := compare(req, c.want, at, c.have, at); (text == "") != c.same {
			t.Errorf("%s: %q", c.name, text)
		}
	}
}

func TestThin(t *testing.T) {
	e := Exchange{Request: ask(), Answer: frame(codec.Message{})}
	if got := Thin([]Exchange{e, e, e}, 2, 1); len(got) != 2 {
		t.Errorf("%d of a record, want 2", len(got))
	}
	if got := Thin([]Exchange{e, e, e}, 2, 0); len(got) != 0 {
		t.Errorf("%d of no record", len(got))
	}
	hll := Exchange{Request: ask(codec.Op{Type: codec.OpHLLRead, Name: []byte("h")}), Answer: frame(codec.Message{})}
	if got := Thin([]Exchange{e, hll}, 2, 1, codec.OpHLLRead); len(got) != 0 {
		t.Errorf("%d of a record with what there is not", len(got))
	}
}
