package config

import (
	"maps"
	"slices"
	"time"
)

// PGAway is how the endpoint for clients of PostgreSQL goes on while PostgreSQL is
// away.
type PGAway struct {
	// KeepLogins keeps verifiers and granted logins in the data directory, readable
	// by walproxy alone, so that they are known after a restart of walproxy, too.
	KeepLogins    bool     `yaml:"keep_logins"`
	CheckInterval Duration `yaml:"check_interval"`
	AttachTimeout Duration `yaml:"attach_timeout"`
	AnswerTimeout Duration `yaml:"answer_timeout"`
}

// PGAuthQuery is a login that reads the verifiers of others.
type PGAuthQuery struct {
	User     string   `yaml:"user"`
	Password string   `yaml:"password"`
	Database string   `yaml:"database"`
	SQL      string   `yaml:"sql"` // "": what pg_authid has
	Every    Duration `yaml:"every"`
}

func (p *PGWire) awayDefaults() {
	if a := p.Away; a != nil {
		or(&a.CheckInterval, Duration(time.Second))
		or(&a.AttachTimeout, Duration(5*time.Second))
		or(&a.AnswerTimeout, Duration(30*time.Second))
	}
	if q := p.AuthQuery; q != nil {
		orString(&q.Database, "postgres")
		or(&q.Every, Duration(time.Minute))
	}
}

func (c *checker) pgaway(p *PGWire) {
	for _, user := range slices.Sorted(maps.Keys(p.Users)) {
		c.want(user != "" && p.Users[user] != "", "pgwire.users", "%q needs a name and a verifier", user)
	}
	if q := p.AuthQuery; q != nil {
		c.want(q.User != "", "pgwire.auth_query.user", "is needed: a role that may read verifiers")
		c.want(q.Every >= Duration(10*time.Millisecond), "pgwire.auth_query.every", "%s is out of range: 10ms or more", q.Every)
	}
	c.want(len(p.ConsoleUsers) == 0 || len(p.Users) > 0 || p.AuthFile != "" || p.AuthQuery != nil, "pgwire.console_users",
		"needs users, auth_file or auth_query: who they are is for walproxy to tell")
	if a := p.Away; a != nil {
		for _, d := range []struct {
			key   string
			value Duration
		}{
			{"check_interval", a.CheckInterval}, {"attach_timeout", a.AttachTimeout}, {"answer_timeout", a.AnswerTimeout},
		} {
			c.want(d.value >= Duration(10*time.Millisecond), "pgwire.away."+d.key, "%s is out of range: 10ms or more", d.value)
		}
	}
}

// withoutSecrets is p as it is shown.
func (p PGWire) withoutSecrets() *PGWire {
	if _, err := ParseUpstream(p.Upstream); err != nil { // else it holds no secret
		p.Upstream = redactDSN(p.Upstream)
	}
	p.Users = maps.Clone(p.Users)
	for user := range p.Users {
		p.Users[user] = redacted
	}
	if p.AuthQuery != nil && p.AuthQuery.Password != "" {
		q := *p.AuthQuery
		q.Password = redacted
		p.AuthQuery = &q
	}
	return &p
}
