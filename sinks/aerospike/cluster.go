package aerospike

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/sinks"
)

// nodes are the nodes of the cluster by name, as they were at some time.
type nodes map[string]node

// node is what tells one run of a node from the next.
type node struct {
	// Key of the cluster that it has formed: random, new with every change of the
	// cluster, its own start included.
	Key string `json:"cluster_key"`
	// Started is when the process began, by this machine's clock: its uptime is in
	// whole seconds.
	Started time.Time `json:"started"`

	after time.Time // it surely began later, by the clock that nobody sets
	alone bool      // in its cluster
}

// startSlack is how much two looks at one run of a node may differ in when it began.
const startSlack = 5 * time.Second

// changed says what has become of the nodes since before; "": nothing. A node that
// was restarted may have lost its last writes, and one that left may come back so.
func (now nodes) changed(before nodes) string {
	for _, name := range slices.Sorted(maps.Keys(before)) {
		was, is := before[name], now[name]
		switch {
		case is == node{}:
			return fmt.Sprintf("node %s has left the cluster", name)
		case is.Started.Sub(was.Started).Abs() > startSlack:
			return fmt.Sprintf("node %s was restarted: it began at %s, before at %s", name, is.Started.Format(time.RFC3339), was.Started.Format(time.RFC3339))
		case is.Key != was.Key:
			return fmt.Sprintf("the cluster of node %s has formed anew: its key is %s, it was %s", name, is.Key, was.Key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, ok := before[name]; !ok {
			return fmt.Sprintf("node %s has joined the cluster", name)
		}
	}
	return ""
}

// errNoNodes: the client knows none at the moment.
var errNoNodes = errors.New("sink aerospike: no node of the cluster can be reached")

// look asks every node which run of it this is. All of them have to answer.
func (s *Sink) look(ctx context.Context) (nodes, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	found := nodes{}
	for _, n := range client.GetNodes() {
		policy := as.BasePolicy{}
		if err := s.timeouts(ctx, &policy); err != nil {
			return nil, err
		}
		asked := time.Now()
		stats, failed := n.RequestStats(&as.InfoPolicy{Timeout: policy.SocketTimeout})
		if failed != nil {
			if _, leave, err := s.calls.Enter(ctx); err == nil { // who forwards is to know of it
				s.reach.doubt(n)
				leave()
			}
			return nil, judge(failed, notSent)
		}
		uptime, err := strconv.ParseInt(stats["uptime"], 10, 64)
		if err != nil { // one that is just starting does not
			return nil, sinks.WithOutcome(sinks.Retry, fmt.Errorf("sink aerospike: node %s does not say its uptime: %w", n.GetName(), err))
		}
		found[n.GetName()] = node{
			Key:     stats["cluster_key"],
			Started: time.Now().Add(-time.Duration(uptime) * time.Second).UTC().Truncate(time.Second),
			after:   asked.Add(-time.Duration(uptime+1) * time.Second),
			alone:   stats["cluster_size"] == "1",
		}
	}
	if len(found) == 0 {
		return nil, sinks.WithOutcome(sinks.Retry, errNoNodes)
	}
	return found, nil
}

// clusterName is the cluster's name, empty if it has none.
func (s *Sink) clusterName(ctx context.Context) (string, error) {
	client, err := s.client(ctx)
	if err != nil {
		return "", err
	}
	policy := as.BasePolicy{}
	if err := s.timeouts(ctx, &policy); err != nil {
		return "", err
	}
	const command = "cluster-name"
	members := client.GetNodes()
	if len(members) == 0 {
		return "", sinks.WithOutcome(sinks.Retry, errNoNodes)
	}
	answers, failed := members[0].RequestInfo(&as.InfoPolicy{Timeout: policy.SocketTimeout}, command)
	if failed != nil {
		return "", judge(failed, notSent)
	}
	name := answers[command]
	if name == "null" || strings.HasPrefix(strings.ToUpper(name), "ERROR") {
		return "", nil
	}
	return name, nil
}
