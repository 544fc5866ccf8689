package pgwire

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/xdg-go/scram"
)

// logIn lets a client log in: by PostgreSQL, or by what is known of it while
// PostgreSQL is away. What was read beyond the login is returned.
func (x *session) logIn(ctx context.Context, st *startup) (fromClient, fromServer []byte, err error) {
	p := x.s.presence
	if x.s.o.Away == nil || st.replication {
		return x.login(ctx, st)
	}
	if x.s.pools != nil && st.pools() {
		return x.logInPooled(ctx, st)
	}
	_, away := p.away()
	in := newInbox(x.client)
	if away == nil {
		fromClient, fromServer, err = x.login(ctx, st)
		if err == nil {
			return fromClient, nil, x.granted(ctx, st, fromServer)
		}
		if away = x.spared(ctx, st, err); away == nil {
			return nil, nil, err
		}
		if e, told := errors.AsType[*serverError](away); !told || e.refusesAll() {
			p.lost(away)
		}
		if x.passed != nil {
			in = x.passed.client
		}
	}
	fromClient, err = x.loginAway(st, in, away)
	return fromClient, nil, err
}

// granted: PostgreSQL let the client in.
func (x *session) granted(ctx context.Context, st *startup, fromServer []byte) error {
	l, p := x.passed, x.s.presence
	if _, ok := p.roster.secret(st.user); !ok && l.asked {
		p.wanted(st.user)
	}
	p.roster.grant(st, l.parameters, !l.asked)
	b := &backend{conn: x.upstream, address: x.address, key: x.key}
	link := newLink(x, st, l.parameters, l.credentials(x.s, st.user))
	if x.pooled {
		x.s.pools.own(b, keyOf(st), slices.Concat(l.parameters, []parameter{{applicationName, ""}}))
		b.in = &inbox{c: b.conn, buf: slices.Grow(fromServer, 1<<10), to: len(fromServer)}
		b.in.buf = b.in.buf[:cap(b.in.buf)]
		if err := b.dress(ctx, link.mu.held.outfit()); err != nil {
			return endUnattached(err)
		}
		x.s.metrics.poolOpened.Inc()
		b.reported = x.s.pools.alike(b.reported)
		link.mu.held.reported, fromServer = b.reported, nil
	}
	x.outlive(link.attached(b, fromServer))
	return nil
}

// outlive has the session use a link.
func (x *session) outlive(l *link) {
	x.upstream, x.passed = l, nil
	x.link.Store(l)
}

// spared returns why PostgreSQL did not let a client in if that is because it is
// away and the client was told nothing; nil: that is not why.
func (x *session) spared(ctx context.Context, st *startup, err error) error {
	if l := x.passed; l != nil {
		if l.refusal != nil && (l.refusal.code == "28000" || l.refusal.code == "3D000") {
			x.s.presence.roster.revoke(keyOf(st))
		}
		if l.told {
			return nil
		}
	}
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.reason != "upstream_away" || ctx.Err() != nil {
		return nil
	}
	if x.upstream != nil {
		_ = x.upstream.Close() // nobody is logged in there
		x.upstream = nil
	}
	if x.client.SetReadDeadline(time.Time{}) != nil || ctx.Err() != nil { // which bounds it again
		_ = x.client.SetDeadline(past)
		return nil
	}
	return r.cause
}

// loginAway lets in whom PostgreSQL let in before.
func (x *session) loginAway(st *startup, in *inbox, away error) (fromClient []byte, err error) {
	r := x.s.presence.roster
	grant := r.granted(st)
	if grant == nil {
		return nil, refuseStranger(away)
	}
	with := credentials{user: st.user}
	if grant.Trusted {
		if fromAfar(x.client.RemoteAddr()) && !x.s.o.AllowTrust {
			return nil, refuseTrust()
		}
	} else {
		secret, ok := r.secret(st.user)
		if !ok {
			return nil, refuseStranger(away)
		}
		if with, err = x.s.challenge(x.client, in, st.user, secret); err != nil {
			x.s.presence.wanted(st.user) // it may have been set again
			return nil, err
		}
	}
	key := make([]byte, 8)
	_, _ = rand.Read(key) // it never fails
	key[0] &= 0x7f        // a process number is positive
	parameters := overlay(grant.Parameters, st)
	x.outlive(newLink(x, st, parameters, func() (credentials, error) { return with, nil }))
	x.enter(key)
	out := appendFrame(nil, sAuthentication, binary.BigEndian.AppendUint32(nil, authOK))
	for _, p := range parameters {
		out = appendFrame(out, sParameterStatus, appendText(nil, p.Name, p.Value))
	}
	out = appendFrame(out, sKeyData, key)
	out = appendFrame(out, sReady, []byte{txIdle})
	if _, err := x.client.Write(out); err != nil {
		return nil, err
	}
	if away != nil {
		x.s.metrics.awayLogins.Inc()
	}
	return bytes.Clone(in.rest()), nil
}

// overlay: the application's name is the client's own, which is why it is no part
// of what tells grants apart.
func overlay(known []parameter, st *startup) []parameter {
	known = slices.Clone(known)
	for i := range known {
		if known[i].Name == applicationName {
			known[i].Value = st.value(applicationName)
		}
	}
	return known
}

// challenge has a client prove that it knows the password of a secret.
func (s *Server) challenge(c net.Conn, in *inbox, user string, secret Secret) (credentials, error) {
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return secret.verifier, nil })
	if err != nil {
		return credentials{}, err
	}
	conversation := server.NewConversation()
	mechanisms := scramPlain + "\x00\x00"
	if t, ok := c.(*tls.Conn); ok {
		if binding, ok := s.binding(t); ok {
			conversation = server.NewConversationWithChannelBinding(binding)
			mechanisms = scramPlus + "\x00" + mechanisms
		}
	}
	if err := ask(c, authSASL, mechanisms); err != nil {
		return credentials{}, err
	}
	body, err := in.password()
	if err != nil {
		return credentials{}, err
	}
	mechanism, first, err := initialResponse(body)
	if err != nil {
		return credentials{}, refuseSASL(err)
	}
	if (mechanism == scramPlus) != (len(first) > 0 && first[0] == 'p') || mechanism != scramPlus && mechanism != scramPlain {
		return credentials{}, refuseSASL(fmt.Errorf("the client chose %q", mechanism))
	}
	challenge, err := conversation.Step(first)
	if err != nil {
		return credentials{}, refuseSASL(err)
	}
	if err := ask(c, authSASLContinue, challenge); err != nil {
		return credentials{}, err
	}
	if body, err = in.password(); err != nil {
		return credentials{}, err
	}
	final := string(body)
	answer, err := conversation.Step(final)
	if err != nil || !conversation.Valid() {
		return credentials{}, refusePassword(user)
	}
	heard := overheard{first, challenge, final}
	key, err := heard.clientKey(secret)
	if err != nil {
		return credentials{}, err // of a valid conversation: cannot be
	}
	return credentials{user: user, clientKey: key, secret: secret, password: secret.password}, ask(c, authSASLFinal, answer)
}

// binding of a client's TLS connection to the certificate that it was shown.
func (s *Server) binding(c *tls.Conn) (scram.ChannelBinding, bool) {
	if len(s.o.TLS.Certificates) != 1 {
		return scram.ChannelBinding{}, false // which was shown is not known
	}
	leaf, err := x509.ParseCertificate(s.o.TLS.Certificates[0].Certificate[0])
	if err != nil {
		return scram.ChannelBinding{}, false
	}
	state := c.ConnectionState()
	state.PeerCertificates = []*x509.Certificate{leaf} // the one that the client sees
	binding, err := scram.NewTLSServerEndpointBinding(&state)
	return binding, err == nil
}

// ask sends an authentication request.
func ask(c net.Conn, kind uint32, text string) error {
	_, err := c.Write(appendFrame(nil, sAuthentication, append(binary.BigEndian.AppendUint32(nil, kind), text...)))
	return err
}

// password is the body of a client's answer to an authentication request, valid
// until the next call.
func (m *inbox) password() ([]byte, error) {
	frame, err := m.next()
	if err != nil {
		return nil, err
	}
	if frame[0] != cPassword {
		return nil, refuseSASL(fmt.Errorf("message of type %q instead of a SASL response", frame[0]))
	}
	return frame[headBytes:], nil
}
