package pgwire

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// sunk is a connection that takes everything and says nothing.
type sunk struct {
	net.Conn
	got bytes.Buffer
}

func (s *sunk) Write(b []byte) (int, error)      { return s.got.Write(b) }
func (*sunk) Close() error                       { return nil }
func (*sunk) SetReadDeadline(time.Time) error    { return nil }
func (*sunk) SetDeadline(time.Time) error        { return nil }
func (*sunk) Read([]byte) (int, error)           { return 0, net.ErrClosed }
func (*sunk) LocalAddr() (a net.Addr)            { return a }
func (*sunk) RemoteAddr() (a net.Addr)           { return a }
func (*sunk) SetWriteDeadline(t time.Time) error { return nil }

// lone is a link without an endpoint around it.
func lone(t testing.TB) (*link, *sunk) {
	s := &Server{log: zap.NewNop(), statements: statement.NewCache(1 << 20)}
	s.o.Away = &Away{}
	s.o.away = s.o.Away.withDefaults()
	var err error
	if s.metrics, err = newMetrics(prometheus.NewRegistry(), s); err != nil {
		t.Fatal(err)
	}
	if s.presence, err = newPresence(s); err != nil {
		t.Fatal(err)
	}
	to := &sunk{}
	l := newLink(&session{s: s}, &startup{}, []parameter{{conforming, "on"}, {"client_encoding", "UTF8"}}, nil)
	return l.attached(&backend{conn: to}, nil), to
}

// TestLinkSplits: whatever pieces a client's messages come in, PostgreSQL gets
// exactly them, and what the session holds is the same.
func TestLinkSplits(t *testing.T) {
	t.Parallel()
	messages := [][]byte{
		appendFrame(nil, cQuery, appendText(nil, "SET work_mem = '5MB'")),
		appendFrame(nil, cQuery, appendText(nil, strings.Repeat(" ", 300)+"SELECT 1")),
		appendFrame(nil, cParse, append(appendText(nil, "n", "SELECT $1::int"), 0, 0)),
		appendFrame(nil, cBind, append(appendText(nil, "", "n"), 0, 0, 0, 0, 0, 0)),
		appendFrame(nil, cExecute, append(appendText(nil, ""), 0, 0, 0, 0)),
		appendFrame(nil, cClose, appendText([]byte{'S'}, "n")),
		appendFrame(nil, cSync, nil),
		appendFrame(nil, cFlush, nil),
		appendFrame(nil, cCopyData, bytes.Repeat([]byte("x"), 5000)),
	}
	rapid.Check(t, func(rt *rapid.T) {
		l, to := lone(t)
		whole, _ := lone(t)
		var all []byte
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(messages)-1), 1, 20).Draw(rt, "messages") {
			all = append(all, messages[i]...)
			if _, err := whole.Write(messages[i]); err != nil {
				rt.Fatal(err)
			}
		}
		for rest := all; len(rest) > 0; {
			n := min(rapid.IntRange(1, 700).Draw(rt, "bytes"), len(rest))
			if got, err := l.Write(rest[:n]); err != nil || got != n {
				rt.Fatalf("%d of %d bytes: %v", got, n, err)
			}
			rest = rest[n:]
		}
		if !bytes.Equal(to.got.Bytes(), all) {
			rt.Fatalf("%d bytes arrived of %d", to.got.Len(), len(all))
		}
		a, b := &l.mu.held, &whole.mu.held
		if a.lost != b.lost || len(a.queue) != len(b.queue) || len(a.sent) != len(b.sent) || a.served != b.served {
			rt.Fatalf("in pieces %q %d %d %d, whole %q %d %d %d", a.lost, len(a.queue), len(a.sent), a.served, b.lost, len(b.queue), len(b.sent), b.served)
		}
	})
}

// FuzzLink: no bytes of either side make a link panic, and it passes on no more than
// it got.
func FuzzLink(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, cParse, append(appendText(nil, "n", "SET x.y = 1"), 0, 0)), cSync, nil),
		appendFrame(appendFrame(nil, sParseComplete, nil), sReady, []byte{'I'}))
	f.Add(appendFrame(nil, cQuery, appendText(nil, "BEGIN; SET a = 1; ROLLBACK TO s")), appendFrame(nil, sReady, []byte{'T'}))
	f.Add([]byte{cClose, 0, 0, 0, 4, cBind, 0, 0, 0, 5, 0, cExecute, 0, 0, 0, 4, cSync, 0, 0, 0, 4},
		appendFrame(nil, sError, []byte("VFATAL\x00C57P01\x00\x00")))
	f.Fuzz(func(t *testing.T, up, down []byte) {
		for at := 0; at+headBytes <= len(up); { // the carrier lets nothing else pass
			_, body, err := parseHead(up[at:], 1<<20)
			if err != nil {
				binary.BigEndian.PutUint32(up[at+1:], 4)
				body = 0
			}
			at += headBytes + int(body)
		}
		l, to := lone(t)
		if _, err := l.Write(up); err != nil {
			t.Fatal(err)
		}
		l.in = append(l.in, down...)
		l.scanDown()
		if to.got.Len() > len(up) || l.passable > len(down) {
			t.Errorf("%d bytes of %d up, %d of %d down", to.got.Len(), len(up), l.passable, len(down))
		}
		settings, statements := l.mu.held.restore()
		if len(settings) > settingsMax+1 || len(statements) > len(up) {
			t.Error("it holds more than it was told")
		}
	})
}

// FuzzSecret: what is read as a secret is written and read again the same.
func FuzzSecret(f *testing.F) {
	f.Add("SCRAM-SHA-256$4096:c2FsdA==$" + strings.Repeat("A", 43) + "=:" + strings.Repeat("B", 42) + "A=")
	f.Add("plain")
	f.Add("\"a\" \"b\"\n;")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 {
			return
		}
		if list, err := ReadUserlist(strings.NewReader(text)); err == nil && len(list) > len(text) {
			t.Error("more users than bytes")
		}
		s, err := ParseSecret(text)
		if err != nil || s.password != "" {
			return
		}
		again, err := ParseSecret(s.verifierText())
		if err != nil || again.verifierText() != s.verifierText() {
			t.Errorf("%q is read again as %q, %v", s.verifierText(), again.verifierText(), err)
		}
	})
}
