package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/tlstest"
)

// aerowireMetrics are those of the Aerospike endpoint, by the official client and by hand.
func aerowireMetrics(t *testing.T, j *judge) {
	began := time.Now()
	i, _, metrics, _ := running(t, `aerowire: { listen: "127.0.0.1:0", namespaces: [test], sink: main }`)
	w := newWire(t, i.aerowireListener.Addr().String())
	client := officialClient(t, w.addr)
	once := as.NewWritePolicy(0, 0) // sends it once
	once.MaxRetries, once.TotalTimeout, once.SocketTimeout = 0, time.Minute, time.Minute
	look := as.NewPolicy()
	look.MaxRetries, look.TotalTimeout, look.SocketTimeout = 0, time.Minute, time.Minute
	many := as.NewBatchPolicy()
	many.MaxRetries, many.TotalTimeout, many.SocketTimeout = 0, time.Minute, time.Minute
	var keys []*as.Key
	for n := range 8 {
		key, err := as.NewKey("test", "items", n)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	must := func(err as.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const puts, gets = 5, 7
	for n := range puts {
		must(client.PutBins(once, keys[n], as.NewBin("n", n)))
	}
	fresh := *once
	fresh.RecordExistsAction = as.CREATE_ONLY
	if err := client.PutBins(&fresh, keys[0], as.NewBin("n", 1)); err == nil {
		t.Error("a record was created again")
	}
	for n := range gets {
		_, err := client.Get(look, keys[n%puts])
		must(err)
	}
	if _, err := client.Get(look, keys[7]); err == nil {
		t.Error("there is a record that nobody wrote")
	}
	for range 2 {
		_, err := client.Delete(once, keys[4])
		must(err)
	}
	_, err := client.BatchGet(many, keys[2:6]) // two of which there are
	must(err)
	all := as.NewScanPolicy()
	all.MaxRetries = 0
	found, err := client.ScanAll(all, "test", "items")
	must(err)
	rows := 0
	for r := range found.Results() {
		must(r.Err)
		rows++
	}
	if rows != puts-1 {
		t.Errorf("%d records, want %d", rows, puts-1)
	}
	if _, err := client.Execute(once, keys[0], "package", "function"); err == nil {
		t.Error("a function was called")
	}
	of := func(name, op, result string, want int) {
		t.Helper()
		labels := []string{fmt.Sprintf("op=%q", op), fmt.Sprintf("result=%q", result)}
		s := awaitSum(t, metrics, want, name, labels...) // it is counted behind the answer
		j.same(t, s, want, name, labels...)
	}
	requests := func(op, result string, want int) {
		t.Helper()
		of("walproxy_aerowire_requests_total", op, result, want)
	}
	requests("write", "ok", puts)
	requests("write", "record_exists", 1)
	requests("read", "ok", gets)
	requests("read", "not_found", 1)
	requests("delete", "ok", 1)
	requests("delete", "not_found", 1)
	requests("batch", "ok", 1)
	requests("query", "ok", 1)
	requests("udf", "unsupported_feature", 1)
	of("walproxy_aerowire_batch_rows_total", "read", "ok", 2)
	of("walproxy_aerowire_batch_rows_total", "read", "not_found", 2)
	s := awaitSum(t, metrics, puts+1, "walproxy_aerowire_request_seconds_count", `op="write"`)
	j.same(t, s, puts+1, "walproxy_aerowire_request_seconds_count", `op="write"`)
	for _, op := range []string{"write", "read", "query"} {
		most := time.Since(began).Seconds()
		j.within(t, s, 1e-6, most, "walproxy_aerowire_request_seconds_sum", fmt.Sprintf("op=%q", op)) // one behind the other
	}
	j.within(t, s, 1, float64(w.taken.Load()), "walproxy_aerowire_connections")
	client.Close()
	s = awaitSum(t, metrics, 0, "walproxy_aerowire_connections")
	j.same(t, s, 0, "walproxy_aerowire_connections")
	j.same(t, s, int(w.taken.Load()), "walproxy_aerowire_connections_total")
	const cut = 4096 // what the client sent, or did not take, when it was closed
	j.within(t, s, float64(w.up.Load()-cut), float64(w.up.Load()), "walproxy_aerowire_bytes_total", `direction="in"`)
	j.within(t, s, float64(w.down.Load()), float64(w.down.Load()+cut), "walproxy_aerowire_bytes_total", `direction="out"`)
	infos := int(s.sum("walproxy_aerowire_requests_total", `op="info"`)) // the client asks as it likes

	// By hand: a login, which there is none, and a question.
	conn, dialErr := net.Dial("tcp", w.addr)
	if dialErr != nil {
		t.Fatal(dialErr)
	}
	ask := func(message []byte) {
		t.Helper()
		_, err := conn.Write(message)
		head := make([]byte, codec.ProtoBytes)
		if _, readErr := io.ReadFull(conn, head); errors.Join(err, readErr) != nil {
			t.Fatal(err, readErr)
		}
		proto, err := codec.ParseProto(head, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, proto.Size)); err != nil {
			t.Fatal(err)
		}
	}
	ask(append(codec.AppendProto(nil, codec.TypeSecurity, 16), make([]byte, 16)...))
	ask(append(codec.AppendProto(nil, codec.TypeInfo, 5), "node\n"...))
	requests("login", "security_not_supported", 1)
	requests("info", "ok", infos+1)
	s = awaitSum(t, metrics, 1, "walproxy_aerowire_connections")
	j.same(t, s, 1, "walproxy_aerowire_connections")
	j.same(t, s, 1, "walproxy_aerowire_refused_total", `reason="login"`)
	j.same(t, s, 0, "walproxy_aerowire_refused_total", `reason="tls"`)
	j.same(t, s, 0, "walproxy_aerowire_panics_total") // aerowire.TestPanic has some
	if err := conn.Close(); err != nil {
		t.Error(err)
	}

	// Who shows no certificate.
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	tlstest.Files(t, cert, key)
	secured, _, metrics, _ := running(t, fmt.Sprintf("aerowire: { listen: \"127.0.0.1:0\", namespaces: [test], sink: main, tls: { cert: %q, key: %q, client_ca: %q } }", cert, key, cert))
	if conn, dialErr = net.Dial("tcp", secured.aerowireListener.Addr().String()); dialErr != nil {
		t.Fatal(dialErr)
	}
	if _, err := conn.Write([]byte("no TLS, but something else")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // an alert, and the end
	_ = conn.Close()
	s = awaitSum(t, metrics, 1, "walproxy_aerowire_refused_total", `reason="tls"`)
	j.same(t, s, 1, "walproxy_aerowire_refused_total", `reason="tls"`)
}

// officialClient is the official client, which asks the node at addr alone.
func officialClient(t *testing.T, addr string) *as.Client {
	t.Helper()
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	policy := as.NewClientPolicy()
	policy.Timeout, policy.SeedOnlyCluster = time.Minute, true
	c, failed := as.NewClientWithPolicyAndHost(policy, as.NewHost(host, port))
	if failed != nil {
		t.Fatal(failed)
	}
	t.Cleanup(c.Close)
	return c
}
