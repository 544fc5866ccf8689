package pgwire

import (
	"bytes"
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/lib/pq"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// secured is a server that takes every sort of password, with TLS and without.
func secured(t *testing.T) (*pgtest.Cluster, *certificate) {
	cert := newCertificate(t)
	c := pgtest.New(t, pgtest.Options{
		Settings: map[string]string{"ssl": "on", "ssl_cert_file": "'c.pem'", "ssl_key_file": "'k.pem'", "max_connections": "200"},
		Files:    map[string][]byte{"c.pem": cert.pem, "k.pem": cert.key},
		HBA: "local all postgres trust\nlocal all scram scram-sha-256\nhost all scram 127.0.0.1/32 scram-sha-256\nhost all hashed 127.0.0.1/32 md5\n" +
			"host all plain 127.0.0.1/32 password\nhost all trusted 127.0.0.1/32 trust\nhostssl all secure 127.0.0.1/32 scram-sha-256\n",
	})
	admin := pgtest.Connect(t, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", c.Socket(), c.Port()))
	if _, err := admin.Exec(bounded(t), `CREATE ROLE scram LOGIN PASSWORD 's3cret'; CREATE ROLE plain LOGIN PASSWORD 's3cret';
		CREATE ROLE secure LOGIN PASSWORD 's3cret'; CREATE ROLE trusted LOGIN;
		SET password_encryption = md5; CREATE ROLE hashed LOGIN PASSWORD 's3cret'`); err != nil {
		t.Fatal(err)
	}
	return c, cert
}

// driver connects and asks who it is.
type driver struct {
	name string
	who  func(t *testing.T, dsn string) (string, error)
}

var drivers = []driver{
	{"pgx", func(t *testing.T, dsn string) (who string, err error) {
		conn, err := pgx.Connect(bounded(t), dsn)
		if err != nil {
			return "", err
		}
		defer conn.Close(context.Background())
		return who, conn.QueryRow(bounded(t), "SELECT current_user").Scan(&who)
	}},
	{"pq", func(t *testing.T, dsn string) (who string, err error) {
		connector, err := pq.NewConnector(dsn)
		if err != nil {
			return "", err
		}
		db := sql.OpenDB(connector)
		defer db.Close()
		return who, db.QueryRowContext(bounded(t), "SELECT current_user").Scan(&who)
	}},
	{"psql", func(t *testing.T, dsn string) (string, error) {
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(bounded(t), "psql", "-XAtqw", "-c", "SELECT current_user", dsn)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%w: %s", err, errs.String())
		}
		return strings.TrimSpace(out.String()), nil
	}},
}

// TestLogins: every sort of authentication, with three clients, with and without
// TLS on either side, over TCP and a Unix socket.
func TestLogins(t *testing.T) {
	t.Parallel()
	c, cert := secured(t)
	t.Run("wrong password", func(t *testing.T) { wrongPassword(t, c) })
	t.Run("channel binding required", func(t *testing.T) { bindingRequired(t, c, cert) })
	foreign := newCertificate(t)
	upstream := Address{"tcp", c.Addr()}
	socket := Address{"unix", fmt.Sprintf("%s/.s.PGSQL.%d", c.Socket(), c.Port())}
	theirs := &tls.Config{RootCAs: cert.pool()}
	ways := map[string]*Server{
		"plain":       start(t, c.Addr()),
		"client tls":  start(t, c.Addr(), func(o *Options) { o.TLS = foreign.server() }),
		"server tls":  start(t, c.Addr(), func(o *Options) { o.Upstream.TLS = theirs }),
		"both tls":    start(t, c.Addr(), func(o *Options) { o.Upstream.TLS, o.TLS = theirs, cert.server() }),
		"foreign tls": start(t, c.Addr(), func(o *Options) { o.Upstream.TLS, o.TLS = theirs, foreign.server() }),
		"socket":      start(t, "", func(o *Options) { o.Upstream.Addresses, o.TLS = []Address{socket}, foreign.server() }),
		"second": start(t, "", func(o *Options) {
			o.Upstream.Addresses = []Address{{"tcp", "127.0.0.1:1"}, upstream}
		}),
	}
	roots := map[string]string{"client tls": foreign.path, "both tls": cert.path, "foreign tls": foreign.path, "socket": foreign.path}
	for name, s := range ways {
		for _, user := range []string{"scram", "hashed", "plain", "trusted", "secure"} {
			if name == "socket" && user != "scram" {
				continue // pg_hba.conf has no line for them
			}
			dsn := fmt.Sprintf("postgres://%s:s3cret@%s/postgres", user, s.addr())
			mode := "?sslmode=disable"
			if root := roots[name]; root != "" {
				mode = "?sslmode=verify-full&sslrootcert=" + root
			}
			for _, d := range drivers {
				t.Run(name+"/"+user+"/"+d.name, func(t *testing.T) {
					t.Parallel()
					if d.name == "psql" {
						if _, err := exec.LookPath("psql"); err != nil {
							t.Skip("NOT TESTED: needs psql")
						}
					}
					who, err := d.who(t, dsn+mode)
					refused := user == "secure" && (name == "plain" || name == "client tls" || name == "second")
					// libpq and pgx bind SCRAM to the certificate that they see if the server can.
					refused = refused || name == "foreign tls" && (user == "scram" || user == "secure") && d.name != "pq"
					switch {
					case !refused && (err != nil || who != user):
						t.Errorf("is %q: %v", who, err)
					case refused && err == nil:
						t.Error("is let in")
					case refused && user == "scram" && !strings.Contains(err.Error(), "two TLS connections"):
						t.Errorf("refused without saying why: %v", err)
					}
				})
			}
		}
	}
}

// wrongPassword: what PostgreSQL answers is what the client is told.
func wrongPassword(t *testing.T, c *pgtest.Cluster) {
	s := start(t, c.Addr())
	for _, user := range []string{"scram", "hashed", "plain", "nobody"} {
		dsn := fmt.Sprintf("postgres://%s:wrong@%%s/postgres?sslmode=disable", user)
		_, err := pgx.Connect(bounded(t), fmt.Sprintf(dsn, s.addr()))
		_, direct := pgx.Connect(bounded(t), fmt.Sprintf(dsn, c.Addr()))
		if code(err) == "" || code(err) != code(direct) {
			t.Errorf("%s: %v, directly %v", user, err, direct)
		}
	}
	eventually(t, "no connection is left", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.mu.conns) == 0 })
}

// bindingRequired passes where clients see PostgreSQL's certificate.
func bindingRequired(t *testing.T, c *pgtest.Cluster, cert *certificate) {
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("NOT TESTED: needs psql")
	}
	s := start(t, c.Addr(), func(o *Options) { o.Upstream.TLS, o.TLS = &tls.Config{RootCAs: cert.pool()}, cert.server() })
	dsn := fmt.Sprintf("postgres://scram:s3cret@%s/postgres?sslmode=verify-full&sslrootcert=%s&channel_binding=require", s.addr(), cert.path)
	if who, err := drivers[2].who(t, dsn); err != nil || who != "scram" {
		t.Errorf("%q, %v", who, err)
	}
}

// dialRaw opens a connection that ends with the test.
func dialRaw(t testing.TB, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func packet(code uint32, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(binary.BigEndian.AppendUint32(b, code), body...)
}

const version3 = 3 << 16

// TestStartupPackets: what is no startup packet is answered as PostgreSQL answers
// it, or not at all, and ends the connection.
func TestStartupPackets(t *testing.T) {
	t.Parallel()
	s, _, _ := shared(t, func(o *Options) { o.RefuseReplication = true })
	for _, tc := range []struct {
		name string
		send []byte
		says string // in the answer; empty: just an end
	}{
		{"nothing", nil, ""},
		{"protocol 2", packet(2<<16, ""), "0A000"},
		{"another protocol", []byte("GET / HTTP/1.1\r\n\r\n"), ""},
		{"a length of 4", []byte{0, 0, 0, 4}, ""},
		{"a length of 1 GiB", []byte{0x40, 0, 0, 0}, ""},
		{"just good-bye", []byte{cTerminate, 0, 0, 0, 4}, ""},
		{"no user", packet(version3, "database\x00x\x00\x00"), "28000"},
		{"no end", packet(version3, "user\x00x\x00"), "08P01"},
		{"half a pair", packet(version3, "user\x00"), "08P01"},
		{"more behind the end", packet(version3, "user\x00x\x00\x00rest"), "08P01"},
		{"replication", packet(version3, "user\x00postgres\x00replication\x00true\x00\x00"), "0A000"},
		{"an unknown key", packet(codeCancel, "12345678"), ""},
		{"a short key", packet(codeCancel, "1"), ""},
		{"no TLS here", append(packet(codeTLS, ""), packet(version3, "\x00")...), "28000"},
		{"GSS and TLS", append(append(packet(codeGSS, ""), packet(codeTLS, "")...), packet(version3, "\x00")...), "28000"},
		{"GSS twice", append(packet(codeGSS, ""), packet(codeGSS, "")...), "0A000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := dialRaw(t, s)
			if _, err := c.Write(tc.send); err != nil {
				t.Fatal(err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			answer = bytes.TrimLeft(answer, "N")
			if err != nil || tc.says == "" && len(answer) > 0 || !bytes.Contains(answer, []byte(tc.says)) {
				t.Errorf("answered %q, %v", answer, err)
			}
		})
	}
}

// TestTLSOnly: RequireTLS, direct TLS with the protocol's name, and nothing put
// behind an SSLRequest in the clear.
func TestTLSOnly(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	s, through, _ := shared(t, func(o *Options) { o.TLS, o.RequireTLS = cert.server(), true })
	if _, err := pgx.Connect(bounded(t), through); code(err) != "28000" {
		t.Errorf("without TLS: %v", err)
	}
	secure := strings.Replace(through, "sslmode=disable", "sslmode=verify-full&sslrootcert="+cert.path, 1)
	conn := pgtest.Connect(t, secure)
	if n := one[int](t, conn, "SELECT 1"); n != 1 {
		t.Error(n)
	}
	for _, protocols := range [][]string{{alpn}, nil} {
		c := tls.Client(dialRaw(t, s), &tls.Config{RootCAs: cert.pool(), ServerName: "127.0.0.1", NextProtos: protocols})
		_, err := c.Write(packet(version3, "user\x00postgres\x00database\x00postgres\x00\x00"))
		if err != nil {
			t.Fatal(err)
		}
		kind := make([]byte, 1)
		if _, err := io.ReadFull(c, kind); err != nil || (kind[0] == sAuthentication) != (protocols != nil) {
			t.Errorf("direct TLS with protocols %v: %q, %v", protocols, kind, err)
		}
	}
	c := dialRaw(t, s)
	if _, err := c.Write(append(packet(codeTLS, ""), packet(version3, "user\x00postgres\x00\x00")...)); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(c); bytes.Contains(answer, []byte("server_version")) {
		t.Error("what stood behind the SSLRequest was taken")
	}
}

// TestTrust: PostgreSQL trusts walproxy's machine, not everybody who reaches it.
func TestTrust(t *testing.T) {
	t.Parallel()
	addr := elsewhere(t)
	for _, allowed := range []bool{false, true} {
		listener, err := net.Listen("tcp4", addr+":0")
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, pgtest.Shared(t).Addr(), func(o *Options) {
			_ = o.Listener.Close()
			o.Listener, o.AllowTrust = listener, allowed
		})
		conn, err := pgx.Connect(bounded(t), pgtest.DSN(s.addr(), pgtest.Superuser, "postgres"))
		if allowed && err != nil || !allowed && code(err) != "28000" {
			t.Errorf("allowed %v: %v", allowed, err)
		}
		if conn != nil {
			_ = conn.Close(bounded(t))
		}
	}
}

// elsewhere is an address of this machine that is not loopback.
func elsewhere(t *testing.T) string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("NOT TESTED: needs an address that is not loopback")
	return ""
}

// TestReplication: a physical replication connection passes.
func TestReplication(t *testing.T) { bothWays(t, testReplication) }

func testReplication(t *testing.T, way func(*Options)) {
	t.Parallel()
	_, through, _ := shared(t, way)
	conn := pgtest.Connect(t, through+"&replication=database&default_query_exec_mode=simple_protocol")
	rows, err := conn.Query(bounded(t), "IDENTIFY_SYSTEM")
	if err != nil {
		t.Fatal(err)
	}
	if !rows.Next() {
		t.Error(rows.Err())
	}
	rows.Close()
}
