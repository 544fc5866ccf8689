// Package pgwire is a PostgreSQL endpoint: a client that is pointed at it instead
// of at PostgreSQL finds the same server.
//
// Everything passes through as it came. Each client has a connection of its own
// to PostgreSQL, which authenticates it, unless Options.Pool has them share some; of what
// is sent only types and lengths are looked at, so a message costs no memory whatever its
// size:
//
//	client ── frames ──► session ── the same frames ──► PostgreSQL
//	       ◄── frames ──         ◄── frames ──
//	                  turn: whose move it is
//
// turn follows a session by these types: whether PostgreSQL owes an answer, is
// idle, or waits in a transaction for a client that may never come back. The
// time-outs and an orderly stop rest on it.
package pgwire

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy"
)

// Options of Start. Listener and Upstream are required; zero values are the
// defaults.
type Options struct {
	Listener net.Listener
	Upstream Upstream
	// TLS, if not nil, is offered to clients; with RequireTLS those without it are
	// refused.
	TLS        *tls.Config
	RequireTLS bool
	// AllowTrust lets a client from another machine in although PostgreSQL asked it
	// for nothing: pg_hba.conf sees walproxy's address, not the client's.
	AllowTrust bool
	// RefuseReplication refuses connections that ask for replication.
	RefuseReplication bool

	MaxConnections         int   // logged in or waiting to be. 1000
	MaxUserConnections     int   // of one user. 0: no bound of its own
	MaxDatabaseConnections int   // to one database. 0: no bound of its own
	MaxMessageBytes        int64 // one message of a client. 1 GiB, PostgreSQL's own bound

	LoginTimeout   time.Duration // from the connection to the first ReadyForQuery. 1 min
	ConnectTimeout time.Duration // to one address of PostgreSQL. 5 s
	// QueryWait is how long a login waits for a place when a bound on connections
	// is reached. 10 s.
	QueryWait time.Duration
	// IdleTimeout ends a session that is in no transaction and says nothing for so
	// long. 0: never.
	IdleTimeout time.Duration
	// IdleInTransactionTimeout ends a session whose client says nothing for so long
	// while PostgreSQL holds a transaction open for it. 10 min.
	IdleInTransactionTimeout time.Duration
	// StallTimeout ends a session when one side takes none of what the other sent
	// for so long. 10 min.
	StallTimeout time.Duration

	// Users by name, whose secrets are known; AuthQuery, if not nil, asks PostgreSQL
	// for those of others. They let clients in while PostgreSQL is away, and into the
	// console.
	Users     map[string]Secret
	AuthQuery *AuthQuery
	// ConsoleUsers may log in to the database "walproxy", the console, with a secret
	// that is known; none: everybody with one, from this machine. Without Users and
	// AuthQuery there is no console.
	ConsoleUsers []string
	// Status, if not nil, is of the log and its sinks, for the console.
	Status func() walproxy.Status
	// Away, if not nil, keeps sessions that hold nothing when PostgreSQL goes away,
	// and lets clients in meanwhile. Sessions then cost more: they are carried by
	// goroutines, and their statements are read.
	Away *Away
	// Pool, if not nil, has sessions share connections to PostgreSQL. It takes an Away,
	// and makes one with the defaults if there is none.
	Pool *Pool
	// WriteBehind, if not nil, says which writes are acknowledged from the log.
	WriteBehind *WriteBehind

	away  Away // with its defaults
	loops int  // that carry sessions without encryption; 0: by the processors, negative: none

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics
}

// Upstream is PostgreSQL.
type Upstream struct {
	// Addresses are tried in their order by each login.
	Addresses []Address
	// TLS, if not nil, is asked for; with TLSOptional a server without it is used
	// without. Its ServerName is that of each address if it is empty.
	TLS         *tls.Config
	TLSOptional bool
}

// Address as for net.Dial; network is "tcp" or "unix". A Unix socket is never
// encrypted.
type Address struct{ Network, Address string }

func (a Address) String() string { return a.Address }

// startupBytesMax and loginBytesMax bound messages that are kept in memory:
// PostgreSQL takes 10,000 and 65,535 bytes.
const (
	startupBytesMax = 10_000
	loginBytesMax   = 1 << 20
)

func (o Options) withDefaults() (Options, error) {
	if o.Listener == nil || len(o.Upstream.Addresses) == 0 {
		return o, errors.New("pgwire: options: Listener and Upstream are required")
	}
	if o.RequireTLS && o.TLS == nil {
		return o, errors.New("pgwire: options: RequireTLS needs TLS")
	}
	if o.TLS != nil && len(o.TLS.NextProtos) == 0 {
		o.TLS = o.TLS.Clone()
		o.TLS.NextProtos = []string{alpn}
	}
	if u := &o.Upstream; u.TLS != nil && len(u.TLS.NextProtos) == 0 {
		u.TLS = u.TLS.Clone()
		u.TLS.NextProtos = []string{alpn}
	}
	o.MaxConnections = positive(o.MaxConnections, 1000)
	o.MaxMessageBytes = min(positive(o.MaxMessageBytes, 1<<30), 1<<31-1)
	o.LoginTimeout = positive(o.LoginTimeout, time.Minute)
	o.ConnectTimeout = positive(o.ConnectTimeout, 5*time.Second)
	o.QueryWait = positive(o.QueryWait, 10*time.Second)
	o.IdleInTransactionTimeout = positive(o.IdleInTransactionTimeout, 10*time.Minute)
	o.StallTimeout = positive(o.StallTimeout, 10*time.Minute)
	if o.Pool = o.Pool.withDefaults(); o.Pool != nil {
		o.Away = cmp.Or(o.Away, &Away{})
	}
	o.away, o.AuthQuery = o.Away.withDefaults(), o.AuthQuery.withDefaults()
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	if o.WriteBehind != nil {
		behind := *o.WriteBehind
		o.WriteBehind = &behind
		return o, behind.withDefaults()
	}
	return o, nil
}

func positive[T int | int64 | time.Duration](value, otherwise T) T {
	if value > 0 {
		return value
	}
	return otherwise
}
