package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// PGWire is the endpoint for clients of PostgreSQL.
type PGWire struct {
	Listen   string `yaml:"listen"`
	Upstream string `yaml:"upstream"` // PostgreSQL; see ParseUpstream
	// Sink applies what is logged of the tables of WriteBehind.
	Sink        string                 `yaml:"sink"`
	WriteBehind map[string]WriteBehind `yaml:"write_behind"` // by table, with its schema
	// GateTimeout bounds how long a direct write waits for what is pending of its
	// tables, ReadTimeout how long a read waits for its session's writes, and
	// AckTimeout how long a write waits to be acknowledged.
	GateTimeout Duration `yaml:"gate_timeout"`
	ReadTimeout Duration `yaml:"read_timeout"`
	AckTimeout  Duration `yaml:"ack_timeout"`
	// CatalogueInterval is how long a change of the schema made past the proxy may go
	// unnoticed.
	CatalogueInterval Duration `yaml:"catalogue_interval"`
	// Transactions says what becomes of a BEGIN .. COMMIT of nothing but writes that
	// can be written behind: TransactionsPass or TransactionsLog.
	Transactions string `yaml:"transactions"`
	// SequenceBlock is how many values of a sequence are drawn at once.
	SequenceBlock int `yaml:"sequence_block"`

	TLS        TLS  `yaml:"tls"`
	RequireTLS bool `yaml:"require_tls"`
	// AllowTrust lets clients from other machines in although PostgreSQL asked
	// them for nothing.
	AllowTrust        bool `yaml:"allow_trust"`
	RefuseReplication bool `yaml:"refuse_replication"`

	// Users by name, with their SCRAM verifiers or passwords; AuthFile has more of
	// them, as pgbouncer's, and AuthQuery asks PostgreSQL.
	Users     map[string]string `yaml:"users"`
	AuthFile  string            `yaml:"auth_file"`
	AuthQuery *PGAuthQuery      `yaml:"auth_query"`
	// ConsoleUsers may log in to the console, from anywhere; none: whose secret is
	// known, from this machine.
	ConsoleUsers []string `yaml:"console_users"`
	Away         *PGAway  `yaml:"away"` // nil: sessions end with PostgreSQL
	Pool         *PGPool  `yaml:"pool"` // nil: each session has a connection of its own

	MaxConnections         int  `yaml:"max_connections"`
	MaxUserConnections     int  `yaml:"max_user_connections"`     // of one user; 0: no bound of its own
	MaxDatabaseConnections int  `yaml:"max_database_connections"` // to one database; 0: no bound of its own
	MaxMessageBytes        Size `yaml:"max_message_bytes"`

	LoginTimeout             Duration `yaml:"login_timeout"`
	ConnectTimeout           Duration `yaml:"connect_timeout"` // to one address of PostgreSQL
	QueryWait                Duration `yaml:"query_wait"`      // of a login, for a place
	IdleTimeout              Duration `yaml:"idle_timeout"`    // 0: never
	IdleInTransactionTimeout Duration `yaml:"idle_in_transaction_timeout"`
	StallTimeout             Duration `yaml:"stall_timeout"`
}

func (p *PGWire) withDefaults() {
	orString(&p.Listen, "127.0.0.1:6543")
	or(&p.MaxConnections, 1000)
	or(&p.MaxMessageBytes, 1*gib)
	or(&p.LoginTimeout, Duration(time.Minute))
	or(&p.ConnectTimeout, Duration(5*time.Second))
	or(&p.QueryWait, Duration(10*time.Second))
	or(&p.IdleInTransactionTimeout, Duration(10*time.Minute))
	or(&p.StallTimeout, Duration(10*time.Minute))
	p.awayDefaults()
	p.Pool.withDefaults()
	if len(p.WriteBehind) > 0 {
		p.behindDefaults()
	}
}

func (c *checker) pgwire(p *PGWire) {
	if p == nil {
		return
	}
	// PostgreSQL authenticates: any address may be listened on.
	c.listen("pgwire.listen", "", "", p.Listen, true)
	if p.Upstream == "" {
		c.fault("pgwire.upstream", "is needed: as postgres://db1:5432 or postgres:///?host=/var/run/postgresql")
	} else if _, err := ParseUpstream(p.Upstream); err != nil {
		c.fault("pgwire.upstream", "%s", err)
	}
	c.tls("pgwire.tls", p.TLS)
	c.want(p.TLS.ClientCA == "" || p.RequireTLS, "pgwire.tls.client_ca", "needs require_tls: true, else a client without TLS needs no certificate")
	c.want(!p.RequireTLS || p.TLS.Cert != "", "pgwire.require_tls", "needs tls.cert and tls.key")
	for _, n := range []struct {
		key   string
		value int
		least int
	}{
		{"max_connections", p.MaxConnections, 1},
		{"max_user_connections", p.MaxUserConnections, 0},
		{"max_database_connections", p.MaxDatabaseConnections, 0},
	} {
		c.want(n.value >= n.least && n.value <= 100_000, "pgwire."+n.key, "%d is out of range: 1 to 100000", n.value)
	}
	c.between("pgwire.max_message_bytes", p.MaxMessageBytes, 64*kib, 1*gib)
	for _, d := range []struct {
		key   string
		value Duration
	}{
		{"login_timeout", p.LoginTimeout},
		{"connect_timeout", p.ConnectTimeout},
		{"query_wait", p.QueryWait},
		{"idle_in_transaction_timeout", p.IdleInTransactionTimeout},
		{"stall_timeout", p.StallTimeout},
	} {
		c.want(d.value >= Duration(time.Millisecond), "pgwire."+d.key, "%s is out of range: 1ms or more", d.value)
	}
	c.pgaway(p)
	c.pgpool(p.Pool)
	c.want(p.IdleTimeout >= 0, "pgwire.idle_timeout", "must not be negative")
}

// Upstream is where PostgreSQL is and how to reach it.
type Upstream struct {
	// Addresses as for net.Dial.
	Addresses []UpstreamAddress
	// Mode as PostgreSQL's sslmode: disable, prefer, require, verify-ca, verify-full.
	Mode                string
	RootCert, Cert, Key string // files
}

// UpstreamAddress is one address of PostgreSQL's; Network is "tcp" or "unix".
type UpstreamAddress struct{ Network, Address string }

// ParseUpstream reads a URL as libpq does, as far as it says where PostgreSQL is:
// postgres://db1:5432,db2/?sslmode=verify-full&sslrootcert=ca.pem, or with a
// directory for a Unix socket, postgres:///?host=/var/run/postgresql&port=5432. A
// user, a password or a database is refused: each client brings its own.
func ParseUpstream(text string) (Upstream, error) {
	u := Upstream{Mode: "prefer"}
	rest, ok := strings.CutPrefix(text, "postgres://")
	if !ok {
		if rest, ok = strings.CutPrefix(text, "postgresql://"); !ok {
			return u, errors.New("want a URL: postgres://host:port")
		}
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, database, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return u, errors.New("holds a user: clients log in as themselves")
	}
	if database != "" {
		return u, fmt.Errorf("holds a database, %q: clients name their own", database)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return u, errors.New("what stands behind ? cannot be read")
	}
	port := "5432"
	for name, list := range values {
		value := list[len(list)-1]
		switch name {
		case "host":
			hosts = strings.Trim(hosts+","+url.PathEscape(value), ",")
		case "port":
			port = value
		case "sslmode":
			u.Mode = value
		case "sslrootcert":
			u.RootCert = value
		case "sslcert":
			u.Cert = value
		case "sslkey":
			u.Key = value
		default:
			return u, fmt.Errorf("parameter %q means nothing here: want host, port, sslmode, sslrootcert, sslcert or sslkey", name)
		}
	}
	if err := u.addresses(hosts, port); err != nil {
		return u, err
	}
	return u, u.check()
}

// addresses of a list of hosts with a port or without.
func (u *Upstream) addresses(hosts, port string) error {
	for host := range strings.SplitSeq(hosts, ",") {
		name, own := host, port
		if at := strings.LastIndex(host, ":"); at >= 0 && !strings.HasSuffix(host, "]") {
			name, own = host[:at], host[at+1:]
		}
		name, err := url.PathUnescape(strings.Trim(name, "[]"))
		if err != nil || name == "" {
			return fmt.Errorf("%q is no host", host)
		}
		if n, err := strconv.ParseUint(own, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%q is no port: want 1 to 65535", own)
		}
		a := UpstreamAddress{"tcp", net.JoinHostPort(name, own)}
		if strings.HasPrefix(name, "/") {
			a = UpstreamAddress{"unix", name + "/.s.PGSQL." + own}
		}
		u.Addresses = append(u.Addresses, a)
	}
	return nil
}

func (u *Upstream) check() error {
	switch u.Mode {
	case "disable", "prefer", "require", "verify-ca", "verify-full":
	default:
		return fmt.Errorf("no sslmode %q: want disable, prefer, require, verify-ca or verify-full", u.Mode)
	}
	if (u.Cert == "") != (u.Key == "") {
		return errors.New("sslcert and sslkey belong together")
	}
	return nil
}
