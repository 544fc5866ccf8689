package pgwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

// randomMessages is what a client might send, in an order that no client has.
func randomMessages(r *rand.Rand, n int) (b []byte, names []string) {
	for range n {
		var m pgproto3.FrontendMessage
		switch r.IntN(22) {
		case 0, 1:
			m = &pgproto3.Query{String: "SELECT 1; SELECT 2"}
		case 2:
			m = &pgproto3.Query{String: "SELECT 1/0"}
		case 3:
			m = &pgproto3.Query{String: []string{"BEGIN", "COMMIT", "ROLLBACK", ""}[r.IntN(4)]}
		case 4:
			m = &pgproto3.Query{String: "COPY t FROM STDIN"}
		case 5:
			m = &pgproto3.Query{String: "COPY (SELECT generate_series(1, 3)) TO STDOUT"}
		case 6, 7, 8:
			m = &pgproto3.Parse{Query: []string{"SELECT 1", "SELECT generate_series(1, 5)", "COPY t FROM STDIN", "SELECT 1/0", "SELEC", ""}[r.IntN(6)]}
		case 9, 10:
			m = &pgproto3.Bind{}
		case 11:
			m = &pgproto3.Describe{ObjectType: "SP"[r.IntN(2)]}
		case 12, 13, 14:
			m = &pgproto3.Execute{MaxRows: uint32(r.IntN(2) * 2)}
		case 15, 16:
			m = &pgproto3.Sync{}
		case 17:
			m = &pgproto3.Flush{}
		case 18:
			m = &pgproto3.CopyData{Data: []byte("1\n")}
		case 19:
			m = &pgproto3.CopyDone{}
		case 20:
			m = &pgproto3.CopyFail{Message: "no"}
		case 21:
			m = &pgproto3.Close{ObjectType: "SP"[r.IntN(2)]}
		}
		names = append(names, fmt.Sprintf("%T", m)[len("*pgproto3."):])
		b, _ = m.Encode(b) // they fit
	}
	return b, names
}

// answers sends b and a CopyFail, a Sync and a Query behind it, and returns what
// comes up to that query's ReadyForQuery, or the end.
func answers(t *testing.T, c net.Conn, b []byte) (got []byte, ended bool) {
	t.Helper()
	b, _ = (&pgproto3.CopyFail{Message: "end"}).Encode(b)
	b, _ = (&pgproto3.Sync{}).Encode(b)
	b, _ = (&pgproto3.Query{String: "ROLLBACK; SELECT 'the end'"}).Encode(b)
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		return nil, true
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if at := bytes.Index(got, []byte("the end")); at > 0 && bytes.Contains(got[at:], []byte{sReady, 0, 0, 0, 5}) {
			return got, false
		}
		if err != nil {
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Fatalf("stuck behind %q", got[max(0, len(got)-100):])
			}
			return got, true
		}
	}
}

// loginRaw logs in where nothing is asked, and reads up to the first ReadyForQuery.
// Drivers read ahead.
func loginRaw(t *testing.T, dsn string) net.Conn {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp4", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	hello := packet(version3, "user\x00"+u.User.Username()+"\x00database\x00"+u.Path[1:]+"\x00\x00")
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	for m := newInbox(c); ; {
		frame, err := m.next()
		if err != nil {
			t.Fatal(err)
		}
		if frame[0] == sReady {
			return c
		}
	}
}

// TestRandomOrders: whatever order messages come in, the endpoint's answers are
// PostgreSQL's, nothing gets stuck, and at the end the endpoint knows whose turn
// it is.
func TestRandomOrders(t *testing.T) { bothWays(t, testRandomOrders) }

func testRandomOrders(t *testing.T, way func(*Options)) {
	t.Parallel()
	s, through, direct := shared(t, way)
	do(t, pgtest.Connect(t, direct), "CREATE TABLE t (v int)")
	compareRandomOrders(t, s, through, direct)
}

// TestRandomOrdersAttended: the same where every message is looked at, and may have to
// wait at a gate.
func TestRandomOrdersAttended(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, "CREATE TABLE t (v int)", []Table{table("t", mutation.KeyInt64)})
	compareRandomOrders(t, r.Server, r.through, r.direct)
}

func compareRandomOrders(t *testing.T, s *Server, through, direct string) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	var exact, inexact int
	rounds := 40
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds = 2000
	}
	for round := range rounds {
		message, names := randomMessages(r, 1+r.IntN(12))
		a, b := loginRaw(t, through), loginRaw(t, direct)
		got, ended := answers(t, a, bytes.Clone(message))
		want, endedToo := answers(t, b, message)
		if !bytes.Equal(got, want) || ended != endedToo {
			t.Fatalf("seed %d, round %d: %v\ngot  %q, ended %v\nwant %q, ended %v", seed, round, names, got, ended, want, endedToo)
		}
		if !ended {
			turn := turnOf(t, s.list()[0])
			if turn.pending() || turn.holds() {
				t.Errorf("seed %d, round %d: %v\nnot idle: %+v", seed, round, names, turn)
			}
			if turn.exact {
				exact++
			} else {
				inexact++
			}
		}
		_, _ = a.Close(), b.Close()
		eventually(t, "the session is over", func() bool { return s.sessionCount() == 0 })
	}
	t.Logf("%d sessions were followed exactly, %d not", exact, inexact)
	if exact < inexact/4 { // half of them mix the protocols, as no client does
		t.Error("most sessions were lost count of")
	}
}

// TestTurn: the states that matter, message by message.
func TestTurn(t *testing.T) {
	// c: the client's, s: the server's; Z with its state.
	for _, tc := range []struct {
		name, talk           string
		idle, holds, inexact bool
	}{
		{name: "new", talk: "", idle: true},
		{name: "query", talk: "cQ"},
		{name: "query answered", talk: "cQ sC sZI", idle: true},
		{name: "begin", talk: "cQ sC sZT", holds: true},
		{name: "failed", talk: "cQ sE sZE", holds: true},
		{name: "statement in a transaction", talk: "cQ sC sZT cQ"},
		{name: "two under way", talk: "cQ cQ sZI"},
		{name: "extended", talk: "cP cB cD cE cS s1 s2 sT"},
		{name: "extended, answered", talk: "cP cB cD cE cS s1 s2 sT sC sZI", idle: true},
		{name: "flush, running", talk: "cP cB cE cH s1 s2"},
		{name: "flush, answered", talk: "cP cB cE cH s1 s2 sC", holds: true},
		{name: "flush, failed", talk: "cP cB cE cH s1 sE", holds: true},
		{name: "behind an error", talk: "cP cH sE cB cE", holds: true},
		{name: "pipeline", talk: "cP cB cE cS cP cB cE cS s1 s2 sC sZI"},
		{name: "copy in", talk: "cQ sG", holds: true},
		{name: "copy in, done", talk: "cQ sG cd cc"},
		{name: "copy in, answered", talk: "cQ sG cd cc sC sZI", idle: true},
		{name: "copy in, an error", talk: "cQ sG cd sE sZI cd cc", idle: true},
		{name: "copy in, its Sync", talk: "cP cB cE cS s1 s2 sG", holds: true},
		{name: "copy in, its Syncs answered", talk: "cP cB cE cS s1 s2 sG cd cc cS sC sZI", idle: true},
		{name: "copy in, sent blindly", talk: "cP cB cE cd cc cS s1 s2 sG sC sZI", idle: true},
		{name: "copy in, no end before the Sync", talk: "cP cB cE cd cS s1 s2 sG", holds: true, inexact: true},
		{name: "copy in, all of it sent", talk: "cP cB cE cS cS cf cS cQ s1 s2 sG sE sZI sZI", idle: true},
		{name: "copy in, its end on the way", talk: "cP cB cE cS cS cf cS cQ s1 s2 sG"},
		{name: "two copies in one query", talk: "cQ sG cc sC sG", holds: true},
		{name: "mixed", talk: "cP cQ s1 sE sZI", idle: true, inexact: true},
		{name: "stray copy data", talk: "cd cc cf", idle: true},
		{name: "unasked", talk: "sZI", idle: true, inexact: true},
		{name: "inexact, then busy", talk: "sZI cQ", inexact: true},
		{name: "inexact, then idle", talk: "sZI cQ cQ sZI sZI", idle: true, inexact: true},
		{name: "replication", talk: "cQ sW", inexact: true},
	} {
		turn := newTurn()
		for _, word := range bytes.Fields([]byte(tc.talk)) {
			if word[0] == 's' {
				turn.server(word[1], word[2:])
			} else if err := turn.client(word[1]); err != nil {
				t.Fatal(err)
			}
		}
		if turn.idle() != tc.idle || turn.holds() != tc.holds || turn.exact == tc.inexact {
			t.Errorf("%s: idle %v, holds %v, exact %v: %+v", tc.name, turn.idle(), turn.holds(), turn.exact, turn)
		}
	}
}

// TestAskedIsBounded: a client that pipelines costs no memory by it, and one that
// makes it hard is refused.
func TestAskedIsBounded(t *testing.T) {
	turn := newTurn()
	for range 1_000_000 {
		if err := turn.client(cQuery); err != nil {
			t.Fatal(err)
		}
	}
	if len(turn.asked.list) != 1 {
		t.Errorf("%d runs", len(turn.asked.list))
	}
	var err error
	n := 0
	for ; err == nil; n++ {
		if err = turn.client(cQuery); err == nil {
			err = turn.client(cSync)
		}
	}
	if n > asksMax || !errors.Is(err, errTooManyAsked) {
		t.Errorf("%v after %d", err, n)
	}
	for turn.asked.pop() {
	}
	if !turn.asked.empty() {
		t.Error("not empty")
	}
}

// FuzzFlow: frames are found alike however their bytes come in, and nothing is
// passed on that was not looked at.
func FuzzFlow(f *testing.F) {
	whole := []byte{cQuery, 0, 0, 0, 6, 'a', 0, cSync, 0, 0, 0, 4, sReady, 0, 0, 0, 5, 'I', cCopyData, 0, 0, 0, 4}
	f.Add(whole, uint64(1), int64(100))
	f.Add(whole[:9], uint64(2), int64(100))
	f.Add([]byte{cQuery, 0xff, 0xff, 0xff, 0xff}, uint64(3), int64(1))
	f.Add([]byte{cQuery, 0, 0, 0, 3, 0}, uint64(4), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, limit int64) {
		limit = max(limit, 0) & (1<<31 - 1)
		once, atOnce, err := cut(data, limit, func(int) int { return len(data) })
		r := rand.New(rand.NewPCG(seed, seed))
		parts, piecewise, errToo := cut(data, limit, func(left int) int { return 1 + r.IntN(left) })
		if once != parts || atOnce != piecewise || (err == nil) != (errToo == nil) {
			t.Errorf("at once %q, %d bytes, %v; in parts %q, %d bytes, %v", once, atOnce, err, parts, piecewise, errToo)
		}
	})
}

// cut shows data to a flow in steps as a connection would. It returns the types
// and lengths that it saw and how much was passed on.
func cut(data []byte, limit int64, step func(left int) int) (seen string, passed int, err error) {
	f := flow{limit: limit}
	var held []byte
	turn := newTurn()
	for len(data) > 0 && err == nil {
		n := step(len(data))
		held = append(held, data[:n]...)
		data = data[n:]
		var took int
		took, err = f.scan(held, func(kind byte, body []byte) error {
			seen += string(kind)
			turn.server(kind, body)
			_ = turn.client(kind)
			_, _, _ = turn.idle(), turn.holds(), turn.pending()
			return nil
		})
		passed += took
		if took < len(held) && err == nil && (len(held)-took > headBytes || f.body > 0) {
			panic(fmt.Sprintf("%d bytes are held back", len(held)-took))
		}
		held = held[took:]
	}
	if len(held) >= headBytes && err == nil && binary.BigEndian.Uint32(held[1:]) != 5 {
		panic("a whole head was held back")
	}
	return seen, passed, err
}
