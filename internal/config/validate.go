package config

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Types of sinks.
const (
	TypePebble    = "pebble"
	TypePostgres  = "postgres"
	TypeAerospike = "aerospike"
)

// checker gathers faults.
type checker struct {
	config *Config
	faults []Fault
}

func (c *checker) fault(key, format string, args ...any) {
	c.faults = append(c.faults, c.config.origin.fault(key, format, args...))
}

// want records a fault unless ok.
func (c *checker) want(ok bool, key, format string, args ...any) {
	if !ok {
		c.fault(key, format, args...)
	}
}

// faults judges a configuration with its defaults filled in.
func (c *Config) faults() []Fault {
	k := &checker{config: c}
	k.want(c.DataDir != "", "data_dir", "is empty")
	k.log(c.Log)
	k.api(c.API)
	k.admin(c.Admin)
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		k.sink("sinks."+name, name, c.Sinks[name])
	}
	k.paths(c)
	k.keyTypes(c)
	k.routes(c)
	k.aerowire(c)
	k.pgwire(c.PGWire)
	k.writeBehind(c)
	k.want(c.Requests.Age > 0, "request_ids.age", "must be positive")
	k.want(c.Requests.Count > 0, "request_ids.count", "must be positive")
	k.want(c.Shutdown.DrainTimeout > 0, "shutdown.drain_timeout", "must be positive")
	k.logging(c.Logging)
	k.tracing(c.Tracing)
	return k.faults
}

func (c *checker) log(l Log) {
	c.want(l.Engine == "tidwall" || l.Engine == "native", "log.engine", "no engine %q: want tidwall or native", l.Engine)
	c.between("log.segment_bytes", l.SegmentBytes, 64*kib, 1*gib)
	c.between("log.group_bytes", l.GroupBytes, 4*kib, 256*mib)
	c.between("log.max_record_bytes", l.MaxRecordBytes, 1*kib, 256*mib)
	c.want(l.MinFree > 0 || l.MinFree == -1, "log.min_free", "must be positive, or -1 for no floor")
	least := 4 * l.SegmentBytes
	c.want(l.MaxBytes >= least, "log.max_bytes", "%s is less than four segments (%s)", l.MaxBytes, least)
}

func (c *checker) between(key string, s, low, high Size) {
	c.want(s >= low && s <= high, key, "%s is out of range: %s to %s", s, low, high)
}

func (c *checker) api(a API) {
	c.listen("api.listen", "api.tokens or api.tls.client_ca", "api.allow_insecure", a.Listen, a.AllowInsecure || len(a.Tokens) > 0 || a.TLS.ClientCA != "")
	c.tls("api.tls", a.TLS)
	c.tokens("api.tokens", a.Tokens)
	c.http("api.http", a.HTTP)
	c.want(a.MaxConnections > 0, "api.max_connections", "must be positive")
	record := c.config.Log.MaxRecordBytes
	c.want(a.MaxItemBytes >= kib && a.MaxItemBytes <= 2*record, "api.max_item_bytes",
		"%s is out of range: 1KiB to twice log.max_record_bytes (%s)", a.MaxItemBytes, 2*record)
	c.want(a.MaxBodyBytes >= a.MaxItemBytes, "api.max_body_bytes",
		"%s is less than api.max_item_bytes (%s)", a.MaxBodyBytes, a.MaxItemBytes)
	c.want(a.MaxInFlightBytes >= a.MaxItemBytes, "api.max_inflight_bytes",
		"%s is less than api.max_item_bytes (%s)", a.MaxInFlightBytes, a.MaxItemBytes)
}

func (c *checker) admin(a Admin) {
	c.listen("admin.listen", "admin.tokens or admin.tls.client_ca", "admin.allow_insecure", a.Listen, a.AllowInsecure || len(a.Tokens) > 0 || a.TLS.ClientCA != "")
	c.tls("admin.tls", a.TLS)
	if !slices.EqualFunc(a.Tokens, c.config.API.Tokens, func(x, y Token) bool { return x.Hash == y.Hash && x.Name == y.Name }) { // else they are judged there
		c.tokens("admin.tokens", a.Tokens)
	}
	c.http("admin.http", a.HTTP)
	c.want(a.MaxConnections > 0, "admin.max_connections", "must be positive")
	_, port, _ := net.SplitHostPort(a.Listen)
	c.want(a.Listen != c.config.API.Listen || port == "0", "admin.listen", "is api.listen too: %s", a.Listen)
}

// listen refuses to serve strangers while nothing tells them apart: with is what would,
// insecureKey what permits it, ok whether one of them is set.
func (c *checker) listen(key, with, insecureKey, address string, ok bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		c.fault(key, "%q is no address: want host:port", address)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		c.fault(key, "%q is no port: want 0 to 65535", port)
	}
	if !ok && !loopback(host) {
		c.fault(key, "%s can be reached from other machines and nothing tells who asks: "+
			"use a loopback address, set %s, or %s: true", address, with, insecureKey)
	}
}

// loopbackOnly reports whether an address can be reached from this machine alone.
func loopbackOnly(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	return loopback(host)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *checker) sink(key, name string, s Sink) {
	c.want(validName(name), key, "%q is no name for a sink: want letters, digits, - and _, at most 64", name)
	switch s.Type {
	case TypePebble:
		c.noTables(key, s)
		c.want(s.Timeouts == Timeouts{}, key+".timeouts", "is for types %s and %s", TypePostgres, TypeAerospike)
		s.Timeouts = Timeouts{}
		c.noAerospike(key, s)
	case TypePostgres:
		c.postgres(key, s)
	case TypeAerospike:
		c.aerospike(key, s)
	default:
		c.fault(key+".type", "no type %q: want %s, %s or %s", s.Type, TypePebble, TypePostgres, TypeAerospike)
		return
	}
	c.want(s.Lanes >= 1 && s.Lanes <= 256, key+".lanes", "%d is out of range: 1 to 256", s.Lanes)
	c.want(s.Batch.Records >= 1 && s.Batch.Records <= 100_000, key+".batch.records",
		"%d is out of range: 1 to 100000", s.Batch.Records)
	c.between(key+".batch.bytes", s.Batch.Bytes, 1*kib, 256*mib)
	c.want(s.Batch.Linger >= 0 && s.Batch.Linger <= Duration(10*time.Second), key+".batch.linger",
		"%s is out of range: up to 10s", s.Batch.Linger)
	c.want(s.ApplyTimeout > 0, key+".apply_timeout", "must be positive")
	c.want(s.HaltRetry < 0 || s.HaltRetry >= Duration(time.Second) && s.HaltRetry <= Duration(24*time.Hour), key+".halt_retry",
		"%s is out of range: 1s to 24h, or -1s for not before somebody says so", s.HaltRetry)
	if s.HoldAfter != 0 {
		c.between(key+".hold_after", s.HoldAfter, 1*mib, 1024*gib)
	}
	c.want(s.Batch.Latency > 0 && s.Batch.Latency <= s.ApplyTimeout, key+".batch.latency",
		"%s is out of range: up to apply_timeout (%s)", s.Batch.Latency, s.ApplyTimeout)
	most := c.config.Log.MaxBytes
	c.want(s.MaxLagBytes >= 0 && s.MaxLagBytes <= most, key+".max_lag_bytes",
		"%s is out of range: up to log.max_bytes (%s)", s.MaxLagBytes, most)
	c.want(s.Retain >= 0 && s.Retain <= most/2, key+".retain",
		"%s is out of range: up to half of log.max_bytes (%s)", s.Retain, most/2)
	c.between(key+".dead_letters.bytes", s.DeadLetters.Bytes, 1*mib, 1024*gib)
	c.want(s.DeadLetters.Age >= 0, key+".dead_letters.age", "must not be negative")
	c.ownLanes(key, s)
	for _, pattern := range slices.Sorted(maps.Keys(s.Collections)) {
		c.collection(key+".collections."+pattern, pattern, s.Collections[pattern])
		if s.Type != TypePostgres {
			c.noTable(key+".collections."+pattern, s.Collections[pattern])
		}
		if s.Type != TypeAerospike {
			c.noSet(key+".collections."+pattern, s.Collections[pattern])
		}
	}
}

func (c *checker) collection(key, pattern string, col Collection) {
	c.pattern(key, pattern)
	if _, ok := keyTypes[col.KeyType]; !ok {
		c.fault(key+".key_type", "no key type %q: want string, int64, bytes or composite", col.KeyType)
	}
	c.want(col.LaneGroup == "" || validName(col.LaneGroup), key+".lane_group",
		"%q is no name for a group: want letters, digits, - and _, at most 64", col.LaneGroup)
	switch col.OnReject {
	case "", "park_key", "skip", "halt":
	default:
		c.fault(key+".on_reject", "no policy %q: want park_key, skip or halt", col.OnReject)
	}
}

func (c *checker) pattern(key, pattern string) {
	_, err := path.Match(pattern, "")
	c.want(err == nil && pattern != "", key, "%q is no pattern for a collection", pattern)
}

// paths refuses two sinks in one directory.
func (c *checker) paths(cfg *Config) {
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		if cfg.Sinks[name].Type != TypePebble {
			continue
		}
		dir := path.Clean(cfg.SinkPath(name))
		if other, ok := taken[dir]; ok {
			c.fault("sinks."+name+".path", "%s is sink %s's too", dir, other)
		}
		taken[dir] = name
	}
}

func (c *checker) routes(cfg *Config) {
	c.want(len(cfg.Routes) > 0, "routes", "is needed with more than one sink: which answers reads?")
	for i, r := range cfg.Routes {
		key := fmt.Sprintf("routes[%d]", i)
		c.want(len(r.Collections) > 0, key+".collections", "is empty")
		c.want(len(r.Sinks) > 0, key+".sinks", "is empty")
		for j, pattern := range r.Collections {
			c.pattern(fmt.Sprintf("%s.collections[%d]", key, j), pattern)
		}
		for j, name := range r.Sinks {
			at := fmt.Sprintf("%s.sinks[%d]", key, j)
			_, ok := cfg.Sinks[name]
			c.want(ok, at, "there is no sink %q", name)
			c.want(!slices.Contains(r.Sinks[:j], name), at, "%q stands twice", name)
		}
	}
}

func validName(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}
