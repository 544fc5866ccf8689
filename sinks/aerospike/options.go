package aerospike

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// DefaultPort of an Aerospike node.
const DefaultPort = 3000

// DefaultStateSet is where walproxy keeps what is its own.
const DefaultStateSet = "walproxy"

// Options of Open; zero values mean the defaults.
type Options struct {
	// Hosts are seeds of the cluster, each "host" or "host:port". At least one.
	Hosts []string
	// ClusterName, if set, is what every node must be configured with.
	ClusterName string
	// Namespace of the collections that name none.
	Namespace string
	// Collections says how they map to sets; the first match counts. What matches
	// none is the set of its name in Namespace. No two collections share a set.
	Collections []Collection

	// State is where ownership and checkpoints are kept: one set per stream.
	State Place

	// Settle is how long the store may lose what it acknowledged; see docs.
	// Default 10 s; negative: it loses nothing.
	Settle time.Duration

	Login    Login
	TLS      *tls.Config // nil: clear text
	TLSName  string      // in the nodes' certificates; default: the host's name
	Services Services

	// Connections to each node, default 64.
	Connections int
	// BatchKeys is how many keys one message to the cluster may hold, default 1000.
	BatchKeys int
	Timeouts  Timeouts

	// Clients shares connections with other sinks on the same cluster; nil: none.
	Clients *Clients

	Logger     *zap.Logger           // nil logs nothing
	Registerer prometheus.Registerer // nil exports nothing

	now func() time.Time // tests: the clock that settling goes by
}

// Place is a set of a namespace; an empty set is what has none.
type Place struct {
	Namespace, Set string
}

// Collection maps the collections that Pattern matches to a set.
type Collection struct {
	Pattern   string // of path.Match
	Namespace string // "": Options.Namespace
	// Set is the set's name, "" the collection's. Where Pattern ends in a *, which
	// many collections match, "*" is what that stands for and nothing else will do.
	Set string
	// NoSet: the records are in no set; Pattern is one collection's name.
	NoSet bool
	// Digest: keys are digests of 20 bytes, not user keys.
	Digest bool
	// SendKey stores the user key with the record, so that scans show it.
	SendKey bool
}

// Login is how the cluster knows this client; an empty user needs none.
type Login struct {
	User, Password string
	External       bool // by LDAP or the like; needs TLS
}

// Services is which addresses the nodes are reached by.
type Services struct {
	Alternate bool // the nodes' alternate-access-address
	SeedOnly  bool // only the seeds, whatever the nodes say
}

// Timeouts of one step each. None is infinite: 0 means the default.
type Timeouts struct {
	Connect time.Duration // to connect and log in, default 5 s
	Socket  time.Duration // silence on a connection, default 5 s
	Total   time.Duration // one message to the cluster, default 10 s
}

func (o Options) withDefaults() Options {
	if o.State.Namespace == "" {
		o.State.Namespace = o.Namespace
	}
	if o.State.Set == "" {
		o.State.Set = DefaultStateSet
	}
	if o.Connections == 0 {
		o.Connections = 64
	}
	if o.BatchKeys == 0 {
		o.BatchKeys = 1000
	}
	t := &o.Timeouts
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{
		{&o.Settle, 10 * time.Second}, {&t.Connect, 5 * time.Second}, {&t.Socket, 5 * time.Second}, {&t.Total, 10 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	if o.Clients == nil {
		o.Clients = NewClients()
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

// validate reports everything that is wrong; the defaults are filled in.
func (o Options) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if len(o.Hosts) == 0 {
		bad("hosts", "missing: name one or more nodes of the cluster")
	}
	for i, host := range o.Hosts {
		if _, _, err := splitHost(host); err != nil {
			bad(fmt.Sprintf("hosts[%d]", i), "%v", err)
		}
	}
	if o.Namespace == "" {
		bad("namespace", "missing: name the namespace that records go to")
	}
	o.State.validate(bad, "state")
	for i, c := range o.Collections {
		field := fmt.Sprintf("collections[%d]", i)
		if _, err := path.Match(c.Pattern, ""); err != nil || c.Pattern == "" {
			bad(field+".pattern", "%q is no pattern", c.Pattern)
		}
		Place{c.Namespace, c.Set}.validate(bad, field)
		if reason := c.setFault(); reason != "" {
			bad(field+".set", "%q %s", c.Set, reason)
		}
		if j := slices.IndexFunc(o.Collections[:i], func(other Collection) bool {
			return (c.NoSet || c.Set != "") && c.Set != anySet && other.Set == c.Set && other.NoSet == c.NoSet && other.Namespace == c.Namespace
		}); j >= 0 {
			bad(field+".set", "%q is the set of %s too: their records would be the same", c.Set, o.Collections[j].Pattern)
		}
		if c.Digest && c.SendKey {
			bad(field+".send_key", "a digest has no key to send")
		}
	}
	if o.Connections < 1 || o.Connections > 10_000 {
		bad("connections", "%d, want 1 to 10000", o.Connections)
	}
	if o.BatchKeys < 1 || o.BatchKeys > 5000 {
		bad("batch_keys", "%d, want 1 to 5000", o.BatchKeys)
	}
	if o.Login.External && o.TLS == nil {
		bad("login.external", "sends the password as it is: needs tls")
	}
	if o.Settle > 24*time.Hour {
		bad("settle", "%v, want at most 24h", o.Settle)
	}
	for _, t := range []struct {
		field string
		value time.Duration
	}{{"timeouts.connect", o.Timeouts.Connect}, {"timeouts.socket", o.Timeouts.Socket}, {"timeouts.total", o.Timeouts.Total}} {
		if t.value < time.Millisecond || t.value > 24*time.Hour {
			bad(t.field, "%v, want 1ms to 24h", t.value)
		}
	}
	return errors.Join(errs...)
}

// anySet is the set of the name that a pattern's * stands for.
const anySet = "*"

// setFault is why the pattern's collections cannot have that set.
func (c *Collection) setFault() string {
	many := strings.ContainsAny(c.Pattern, `*?[\`)
	prefix, tail := strings.CutSuffix(c.Pattern, "*")
	switch {
	case c.NoSet && c.Set != "":
		return "is a set, and the records are to be in none"
	case c.NoSet && many:
		return "is no set, and would be that of several collections, whose records would be the same"
	case c.Set == anySet && (!tail || strings.ContainsAny(prefix, `*?[\`)):
		return "is what the * at a pattern's end stands for, and there is none or more than that"
	case c.Set != "" && c.Set != anySet && many:
		return "would be the set of several collections, whose records would be the same"
	}
	return ""
}

// Limits of the server (AS_ID_NAMESPACE_SZ, AS_SET_NAME_MAX_SIZE, BIN_NAME_MAX_SZ).
const (
	maxNamespace = 31
	maxSet       = 63
	maxBin       = 15
)

func (p Place) validate(bad func(field, format string, args ...any), field string) {
	if len(p.Namespace) > maxNamespace || strings.ContainsAny(p.Namespace, ":;/") {
		bad(field+".namespace", "%q: at most %d bytes, without : ; /", p.Namespace, maxNamespace)
	}
	if reason := setFault(p.Set); reason != "" {
		bad(field+".set", "%q %s", p.Set, reason)
	}
}

// setFault is why a set cannot be named so; "": it can.
func setFault(set string) string {
	switch {
	case len(set) > maxSet:
		return fmt.Sprintf("is %d bytes long, a set's name at most %d", len(set), maxSet)
	case strings.ContainsAny(set, ":;"):
		return "contains : or ;, which no set's name may"
	case set == "null":
		return "is reserved by Aerospike"
	}
	return ""
}

// splitHost is a seed's name and port.
func splitHost(host string) (name string, port int, err error) {
	name, text, err := net.SplitHostPort(host)
	if err != nil {
		if strings.Contains(host, ":") && !strings.Contains(host, "::") || host == "" {
			return "", 0, fmt.Errorf("%q is no host:port", host)
		}
		return strings.Trim(host, "[]"), DefaultPort, nil
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || name == "" {
		return "", 0, fmt.Errorf("%q is no host:port", host)
	}
	return name, port, nil
}
