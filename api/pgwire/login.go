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
	"sync"
	"sync/atomic"
	"time"
)

// Authentication requests; see PostgreSQL's src/include/libpq/protocol.h.
const (
	authOK   = 0
	authSASL = 10
	// authSASLFinal is no request: the client does not answer it.
	authSASLFinal = 12
)

// scramPlus is SCRAM that is bound to the TLS connection.
const scramPlus = "SCRAM-SHA-256-PLUS"

// past interrupts waits for the network.
var past = time.Unix(1, 0)

// login is what lies between a startup packet and the first ReadyForQuery.
// Everything passes through; requests for authentication are looked at.
type login struct {
	x         *session
	client    *inbox
	server    *inbox
	asked     bool        // PostgreSQL asked for proof of who the client is
	unbound   atomic.Bool // channel binding cannot succeed
	refused   atomic.Pointer[refusal]
	fromAfar  bool
	out       []byte
	answering sync.WaitGroup

	// For Options.Away:
	told       bool         // the client was told something
	parameters []parameter  // that PostgreSQL reported
	refusal    *serverError // of PostgreSQL's
	heard      overheard    // SCRAM; the answering goroutine's, but for serverFirst
	cleartext  bool         // PostgreSQL asked for a password
	password   string       // that the client sent then; the answering goroutine's
}

// login connects to PostgreSQL and lets it authenticate the client. What both have
// sent beyond that is returned.
func (x *session) login(ctx context.Context, st *startup) (fromClient, fromServer []byte, err error) {
	if x.upstream, x.address, err = x.s.dial(ctx); err != nil {
		return nil, nil, refuseAway(err)
	}
	interrupt := context.AfterFunc(ctx, func() { _ = x.upstream.SetDeadline(past) })
	defer interrupt()
	if _, err := x.upstream.Write(st.packet); err != nil {
		return nil, nil, refuseAway(err)
	}
	l := &login{x: x, client: newInbox(x.client), server: newInbox(x.upstream), fromAfar: fromAfar(x.client.RemoteAddr())}
	x.passed = l
	l.answering.Go(l.answer)
	err = l.follow()
	if err != nil {
		_ = x.upstream.SetDeadline(past) // whoever waits for it
	}
	_ = x.client.SetReadDeadline(past)
	l.answering.Wait()
	if err != nil {
		if r := l.refused.Load(); r != nil {
			return nil, nil, r
		}
		return nil, nil, err
	}
	if !interrupt() {
		return nil, nil, context.Cause(ctx)
	}
	// A client that left at once interrupted its login, which was over.
	if err := x.upstream.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	return l.client.rest(), l.server.rest(), nil
}

// errToldAlready: PostgreSQL has refused the client, and the client knows.
var errToldAlready = errors.New("PostgreSQL refused the login")

// follow passes on what PostgreSQL says, up to the first ReadyForQuery.
func (l *login) follow() error {
	var failed bool
	soon := l.hurry()
	defer soon()
	for {
		frame, err := l.server.next()
		if err != nil {
			if failed {
				return errToldAlready
			}
			return refuseAway(err)
		}
		soon()
		switch frame[0] {
		case sAuthentication:
			if frame, err = l.request(frame); err != nil {
				return err
			}
		case sKeyData:
			l.x.enter(frame[headBytes:])
		case sParameterStatus:
			frame = l.note(frame)
		case sError:
			failed = true
			if l.refusal = readError(frame); l.x.s.o.Away != nil && !l.told && l.refusal.away() {
				return refuseAway(l.refusal)
			}
		}
		l.out = append(l.out, frame...)
		if l.server.whole() {
			continue
		}
		l.told = true
		if _, err := l.x.client.Write(l.out); err != nil {
			return err
		}
		if frame[0] == sReady {
			return nil
		}
		l.out = l.out[:0]
	}
}

// request looks at a request for authentication, and returns the one to pass on.
func (l *login) request(frame []byte) ([]byte, error) {
	if len(frame) < headBytes+4 {
		return nil, refuseAway(errors.New("an authentication request is too short"))
	}
	switch binary.BigEndian.Uint32(frame[headBytes:]) {
	case authOK:
		if !l.asked && l.fromAfar && !l.x.s.o.AllowTrust {
			return nil, refuseTrust()
		}
	case authSASL:
		l.asked = true
		return l.mechanisms(frame), nil
	case authSASLFinal:
	case authSASLContinue:
		l.heard.serverFirst = string(frame[headBytes+4:])
	case authCleartext:
		l.asked, l.cleartext = true, true
	default:
		l.asked = true
	}
	return frame, nil
}

// mechanisms: a client that has no TLS must not be offered channel binding (libpq
// then suspects a man in the middle, rightly). One that has can bind only to the
// certificate that it sees.
func (l *login) mechanisms(frame []byte) []byte {
	list := frame[headBytes+4:]
	plus := append([]byte(scramPlus), 0)
	at := bytes.Index(list, plus)
	if at < 0 || at > 0 && list[at-1] != 0 {
		return frame
	}
	client, encrypted := l.x.client.(*tls.Conn)
	if !encrypted {
		shorter := slices.Concat(frame[:headBytes+4], list[:at], list[at+len(plus):])
		binary.BigEndian.PutUint32(shorter[1:], uint32(len(shorter)-1))
		return shorter
	}
	if !l.x.s.shows(client, l.x.upstream) {
		l.unbound.Store(true)
	}
	return frame
}

// shows reports whether clients see the certificate that PostgreSQL shows us.
func (s *Server) shows(client *tls.Conn, upstream net.Conn) bool {
	u, ok := upstream.(*tls.Conn)
	if !ok {
		return false
	}
	theirs := u.ConnectionState().PeerCertificates
	return len(theirs) > 0 && slices.ContainsFunc(s.o.TLS.Certificates, func(c tls.Certificate) bool {
		return len(c.Certificate) > 0 && bytes.Equal(c.Certificate[0], theirs[0].Raw)
	})
}

// answer passes on what the client says to prove who it is. It ends at the first
// message of another kind, which is for the session, or when it is interrupted.
func (l *login) answer() {
	for {
		kind, err := l.client.peek()
		if err != nil || kind == cTerminate {
			if !errors.Is(err, errInterrupted) {
				_ = l.x.upstream.SetDeadline(past) // the client is gone: so is its login
			}
			return
		}
		if kind != cPassword {
			return
		}
		frame, err := l.client.next()
		if err == nil && l.unbound.Load() && bytes.HasPrefix(frame[headBytes:], append([]byte(scramPlus), 0)) {
			l.refused.Store(refuseBinding())
			err = errToldAlready
		}
		if err == nil {
			l.listen(frame[headBytes:])
			_, err = l.x.upstream.Write(frame)
		}
		if err != nil {
			if !errors.Is(err, errInterrupted) {
				_ = l.x.upstream.SetDeadline(past)
			}
			return
		}
	}
}

// fromAfar reports that a client is on another machine.
func fromAfar(addr net.Addr) bool {
	t, ok := addr.(*net.TCPAddr)
	return ok && !t.IP.IsLoopback()
}

// inbox cuts frames out of a connection during the login.
type inbox struct {
	c        net.Conn
	buf      []byte
	from, to int
}

var errInterrupted = errors.New("interrupted")

func newInbox(c net.Conn) *inbox { return &inbox{c: c, buf: make([]byte, 1<<10)} }

// next returns a whole frame, valid until the next call.
func (m *inbox) next() ([]byte, error) {
	if err := m.fill(headBytes); err != nil {
		return nil, err
	}
	_, body, err := parseHead(m.buf[m.from:], loginBytesMax)
	if err != nil {
		return nil, refuseFrame(err)
	}
	if err := m.fill(headBytes + int(body)); err != nil {
		return nil, err
	}
	frame := m.buf[m.from : m.from+headBytes+int(body)]
	m.from += len(frame)
	return frame, nil
}

// peek returns the type of the next frame.
func (m *inbox) peek() (byte, error) {
	if err := m.fill(1); err != nil {
		return 0, err
	}
	return m.buf[m.from], nil
}

// fill reads until there are n bytes. Memory grows with what comes, not with what
// was announced.
func (m *inbox) fill(n int) error {
	for m.to-m.from < n {
		if m.from > 0 && m.to == len(m.buf) {
			m.to = copy(m.buf, m.buf[m.from:m.to])
			m.from = 0
		}
		if m.to == len(m.buf) {
			m.buf = append(m.buf, make([]byte, len(m.buf))...)
		}
		read, err := m.c.Read(m.buf[m.to:])
		m.to += read
		if err != nil && m.to-m.from < n {
			if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
				return errors.Join(errInterrupted, err)
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// whole reports that another frame is there.
func (m *inbox) whole() bool {
	b := m.rest()
	if len(b) < headBytes {
		return false
	}
	_, body, err := parseHead(b, loginBytesMax)
	return err == nil && int64(len(b)) >= headBytes+body
}

// rest is what was read and not returned.
func (m *inbox) rest() []byte { return m.buf[m.from:m.to] }
