package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/walproxy/walproxy/internal/tlstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shown is the certificate that a client is shown, which shows one of its own; nil: none.
func shown(t *testing.T, s *Server, roots *x509.CertPool, own *tls.Certificate) ([]byte, string, error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(30 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() {
		server := tls.Server(b, s.Config())
		err := server.Handshake()
		_ = b.Close()
		served <- err
	}()
	c := &tls.Config{RootCAs: roots, ServerName: "walproxy", NextProtos: []string{"h2"}}
	if own != nil {
		c.Certificates = []tls.Certificate{*own}
	}
	client := tls.Client(a, c)
	err := client.Handshake()
	state := client.ConnectionState()
	_ = a.Close()
	if serverErr := <-served; err == nil {
		err = serverErr // with TLS 1.3 the client has ended before it is judged
	}
	if len(state.PeerCertificates) == 0 {
		return nil, "", err
	}
	return state.PeerCertificates[0].Raw, state.NegotiatedProtocol, err
}

func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	files := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	first, firstPool := tlstest.Files(t, files.Cert, files.Key)
	core, logs := observer.New(zap.InfoLevel)
	s, err := Open(files, zap.New(core), "h2", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Now()
	s.now = func() time.Time { return clock }
	s.checked = clock
	want := func(cert tls.Certificate, pool *x509.CertPool) {
		t.Helper()
		got, protocol, err := shown(t, s, pool, nil)
		if err != nil || !bytes.Equal(got, cert.Certificate[0]) || protocol != "h2" {
			t.Errorf("another certificate, or protocol %q: %v", protocol, err)
		}
	}
	want(first, firstPool)
	second, secondPool := tlstest.Files(t, files.Cert, files.Key)
	want(first, firstPool) // it is not looked at for each handshake
	clock = clock.Add(checkEvery)
	want(second, secondPool)

	// A key that does not fit, as between the two renames of a renewal.
	_, _ = tlstest.Files(t, files.Cert, filepath.Join(dir, "other.pem"))
	for range 3 {
		clock = clock.Add(checkEvery)
		want(second, secondPool)
	}
	if n := logs.FilterMessageSnippet("cannot be used").Len(); n != 1 {
		t.Errorf("said %d times", n)
	}
	if err := s.Reload(files); err == nil {
		t.Error("a pair that does not fit is taken")
	}
	if err := os.Remove(files.Key); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(checkEvery)
	want(second, secondPool)
	third, thirdPool := tlstest.Files(t, files.Cert, files.Key)
	if err := s.Reload(files); err != nil {
		t.Fatal(err)
	}
	want(third, thirdPool)
}

// TestClientCA: who shows nothing, or what another has signed, is turned away; and so is
// who was let in, once the authority is another.
func TestClientCA(t *testing.T) {
	dir := t.TempDir()
	files := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), ClientCA: filepath.Join(dir, "ca.pem")}
	_, pool := tlstest.Files(t, files.Cert, files.Key)
	client, _ := tlstest.Files(t, files.ClientCA, filepath.Join(dir, "client.key"))
	stranger, _ := tlstest.Certificate(t)
	s, err := Open(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Now()
	s.now = func() time.Time { return clock }
	if _, _, err := shown(t, s, pool, &client); err != nil {
		t.Errorf("the client: %v", err)
	}
	if _, _, err := shown(t, s, pool, &stranger); err == nil {
		t.Error("a stranger is let in")
	}
	if _, _, err := shown(t, s, pool, nil); err == nil {
		t.Error("nobody is let in")
	}
	tlstest.Files(t, files.ClientCA, filepath.Join(dir, "client.key"))
	clock = clock.Add(checkEvery)
	if _, _, err := shown(t, s, pool, &client); err == nil {
		t.Error("a client of the authority before is let in")
	}
	if err := os.WriteFile(files.ClientCA, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(files, nil); err == nil || !strings.Contains(err.Error(), "client_ca") || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("an authority that is none: %v", err)
	}
}
