package pgwire

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"
)

// applicationName is a parameter of startup packets that tells no logins apart.
const applicationName = "application_name"

// grantTerm is how long PostgreSQL is not asked again about a login that it granted.
const grantTerm = time.Minute

// pools reports that connections of such a login can be shared: PostgreSQL negotiates
// nothing with it.
func (st *startup) pools() bool {
	return !st.replication && binary.BigEndian.Uint32(st.packet[4:]) == 3<<16 &&
		!slices.ContainsFunc(st.parameters, func(p parameter) bool { return strings.HasPrefix(p.Name, "_pq_.") })
}

// unnamed is the packet without the application's name, which is no part of what tells
// connections apart.
func (st *startup) unnamed() []byte {
	var pairs []string
	for _, p := range st.parameters {
		if p.Name != applicationName {
			pairs = append(pairs, p.Name, p.Value)
		}
	}
	return startupPacket(pairs...)
}

// logInPooled lets a client log in that shares connections with others: by what is known
// of such logins, else by PostgreSQL, on a connection that is the pool's then.
func (x *session) logInPooled(ctx context.Context, st *startup) (fromClient, fromServer []byte, err error) {
	x.pooled, st.packet = true, st.unnamed()
	p, s := x.s.presence, x.s
	if _, away := p.away(); away != nil || x.settled(st, time.Now()) {
		fromClient, err = x.loginAway(st, newInbox(x.client), away)
		return fromClient, nil, err
	}
	login := keyOf(st)
	wait, cancel := context.WithTimeoutCause(ctx, s.pools.o.WaitTimeout, refusePool(s.pools.o, login))
	err = s.pools.room(wait, login)
	cancel()
	switch {
	case err != nil && ctx.Err() == nil && x.settled(st, time.Time{}): // it was granted some time ago
		fromClient, err = x.loginAway(st, newInbox(x.client), nil)
		return fromClient, nil, err
	case err != nil:
		return nil, nil, err
	case x.settled(st, time.Now()): // another one came first
		s.pools.lose(login.pool(), nil)
		fromClient, err = x.loginAway(st, newInbox(x.client), nil)
		return fromClient, nil, err
	}
	fromClient, fromServer, err = x.login(ctx, st)
	if err == nil {
		if err = x.granted(ctx, st, fromServer); err == nil {
			return fromClient, nil, nil
		}
	}
	away := x.spared(ctx, st, err)
	if x.upstream != nil {
		_ = x.upstream.Close() // nobody is logged in there
		x.upstream = nil
	}
	s.pools.lose(login.pool(), nil)
	if away == nil {
		return nil, nil, err
	}
	if _, told := errors.AsType[*serverError](away); !told {
		p.lost(away)
	}
	in := newInbox(x.client)
	if x.passed != nil {
		in = x.passed.client
	}
	fromClient, err = x.loginAway(st, in, away)
	return fromClient, nil, err
}

// settled reports that a login can be granted here: PostgreSQL did, not long before now
// if that is given.
func (x *session) settled(st *startup, now time.Time) bool {
	g := x.s.presence.roster.granted(st)
	if g == nil || !now.IsZero() && now.Sub(g.Used) > grantTerm {
		return false
	}
	_, known := x.s.presence.roster.secret(st.user)
	return g.Trusted || known
}
