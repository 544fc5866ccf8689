// Package script is requests to an Aerospike server, made to have every kind of
// answer given once: transcripts are recorded with them.
package script

import (
	"crypto/sha1"
	"encoding/binary"
	"math"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Namespace that everything is written to.
const Namespace = "test"

// Case is requests that belong together and are sent in their order.
type Case struct {
	Name     string
	Requests [][]byte // with their proto headers; nil: a pause of a tenth of a second
}

// message is a request on its way.
type message struct{ codec.Message }

// digest of a key: servers take whatever stands there, so it need not be the one
// that clients compute.
func digest(set, key string) []byte {
	sum := sha1.Sum([]byte(set + "\x00" + key))
	return sum[:]
}

// on is a message for one record.
func on(set, key string, ops ...codec.Op) *message {
	m := &message{}
	m.Fields = append(m.Fields, codec.Field{Type: codec.FieldNamespace, Data: []byte(Namespace)})
	if set != "" {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldSet, Data: []byte(set)})
	}
	m.Fields = append(m.Fields, codec.Field{Type: codec.FieldDigest, Data: digest(set, key)})
	return m.with(ops...)
}

func (m *message) with(ops ...codec.Op) *message {
	m.Ops = append(m.Ops, ops...)
	return m
}

func (m *message) info(one, two, three byte) *message {
	m.Info1, m.Info2, m.Info3 = m.Info1|one, m.Info2|two, m.Info3|three
	return m
}

func (m *message) generation(n uint32) *message {
	m.Generation = n
	return m.info(0, codec.Info2Generation, 0)
}

func (m *message) ttl(seconds uint32) *message {
	m.TTL = seconds
	return m
}

func (m *message) field(kind byte, data []byte) *message {
	m.Fields = append(m.Fields, codec.Field{Type: kind, Data: data})
	return m
}

func (m *message) filter(e value.Value) *message {
	return m.field(codec.FieldFilter, value.Append(nil, e))
}

// frame returns m as it is sent.
func (m *message) frame() []byte {
	b := codec.AppendMessage(codec.AppendProto(nil, codec.TypeMessage, 0), &m.Message)
	codec.SetProto(b, codec.TypeMessage)
	return b
}

func write(set, key string, ops ...codec.Op) *message {
	return on(set, key, ops...).info(0, codec.Info2Write, 0)
}

// operate is a write that reads.
func operate(set, key string, ops ...codec.Op) *message {
	return write(set, key, ops...).info(codec.Info1Read, 0, 0)
}

func read(set, key string, ops ...codec.Op) *message {
	return on(set, key, ops...).info(codec.Info1Read, 0, 0)
}

// get is a read of all bins.
func get(set, key string) *message { return read(set, key).info(codec.Info1GetAll, 0, 0) }

func remove(set, key string) *message {
	return on(set, key).info(0, codec.Info2Write|codec.Info2Delete, 0)
}

// info is a request of names.
func info(names ...string) []byte {
	b := codec.AppendProto(nil, codec.TypeInfo, 0)
	for _, name := range names {
		b = append(append(b, name...), '\n')
	}
	codec.SetProto(b, codec.TypeInfo)
	return b
}

func op(kind byte, name string, p value.Particle) codec.Op {
	return codec.Op{Type: kind, Particle: p.Type, Name: []byte(name), Value: p.Data}
}

func set(name string, v value.Value) codec.Op { return op(codec.OpWrite, name, v.Particle()) }

func bin(name string) codec.Op { return op(codec.OpRead, name, value.Particle{}) }

// called is an op whose value is an operation or expression.
func called(kind byte, name string, v value.Value) codec.Op {
	return op(kind, name, value.Particle{Type: value.ParticleBlob, Data: value.Append(nil, v)})
}

func i(n int64) value.Value           { return value.OfInt(n) }
func f(n float64) value.Value         { return value.OfDouble(n) }
func s(text string) value.Value       { return value.OfString(text) }
func b(bytes ...byte) value.Value     { return value.OfBytes(bytes) }
func l(v ...value.Value) value.Value  { return value.OfList(v, value.Unordered) }
func lo(v ...value.Value) value.Value { value.SortItems(v); return value.OfList(v, value.Ordered) }

// m is a map of keys and values.
func m(flags byte, kv ...value.Value) value.Value {
	pairs := make([]value.Pair, 0, len(kv)/2)
	for n := 0; n+1 < len(kv); n += 2 {
		pairs = append(pairs, value.Pair{Key: kv[n], Value: kv[n+1]})
	}
	value.SortPairs(pairs)
	return value.OfMap(pairs, flags)
}

// raw is a text without a particle type in front, as names within expressions are.
func raw(text string) value.Value {
	v, err := value.Decode(append([]byte{0xa0 | byte(len(text))}, text...))
	if err != nil {
		panic(err) // names are short
	}
	return v
}

func uint64Bytes(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func uint16Bytes(n ...uint16) []byte {
	var out []byte
	for _, v := range n {
		out = binary.LittleEndian.AppendUint16(out, v)
	}
	return out
}

var nan = f(math.NaN())

// script collects the requests of one case.
type script struct{ Case }

func begin(name string) *script { return &script{Case{Name: name}} }

func (c *script) pause() { c.Requests = append(c.Requests, nil) }

func (c *script) send(messages ...*message) {
	for _, m := range messages {
		c.Requests = append(c.Requests, m.frame())
	}
}
