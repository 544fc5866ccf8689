package pgwire

import (
	"bytes"
	"context"
)

// What a login that PostgreSQL grants tells for the time when it is away, and for
// sessions that may write behind.

// hurry bounds the wait for PostgreSQL's first word, where there is somebody else
// to let the client in; the function it returns ends that.
func (l *login) hurry() func() {
	if l.x.s.o.Away == nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.x.s.o.ConnectTimeout)
	stop := context.AfterFunc(ctx, func() {
		if ctx.Err() == context.DeadlineExceeded {
			_ = l.x.upstream.SetDeadline(past)
		}
	})
	return func() { stop(); cancel() }
}

// note takes a ParameterStatus, and returns the one to pass on.
func (l *login) note(frame []byte) []byte {
	name, value, _, ok := cutPair(frame[headBytes:])
	if !ok || l.x.s.o.Away == nil && l.x.s.tables == nil {
		return frame
	}
	if l.x.pooled && name == applicationName { // PostgreSQL was not told
		value = l.x.application
		frame = appendFrame(nil, sParameterStatus, appendText(nil, name, value))
	}
	l.parameters = append(l.parameters, parameter{name, value})
	return frame
}

// listen hears what the client says to prove who it is. Of a password message only
// its place in the exchange tells what it is.
func (l *login) listen(body []byte) {
	if l.x.s.o.Away == nil {
		return
	}
	if mechanism, first, err := initialResponse(body); err == nil && (mechanism == scramPlain || mechanism == scramPlus) {
		l.heard.clientFirst = first
		return
	}
	if l.heard.clientFirst != "" {
		l.heard.clientFinal = string(body)
		return
	}
	if text, rest, ok := bytes.Cut(body, []byte{0}); ok && len(rest) == 0 {
		l.password = string(text)
	}
}

// credentials are what the endpoint can show for the client later. The login is
// over. They are found when they are needed: the auth query may answer until then.
func (l *login) credentials(s *Server, user string) func() (credentials, error) {
	asked, heard, password := l.asked, l.heard, ""
	if l.cleartext {
		password = l.password
	}
	return func() (credentials, error) {
		with := credentials{user: user, password: password}
		if !asked || password != "" {
			return with, nil
		}
		secret, ok := s.presence.roster.secret(user)
		if !ok {
			return with, errCannotProve
		}
		key, err := heard.clientKey(secret)
		if err != nil {
			return with, err
		}
		with.clientKey, with.secret, with.password = key, secret, secret.password
		return with, nil
	}
}
