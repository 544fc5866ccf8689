package pgwire

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
)

// Codes in the place of a protocol version.
const (
	codeCancel = 1234<<16 | 5678
	codeTLS    = 1234<<16 | 5679
	codeGSS    = 1234<<16 | 5680
)

// alpn names the protocol in direct TLS connections.
const alpn = "postgresql"

// tlsRecord is the first byte of a TLS handshake: no startup packet has it.
const tlsRecord = 0x16

// startup is a client's first packet, behind what it negotiated.
type startup struct {
	packet []byte // as it came, with its length
	cancel []byte // of a cancel request: the key; then the rest is empty

	parameters     []parameter
	user, database string
	replication    bool
}

// value of a parameter; "": it was not given.
func (st *startup) value(name string) (value string) {
	for _, p := range st.parameters {
		if p.Name == name {
			value = p.Value
		}
	}
	return value
}

// greet negotiates encryption and reads the startup packet; the connection it
// returns is the one to go on with, also beside an error.
func (s *Server) greet(ctx context.Context, raw net.Conn) (net.Conn, *startup, error) {
	var err error
	var encrypted, gss bool
	c := raw
	for {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return c, nil, err
		}
		if head[0] == tlsRecord && !encrypted && s.o.TLS != nil {
			if c, err = s.encrypt(ctx, &replayed{Conn: c, first: head[:]}); err != nil {
				return c, nil, err
			}
			// Without a name for the protocol another's handshake could be led here.
			if c.(*tls.Conn).ConnectionState().NegotiatedProtocol != alpn {
				return c, nil, refuseStartup("direct TLS without the protocol " + alpn)
			}
			encrypted, gss = true, true
			continue
		}
		var packet []byte
		if packet, err = readPacket(c, head); err != nil {
			return c, nil, err
		}
		switch code := binary.BigEndian.Uint32(packet[4:]); {
		case code == codeTLS && !encrypted && len(packet) == 8:
			if c, encrypted, err = s.answerTLS(ctx, c); err != nil {
				return c, nil, err
			}
		case code == codeGSS && !gss && len(packet) == 8:
			gss = true
			if _, err := c.Write([]byte{'N'}); err != nil {
				return c, nil, err
			}
		case code == codeCancel:
			return c, &startup{cancel: packet[8:]}, nil
		case code>>16 != 3:
			return c, nil, refuseVersion(code)
		case s.o.RequireTLS && !encrypted:
			return c, nil, refusePlain()
		default:
			st, err := parseStartup(packet)
			return c, st, err
		}
	}
}

// errStartupLength is not told, as PostgreSQL does not: whoever sends that, another
// protocol or a client that only says good-bye, does not listen to ours.
var errStartupLength = errors.New("the length of its startup packet is out of range")

// readPacket reads the rest of a packet whose length is head.
func readPacket(c io.Reader, head [4]byte) ([]byte, error) {
	size := binary.BigEndian.Uint32(head[:])
	if size < 8 || size > startupBytesMax {
		return nil, errStartupLength
	}
	packet := make([]byte, size)
	copy(packet, head[:])
	_, err := io.ReadFull(c, packet[4:])
	return packet, err
}

// answerTLS answers an SSLRequest, which may come once. Nothing is read ahead, so
// what a stranger put behind it in the clear ends up in the handshake, which fails.
func (s *Server) answerTLS(ctx context.Context, c net.Conn) (net.Conn, bool, error) {
	if s.o.TLS == nil {
		_, err := c.Write([]byte{'N'})
		return c, false, err
	}
	if _, err := c.Write([]byte{'S'}); err != nil {
		return c, false, err
	}
	t, err := s.encrypt(ctx, c)
	return t, err == nil, err
}

func (s *Server) encrypt(ctx context.Context, c net.Conn) (net.Conn, error) {
	t := tls.Server(c, s.o.TLS)
	return t, t.HandshakeContext(ctx)
}

// parseStartup looks for what the endpoint needs in a StartupMessage.
func parseStartup(packet []byte) (*startup, error) {
	st := &startup{packet: packet}
	rest := packet[8:]
	for {
		name, value, more, ok := cutPair(rest)
		if !ok {
			return nil, refuseStartup("expected a terminator as last byte")
		}
		if name == "" {
			if len(more) != 0 {
				return nil, refuseStartup("there is something behind the terminator")
			}
			break
		}
		st.parameters = append(st.parameters, parameter{name, value})
		switch name {
		case "user":
			st.user = value
		case "database":
			st.database = value
		case "replication":
			st.replication = replicates(value)
		}
		rest = more
	}
	if st.user == "" {
		return nil, &refusal{code: "28000", reason: "protocol", message: "no PostgreSQL user name specified in startup packet"}
	}
	if st.database == "" {
		st.database = st.user
	}
	return st, nil
}

// cutPair cuts a name and its value, or the terminator, off b.
func cutPair(b []byte) (name, value string, rest []byte, ok bool) {
	n, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || len(n) == 0 {
		return "", "", rest, ok
	}
	v, rest, ok := bytes.Cut(rest, []byte{0})
	return string(n), string(v), rest, ok
}

// replicates: PostgreSQL takes a boolean or "database"; what it would not take
// it refuses itself.
func replicates(value string) bool {
	v := strings.ToLower(value)
	return v != "" && !slices.Contains([]string{"0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off"}, v)
}

// replayed is a connection of which something was read already.
type replayed struct {
	net.Conn
	first []byte
}

func (r *replayed) Read(b []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.first)
	r.first = r.first[n:]
	return n, nil
}
