package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/internal/access"
	"github.com/walproxy/walproxy/internal/config"
	"github.com/walproxy/walproxy/internal/tlstest"
	"github.com/walproxy/walproxy/mutation"
)

// secured is a server with TLS, and the Go client against it.
type secured struct {
	t    *testing.T
	i    *instance
	addr string
}

func newSecured(t *testing.T, api string) *secured {
	t.Helper()
	i, _, _, _ := running(t, "api: { listen: \"127.0.0.1:0\", "+api+" }\n")
	return &secured{t, i, "https://" + i.apiListener.Addr().String()}
}

// try writes by a call and by a stream, over Connect and gRPC: all of them are to end with
// want, at once.
func (s *secured) try(name string, secure *tls.Config, token string, want error) {
	s.t.Helper()
	began := time.Now()
	for _, grpc := range []bool{false, true} {
		c := s.client(client.Options{TLS: secure, Token: token, GRPC: grpc})
		_, put := c.Put(s.t.Context(), "orders", mutation.String(name), map[string]any{"n": 1})
		stream := c.Stream(client.StreamOptions{})
		streamed := sent(s.t, stream, mutation.Delete("orders", mutation.String("none")))
		_ = stream.Close(s.t.Context()) // says it once more
		for _, err := range []error{put, streamed} {
			if !errors.Is(err, want) && !(want == client.ErrUntrusted && lostAlert(err)) {
				s.t.Errorf("%s, gRPC %v: %v, want %v", name, grpc, err, want)
			}
		}
	}
	if took := time.Since(began); took > 2*time.Minute {
		s.t.Errorf("%s: tried again for %v", name, took)
	}
}

// lostAlert: the connection broke before the client had read why, and the next one said it.
func lostAlert(err error) bool {
	return errors.Is(err, client.ErrUnknownOutcome) && strings.Contains(err.Error(), "does not accept the client's certificate")
}

// client tries again for longer than a test may take: what no retry helps is not retried.
func (s *secured) client(o client.Options) *client.Client {
	s.t.Helper()
	o.RetryFor = 10 * time.Minute
	c, err := client.New(s.addr, o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestClientTLS: the Go client against certificates and tokens that are right and wrong.
func TestClientTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	_, roots := tlstest.Files(t, name("cert"), name("key"))
	ours, ownRoots := tlstest.Files(t, name("client"), name("client.key"))
	writer, reader := access.NewToken(), access.NewToken()
	files := fmt.Sprintf(`cert: %q, key: %q`, name("cert"), name("key"))
	s := newSecured(t, fmt.Sprintf(`tls: { %s }, tokens: [{ name: writer, hash: %q, rights: [write], collections: [orders] }, { name: reader, hash: %q, rights: [read] }]`,
		files, access.HashOf(writer).String(), access.HashOf(reader).String()))
	mutual := newSecured(t, fmt.Sprintf(`tls: { %s, client_ca: %q }`, files, name("client")))
	right := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots, ServerName: "walproxy", Certificates: certificates}
	}
	other, _ := tlstest.Certificate(t)
	for _, c := range []struct {
		name   string
		s      *secured
		secure *tls.Config
		token  string
		want   error
	}{
		{"right", s, right(), writer, nil},
		{"the system's authorities", s, nil, writer, client.ErrUntrusted},
		{"another authority", s, &tls.Config{RootCAs: ownRoots, ServerName: "walproxy"}, writer, client.ErrUntrusted},
		{"another name", s, &tls.Config{RootCAs: roots, ServerName: "other"}, writer, client.ErrUntrusted},
		{"no name", s, &tls.Config{RootCAs: roots}, writer, client.ErrUntrusted},
		{"no token", s, right(), "", client.ErrDenied},
		{"unknown token", s, right(), access.NewToken(), client.ErrDenied},
		{"token without the right", s, right(), reader, client.ErrDenied},
		{"mutual", mutual, right(ours), "", nil},
		{"no certificate", mutual, right(), "", client.ErrUntrusted},
		{"another's certificate", mutual, right(other), "", client.ErrUntrusted},
	} {
		c.s.try(c.name, c.secure, c.token, c.want)
	}
	c := s.client(client.Options{TLS: right(), Token: writer})
	if _, err := c.Put(t.Context(), "others", mutation.String("1"), nil); !errors.Is(err, client.ErrDenied) {
		t.Errorf("another collection: %v", err)
	}
	if n := s.i.proxy.Status().Log.Appended; n != 4 {
		t.Errorf("%d records, want 4: of the right ones alone", n)
	}
}

// TestClientReload: certificates are renewed and a token is taken away under clients that
// are connected.
func TestClientReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	_, before := tlstest.Files(t, cert, key)
	stays, goes := access.NewToken(), access.NewToken()
	api := fmt.Sprintf(`tls: { cert: %q, key: %q }, tokens: [{ name: stays, hash: %q, rights: [write] }, { name: goes, hash: %q, rights: [write] }]`,
		cert, key, access.HashOf(stays).String(), access.HashOf(goes).String())
	s := newSecured(t, api)
	s.i.reloader.load = func() (*config.Config, error) { // without the second token
		left, _, _ := strings.Cut(api, ", { name: goes")
		return config.Parse("w.yaml", []byte("log: { min_free: -1 }\napi: { listen: \"127.0.0.1:0\", "+left+"] }\nadmin: { listen: \"127.0.0.1:0\" }\n"+
			"shutdown: { drain_timeout: 10s }\n"), []string{"WALPROXY_DATA_DIR=" + s.i.config.DataDir})
	}
	var mu sync.Mutex
	var conns []net.Conn
	both := before.Clone()
	// The client trusts both, as one does whose authority has signed both.
	trust := &tls.Config{ServerName: "walproxy", InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: both, DNSName: "walproxy"})
		return err
	}}
	open := func(token string) *client.Stream {
		c := s.client(client.Options{TLS: trust, Token: token, GRPC: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
			return conn, err
		}})
		stream := c.Stream(client.StreamOptions{})
		if err := sent(t, stream, mutation.Delete("orders", mutation.String("1"))); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	one, two := open(stays), open(goes)
	defer two.Close(context.WithoutCancel(t.Context()))
	_, after := tlstest.Files(t, cert, key)
	if out, err := s.i.reloader.reload(); err != nil || len(out.Refused) > 0 || !strings.Contains(fmt.Sprint(out.Applied), "api.tls") {
		t.Fatalf("%+v, %v", out, err)
	}
	mu.Lock()
	both = after
	n := len(conns)
	mu.Unlock()
	if err := sent(t, one, mutation.Delete("orders", mutation.String("2"))); err != nil {
		t.Errorf("connected before the certificate was renewed: %v", err)
	}
	if err := sent(t, two, mutation.Delete("orders", mutation.String("2"))); !errors.Is(err, client.ErrDenied) {
		t.Errorf("a stream whose token was taken away: %v", err)
	}
	mu.Lock()
	if len(conns) != n {
		t.Errorf("connected %d times again", len(conns)-n)
	}
	_ = conns[0].Close()
	mu.Unlock()
	if err := sent(t, one, mutation.Delete("orders", mutation.String("3"))); err != nil {
		t.Errorf("connected again: %v", err)
	}
	if err := one.Close(t.Context()); err != nil {
		t.Error(err)
	}
	old := s.client(client.Options{TLS: &tls.Config{RootCAs: before, ServerName: "walproxy"}, Token: stays})
	if _, err := old.Put(t.Context(), "orders", mutation.String("4"), nil); !errors.Is(err, client.ErrUntrusted) {
		t.Errorf("who trusts the old certificate alone: %v", err)
	}
	if n := s.i.proxy.Status().Log.Appended; n != 4 {
		t.Errorf("%d records, want 4", n)
	}
}

// sent is what became of a write by a stream.
func sent(t *testing.T, s *client.Stream, m *walproxyv1.Mutation) error {
	t.Helper()
	p, err := s.Send(t.Context(), m)
	if err != nil {
		return err
	}
	outcomes, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return outcomes[0].Err
}
