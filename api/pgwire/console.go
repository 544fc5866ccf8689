package pgwire

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// consoleName is the database that is none: who connects to it talks to the
// endpoint itself, as with pgbouncer's.
const consoleName = "walproxy"

func (o *Options) hasConsole() bool { return len(o.Users) > 0 || o.AuthQuery != nil }

// mayConsole reports whether a user may look.
func (o *Options) mayConsole(user string, from net.Addr) bool {
	if len(o.ConsoleUsers) == 0 {
		return !fromAfar(from)
	}
	return slices.Contains(o.ConsoleUsers, user)
}

// console serves a client of the console.
type console struct {
	s        *Server
	c        net.Conn
	in       *inbox
	out      []byte
	skipping bool // behind an error, up to a Sync
	// The statements and portals of extended queries, as what they ask.
	prepared, portals map[string]string
}

// consoleNamesMax bounds those.
const consoleNamesMax = 100

// consolesMax bounds who is there, or about to log in.
const consolesMax = 16

// console lets a client log in and answers what it asks. interrupt ends what bounds
// the login, as for admit.
func (s *Server) console(ctx context.Context, c net.Conn, st *startup, interrupt func() bool) {
	if s.consoles.Add(1) > consolesMax {
		s.consoles.Add(-1)
		s.refuse(ctx, c, refuseFull(" to the console", consolesMax))
		return
	}
	defer s.consoles.Add(-1)
	k := &console{s: s, c: c, in: newInbox(c), prepared: map[string]string{}, portals: map[string]string{}}
	err := k.login(ctx, st)
	if err == nil && !interrupt() {
		err = context.Cause(ctx)
	}
	if err == nil {
		ctx = s.logins
		defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) })()
		s.log.Info("somebody is at the console", zap.Stringer("client", c.RemoteAddr()), zap.String("user", st.user))
		err = k.serve()
	}
	s.refuse(ctx, c, err)
}

func (k *console) login(ctx context.Context, st *startup) error {
	s := k.s
	if !s.o.mayConsole(st.user, k.c.RemoteAddr()) {
		return refuseConsole(st.user)
	}
	secret, ok := s.presence.roster.secret(st.user)
	if !ok && s.o.AuthQuery != nil {
		s.presence.learn(ctx, []string{st.user})
		secret, ok = s.presence.roster.secret(st.user)
	}
	if !ok {
		return refuseConsole(st.user)
	}
	if _, err := s.challenge(k.c, k.in, st.user, secret); err != nil {
		return err
	}
	key := make([]byte, 8)
	_, _ = rand.Read(key) // it never fails; nothing here takes long enough to be cancelled
	key[0] &= 0x7f
	out := appendFrame(nil, sAuthentication, binary.BigEndian.AppendUint32(nil, authOK))
	for _, p := range []parameter{
		{"server_version", "15.0 (walproxy)"}, {"server_encoding", "UTF8"}, {"client_encoding", "UTF8"}, {"DateStyle", "ISO"},
		{"TimeZone", "UTC"}, {"integer_datetimes", "on"}, {"standard_conforming_strings", "on"}, {"is_superuser", "off"},
	} {
		out = appendFrame(out, sParameterStatus, appendText(nil, p.Name, p.Value))
	}
	out = appendFrame(out, sKeyData, key)
	_, err := k.c.Write(appendFrame(out, sReady, []byte{txIdle}))
	return err
}

// serve returns when the client leaves; nil: it said so.
func (k *console) serve() error {
	for {
		deadline := time.Time{}
		if k.s.o.IdleTimeout > 0 {
			deadline = time.Now().Add(k.s.o.IdleTimeout)
		}
		if err := k.c.SetDeadline(deadline); err != nil {
			return err
		}
		if k.s.stopping.Load() { // it has set the deadline before us
			return endStopping()
		}
		frame, err := k.in.next()
		if err != nil {
			return err
		}
		kind, body := frame[0], frame[headBytes:]
		if kind == cTerminate {
			return errToldAlready
		}
		if !k.skipping || kind == cSync {
			if f := k.take(kind, body); f != nil {
				k.out = f.appendTo(k.out)
				if k.skipping = kind != cQuery; !k.skipping {
					k.out = appendReady(k.out, txIdle)
				}
			}
		}
		if kind == cQuery || kind == cSync || kind == cFlush || len(k.out) > linkBytes {
			if err := k.c.SetWriteDeadline(time.Now().Add(k.s.o.StallTimeout)); err != nil {
				return err
			}
			if _, err := k.c.Write(k.out); err != nil {
				return err
			}
			k.out = k.out[:0]
		}
	}
}

func (k *console) take(kind byte, body []byte) *failure {
	switch kind {
	case cQuery:
		a, f := k.s.consoleAsk(string(bytes.TrimRight(body, "\x00")))
		if f != nil {
			return f
		}
		k.out = appendReady(a.append(k.out, true), txIdle)
	case cParse:
		name, text, _, ok := cutTwo(body)
		if !ok || len(k.prepared) >= consoleNamesMax {
			return consoleFailure("08P01", "malformed Parse, or too many statements")
		}
		if _, f := k.s.consoleAsk(text); f != nil {
			return f
		}
		k.prepared[name] = text
		k.out = appendEmpty(k.out, sParseComplete)
	case cBind:
		portal, name, _, ok := cutTwo(body)
		text, known := k.prepared[name]
		if !ok || !known || len(k.portals) >= consoleNamesMax {
			return consoleFailure("26000", fmt.Sprintf("prepared statement %q does not exist", name))
		}
		k.portals[portal] = text
		k.out = appendEmpty(k.out, sBindComplete)
	case cDescribe, cExecute:
		return k.run(kind, body)
	case cClose:
		if len(body) > 1 {
			names := k.portals
			if body[0] == 'S' {
				names = k.prepared
			}
			delete(names, string(bytes.TrimRight(body[1:], "\x00")))
		}
		k.out = appendEmpty(k.out, sCloseComplete)
	case cSync:
		k.skipping = false
		clear(k.portals)
		k.out = appendReady(k.out, txIdle)
	case cFlush:
	default:
		return consoleFailure("0A000", fmt.Sprintf("the console takes no message of type %q", kind))
	}
	return nil
}

func (k *console) run(kind byte, body []byte) *failure {
	names := k.portals
	if kind == cDescribe {
		if len(body) < 2 {
			return consoleFailure("08P01", "malformed Describe")
		}
		if body[0] == 'S' {
			names = k.prepared
			k.out = appendParameters(k.out, nil)
		}
		body = body[1:]
	}
	name, _, _ := bytes.Cut(body, []byte{0})
	text, ok := names[string(name)]
	if !ok {
		return consoleFailure("34000", fmt.Sprintf("%q does not exist", name))
	}
	a, f := k.s.consoleAsk(text)
	if f != nil {
		return f
	}
	if kind == cDescribe {
		k.out = appendColumns(k.out, a.columns, inText)
	} else {
		k.out = a.append(k.out, false)
	}
	return nil
}

// consoleAnswer is what a command is answered with; no columns: no rows.
type consoleAnswer struct {
	columns []string
	rows    [][]string
	tag     string // "": the command was empty
}

// append appends the answer, with what describes its rows if so.
func (a *consoleAnswer) append(b []byte, describe bool) []byte {
	if a.tag == "" {
		return appendEmpty(b, sEmptyQuery)
	}
	if describe && a.columns != nil {
		b = appendColumns(b, a.columns, inText)
	}
	return appendRows(b, a.rows, a.tag)
}

// consoleAsk answers a command.
func (s *Server) consoleAsk(text string) (*consoleAnswer, *failure) {
	words := strings.Fields(strings.ToLower(strings.TrimRight(strings.TrimSpace(text), "; \t\r\n")))
	switch {
	case len(words) == 0:
		return &consoleAnswer{}, nil
	case words[0] == "set": // drivers do, before anything else
		return &consoleAnswer{tag: "SET"}, nil
	case len(words) == 2 && words[0] == "show":
		for _, v := range consoleList() {
			if v.name == words[1] {
				return &consoleAnswer{columns: v.columns, rows: v.rows(s), tag: "SHOW"}, nil
			}
		}
	}
	f := consoleFailure("42601", "the console does not know this command")
	f.hint = "SHOW HELP lists what it knows."
	return nil, f
}

func consoleFailure(code, message string) *failure {
	return &failure{code: code, message: "walproxy: " + message, reason: "console"}
}

func refuseConsole(user string) *refusal {
	return &refusal{code: "28000", reason: "console",
		message: fmt.Sprintf("%q may not log in to walproxy's console from here", user),
		hint: "pgwire.console_users names who may; without it, everybody on walproxy's machine whose secret is in pgwire.users, " +
			"auth_file or auth_query.",
		cause: errors.New("console")}
}
