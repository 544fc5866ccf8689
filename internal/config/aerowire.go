package config

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/walproxy/walproxy/mutation"
)

// AeroWire is the endpoint for clients of Aerospike.
type AeroWire struct {
	Listen string `yaml:"listen"`
	// AllowInsecure permits an address that is not loopback without certificates
	// of clients (tls.client_ca): there is no other authentication.
	AllowInsecure bool     `yaml:"allow_insecure"`
	Namespaces    []string `yaml:"namespaces"`
	Sink          string   `yaml:"sink"` // that keeps and reads the namespaces
	TLS           TLS      `yaml:"tls"`
	ClusterName   string   `yaml:"cluster_name"`

	MaxConnections   int      `yaml:"max_connections"`
	MaxRequestBytes  Size     `yaml:"max_request_bytes"`  // one message
	MaxInFlightBytes Size     `yaml:"max_inflight_bytes"` // all messages under way
	MaxRecordBytes   Size     `yaml:"max_record_bytes"`
	MaxBatchRows     int      `yaml:"max_batch_rows"`
	IdleTimeout      Duration `yaml:"idle_timeout"`

	// Deletes and Patience are for a sink of type aerospike: whether the cluster is
	// asked if a record is there that is deleted (asked, logged), and how long a
	// request waits for the cluster.
	Deletes  string   `yaml:"deletes"`
	Patience Duration `yaml:"patience"`
}

// LogDeletes is what Deletes says.
const LogDeletes = "logged"

const askDeletes = "asked"

func (a *AeroWire) withDefaults(sinks map[string]Sink) {
	orString(&a.Listen, "127.0.0.1:3000")
	if len(a.Namespaces) == 0 {
		a.Namespaces = []string{"test"}
	}
	if len(sinks) == 1 {
		for name := range sinks {
			orString(&a.Sink, name)
		}
	}
	orString(&a.Sink, MainSink)
	if sinks[a.Sink].Type == TypeAerospike {
		orString(&a.Deletes, askDeletes)
		or(&a.Patience, Duration(2*time.Second))
	}
	or(&a.MaxConnections, 4096)
	or(&a.MaxRequestBytes, 16*mib)
	or(&a.MaxInFlightBytes, 256*mib)
	or(&a.MaxRecordBytes, 1*mib)
	or(&a.MaxBatchRows, 5000)
	or(&a.IdleTimeout, Duration(10*time.Minute))
}

// keyTypes: a record's key is its digest.
func (a *AeroWire) keyTypes() (rules []KeyTypeRule) {
	if a == nil {
		return nil
	}
	for _, ns := range a.Namespaces {
		rules = append(rules, KeyTypeRule{ns, mutation.KeyBytes}, KeyTypeRule{ns + ".*", mutation.KeyBytes})
	}
	return rules
}

func (c *checker) aerowire(cfg *Config) {
	a := cfg.AeroWire
	if a == nil {
		return
	}
	c.listen("aerowire.listen", "aerowire.tls.client_ca", "aerowire.allow_insecure", a.Listen, a.AllowInsecure || a.TLS.ClientCA != "")
	c.tls("aerowire.tls", a.TLS)
	for i, ns := range a.Namespaces {
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
		c.want(ns != "" && len(ns) <= 31 && strings.Trim(ns, letters) == "", "aerowire.namespaces",
			"%q is no namespace: want letters, digits, - and _, at most 31", ns)
		c.want(!slices.Contains(a.Namespaces[:i], ns), "aerowire.namespaces", "%q stands twice", ns)
		c.want(!slices.Contains([]string{"writes", "status", "mutations", "dlq", "sinks"}, ns), "aerowire.namespaces", "%q is a reserved name", ns)
	}
	c.want(a.MaxConnections > 0, "aerowire.max_connections", "must be positive")
	c.want(a.MaxBatchRows > 0 && a.MaxBatchRows <= 100_000, "aerowire.max_batch_rows", "%d is out of range: 1 to 100000", a.MaxBatchRows)
	c.between("aerowire.max_request_bytes", a.MaxRequestBytes, 64*kib, 128*mib)
	c.between("aerowire.max_record_bytes", a.MaxRecordBytes, 1*kib, 8*mib)
	c.want(a.MaxRecordBytes <= cfg.Log.MaxRecordBytes/2, "aerowire.max_record_bytes",
		"%s is more than half of log.max_record_bytes (%s)", a.MaxRecordBytes, cfg.Log.MaxRecordBytes)
	c.want(a.MaxInFlightBytes >= a.MaxRequestBytes, "aerowire.max_inflight_bytes",
		"%s is less than aerowire.max_request_bytes (%s)", a.MaxInFlightBytes, a.MaxRequestBytes)
	c.want(a.IdleTimeout > 0, "aerowire.idle_timeout", "must be positive")
	c.aerowireSink(cfg, a)
}

// aerowireSink holds the sink against the routes, which decide.
func (c *checker) aerowireSink(cfg *Config, a *AeroWire) {
	sink, ok := cfg.Sinks[a.Sink]
	if !ok {
		c.fault("aerowire.sink", "there is no sink %q: want one of %s", a.Sink, strings.Join(slices.Sorted(maps.Keys(cfg.Sinks)), ", "))
		return
	}
	if sink.Type == TypeAerospike {
		c.aerowireFront(cfg, a, sink)
	} else {
		c.want(a.Deletes == "", "aerowire.deletes", "is for a sink of type %s; %s is of type %s", TypeAerospike, a.Sink, sink.Type)
		c.want(a.Patience == 0, "aerowire.patience", "is for a sink of type %s; %s is of type %s", TypeAerospike, a.Sink, sink.Type)
	}
	for _, ns := range a.Namespaces {
		for _, collection := range []string{ns, ns + ".set"} {
			reads := cfg.reads(collection)
			c.want(reads == "" || reads == a.Sink, "aerowire.sink", "the routes have collection %s read from sink %s, not %s", collection, reads, a.Sink)
			c.want(reads != "" || len(cfg.Routes) == 0, "aerowire.namespaces", "no route takes collection %s", collection)
		}
	}
}

// exception is a route for some sets of a namespace.
type exception struct {
	Route
	pattern string
}

// exceptions are the routes that some sets of a namespace may take and others not.
func (c *Config) exceptions(ns string) (list []exception) {
	for _, r := range c.Routes {
		if len(r.Sinks) == 0 {
			continue // said elsewhere
		}
		if slices.ContainsFunc(r.Collections, func(p string) bool { return takesNamespace(p, ns) }) {
			return list
		}
		for _, p := range r.Collections {
			if inNamespace(p, ns) {
				list = append(list, exception{r, p})
			}
		}
	}
	return list
}

// takesNamespace reports whether a pattern matches the collections of all sets.
func takesNamespace(pattern, ns string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return open && wildcards(prefix) == 0 && strings.HasPrefix(ns+".", prefix)
}

// inNamespace reports whether a pattern may match the collection of a set: up to its
// first star or bracket exactly.
func inNamespace(pattern, ns string) bool {
	for i, prefix := 0, ns+"."; ; i, prefix = i+1, prefix[1:] {
		switch {
		case prefix == "":
			return true
		case i == len(pattern):
			return false
		case pattern[i] == '*', pattern[i] == '[', pattern[i] == '\\':
			return true
		case pattern[i] != '?' && pattern[i] != prefix[0]:
			return false
		}
	}
}

// aerowireFront judges an endpoint in front of a cluster: its collections are the
// cluster's sets, and all that is written to them goes there alone.
func (c *checker) aerowireFront(cfg *Config, a *AeroWire, sink Sink) {
	c.want(a.Deletes == askDeletes || a.Deletes == LogDeletes, "aerowire.deletes", "%q: want %s or %s", a.Deletes, askDeletes, LogDeletes)
	c.want(a.Patience >= Duration(10*time.Millisecond) && a.Patience <= Duration(time.Minute), "aerowire.patience", "%s is out of range: 10ms to 1m", a.Patience)
	for _, ns := range a.Namespaces {
		for _, e := range cfg.exceptions(ns) {
			c.want(len(e.Sinks) == 1 && e.Sinks[0] == a.Sink, "aerowire.sink", "the routes send collections %s to %s: what a client has the cluster answer is not in the log, "+
				"so only %s can have it", e.pattern, strings.Join(e.Sinks, ", "), a.Sink)
		}
		for _, collection := range []string{ns, ns + ".set"} {
			for _, r := range cfg.Routes {
				if !r.takes(collection) {
					continue
				}
				c.want(len(r.Sinks) == 1, "aerowire.sink", "the routes send collection %s to %s: what a client has the cluster answer is not in the log, "+
					"so only %s can have it", collection, strings.Join(r.Sinks, ", "), a.Sink)
				break
			}
			for pattern, col := range sink.Collections {
				matches, _ := path.Match(pattern, collection) // validated elsewhere
				which := collection
				if collection != ns && inNamespace(pattern, ns) {
					if matches = true; wildcards(pattern) == 0 {
						which = pattern
					}
				}
				c.want(!matches || col.Namespace == "" && col.Set == "" && !col.Digest && !col.SendKey && col.KeyType == "",
					"sinks."+a.Sink+".collections."+pattern, "aerowire.namespaces says where collection %s is: leave namespace, set, key_type, digest and send_key out", which)
			}
		}
	}
}

// reads names the sink that answers reads for a collection; empty: none.
func (c *Config) reads(collection string) string {
	for _, r := range c.Routes {
		if r.takes(collection) && len(r.Sinks) > 0 {
			return r.Sinks[0]
		}
	}
	return ""
}

// takes reports whether the route is one of a collection's.
func (r Route) takes(collection string) bool {
	return slices.ContainsFunc(r.Collections, func(pattern string) bool { return matches(pattern, collection) })
}
