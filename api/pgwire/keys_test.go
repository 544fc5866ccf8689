package pgwire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// scripted is a server that says hello with a cancel key and then nothing, as one
// of a later version would. What clients send first is delivered.
func scripted(t *testing.T, hello []byte) (addr string, packets <-chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan []byte, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var head [4]byte
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(c, head[:]); err == nil {
				p, _ := readPacket(c, head)
				sent <- p
				if binary.BigEndian.Uint32(p[4:]) == codeCancel {
					_ = c.Close()
					continue
				}
				_, _ = c.Write(hello)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), sent
}

// TestLongKeys: protocol 3.2 passes with what it negotiates, and its cancel keys,
// which are longer.
func TestLongKeys(t *testing.T) {
	t.Parallel()
	key := append([]byte{0, 0, 0, 7}, bytes.Repeat([]byte{0xab, 0xcd}, 16)...)
	var hello []byte
	for _, m := range []pgproto3.BackendMessage{
		&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 2, UnrecognizedOptions: []string{"_pq_.x"}},
		&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "server_version", Value: "19"},
		&pgproto3.BackendKeyData{ProcessID: 7, SecretKey: key[4:]}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
	} {
		hello, _ = m.Encode(hello)
	}
	addr, packets := scripted(t, hello)
	s := start(t, addr)
	c := dialRaw(t, s)
	sent := packet(3<<16|2, "user\x00u\x00_pq_.x\x001\x00\x00")
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if got := <-packets; !bytes.Equal(got, sent) {
		t.Errorf("PostgreSQL got %q, want %q", got, sent)
	}
	got := make([]byte, len(hello))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, hello) {
		t.Errorf("the client got %q, want %q: %v", got, hello, err)
	}
	for _, wrong := range [][]byte{key[:8], append(bytes.Clone(key), 0), append(bytes.Clone(key[:35]), 0)} {
		sendCancel(t, s, wrong)
	}
	sendCancel(t, s, key)
	if got := <-packets; !bytes.Equal(got[8:], key) {
		t.Errorf("cancelled with %x, want %x", got[8:], key)
	}
	select {
	case p := <-packets:
		t.Errorf("a wrong key was passed on: %x", p)
	default:
	}
}

// sendCancel returns when the endpoint has closed the connection.
func sendCancel(t *testing.T, s *Server, key []byte) {
	t.Helper()
	c := dialRaw(t, s)
	if _, err := c.Write(packet(codeCancel, string(key))); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || len(answer) > 0 {
		t.Errorf("answered %q, %v", answer, err)
	}
}

// FuzzStartup: no packet makes a session that PostgreSQL would not make of it, and
// what is told of it is within it.
func FuzzStartup(f *testing.F) {
	f.Add(packet(version3, "user\x00a\x00database\x00b\x00replication\x00on\x00\x00"))
	f.Add(packet(version3, "user\x00a\x00"))
	f.Add(packet(version3, "\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 8 {
			return
		}
		st, err := parseStartup(b)
		if err != nil {
			return
		}
		if st.user == "" || st.database == "" || b[len(b)-1] != 0 || !bytes.Contains(b, []byte("user\x00"+st.user+"\x00")) {
			t.Errorf("%q: %+v", b, st)
		}
	})
}

// TestUpstreamNonsense: what PostgreSQL never sends ends the session, told as a loss.
func TestUpstreamNonsense(t *testing.T) { bothWays(t, testUpstreamNonsense) }

func testUpstreamNonsense(t *testing.T, way func(*Options)) {
	var hello []byte
	for _, m := range []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}, &pgproto3.ReadyForQuery{TxStatus: 'I'}} {
		hello, _ = m.Encode(hello)
	}
	hello = append(hello, sReady, 0, 0, 0, 0) // a length that cannot be
	addr, _ := scripted(t, hello)
	s := start(t, addr, way)
	c := dialRaw(t, s)
	if _, err := c.Write(packet(version3, "user\x00u\x00\x00")); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err != nil || !bytes.Contains(answer, []byte("08006")) {
		t.Errorf("answered %q, %v", answer, err)
	}
}
