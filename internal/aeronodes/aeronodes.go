// Package aeronodes makes a cluster of Aerospike nodes of one store, for tests: each
// node is an address of its own, says which partitions are its own and who its peers
// are, and passes what it is asked to the store. So clients see a cluster whose nodes
// go away, come back and hand partitions to each other, while the store has
// everything, as if every write were replicated before it is answered.
//
//	client ──► node 0 ──┐
//	       ──► node 1 ──┼──► store (walproxy's endpoint)
//	       ──► node 2 ──┘
//
// As a real node does, one that gets a record of another's partition passes it on;
// Strays counts these.
package aeronodes

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// Partitions that there are.
const Partitions = 4096

// PartitionOf is the partition that a record is in.
func PartitionOf(digest [codec.DigestBytes]byte) int {
	return (int(digest[0]) | int(digest[1])<<8) & (Partitions - 1)
}

// Cluster is the nodes. All methods may be called concurrently.
type Cluster struct {
	store      string // address
	namespaces []string
	nodes      []*node

	mu struct {
		sync.Mutex
		generation int    // of the partition map and the peers
		key        uint64 // of the cluster; another one whenever it forms anew
		shift      int    // see owner
		refuse     func(partition int) codec.Result
		strays     int
		starting   bool
	}
}

// Start starts n nodes in front of the store at an address, which has namespaces. The
// caller must Close the cluster.
func Start(store string, n int, namespaces ...string) (*Cluster, error) {
	c := &Cluster{store: store, namespaces: namespaces}
	c.mu.key, c.mu.generation = rand.Uint64(), 1
	listeners := make([]net.Listener, n)
	for i := range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			for _, l := range listeners[:i] {
				l.Close()
			}
			return nil, err
		}
		listeners[i] = listener
		c.nodes = append(c.nodes, &node{cluster: c, name: fmt.Sprintf("BB9%d0000000A", i), addr: listener.Addr().String()})
	}
	for i, m := range c.nodes { // they answer for each other: not before all are known
		m.run(listeners[i])
	}
	return c, nil
}

// Close ends all nodes.
func (c *Cluster) Close() {
	for _, m := range c.nodes {
		m.kill()
	}
}

// Addrs returns the nodes' addresses.
func (c *Cluster) Addrs() (list []string) {
	for _, m := range c.nodes {
		list = append(list, m.addr)
	}
	return list
}

// Kill ends a node's connections and listens no more; the others take over its
// partitions and form the cluster anew.
func (c *Cluster) Kill(i int) {
	c.nodes[i].kill()
	c.form()
}

// Restart has a node that was killed come back, at its address, as another run of it.
func (c *Cluster) Restart(i int) error {
	if err := c.nodes[i].listen(); err != nil {
		return err
	}
	c.form()
	return nil
}

// form is what the members do when one has left or joined.
func (c *Cluster) form() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.key = rand.Uint64()
	c.mu.generation++
}

// Move hands every partition to another node. The members stay, and so does the
// cluster's key.
func (c *Cluster) Move() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.shift++
	c.mu.generation++
}

// Refuse answers what is asked of records of a partition with what f returns, unless
// that is codec.OK. nil: nothing is refused.
func (c *Cluster) Refuse(f func(partition int) codec.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.refuse = f
}

// Starting has the nodes not know their statistics, as real ones do for a moment.
func (c *Cluster) Starting(are bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.starting = are
}

// Strays is how many records were asked of a node that does not own their partition.
func (c *Cluster) Strays() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.strays
}

// Served is how many records each node was asked for.
func (c *Cluster) Served() (list []int64) {
	for _, m := range c.nodes {
		list = append(list, m.served.Load())
	}
	return list
}

// members are the nodes that run.
func (c *Cluster) members() (list []*node) {
	for _, m := range c.nodes {
		if m.runs() {
			list = append(list, m)
		}
	}
	return list
}

// view is the cluster as its members see it at one moment.
type view struct {
	members    []*node
	generation int
	key        uint64
	shift      int
	refuse     func(partition int) codec.Result
	starting   bool
}

func (c *Cluster) view() view {
	members := c.members()
	c.mu.Lock()
	defer c.mu.Unlock()
	return view{members, c.mu.generation, c.mu.key, c.mu.shift, c.mu.refuse, c.mu.starting}
}

// owner is the node that has a partition, rank 0, or a copy of it.
func (v view) owner(partition, rank int) *node {
	if rank >= len(v.members) {
		return nil
	}
	return v.members[(partition+v.shift+rank)%len(v.members)]
}

// replicas are how many copies of a partition there are said to be.
const replicas = 2

// answer is what a node says to an info name; false: it is the store's to answer.
func (m *node) answer(v view, name string) (string, bool) {
	switch {
	case name == "node":
		return m.name, true
	case name == "partition-generation", name == "peers-generation":
		return fmt.Sprint(v.generation), true
	case name == "replicas":
		return m.replicas(v), true
	case name == "statistics" && v.starting:
		return "", true
	case name == "statistics":
		return fmt.Sprintf("cluster_size=%d;cluster_key=%X;cluster_integrity=true;cluster_is_member=true;uptime=%d",
			len(v.members), v.key, int(time.Since(m.began()).Seconds())), true
	case strings.HasPrefix(name, "namespace/"):
		return fmt.Sprintf("ns_cluster_size=%d;replication-factor=%d;conflict-resolution-policy=generation;nsup-period=120;stop_writes=false", len(v.members), replicas), true
	case strings.HasPrefix(name, "peers-"):
		var peers []string
		for _, p := range v.members {
			if p != m {
				peers = append(peers, fmt.Sprintf("[%s,,[%s]]", p.name, p.addr))
			}
		}
		_, port, _ := net.SplitHostPort(m.addr)
		return fmt.Sprintf("%d,%s,[%s]", v.generation, port, strings.Join(peers, ",")), true
	case name == "service", strings.HasPrefix(name, "service-"):
		return m.addr, true
	}
	return "", false
}
