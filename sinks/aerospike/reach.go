package aerospike

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/sinks"
)

// reach knows which nodes do not answer, so that who is not to wait for them need
// not find it out again with every message: a node that has failed once is asked
// for its name until it answers, and nothing is forwarded to it meanwhile.
type reach struct {
	sink *Sink
	stop chan struct{} // closed by end

	mu struct {
		sync.Mutex
		nodes map[*as.Node]error // being asked; nil: no answer was missed yet
	}
}

const (
	// probeTime is how long a node that is in doubt may take to say its name.
	probeTime = time.Second
	// probeEvery is the pause between two questions.
	probeEvery = 100 * time.Millisecond
	// connectionTime is how long a connection is waited for before the node itself is
	// in doubt: the client says nothing of why it has none.
	connectionTime = 100 * time.Millisecond
)

func newReach(s *Sink) *reach {
	r := &reach{sink: s, stop: make(chan struct{})}
	r.mu.nodes = map[*as.Node]error{}
	return r
}

// end stops the questions; the sink's calls are joined by Close. Called once.
func (r *reach) end() { close(r.stop) }

// away is why nothing can be sent to n: sinks.ErrAway, retry. nil: nobody knows of
// anything.
func (r *reach) away(n *as.Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mu.nodes[n]; err != nil {
		return away(fmt.Errorf("node %s: %w", n.GetName(), err))
	}
	return nil
}

func away(err error) error {
	return sinks.WithOutcome(sinks.Retry, fmt.Errorf("%w: %w", sinks.ErrAway, err))
}

// doubt has n asked until it answers. The caller has entered the sink.
func (r *reach) doubt(n *as.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, asked := r.mu.nodes[n]; asked {
		return
	}
	r.mu.nodes[n] = nil
	r.sink.calls.Go(func() { r.watch(n) })
}

// watch returns when n has answered, or the client has given it up.
func (r *reach) watch(n *as.Node) {
	for n.IsActive() {
		err := r.probe(n)
		if err == nil {
			break
		}
		r.mu.Lock()
		r.mu.nodes[n] = err
		r.mu.Unlock()
		select {
		case <-r.stop:
			return // nobody asks any more
		case <-time.After(probeEvery):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.nodes, n)
}

// probe asks n for its name, on a connection of its own: those of the pool may all
// wait for n. Nobody has to log in for that: a refusal is an answer too.
func (r *reach) probe(n *as.Node) error {
	policy := *r.sink.shared.policy
	policy.Timeout = min(policy.Timeout, probeTime)
	conn, err := as.NewConnection(&policy, n.GetHost())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetTimeout(time.Now().Add(policy.Timeout), policy.Timeout); err != nil {
		return err
	}
	if _, err := conn.RequestInfo("node"); err != nil {
		return err
	}
	return nil
}

// errBusy: all connections to a node are in use.
var errBusy = errors.New("sink aerospike: no connection to the node was free in time")

// connection returns one of n's pooled connections. Errors are marked: nothing was
// sent.
func (r *reach) connection(n *as.Node, deadline time.Time) (*as.Connection, error) {
	for {
		if err := r.away(n); err != nil {
			return nil, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, sinks.WithOutcome(sinks.Retry, errBusy)
		}
		conn, err := n.GetConnection(min(left, connectionTime))
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, as.ErrServerNotAvailable):
			return nil, away(err)
		}
		// All are in use, or none can be made: the client has one error for both, and
		// the node itself says which.
		r.doubt(n)
	}
}

// Away says why nothing can be forwarded now: sinks.ErrAway. nil: a node of the
// cluster is there, as far as is known. It does not wait.
func (s *Sink) Away() error {
	_, leave, err := s.calls.Enter(context.Background())
	if err != nil {
		return err
	}
	defer leave()
	client, _, failed, err := s.shared.begin()
	switch {
	case err != nil:
		return err
	case client == nil && failed != nil:
		return away(failed)
	case client == nil:
		return nil // nobody has tried yet
	}
	gone := away(errNoNodes)
	for _, n := range client.GetNodes() {
		if !n.IsActive() {
			continue
		}
		if gone = s.reach.away(n); gone == nil {
			return nil
		}
	}
	return gone
}

// connected is client for those who would rather know at once: while the cluster is
// known to be away that is the answer.
func (s *Sink) connected(ctx context.Context) (*as.Client, error) {
	client, _, failed, err := s.shared.begin()
	switch {
	case client != nil || err != nil:
		return client, err
	case failed != nil:
		return nil, away(failed)
	}
	client, err = s.client(ctx)
	if err != nil && !errors.Is(err, sinks.ErrClosed) {
		return nil, away(err)
	}
	return client, err
}
