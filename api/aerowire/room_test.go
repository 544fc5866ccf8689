package aerowire_test

import (
	"slices"
	"strconv"
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// What is decoded is bounded: without room a large list is not touched, a filter
// not evaluated on it, and everything small goes on.
func TestLargeListsWaitForRoom(t *testing.T) {
	r := newRig(t)
	c := r.client()
	large := make([]any, 20_000)
	for i := range large {
		large[i] = i % 100
	}
	for k, list := range map[byte][]any{1: large, 2: {1, 2, 3}} {
		byDigest, err := as.NewKeyWithDigest(namespace, "w", nil, putMessage(k, 0).Fields[2].Data)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "put", c.Put(nil, byDigest, as.BinMap{"l": list}), types.OK)
	}
	w := r.wire()
	ask := func(k byte, timeout uint32, change func(*codec.Message)) codec.Result {
		m := putMessage(k, 0)
		m.Ops, m.Timeout = nil, timeout
		change(m)
		w.send(framed(codec.TypeMessage, codec.AppendMessage(nil, m)))
		return w.message().Result
	}
	operation := func(kind byte, code int64, args ...value.Value) codec.Op {
		items := append([]value.Value{value.OfInt(code)}, args...)
		return codec.Op{Type: kind, Particle: value.ParticleBlob, Name: []byte("l"), Value: value.Append(nil, value.OfList(items, 0))}
	}
	size := func(m *codec.Message) {
		m.Info2, m.Ops = 0, []codec.Op{operation(codec.OpCDTRead, 16)}
	}
	appended := func(m *codec.Message) {
		m.Ops = []codec.Op{operation(codec.OpCDTModify, 1, value.OfInt(7))}
	}
	filtered := func(m *codec.Message) {
		is := value.OfList([]value.Value{value.OfInt(1), value.OfInt(1), value.OfInt(1)}, 0)
		m.Info1, m.Info2 = codec.Info1Read|codec.Info1GetAll, 0
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldFilter, Data: value.Append(nil, is)})
	}
	release, ok := r.server.TakeRoom()
	if !ok {
		t.Fatal("room is taken")
	}
	for name, change := range map[string]func(*codec.Message){"size": size, "append": appended, "filter": filtered} {
		if got := ask(1, 200, change); got != codec.Timeout {
			t.Errorf("%s of a large list without room: %v", name, got)
		}
		if got := ask(2, 60_000, change); got != codec.OK {
			t.Errorf("%s of a small list: %v", name, got)
		}
	}
	release()
	for name, change := range map[string]func(*codec.Message){"size": size, "append": appended, "filter": filtered} {
		if got := ask(1, 60_000, change); got != codec.OK {
			t.Errorf("%s of a large list: %v", name, got)
		}
	}
	if release, ok := r.server.TakeRoom(); !ok {
		t.Error("room was not given back")
	} else {
		release()
	}
}

// What could never be decoded is refused, and does not wait.
func TestMoreThanThereIsRoom(t *testing.T) {
	r := newRig(t)
	w := r.wire()
	m := putMessage(1, 0)
	items := make([]value.Value, 4<<20)
	m.Ops = []codec.Op{{Type: codec.OpCDTModify, Particle: value.ParticleBlob, Name: []byte("l"),
		Value: value.Append(nil, value.OfList([]value.Value{value.OfInt(2), value.OfList(items, 0)}, 0))}}
	w.send(framed(codec.TypeMessage, codec.AppendMessage(nil, m)))
	if got := w.message().Result; got != codec.RecordTooBig {
		t.Errorf("a list of four million: %v", got)
	}
}

// A small message asks for one bin again and again: the answer is bounded.
func TestMoreThanAnAnswerHolds(t *testing.T) {
	r := newRig(t)
	w := r.wire()
	m := putMessage(1, 0)
	m.Ops = []codec.Op{{Type: codec.OpWrite, Particle: value.ParticleBlob, Name: []byte("b"), Value: make([]byte, 512<<10)}}
	ask := func() codec.Result {
		w.send(framed(codec.TypeMessage, codec.AppendMessage(nil, m)))
		return w.message().Result
	}
	if got := ask(); got != codec.OK {
		t.Fatalf("put: %v", got)
	}
	m.Info2, m.Ops = 0, slices.Repeat([]codec.Op{{Type: codec.OpRead, Name: []byte("b")}}, 30_000)
	if got := ask(); got != codec.RecordTooBig {
		t.Errorf("a bin thirty thousand times: %v", got)
	}
	m.Ops = m.Ops[:16]
	if got := ask(); got != codec.OK {
		t.Errorf("a bin sixteen times: %v", got)
	}

	// More bins than the head of an answer can count, as others may have written them.
	var ops []*walproxyv1.Op
	for i := range 17 {
		fields := map[string]*walproxyv1.Value{}
		for j := range 4096 {
			fields[strconv.FormatInt(int64(i*4096+j), 36)] = mutation.BoolValue(true)
		}
		ops = append(ops, mutation.MergeOp(fields))
	}
	if _, err := r.proxy.Append(t.Context(), mutation.New(namespace+".w", mutation.Bytes(m.Fields[2].Data), ops)); err != nil {
		t.Fatal(err)
	}
	m.Info1, m.Ops = codec.Info1Read|codec.Info1GetAll, nil
	if got := ask(); got != codec.RecordTooBig {
		t.Errorf("all of 69,633 bins: %v", got)
	}
	scan := &codec.Message{Header: codec.Header{Info1: codec.Info1Read | codec.Info1GetAll}, Fields: m.Fields[:2]}
	w.send(framed(codec.TypeMessage, codec.AppendMessage(nil, scan)))
	if got := w.message().Result; got != codec.RecordTooBig {
		t.Errorf("a scan of 69,633 bins: %v", got)
	}
	m.Info1, m.Info2, m.Ops = 0, codec.Info2Write, []codec.Op{{Type: codec.OpWrite, Particle: value.ParticleBool, Name: []byte("x"), Value: []byte{1}}}
	if got := ask(); got != codec.Parameter {
		t.Errorf("one more bin: %v", got)
	}
}
