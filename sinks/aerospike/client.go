package aerospike

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/sinks"
)

// Clients shares connections: sinks on one cluster, as the same user, have one
// client between them. It is closed with the last of them.
type Clients struct {
	mu     sync.Mutex
	shared map[string]*shared
}

// NewClients returns an empty set of clients.
func NewClients() *Clients { return &Clients{shared: map[string]*shared{}} }

// shared is one client and who uses it.
type shared struct {
	clients *Clients
	name    string
	policy  *as.ClientPolicy
	hosts   []*as.Host

	users int // guarded by clients.mu

	dials sync.WaitGroup // at most one at a time
	mu    struct {       // held for moments only
		sync.Mutex
		client *as.Client // once connected
		dial   *dial      // under way
		failed error      // why the last attempt to connect did not
		closed bool
	}
}

// dial is one attempt to connect.
type dial struct {
	done chan struct{} // closed after err is set
	err  error
}

// acquire counts one more user of o's cluster. Every user releases once.
func (c *Clients) acquire(o *Options) (*shared, error) {
	hosts, err := o.seeds()
	if err != nil {
		return nil, err
	}
	name := o.cluster(hosts)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shared[name]
	if s == nil {
		s = &shared{clients: c, name: name, policy: o.clientPolicy(), hosts: hosts}
		c.shared[name] = s
	}
	s.users++
	return s, nil
}

// seeds are the hosts as the client has them.
func (o *Options) seeds() ([]*as.Host, error) {
	var hosts []*as.Host
	for _, h := range o.Hosts {
		name, port, err := splitHost(h)
		if err != nil {
			return nil, err
		}
		host := as.NewHost(name, port)
		host.TLSName = o.TLSName
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// cluster names what two sinks must agree in to share a client.
func (o *Options) cluster(hosts []*as.Host) string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.String())
	}
	slices.Sort(names)
	return fmt.Sprintf("%s|%s|%q|%q|%t|%p|%s|%v|%v|%d", strings.Join(names, ","), o.ClusterName,
		o.Login.User, o.Login.Password, o.Login.External, o.TLS, o.TLSName, o.Services, o.Timeouts, o.Connections)
}

func (o *Options) clientPolicy() *as.ClientPolicy {
	p := as.NewClientPolicy()
	p.ClusterName = o.ClusterName
	p.User, p.Password = o.Login.User, o.Login.Password
	if o.Login.External {
		p.AuthMode = as.AuthModeExternal
	}
	p.TlsConfig = o.TLS
	p.UseServicesAlternate, p.SeedOnlyCluster = o.Services.Alternate, o.Services.SeedOnly
	p.Timeout, p.LoginTimeout = o.Timeouts.Connect, o.Timeouts.Connect
	p.ConnectionQueueSize = o.Connections
	// The loop backs off by itself; a breaker would make one error look like another.
	p.MaxErrorRate = 0
	return p
}

// release gives one use back. The last one ends a connect that is under way and
// closes the connections.
func (s *shared) release() {
	s.clients.mu.Lock()
	s.users--
	last := s.users == 0
	if last && s.clients.shared[s.name] == s {
		delete(s.clients.shared, s.name)
	}
	s.clients.mu.Unlock()
	if !last {
		return
	}
	s.mu.Lock()
	s.mu.closed = true
	client := s.mu.client
	s.mu.Unlock()
	s.dials.Wait() // bounded by Timeouts.Connect; it closes what it connects
	if client != nil {
		client.Close()
	}
}

// get returns the client, which it connects first if nobody has. If ctx ends
// connecting goes on for others. Errors are marked: nothing was sent.
func (s *shared) get(ctx context.Context) (*as.Client, error) {
	client, d, _, err := s.begin()
	if client != nil || err != nil {
		return client, err
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, sinks.WithOutcome(sinks.Retry, context.Cause(ctx))
	}
	if d.err != nil {
		return nil, d.err
	}
	return s.get(ctx)
}

// begin returns the client, or begins to connect. failed is why that did not work
// last time.
func (s *shared) begin() (client *as.Client, d *dial, failed, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.client != nil:
		return s.mu.client, nil, nil, nil
	case s.mu.closed:
		return nil, nil, nil, sinks.ErrClosed
	case s.mu.dial == nil:
		d := &dial{done: make(chan struct{})}
		s.mu.dial = d
		s.dials.Go(func() { s.connect(d) })
	}
	return nil, s.mu.dial, s.mu.failed, nil
}

func (s *shared) connect(d *dial) {
	client, err := as.NewClientWithPolicyAndHost(s.policy, s.hosts...)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(d.done)
	s.mu.dial = nil
	switch {
	case err != nil:
		d.err = judge(err, notSent)
	case s.mu.closed:
		client.Close()
		d.err = sinks.ErrClosed
	default:
		s.mu.client = client
	}
	s.mu.failed = d.err
}

// client returns the cluster's client.
func (s *Sink) client(ctx context.Context) (*as.Client, error) {
	return s.shared.get(ctx)
}

// errTooLate: what is left of a call's time is not enough to send anything.
var errTooLate = errors.New("sink aerospike: no time left to send it")

// timeouts of one message: the configured ones, cut short by ctx. The client
// takes no context, so a call that is cancelled still waits for its answer, at
// most Timeouts.Total; see Sink.wait.
func (s *Sink) timeouts(ctx context.Context, p *as.BasePolicy) error {
	p.TotalTimeout, p.SocketTimeout = s.o.Timeouts.Total, s.o.Timeouts.Socket
	if ctx.Err() != nil {
		return sinks.WithOutcome(sinks.Retry, context.Cause(ctx))
	}
	if deadline, ok := ctx.Deadline(); ok {
		p.TotalTimeout = min(p.TotalTimeout, time.Until(deadline))
	}
	p.SocketTimeout = min(p.SocketTimeout, p.TotalTimeout)
	if p.TotalTimeout < time.Millisecond {
		return sinks.WithOutcome(sinks.Retry, errTooLate)
	}
	p.MaxRetries = 0
	return nil
}

// readPolicy is for reads of one record: from the master, which has every write
// that was acknowledged.
func (s *Sink) readPolicy(ctx context.Context) (*as.BasePolicy, error) {
	p := as.NewPolicy()
	err := s.timeouts(ctx, p)
	p.ReplicaPolicy = as.MASTER
	p.ReadTouchTTLPercent = -1
	return p, err
}

// writePolicy is for writes of one record, never repeated by the client.
func (s *Sink) writePolicy(ctx context.Context) (*as.WritePolicy, error) {
	p := as.NewWritePolicy(0, as.TTLDontExpire)
	err := s.timeouts(ctx, &p.BasePolicy)
	p.CommitLevel = as.COMMIT_ALL
	return p, err
}

// batchPolicy is for messages of many keys: each is tried and answered for itself.
func (s *Sink) batchPolicy(ctx context.Context) (*as.BatchPolicy, error) {
	p := as.NewWriteBatchPolicy()
	err := s.timeouts(ctx, &p.BasePolicy)
	p.RespondAllKeys, p.ConcurrentNodes = true, 0
	p.ReplicaPolicy = as.MASTER
	p.ReadTouchTTLPercent = -1
	return p, err
}
