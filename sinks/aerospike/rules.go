package aerospike

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
)

// What a namespace allows is known before a write is acknowledged: whoever logs writes
// for this sink asks Foresee, and has the cluster itself answer those that it may
// refuse. What the nodes' configurations say is read every second, once somebody asks.

const (
	// rulesEvery is how old what is known of the namespaces gets.
	rulesEvery = time.Second
	// rulesWait is how long somebody waits who asks first.
	rulesWait = 2 * time.Second
	// setsMax is how many sets the server keeps in a namespace, less some.
	setsMax = 4000
	// recordSpare is what a record may take on disk beside what its message has.
	recordSpare = 4 << 10
)

// rules keeps what is known of namespaces.
type rules struct {
	sink *Sink
	stop chan struct{} // closed by end
	news chan struct{} // capacity 1: a namespace more is asked for

	mu struct {
		sync.Mutex
		running bool
		known   map[string]*namespaceRules // nil: nothing yet
		turned  chan struct{}              // closed when they were read once more
		looked  map[Place]bool
	}
}

func newRules(s *Sink) *rules {
	r := &rules{sink: s, stop: make(chan struct{}), news: make(chan struct{}, 1)}
	r.mu.known, r.mu.turned, r.mu.looked = map[string]*namespaceRules{}, make(chan struct{}), map[Place]bool{}
	return r
}

// end stops the reading; the sink's calls are joined by Close. Called once.
func (r *rules) end() { close(r.stop) }

// namespaceRules is what all nodes that answer say of a namespace: where they do not
// agree, what forbids more.
type namespaceRules struct {
	missing    bool // on every node
	strong     bool // strong-consistency
	full       bool // stop_writes
	closed     bool // no client's write is taken
	noEnds     bool // records do not expire, and none may be written that is to
	defaultEnd bool // of what has no time to live of its own
	named      bool // records have to be in a set
	noReplace  bool
	most       int // bytes of a record; 0: unknown
	sets       map[string]setRules
}

// setRules is what is known of one set.
type setRules struct {
	defaultEnd bool
	near       bool // to a bound of its own
}

// Foresee says what the cluster, as far as is known, would say to a message for one
// record: codec.OK where it may do it, codec.Forbidden to a write to another log's set.
// ask: a write that it may refuse whatever the record is, for it takes none with a time
// to live, or has no room: it is the cluster's to answer, and is not to be acknowledged
// before that. Nothing is said while nothing is known: the cluster was away since the
// start.
func (s *Sink) Foresee(ctx context.Context, m *codec.Message) (result codec.Result, ask bool) {
	namespace, _ := m.Field(codec.FieldNamespace)
	set, _ := m.Field(codec.FieldSet)
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return codec.OK, false
	}
	defer leave()
	ns := s.rules.of(ctx, string(namespace))
	write, deletes := m.Info2&codec.Info2Write != 0, m.Info2&codec.Info2Delete != 0
	switch {
	case ns == nil:
	case ns.missing:
		return codec.NamespaceNotFound, false
	case !write:
		return codec.OK, false
	case ns.strong:
		return codec.Unsupported, false
	case deletes && ns.full: // what it leaves is a write for the cluster
		return codec.OutOfSpace, false
	case !deletes:
		ask = ns.refuses(m, string(set))
	}
	if !write {
		return codec.OK, false
	}
	return s.foreign(ctx, Place{string(namespace), string(set)}), ask
}

// foreign is codec.Forbidden for a set that another log owns. One that nobody does is
// claimed; while that cannot be asked it shows when the write is applied.
func (s *Sink) foreign(ctx context.Context, at Place) codec.Result {
	mine, claimed := s.owner.owns(at)
	if mine || !claimed && s.rules.looked(at) || s.Away() != nil {
		return codec.OK
	}
	ctx, cancel := context.WithTimeout(ctx, rulesWait)
	defer cancel()
	var err error
	if claimed {
		err = s.owner.writable(ctx, at)
	} else if err = s.owner.peek(ctx, at); err == nil {
		s.rules.look(at)
	}
	if other, is := errors.AsType[*SetError](err); is {
		s.log.Warn("a write was refused", zap.Error(other))
		return codec.Forbidden
	}
	return codec.OK
}

// looked reports that a set was seen to be no other log's, before the stream was claimed.
func (r *rules) looked(at Place) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.looked[at]
}

func (r *rules) look(at Place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	bounded(r.mu.looked)[at] = true
}

// refuses reports that a write may be refused.
func (ns *namespaceRules) refuses(m *codec.Message, set string) bool {
	of, known := ns.sets[set]
	ends := m.TTL != command.TTLNever && m.TTL != command.TTLDontUpdate &&
		(m.TTL != command.TTLDefault || ns.defaultEnd || of.defaultEnd)
	switch {
	case ns.full, ns.closed, of.near, ns.noEnds && ends, ns.named && set == "", !known && len(ns.sets) >= setsMax:
		return true
	case ns.noReplace && replaces(m):
		return true
	}
	size := recordSpare
	for _, f := range m.Fields {
		size += len(f.Data)
	}
	for i := range m.Ops {
		size += len(m.Ops[i].Name) + len(m.Ops[i].Value) + 8
	}
	return ns.most > 0 && size > ns.most
}

// of is what is known of a namespace; nil: nothing. Who asks for the first time waits.
func (r *rules) of(ctx context.Context, name string) *namespaceRules {
	ns, turned := r.ask(name)
	if ns != nil || r.sink.Away() != nil {
		return ns
	}
	timer := time.NewTimer(rulesWait)
	defer timer.Stop()
	for {
		select {
		case <-turned:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
		if ns, turned = r.ask(name); ns != nil || r.sink.Away() != nil {
			return ns
		}
	}
}

// ask returns what is known, and what is closed when more is.
func (r *rules) ask(name string) (*namespaceRules, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ns, asked := r.mu.known[name]
	if !asked {
		bounded(r.mu.known)[name] = nil
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
	if !r.mu.running {
		r.mu.running = true
		r.sink.calls.Go(r.run)
	}
	return ns, r.mu.turned
}

// run reads the rules again and again until the sink closes.
func (r *rules) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-r.news:
		case <-timer.C:
		}
		r.read()
		timer.Reset(rulesEvery)
	}
}

// read asks all nodes for all namespaces.
func (r *rules) read() {
	client, _, _, err := r.sink.shared.begin()
	read := map[string]*namespaceRules{}
	if err == nil && client != nil {
		for _, name := range r.names() {
			if ns := r.namespace(client, name); ns != nil {
				read[name] = ns
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, ns := range read {
		if was := r.mu.known[name]; ns.strong && (was == nil || !was.strong) {
			r.sink.log.Warn("the namespace is one of strong consistency, which is not supported: nothing is written to it", zap.String("namespace", name))
		}
		r.mu.known[name] = ns
	}
	close(r.mu.turned)
	r.mu.turned = make(chan struct{})
}

func (r *rules) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.mu.known))
	for name := range r.mu.known {
		names = append(names, name)
	}
	return names
}

// namespace asks all nodes for one; nil: none has answered.
func (r *rules) namespace(client *as.Client, name string) *namespaceRules {
	var all *namespaceRules
	for _, n := range client.GetNodes() {
		if !n.IsActive() || r.sink.reach.away(n) != nil {
			continue
		}
		config, sets := "namespace/"+name, "sets/"+name
		answers, failed := n.RequestInfo(&as.InfoPolicy{Timeout: min(r.sink.o.Timeouts.Socket, probeTime)}, config, sets)
		if failed != nil {
			continue
		}
		if ns := parseRules(answers[config], answers[sets]); all == nil {
			all = ns
		} else {
			all.join(ns)
		}
	}
	return all
}

// parseRules reads a node's answers to "namespace/..." and "sets/...".
func parseRules(config, sets string) *namespaceRules {
	c := codec.Settings(config, ";")
	if c["type"] == "unknown" || strings.HasPrefix(config, "ERROR") || strings.HasPrefix(config, "FAIL") {
		return &namespaceRules{missing: true}
	}
	is := func(name string) bool { return c[name] == "true" }
	number := func(c map[string]string, name string) int64 {
		n, err := strconv.ParseInt(c[name], 10, 64)
		if err != nil {
			return 0 // not said: by an older server, or walproxy's own endpoint
		}
		return n
	}
	ns := &namespaceRules{
		strong: is("strong-consistency"), full: is("stop_writes"),
		closed: is("clock_skew_stop_writes") || is("reject-non-xdr-writes"),
		noEnds: c["nsup-period"] == "0" && !is("allow-ttl-without-nsup"), defaultEnd: number(c, "default-ttl") != 0,
		named: is("disallow-null-setname"), noReplace: is("conflict-resolve-writes"),
		most: int(number(c, "max-record-size")), sets: map[string]setRules{},
	}
	for line := range strings.SplitSeq(sets, ";") {
		c := codec.Settings(line, ":")
		if name := c["set"]; name != "" {
			near := func(have, most string) bool {
				limit := number(c, most)
				return limit > 0 && number(c, have) >= limit-limit/10
			}
			ns.sets[name] = setRules{
				defaultEnd: number(c, "default-ttl") != 0,
				near:       near("objects", "stop-writes-count") || near(cmp.Or(has(c, "data_used_bytes"), "device_data_bytes"), "stop-writes-size"),
			}
		}
	}
	return ns
}

// has is name if there is such a setting.
func has(c map[string]string, name string) string {
	if _, ok := c[name]; ok {
		return name
	}
	return ""
}

// join takes over what another node forbids.
func (ns *namespaceRules) join(other *namespaceRules) {
	if ns.missing || other.missing {
		if ns.missing {
			*ns = *other
		}
		return
	}
	ns.strong, ns.full, ns.closed = ns.strong || other.strong, ns.full || other.full, ns.closed || other.closed
	ns.noEnds, ns.defaultEnd = ns.noEnds || other.noEnds, ns.defaultEnd || other.defaultEnd
	ns.named, ns.noReplace = ns.named || other.named, ns.noReplace || other.noReplace
	if other.most > 0 && (ns.most == 0 || other.most < ns.most) {
		ns.most = other.most
	}
	for name, of := range other.sets {
		was := ns.sets[name]
		ns.sets[name] = setRules{was.defaultEnd || of.defaultEnd, was.near || of.near}
	}
}

// placesMax bounds what is remembered of sets and namespaces that clients name: there
// are fewer that a server could have. Who is forgotten is looked up again.
const placesMax = 1 << 14

// bounded is m, emptied if it has grown too large for one more.
func bounded[K comparable, V any](m map[K]V) map[K]V {
	if len(m) >= placesMax {
		clear(m)
	}
	return m
}
