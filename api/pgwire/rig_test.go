package pgwire

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap/zaptest"

	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait of these tests.
const patience = 60 * time.Second

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start runs an endpoint in front of PostgreSQL at addr until the test ends.
func start(t testing.TB, addr string, change ...func(*Options)) *Server {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Listener: listener, Upstream: Upstream{Addresses: []Address{{"tcp", addr}}}}
	if _, bench := t.(*testing.B); !bench {
		o.Logger = zaptest.NewLogger(t)
	}
	for _, f := range change {
		f(&o)
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func (s *Server) addr() string { return s.o.Listener.Addr().String() }

// through is dsn by way of the endpoint.
func (s *Server) through(t testing.TB, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = s.addr()
	return u.String()
}

// shared is an endpoint before the common server, and a database there.
func shared(t testing.TB, change ...func(*Options)) (s *Server, through, direct string) {
	t.Helper()
	c := pgtest.Shared(t)
	s = start(t, c.Addr(), change...)
	direct = c.Database(t)
	return s, s.through(t, direct), direct
}

// do runs statements and fails the test with their error.
func do(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := conn.Exec(bounded(t), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// one is the single value of a query.
func one[T any](t testing.TB, conn *pgx.Conn, query string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(bounded(t), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// code of an error, as PostgreSQL or the endpoint gave it.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// eventually waits until ok, which it asks again and again.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// sessions that the endpoint has.
func (s *Server) sessionCount() int { return len(s.list()) }

func (x *carried) guardedTurn() turn {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn
}

// turnOf a session, whoever carries it.
func turnOf(t testing.TB, x *session) turn {
	t.Helper()
	switch c := x.carrier.(type) {
	case interface{ guardedTurn() turn }:
		return c.guardedTurn()
	case *looped:
		told := make(chan turn)
		if !c.l.post(func() { told <- c.turn }) {
			t.Fatal("the loop has ended")
		}
		return <-told
	}
	t.Fatalf("carried by %T", x.carrier)
	return turn{}
}

// bothWays runs a test with sessions in a loop and with sessions in goroutines.
func bothWays(t *testing.T, test func(*testing.T, func(*Options))) {
	t.Parallel()
	t.Run("loop", func(t *testing.T) { test(t, looping) })
	t.Run("relay", func(t *testing.T) { test(t, relayed) })
}

// looping has them carried by loops, as plain ones are.
func looping(o *Options) { o.loops = 2 }

// relayed has sessions carried by goroutines, as those with TLS are.
func relayed(o *Options) { o.loops = -1 }

// certificate is self-signed, for 127.0.0.1, and also in files.
type certificate struct {
	tls      tls.Certificate
	pem, key []byte
	path     string // of the certificate, for sslrootcert
}

func newCertificate(t testing.TB) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "db"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := &certificate{
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
	if c.tls, err = tls.X509KeyPair(c.pem, c.key); err != nil {
		t.Fatal(err)
	}
	c.path = filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(c.path, c.pem, 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *certificate) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.tls}}
}

func (c *certificate) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.pem)
	return pool
}
