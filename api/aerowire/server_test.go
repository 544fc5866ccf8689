package aerowire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/tlstest"
)

// wire is a connection that speaks the protocol by hand.
type wire struct {
	testing.TB
	net.Conn
}

func (r *rig) wire() wire {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	return wire{r.t, c}
}

func (w wire) send(b []byte) {
	w.Helper()
	if _, err := w.Write(b); err != nil {
		w.Fatal(err)
	}
}

// receive reads one message.
func (w wire) receive() (kind byte, body []byte) {
	w.Helper()
	var head [codec.ProtoBytes]byte
	if _, err := io.ReadFull(w, head[:]); err != nil {
		w.Fatal(err)
	}
	p, err := codec.ParseProto(head[:], codec.SizeMax)
	if err != nil {
		w.Fatal(err)
	}
	body = make([]byte, p.Size)
	if _, err := io.ReadFull(w, body); err != nil {
		w.Fatal(err)
	}
	return p.Type, body
}

func (w wire) message() *codec.Message {
	w.Helper()
	kind, body := w.receive()
	m, err := codec.ParseMessage(body)
	if kind != codec.TypeMessage || err != nil {
		w.Fatalf("type %d: %v", kind, err)
	}
	return m
}

// ended checks that the server closes the connection without another byte.
func (w wire) ended(what string) {
	w.Helper()
	b, err := io.ReadAll(w)
	if len(b) > 0 || err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		w.Errorf("%s: %d bytes more, %v", what, len(b), err)
	}
}

func framed(kind byte, body []byte) []byte {
	return append(codec.AppendProto(nil, kind, len(body)), body...)
}

// put is a message that writes n to the record with digest k.
func put(k byte, n int) []byte {
	return framed(codec.TypeMessage, codec.AppendMessage(nil, putMessage(k, n)))
}

func putMessage(k byte, n int) *codec.Message {
	return &codec.Message{Header: codec.Header{Info1: codec.Info1Read, Info2: codec.Info2Write},
		Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte(namespace)}, {Type: codec.FieldSet, Data: []byte("w")},
			{Type: codec.FieldDigest, Data: bytes.Repeat([]byte{k}, codec.DigestBytes)}},
		Ops: []codec.Op{{Type: codec.OpWrite, Particle: 1, Name: []byte("n"), Value: binary.BigEndian.AppendUint64(nil, uint64(n))},
			{Type: codec.OpIncrement, Particle: 1, Name: []byte("sum"), Value: binary.BigEndian.AppendUint64(nil, 1)},
			{Type: codec.OpRead, Name: []byte("sum")}},
	}
}

// Requests that come before the answers to earlier ones are answered in order.
func TestPipelining(t *testing.T) {
	w := newRig(t).wire()
	var all []byte
	const n = 600 // more than one window
	for i := range n {
		all = append(all, put(byte(i%3), i)...)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.Write(all)
		done <- err
	}()
	for i := range n {
		m := w.message()
		if m.Result != codec.OK || len(m.Ops) != 1 || binary.BigEndian.Uint64(m.Ops[0].Value) != uint64(i/3+1) {
			t.Fatalf("answer %d: %+v", i, m)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Half a request behind a whole one: the whole one is answered.
func TestAnswerDoesNotWaitForMore(t *testing.T) {
	w := newRig(t).wire()
	next := put(2, 2)
	w.send(append(put(1, 1), next[:40]...))
	if m := w.message(); m.Result != codec.OK {
		t.Fatalf("%+v", m)
	}
	w.send(next[40:])
	if m := w.message(); m.Result != codec.OK {
		t.Fatalf("%+v", m)
	}
}

func TestCompressedRequest(t *testing.T) {
	w := newRig(t).wire()
	b, err := codec.Deflate(nil, codec.TypeMessage, codec.AppendMessage(nil, putMessage(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	w.send(b)
	if m := w.message(); m.Result != codec.OK {
		t.Fatalf("%+v", m)
	}
}

// What is no message, or too large, ends the connection and no other.
func TestMalformed(t *testing.T) {
	r := newRig(t, func(o *aerowire.Options) { o.MaxRequestBytes = 64 << 10 })
	bomb, err := codec.Deflate(nil, codec.TypeMessage, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"another version": {3, 3, 0, 0, 0, 0, 0, 30},
		"too large":       codec.AppendProto(nil, codec.TypeMessage, 64<<10+1),
		"unknown type":    framed(9, []byte("x")),
		"no header":       framed(codec.TypeMessage, []byte("x")),
		"a lying count":   framed(codec.TypeMessage, codec.AppendHeader(nil, &codec.Header{}, 0xffff, 0xffff)),
		"a bomb":          bomb,
		"a long answer":   framed(codec.TypeInfo, bytes.Repeat([]byte("replicas\n"), 7000)),
		"http":            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	} {
		w := r.wire()
		w.send(b)
		w.ended(name)
	}
	w := r.wire()
	w.send(put(1, 1))
	if m := w.message(); m.Result != codec.OK {
		t.Fatalf("afterwards: %+v", m)
	}
}

// A client that says much and sends little costs little and is left in the end.
func TestSlowClients(t *testing.T) {
	r := newRig(t, func(o *aerowire.Options) {
		o.RequestTimeout, o.IdleTimeout = 200*time.Millisecond, 300*time.Millisecond
	})
	slow := r.wire()
	slow.send(codec.AppendProto(nil, codec.TypeMessage, 10<<20))
	slow.send(make([]byte, 100))
	idle := r.wire()
	slow.ended("a body that does not come")
	idle.ended("no request")
}

func TestConnectionLimit(t *testing.T) {
	r := newRig(t, func(o *aerowire.Options) { o.MaxConnections = 2 })
	first, second, third := r.wire(), r.wire(), r.wire()
	for _, w := range []wire{first, second} {
		w.send(put(1, 1))
		w.message()
	}
	third.send(put(1, 1))
	if err := third.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Fatalf("a third connection was served: %d bytes", n)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := third.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if m := third.message(); m.Result != codec.OK {
		t.Fatalf("%+v", m)
	}
}

func TestInfo(t *testing.T) {
	w := newRig(t).wire()
	ask := func(names ...string) map[string]string {
		t.Helper()
		w.send(framed(codec.TypeInfo, []byte(strings.Join(names, "\n")+"\n")))
		kind, body := w.receive()
		if kind != codec.TypeInfo {
			t.Fatalf("type %d", kind)
		}
		got := map[string]string{}
		for line := range strings.Lines(string(body)) {
			name, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			got[name] = v
		}
		return got
	}
	names := []string{"build", "node", "features", "partition-generation", "peers-generation", "peers-clear-std", "replicas", "service-clear-std",
		"rack-ids", "racks:", "namespaces", "namespace/test", "statistics", "sindex-list:", "edition", "status"}
	got := ask(names...)
	if len(got) != len(names) {
		t.Errorf("%d answers to %d names", len(got), len(names))
	}
	for name, part := range map[string]string{"features": "pscans", "peers-clear-std": ",[]", "replicas": "test:0,1,////", "namespaces": "test",
		"service-clear-std": "127.0.0.1:", "namespace/test": "nsup-period=120", "statistics": "cluster_size=1", "rack-ids": "test:0"} {
		if !strings.Contains(got[name], part) {
			t.Errorf("%s: %q lacks %q", name, got[name], part)
		}
	}
	for _, name := range []string{"sindex-create:ns=test;indexname=i;indexdata=n,numeric", "udf-put:filename=f", "nonsense", "namespace/other",
		"truncate:namespace=other", "truncate:namespace=test;lut=x", "truncate-undo:namespace=test"} {
		if v := ask(name)[name]; !strings.HasPrefix(v, "ERROR:") {
			t.Errorf("%s: %q", name, v)
		}
	}
	w.send(framed(codec.TypeSecurity, make([]byte, 16)))
	if kind, body := w.receive(); kind != codec.TypeSecurity || codec.Result(body[1]) != codec.SecurityNone {
		t.Errorf("a login: type %d, %x", kind, body)
	}
}

// Writers race with Close: no hang, nobody is told what is not so, and what was
// acknowledged is there after a start.
func TestCloseUnderLoad(t *testing.T) {
	r := newRig(t)
	c := r.client()
	p := fresh(c)
	p.MaxRetries = 0
	const writers = 64
	acked := make([]int, writers)
	var started, wg sync.WaitGroup
	started.Add(writers)
	for i := range writers {
		k := key(t, "s", i)
		wg.Go(func() {
			for n := 1; ; n++ {
				err := c.Put(p, k, as.BinMap{"n": n})
				if n == 1 {
					started.Done()
				}
				if err != nil {
					return
				}
				acked[i] = n
			}
		})
	}
	started.Wait()
	r.close()
	wg.Wait()
	r.open()
	again := r.client()
	for i, n := range acked {
		rec, err := again.Get(nil, key(t, "s", i))
		if n == 0 && err != nil {
			continue
		}
		if err != nil || rec.Bins["n"].(int) < n || rec.Bins["n"].(int) > n+1 {
			t.Errorf("writer %d: %v, %v; acknowledged %d", i, rec, err, n)
		}
	}
}

func TestCloseTwice(t *testing.T) {
	r := newRig(t)
	idle := r.wire()
	idle.send(put(1, 1))
	idle.message()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := r.server.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	idle.ended("an idle connection")
	if c, err := net.Dial("tcp", r.addr); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}
}

// A client that does not read its answer is cut off when Close has no time left.
func TestCloseCutsOff(t *testing.T) {
	r := newRig(t)
	w := r.wire()
	c := r.client()
	for i := range 40 {
		want(t, "put", c.Put(nil, key(t, "s", i), as.BinMap{"b": make([]byte, 500_000)}), 0)
	}
	w.send(framed(codec.TypeMessage, codec.AppendMessage(nil, &codec.Message{Header: codec.Header{Info1: codec.Info1Read},
		Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte(namespace)}}})))
	var b [1]byte
	if _, err := io.ReadFull(w, b[:]); err != nil { // the scan is under way
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.server.Close(ctx) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close waits for a client that does not read")
	}
}

func TestTLS(t *testing.T) {
	cert, roots := tlstest.Certificate(t)
	r := newRig(t, func(o *aerowire.Options) {
		o.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
		o.RequestTimeout = 5 * time.Second
	})
	connect := func(certs ...tls.Certificate) (*as.Client, error) {
		policy := as.NewClientPolicy()
		policy.Timeout = 30 * time.Second
		policy.TlsConfig = &tls.Config{RootCAs: roots, Certificates: certs, ServerName: "walproxy"}
		_, port, err := net.SplitHostPort(r.addr)
		if err != nil {
			return nil, err
		}
		var n int
		if _, err := fmt.Sscan(port, &n); err != nil {
			return nil, err
		}
		host := as.NewHost("127.0.0.1", n)
		host.TLSName = "walproxy"
		c, aerr := as.NewClientWithPolicyAndHost(policy, host)
		if aerr != nil {
			return nil, aerr
		}
		return c, nil
	}
	c, err := connect(cert)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want(t, "put", c.Put(nil, key(t, "s", 1), as.BinMap{"n": 1}), 0)
	if other, err := connect(); err == nil {
		other.Close()
		t.Error("a client without a certificate was let in")
	}
	w := r.wire()
	w.send(put(1, 1))
	// A TLS alert, perhaps, and the end: nothing is done in the clear.
	if b, _ := io.ReadAll(w); len(b) > 0 && b[0] != 21 {
		t.Errorf("answered in the clear: %x", b)
	}
}
