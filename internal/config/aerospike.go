package config

import (
	"net"
	"strconv"
	"strings"
	"time"
)

// Cluster is how an Aerospike sink reaches its cluster and what it keeps there.
type Cluster struct {
	// Name, if set, is what every node must be configured with.
	Name string `yaml:"name"`
	// User and Password; better from the environment
	// (WALPROXY_SINKS__MAIN__CLUSTER__PASSWORD) than from a file.
	User         string     `yaml:"user"`
	Password     string     `yaml:"password"`
	ExternalAuth bool       `yaml:"external_auth"` // LDAP and the like
	TLS          ClusterTLS `yaml:"tls"`
	// Alternate uses the nodes' alternate-access-address, SeedOnly nothing but hosts.
	Alternate bool `yaml:"alternate"`
	SeedOnly  bool `yaml:"seed_only"`

	Connections int      `yaml:"connections"` // to each node
	BatchKeys   int      `yaml:"batch_keys"`  // in one message
	Settle      Duration `yaml:"settle"`      // how long the store may lose what it acknowledged
	State       State    `yaml:"state"`       // where walproxy keeps its checkpoints
}

// ClusterTLS is TLS of a client.
type ClusterTLS struct {
	Enabled bool   `yaml:"enabled"`
	CA      string `yaml:"ca"`   // PEM; empty: the system's
	Cert    string `yaml:"cert"` // PEM, of the client
	Key     string `yaml:"key"`
	Name    string `yaml:"name"` // in the nodes' certificates; empty: the host's
}

// State is a set that belongs to one log.
type State struct {
	Namespace string `yaml:"namespace"`
	Set       string `yaml:"set"`
}

// aerospikeDefaults fills in what only such a sink has.
func (s *Sink) aerospikeDefaults() {
	orString(&s.Cluster.State.Namespace, s.Namespace)
	orString(&s.Cluster.State.Set, "walproxy")
	or(&s.Cluster.Connections, 64)
	or(&s.Cluster.BatchKeys, 1000)
	or(&s.Cluster.Settle, Duration(10*time.Second))
	or(&s.Timeouts.Connect, Duration(5*time.Second))
	or(&s.Timeouts.Socket, Duration(5*time.Second))
	or(&s.Timeouts.Total, Duration(10*time.Second))
}

// aerospike judges the keys that only such a sink has.
func (c *checker) aerospike(key string, s Sink) {
	c.want(s.Path == "", key+".path", "is for type %s", TypePebble)
	c.noTables(key, s)
	c.want(s.Timeouts.Acquire|s.Timeouts.Statement|s.Timeouts.Lock|s.Timeouts.IdleInTransaction|s.Timeouts.Lease == 0,
		key+".timeouts", "connect, socket and total are all that type %s has", TypeAerospike)
	c.want(len(s.Hosts) > 0, key+".hosts", "is needed for type %s: one or more nodes", TypeAerospike)
	for _, host := range s.Hosts {
		c.want(isHost(host), key+".hosts", "%q is no node: want host or host:port", host)
	}
	c.want(s.Namespace != "", key+".namespace", "is needed for type %s", TypeAerospike)
	c.place(key, s.Namespace, "")
	cl := s.Cluster
	c.place(key+".cluster.state", cl.State.Namespace, cl.State.Set)
	c.want(cl.Connections >= 1 && cl.Connections <= 10_000, key+".cluster.connections", "%d is out of range: 1 to 10000", cl.Connections)
	c.want(cl.BatchKeys >= 1 && cl.BatchKeys <= 5000, key+".cluster.batch_keys", "%d is out of range: 1 to 5000", cl.BatchKeys)
	c.want(cl.Settle > 0 && cl.Settle <= Duration(24*time.Hour), key+".cluster.settle", "%s is out of range: up to 24h", cl.Settle)
	c.want((cl.User == "") == (cl.Password == ""), key+".cluster", "needs both user and password")
	c.want(!cl.ExternalAuth || cl.TLS.Enabled, key+".cluster.external_auth", "sends the password as it is: needs tls")
	c.want(cl.TLS.Enabled || cl.TLS == ClusterTLS{}, key+".cluster.tls", "is not enabled")
	c.want((cl.TLS.Cert == "") == (cl.TLS.Key == ""), key+".cluster.tls", "needs both cert and key")
	for _, d := range []struct {
		key   string
		value Duration
	}{{"connect", s.Timeouts.Connect}, {"socket", s.Timeouts.Socket}, {"total", s.Timeouts.Total}} {
		c.want(d.value >= Duration(time.Millisecond) && d.value <= Duration(24*time.Hour), key+".timeouts."+d.key,
			"%s is out of range: 1ms to 24h", d.value)
	}
	for pattern, col := range s.Collections {
		at := key + ".collections." + pattern
		c.place(at, col.Namespace, col.Set)
		c.setOf(at, pattern, col.Set)
		c.want(!col.Digest || col.KeyType == "bytes", at+".digest", "needs key_type: bytes")
		c.want(!col.Digest || !col.SendKey, at+".send_key", "a digest has no key to send")
	}
}

// setOf judges a set that collections are mapped to: two of them in one would have
// the same records.
func (c *checker) setOf(key, pattern, set string) {
	const wild = `*?[\`
	prefix, star := strings.CutSuffix(pattern, "*")
	switch {
	case set == "*":
		c.want(star && !strings.ContainsAny(prefix, wild), key+".set",
			"* is what the * at the end of a pattern stands for, and %q has none or more than that", pattern)
	case set != "":
		c.want(!strings.ContainsAny(pattern, wild), key+".set",
			"%q would be the set of several collections, whose records would be the same", set)
	}
}

// place judges the names of a set and of its namespace.
func (c *checker) place(key, namespace, set string) {
	c.want(len(namespace) <= 31 && !strings.ContainsAny(namespace, ":;/"), key+".namespace",
		"%q is no namespace: at most 31 bytes, without : ; /", namespace)
	c.want(len(set) <= 63 && !strings.ContainsAny(set, ":;") && set != "null", key+".set",
		"%q is no set: at most 63 bytes, without : ;", set)
}

func isHost(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return host != "" && (!strings.Contains(host, ":") || net.ParseIP(strings.Trim(host, "[]")) != nil)
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 1 && n <= 65535 && name != ""
}

// noAerospike refuses an Aerospike sink's keys on another.
func (c *checker) noAerospike(key string, s Sink) {
	c.want(len(s.Hosts) == 0, key+".hosts", "is for type %s", TypeAerospike)
	c.want(s.Namespace == "", key+".namespace", "is for type %s", TypeAerospike)
	c.want(s.Cluster == Cluster{}, key+".cluster", "is for type %s", TypeAerospike)
	c.want(s.Timeouts.Socket|s.Timeouts.Total == 0, key+".timeouts", "socket and total are for type %s", TypeAerospike)
}

func (c *checker) noSet(key string, col Collection) {
	c.want(col.Namespace == "", key+".namespace", "is for type %s", TypeAerospike)
	c.want(col.Set == "", key+".set", "is for type %s", TypeAerospike)
	c.want(!col.Digest, key+".digest", "is for type %s", TypeAerospike)
	c.want(!col.SendKey, key+".send_key", "is for type %s", TypeAerospike)
}
