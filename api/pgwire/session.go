package pgwire

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// lastWord bounds how long the endpoint tries to tell a client why it ends.
const lastWord = time.Second

// session is one client and its connection to PostgreSQL.
type session struct {
	s              *Server
	client         net.Conn
	upstream       net.Conn
	address        Address // PostgreSQL's
	user, database string
	key            []byte // for cancel requests; nil: none yet
	from           net.Addr
	chosen         chosen // walproxy's settings of the startup packet
	application    string // as it said at the login
	encrypted      string // the version of TLS; "": none
	began          time.Time
	link           atomic.Pointer[link] // the upstream, if Options.Away has it outlive PostgreSQL's
	pooled         bool                 // its connections to PostgreSQL are shared
	passed         *login               // by PostgreSQL, or as far as it came; nil: it was not asked
	// waiting ends what the endpoint does for the client, if a cancel request may.
	waiting atomic.Pointer[context.CancelCauseFunc]
	carrier // set once it is logged in
}

// carrier moves a session's bytes. All but run may be called by anybody, at any
// time.
type carrier interface {
	// run passes on until the session ends, and returns why it did; nil: one of both
	// sides wanted it. Both connections are closed then. What was read during the
	// login comes first.
	run(fromClient, fromServer []byte) error
	// end ends the session, and tells the client why if that can be put between two
	// messages. Only the first call counts.
	end(r *refusal)
	// cut ends the session without a word.
	cut(r *refusal)
	// stop ends the session if that interrupts nothing, once Server.stopping is set.
	stop()
	// overdue says why the session has to end, if it has. Only the sweep calls it.
	overdue(now time.Time) *refusal
}

func newSession(s *Server, c net.Conn, st *startup) *session {
	x := &session{s: s, client: c, from: c.RemoteAddr(), user: st.user, database: st.database,
		application: st.value("application_name"), began: time.Now()}
	if t, ok := c.(*tls.Conn); ok {
		x.encrypted = tls.VersionName(t.ConnectionState().Version)
	}
	return x
}

// reported is a setting as PostgreSQL said it at the login; "": it did not.
func (x *session) reported(name string) string {
	if l := x.link.Load(); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.mu.held.reported.of[name]
	}
	if x.passed != nil {
		for _, p := range x.passed.parameters {
			if p.Name == name {
				return p.Value
			}
		}
	}
	return ""
}

// enter makes the session known by its cancel key.
func (x *session) enter(key []byte) {
	if x.key != nil || len(key) < 8 || len(key) > keyBytesMax {
		return
	}
	x.key = slices.Clone(key)
	x.s.keys.add(x)
}

// leave undoes enter.
func (x *session) leave() {
	if x.key != nil {
		x.s.keys.remove(x)
	}
}

func (x *session) fields() []zap.Field {
	return []zap.Field{zap.Stringer("client", x.from), zap.String("user", x.user), zap.String("database", x.database)}
}

// overdue says why a session has to end in which nothing has moved for so long.
// holding: a transaction is open that PostgreSQL does not know of. sending: something
// is on its way to the client, which does not take it.
func (o *Options) overdue(silent time.Duration, t *turn, holding, sending bool) *refusal {
	switch {
	case sending:
		if silent > o.StallTimeout {
			return endStalled(o.StallTimeout)
		}
	case t.holds() || holding && t.idle():
		if silent > o.IdleInTransactionTimeout {
			return endIdleInTransaction(o.IdleInTransactionTimeout)
		}
	case t.idle():
		if o.IdleTimeout > 0 && silent > o.IdleTimeout {
			return endIdle(o.IdleTimeout)
		}
	}
	return nil
}
