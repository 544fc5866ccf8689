package config

import "time"

// PGPool is how sessions of the endpoint for clients of PostgreSQL share connections.
type PGPool struct {
	// Mode is PoolSession, each session has a connection of its own, or
	// PoolTransaction, it has one for as long as a transaction lasts.
	Mode string `yaml:"mode"`
	// Size bounds the connections of one user to one database.
	Size int `yaml:"size"`
	// MinSize are kept ready for a user of a database who has sessions.
	MinSize int `yaml:"min_size"`
	// Reserve may be made beyond Size once somebody has waited for ReserveTimeout.
	Reserve        int      `yaml:"reserve"`
	ReserveTimeout Duration `yaml:"reserve_timeout"`
	// WaitTimeout bounds how long a request or a login waits for one.
	WaitTimeout Duration `yaml:"wait_timeout"`
	IdleTimeout Duration `yaml:"idle_timeout"` // of a connection that nobody uses
	MaxLifetime Duration `yaml:"max_lifetime"` // of a connection
	// MaxStatements bounds what is kept prepared on each connection.
	MaxStatements int `yaml:"max_statements"`
}

// Modes of PGPool.
const (
	PoolSession     = "session"
	PoolTransaction = "transaction"
)

func (p *PGPool) withDefaults() {
	if p == nil {
		return
	}
	orString(&p.Mode, PoolSession)
	or(&p.Size, 20)
	or(&p.ReserveTimeout, Duration(5*time.Second))
	or(&p.WaitTimeout, Duration(30*time.Second))
	or(&p.IdleTimeout, Duration(10*time.Minute))
	or(&p.MaxLifetime, Duration(time.Hour))
	or(&p.MaxStatements, 200)
}

func (c *checker) pgpool(p *PGPool) {
	if p == nil {
		return
	}
	c.want(p.Mode == PoolSession || p.Mode == PoolTransaction, "pgwire.pool.mode", "%q is neither %s nor %s", p.Mode, PoolSession, PoolTransaction)
	c.want(p.Size >= 1, "pgwire.pool.size", "%d is out of range: 1 or more", p.Size)
	c.want(p.MinSize >= 0 && p.MinSize <= p.Size, "pgwire.pool.min_size", "%d is out of range: 0 up to size, %d", p.MinSize, p.Size)
	c.want(p.Reserve >= 0, "pgwire.pool.reserve", "%d is out of range: 0 or more", p.Reserve)
	c.want(p.MaxStatements >= 1, "pgwire.pool.max_statements", "%d is out of range: 1 or more", p.MaxStatements)
	for _, d := range []struct {
		key   string
		value Duration
	}{
		{"reserve_timeout", p.ReserveTimeout}, {"wait_timeout", p.WaitTimeout}, {"idle_timeout", p.IdleTimeout}, {"max_lifetime", p.MaxLifetime},
	} {
		c.want(d.value >= Duration(10*time.Millisecond), "pgwire.pool."+d.key, "%s is out of range: 10ms or more", d.value)
	}
}
