package config

import (
	"fmt"
	"path"
	"time"

	"github.com/walproxy/walproxy/internal/access"
)

// Token is what the holder of a secret may do: of the secret itself only its hash
// stands here.
type Token struct {
	Name string `yaml:"name"` // for logs and the audit file
	// Hash as `walproxy token new` prints it.
	Hash        string   `yaml:"hash"`
	Rights      []string `yaml:"rights"`      // read, write, admin
	Collections []string `yaml:"collections"` // patterns; none: all
}

// HTTP bounds what a client of an endpoint may keep waiting.
type HTTP struct {
	HeaderTimeout Duration `yaml:"header_timeout"` // of a request's head, and of a TLS handshake
	IdleTimeout   Duration `yaml:"idle_timeout"`   // of a connection between requests
	BodyTimeout   Duration `yaml:"body_timeout"`   // of a client that pauses in its request or answer
	MaxStreams    int      `yaml:"max_streams"`    // of one connection of HTTP/2
}

func (h *HTTP) withDefaults() {
	or(&h.HeaderTimeout, Duration(10*time.Second))
	or(&h.IdleTimeout, Duration(2*time.Minute))
	or(&h.BodyTimeout, Duration(30*time.Second))
	or(&h.MaxStreams, 128)
}

func (c *checker) http(key string, h HTTP) {
	for _, d := range []struct {
		key   string
		value Duration
	}{{"header_timeout", h.HeaderTimeout}, {"idle_timeout", h.IdleTimeout}, {"body_timeout", h.BodyTimeout}} {
		c.want(d.value >= Duration(time.Millisecond) && d.value <= Duration(24*time.Hour), key+"."+d.key, "%s is out of range: 1ms to 24h", d.value)
	}
	c.want(h.MaxStreams >= 1 && h.MaxStreams <= 10_000, key+".max_streams", "%d is out of range: 1 to 10000", h.MaxStreams)
}

// tokens judges a list of them.
func (c *checker) tokens(key string, tokens []Token) {
	names, hashes := map[string]int{}, map[string]int{}
	for i, t := range tokens {
		at := fmt.Sprintf("%s[%d]", key, i)
		c.want(validName(t.Name), at+".name", "%q is no name: want letters, digits, - and _, at most 64", t.Name)
		if other, taken := names[t.Name]; taken {
			c.fault(at+".name", "%q is %s[%d]'s, too", t.Name, key, other)
		}
		names[t.Name] = i
		// The fault must not repeat what might be the token itself.
		if _, err := access.ParseHash(t.Hash); err != nil {
			c.fault(at+".hash", "%s", err)
		} else if other, taken := hashes[t.Hash]; taken {
			c.fault(at+".hash", "is %s[%d]'s, too", key, other)
		} else {
			hashes[t.Hash] = i
		}
		c.want(len(t.Rights) > 0, at+".rights", "is needed: one or more of read, write, admin")
		for j, right := range t.Rights {
			_, ok := access.ParseRight(right)
			c.want(ok, fmt.Sprintf("%s.rights[%d]", at, j), "no right %q: want read, write or admin", right)
		}
		for j, pattern := range t.Collections {
			_, err := path.Match(pattern, "")
			c.want(err == nil && pattern != "", fmt.Sprintf("%s.collections[%d]", at, j), "%q is no pattern for a collection", pattern)
		}
	}
}

// tls judges the files of a server.
func (c *checker) tls(key string, t TLS) {
	c.want((t.Cert == "") == (t.Key == ""), key, "needs both cert and key")
	c.want(t.ClientCA == "" || t.Cert != "", key+".client_ca", "needs cert and key")
}

// policy of a port: validated.
func policy(listen string, tokens []Token, t TLS, hosts []string) access.Policy {
	p := access.Policy{Certificates: t.ClientCA != "", Hosts: hosts, AnyHost: len(hosts) == 0 && !loopbackOnly(listen)}
	for _, token := range tokens {
		hash, _ := access.ParseHash(token.Hash)
		out := access.Token{Name: token.Name, Hash: hash, Collections: token.Collections}
		for _, name := range token.Rights {
			right, _ := access.ParseRight(name)
			out.Rights = append(out.Rights, right)
		}
		p.Tokens = append(p.Tokens, out)
	}
	return p
}

// APIAccess is access to the API.
func (c *Config) APIAccess() access.Policy {
	return policy(c.API.Listen, c.API.Tokens, c.API.TLS, c.API.Hosts)
}

// AdminAccess is access to the admin port.
func (c *Config) AdminAccess() access.Policy {
	return policy(c.Admin.Listen, c.Admin.Tokens, c.Admin.TLS, c.Admin.Hosts)
}

// Exposed lists what of a configuration that is valid lets others see or do what they
// should not, and what to do about it.
func (c *Config) Exposed() (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	for _, e := range []struct {
		name, listen string
		tokens       []Token
		tls          TLS
	}{{"api", c.API.Listen, c.API.Tokens, c.API.TLS}, {"admin", c.Admin.Listen, c.Admin.Tokens, c.Admin.TLS}} {
		switch {
		case loopbackOnly(e.listen):
		case len(e.tokens) == 0 && e.tls.ClientCA == "":
			warn("%s.listen: whoever reaches %s may do everything: set %s.tokens or %s.tls.client_ca", e.name, e.listen, e.name, e.name)
		case e.tls.Cert == "":
			warn("%s.listen: tokens cross the network to %s as they are: set %s.tls, or have TLS in front of it", e.name, e.listen, e.name)
		}
	}
	if a := c.AeroWire; a != nil && !loopbackOnly(a.Listen) && a.TLS.ClientCA == "" {
		warn("aerowire.listen: whoever reaches %s may read and write: set aerowire.tls.client_ca", a.Listen)
	}
	return warnings
}
