package aerowire_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// FuzzConnection sends bytes to a running endpoint: it neither panics nor keeps the
// connection, and another client is served afterwards.
func FuzzConnection(f *testing.F) {
	withOps := func(ops ...codec.Op) []byte {
		m := putMessage(1, 1)
		m.Ops = ops
		return framed(codec.TypeMessage, codec.AppendMessage(nil, m))
	}
	list := value.Append(nil, value.OfList([]value.Value{value.OfInt(1), value.OfInt(7)}, 0)) // append 7
	filter := value.Append(nil, value.OfList([]value.Value{value.OfInt(1), value.OfInt(2), value.OfInt(2)}, 0))
	f.Add(put(1, 1))
	f.Add(withOps(codec.Op{Type: codec.OpCDTModify, Particle: value.ParticleBlob, Name: []byte("l"), Value: list}))
	f.Add(withOps(codec.Op{Type: codec.OpExpRead, Particle: value.ParticleBlob, Name: []byte("e"), Value: append([]byte{0x92}, append(filter, 0)...)}))
	f.Add(framed(codec.TypeInfo, []byte("build\ntruncate:namespace=test;set=w\nnamespace/test\n")))
	f.Add(framed(codec.TypeSecurity, make([]byte, 16)))
	row := append(binary.BigEndian.AppendUint32(nil, 0), make([]byte, codec.DigestBytes)...)
	row = append(row, 0, codec.Info1Read|codec.Info1GetAll, 0, 1, 0, 0)
	row = codec.AppendField(row, codec.FieldNamespace, namespace)
	batch := append(append(binary.BigEndian.AppendUint32(nil, 1), codec.BatchRespondAll), row...)
	f.Add(framed(codec.TypeMessage, codec.AppendMessage(nil, &codec.Message{Header: codec.Header{Info1: codec.Info1Batch},
		Fields: []codec.Field{{Type: codec.FieldBatch, Data: batch}}})))
	f.Add(framed(codec.TypeMessage, codec.AppendMessage(nil, &codec.Message{Header: codec.Header{Info1: codec.Info1Read},
		Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte(namespace)}, {Type: codec.FieldFilter, Data: filter}}})))
	r := newRig(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		exchange(t, r.addr, data)
		if answer := exchange(t, r.addr, put(9, 1)); len(answer) < codec.ProtoBytes+codec.HeaderBytes || answer[codec.ProtoBytes+5] != 0 {
			t.Fatalf("afterwards: %x", answer)
		}
		if r.server.Panicked() > 0 {
			t.Fatal("the request panicked")
		}
	})
}

// exchange sends data and returns all that comes back until the server hangs up.
func exchange(t *testing.T, addr string, data []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(data); err != nil {
		return nil // it hung up early
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(c, 64<<20))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection is stuck after %x", data)
	}
	return out
}
