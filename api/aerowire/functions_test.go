package aerowire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// functionsLua are the functions that the tests call, for a real server.
const functionsLua = `
local function make(rec) if not aerospike:exists(rec) then aerospike:create(rec) end end
function read(rec) if aerospike:exists(rec) and rec['n'] ~= nil then return rec['n'] end return -1 end
function write(rec, v) make(rec) rec['n'] = v aerospike:update(rec) return v end
function add(rec, v) make(rec) rec['n'] = (rec['n'] or 0) + v aerospike:update(rec) return rec['n'] end
function remove(rec) aerospike:remove(rec) return 0 end
function empty(rec) rec['n'] = nil aerospike:update(rec) return 0 end
function strip(rec)
  for i, b in ipairs(record.bin_names(rec)) do if string.sub(b, 1, 3) == 'wp.' then rec[b] = nil end end
  aerospike:update(rec) return 0
end
`

// functions is a way to an endpoint on Pebble, which has no functions: those above are
// done here, each as the operations that it stands for, with the filter that came with
// it, and answered as the real server (8.0.0.15) does. noEnds makes it a namespace that
// takes no record with an end. cut is the moment in a call at which its connection ends,
// as when the node is killed there.
type functions struct {
	t        testing.TB
	to       string
	listener net.Listener
	joined   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	files string // as udf-list has them

	noEnds atomic.Bool // nsup-period is 0
	cut    atomic.Int32
	called atomic.Value // the digest of the last call's record, a string
}

// Moments in the next call; 0: none.
const (
	cutAnswer  = 1 + iota // the function was done, and is not answered
	cutGuard              // it is answered, and what is written behind it is not done
	cutGuarded            // that is done and not answered
	cutWrite              // the next write: set behind the answer
	cutWritten
)

var errCut = errors.New("the connection ends here")

func newFunctions(t testing.TB, to string) *functions {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &functions{t: t, to: to, listener: listener, conns: map[net.Conn]struct{}{}}
	f.joined.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			f.joined.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		f.mu.Lock()
		for c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		f.joined.Wait()
	})
	return f
}

func (f *functions) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	up, err := net.Dial("tcp", f.to)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	f.mu.Lock()
	f.conns[c], f.conns[up] = struct{}{}, struct{}{}
	f.mu.Unlock()
	for {
		kind, body, err := frame(c)
		if err != nil {
			return
		}
		if err := f.request(c, up, kind, body); err != nil {
			return
		}
	}
}

// behindCall: it writes the record of the last call, and not what was written before,
// which the sink applies at any time.
func (f *functions) behindCall(m *codec.Message) bool {
	digest, _ := m.Field(codec.FieldDigest)
	return m.Info2&codec.Info2Write != 0 && f.called.Load() == string(digest)
}

func (f *functions) request(c, up net.Conn, kind byte, body []byte) error {
	if kind == codec.TypeInfo {
		if name, rest, ok := strings.Cut(strings.TrimSpace(string(body)), ":"); name == "udf-list" || ok && name == "udf-put" {
			return f.info(c, strings.TrimSpace(string(body)), name, rest)
		}
	}
	m, err := codec.ParseMessage(body)
	if err == nil && f.noEnds.Load() && m.Info2&codec.Info2Write != 0 && m.TTL > 0 && int32(m.TTL) > 0 {
		return send(c, codec.TypeMessage, codec.AppendMessage(nil, &codec.Message{Header: codec.Header{Result: codec.Forbidden}}))
	}
	if kind == codec.TypeMessage && err == nil {
		if _, is := m.Field(codec.FieldUDFPackage); is {
			reply, err := call(up, m)
			switch moment := f.cut.Load(); {
			case err != nil:
				return err
			case moment == cutAnswer:
				f.cut.Store(0)
				return errCut
			case moment == cutGuard, moment == cutGuarded:
				digest, _ := m.Field(codec.FieldDigest)
				f.called.Store(string(digest))
				f.cut.Store(cutWrite + moment - cutGuard)
			}
			return send(c, codec.TypeMessage, codec.AppendMessage(nil, reply))
		}
	}
	write := kind == codec.TypeMessage && err == nil && f.behindCall(m)
	if write && f.cut.CompareAndSwap(cutWrite, 0) {
		return errCut
	}
	if err := send(up, kind, body); err != nil {
		return err
	}
	if write && f.cut.CompareAndSwap(cutWritten, 0) {
		if _, _, err := frame(up); err != nil {
			return err
		}
		return errCut
	}
	for { // a scan has many answers
		answer, reply, err := frame(up)
		if err != nil {
			return err
		}
		if answer == codec.TypeInfo && f.noEnds.Load() {
			reply = bytes.ReplaceAll(reply, []byte("nsup-period=120"), []byte("nsup-period=0"))
		}
		if err := send(c, answer, reply); err != nil {
			return err
		}
		if answer != codec.TypeMessage {
			return nil
		}
		records, err := codec.ParseMessages(reply)
		if err != nil {
			return err
		}
		last := records[len(records)-1]
		if _, digest := m.Field(codec.FieldDigest); digest || last.Info3&codec.Info3Last != 0 || last.Result != codec.OK && last.Info3 == 0 {
			return nil
		}
	}
}

func (f *functions) info(c net.Conn, name, what, arguments string) error {
	f.mu.Lock()
	if what == "udf-put" {
		file, _, _ := strings.Cut(strings.TrimPrefix(arguments, "filename="), ";")
		f.files += "filename=" + file + ",hash=0,type=LUA;"
	}
	answer := "ok"
	if what == "udf-list" {
		answer = f.files
	}
	f.mu.Unlock()
	return send(c, codec.TypeInfo, codec.AppendInfo(nil, name, answer))
}

// call does what a function stands for.
func call(up net.Conn, m *codec.Message) (*codec.Message, error) {
	var fields []codec.Field
	for _, f := range m.Fields {
		if f.Type < codec.FieldUDFPackage || f.Type > codec.FieldUDFOp {
			fields = append(fields, f)
		}
	}
	do := func(h codec.Header, ops ...codec.Op) (*codec.Message, error) {
		if err := send(up, codec.TypeMessage, codec.AppendMessage(nil, &codec.Message{Header: h, Fields: fields, Ops: ops})); err != nil {
			return nil, err
		}
		_, body, err := frame(up)
		if err != nil {
			return nil, err
		}
		return codec.ParseMessage(body)
	}
	write := codec.Header{Info2: codec.Info2Write, TTL: m.TTL}
	before, err := do(codec.Header{Info1: codec.Info1Read | codec.Info1GetAll})
	if err != nil || before.Result != codec.OK && before.Result != codec.NotFound {
		return &codec.Message{Header: codec.Header{Result: before.Result, Generation: before.Generation}}, err
	}
	n, there := int64(-1), before.Result == codec.OK
	var gone []codec.Op
	for _, op := range before.Ops {
		if string(op.Name) == "n" {
			n = int64(binary.BigEndian.Uint64(op.Value))
		}
		if strings.HasPrefix(string(op.Name), "wp.") {
			gone = append(gone, codec.Op{Type: codec.OpWrite, Name: op.Name})
		}
	}
	set := func(v int64) codec.Op {
		return codec.Op{Type: codec.OpWrite, Particle: value.ParticleInteger, Name: []byte("n"), Value: binary.BigEndian.AppendUint64(nil, uint64(v))}
	}
	function, _ := m.Field(codec.FieldUDFFunction)
	arguments, _ := m.Field(codec.FieldUDFArguments)
	argument := int64(arguments[len(arguments)-1]) // a list of a small number
	result, done := int64(0), before
	switch string(function) {
	case "read":
		result = n
	case "write":
		result = argument
		done, err = do(write, set(result))
	case "add":
		result = max(n, 0) + argument
		done, err = do(write, set(result))
	case "remove":
		if there {
			done, err = do(codec.Header{Info2: codec.Info2Write | codec.Info2Delete})
			done.Generation = before.Generation + 1
		}
	case "empty":
		done, err = do(write, codec.Op{Type: codec.OpWrite, Name: []byte("n")})
	case "strip":
		done, err = do(write, gone...)
	}
	if err != nil {
		return nil, err
	}
	reply := &codec.Message{Header: codec.Header{Generation: done.Generation, Result: done.Result}}
	if done.Result == codec.OK || done == before {
		reply.Result = codec.OK
		reply.Ops = []codec.Op{{Type: codec.OpRead, Particle: value.ParticleInteger, Name: []byte("SUCCESS"), Value: binary.BigEndian.AppendUint64(nil, uint64(result))}}
	}
	return reply, nil
}

// frame reads one message.
func frame(c net.Conn) (kind byte, body []byte, err error) {
	var head [codec.ProtoBytes]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, err
	}
	p, err := codec.ParseProto(head[:], codec.SizeMax)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, p.Size)
	_, err = io.ReadFull(c, body)
	return p.Type, body, err
}

func send(c net.Conn, kind byte, body []byte) error {
	_, err := c.Write(append(codec.AppendProto(nil, kind, len(body)), body...))
	return err
}

// newFunctionsRig is an endpoint in front of a cluster that has the functions, and says
// so to clients of the endpoint.
func newFunctionsRig(t testing.TB) (*frontRig, *as.Client) {
	t.Helper()
	store := realServer
	if store == "" {
		store = newFunctions(t, newRig(t).addr).listener.Addr().String()
	}
	return functionsRig(t, store)
}

func functionsRig(t testing.TB, store string) (*frontRig, *as.Client) {
	t.Helper()
	r := newFrontRig(t, store)
	c := connect(t, r.addr)
	task, err := c.RegisterUDF(nil, []byte(functionsLua), "walproxy_test.lua", as.LUA)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-task.OnComplete(); err != nil {
		t.Fatal(err)
	}
	return r, c
}
