package aerospike

import (
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/aeronodes"
)

// startNodes starts a cluster in front of the store at addr.
func startNodes(t *testing.T, addr string, n int) *aeronodes.Cluster {
	t.Helper()
	nodes, err := aeronodes.Start(addr, n, namespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Close)
	return nodes
}

// TestCluster: nodes are found by one of them; while records are applied they leave
// and come back, hand partitions to each other and refuse what is on its way. Every
// write is done once, in order, and each change of the cluster takes the sink back.
func TestCluster(t *testing.T) {
	t.Parallel()
	if realServers != nil {
		t.Skip("a real cluster's nodes are killed by TestStoreForgets")
	}
	nodes := startNodes(t, common.at(t)[0], 3)
	o := bookOptions(nodes.Addrs()[1:2])
	o.Services.SeedOnly, o.Settle = false, 300*time.Millisecond
	b := newBook(t, o)
	b.wait(b.write(100))
	for i, n := range nodes.Served() {
		if n == 0 {
			t.Errorf("node %d was asked for nothing", i)
		}
	}
	if d := b.sink.Describe(); len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "last-update-time") || d.Owner == "" {
		t.Errorf("the sink says %+v, want its owner, and a warning of what resolves conflicts", d)
	}
	for round := range 2 {
		before := b.rewinds()
		lsn := b.write(100)
		nodes.Kill(round)
		b.wait(b.write(100))
		b.read(false)
		b.write(50)
		nodes.Starting(true)
		if err := nodes.Restart(round); err != nil {
			t.Fatal(err)
		}
		b.write(50)
		nodes.Starting(false)
		b.wait(b.write(50))
		soon(t, "the sink goes back", func() bool { return b.rewinds() > before })
		b.wait(lsn)

		nodes.Refuse(func(partition int) codec.Result {
			switch partition % 3 {
			case 0:
				return codec.KeyBusy
			case 1:
				return codec.Unavailable
			}
			return codec.OK
		})
		lsn = b.write(100)
		nodes.Move()
		b.write(50)
		nodes.Refuse(nil)
		b.wait(b.write(50))
		b.wait(lsn)
		b.read(false)
	}
	b.read(true)
	last := b.write(1)
	soon(t, "all is settled", func() bool { return b.sink.Settled() == last })
}

// TestQueryGoesOn: of a query by an index that goes on, each node gets the digests of its
// own partitions and the values that belong to these, or it refuses the message.
func TestQueryGoesOn(t *testing.T) {
	t.Parallel()
	if realServers != nil {
		t.Skip("a real cluster has its own partitions")
	}
	nodes := startNodes(t, common.at(t)[0], 3)
	o := options(t)
	o.Hosts, o.Services.SeedOnly = nodes.Addrs(), false
	s := open(t, o)
	client, err := s.connected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := &codec.Message{Header: codec.Header{Info1: getAll}, Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte(namespace)}}}
	var digests, values []byte
	for i := range byte(100) {
		digest := append([]byte{i * 2, i % 16}, make([]byte, codec.DigestBytes-2)...)
		digests, values = append(digests, digest...), append(values, i*2, i%16, 0, 0, 0, 0, 0, 0)
	}
	m.Fields = append(m.Fields, codec.Field{Type: codec.FieldDigests, Data: digests}, codec.Field{Type: codec.FieldBinValues, Data: values})
	sc := &scan{sink: s, sent: m, left: -1}
	if err := sc.plan(client); err != nil {
		t.Fatal(err)
	}
	if len(sc.parts) != 3 {
		t.Fatalf("%d nodes are asked", len(sc.parts))
	}
	for _, p := range sc.parts {
		sent, err := codec.ParseMessage(sc.message(p)[codec.ProtoBytes:])
		if err != nil {
			t.Fatal(err)
		}
		digests, _ := sent.Field(codec.FieldDigests)
		values, _ := sent.Field(codec.FieldBinValues)
		if len(digests)/codec.DigestBytes != len(values)/8 {
			t.Fatalf("%d digests with %d values", len(digests)/codec.DigestBytes, len(values)/8)
		}
		for i := range len(values) / 8 {
			if string(digests[i*codec.DigestBytes:][:2]) != string(values[i*8:][:2]) {
				t.Errorf("digest %d has the value of another", i)
			}
		}
	}
	m.Fields[2].Data = values[8:]
	if err := sc.plan(client); err == nil {
		t.Error("a value too few is taken")
	}
}

// TestClusterForgets: a whole cluster is killed and has lost its last moments when its
// nodes are back.
func TestClusterForgets(t *testing.T) {
	t.Parallel()
	if realServers != nil {
		t.Skip("a real cluster's nodes are killed by TestStoreForgets")
	}
	f := newForgetful(t)
	nodes := startNodes(t, f.addrs[0], 3)
	o := bookOptions(nodes.Addrs())
	o.Services.SeedOnly, o.Settle, o.now = false, 300*time.Millisecond, f.clock.now
	b := newBook(t, o)
	for range 2 {
		b.wait(b.write(100))
		start := f.clock.stop()
		f.restart(func() {
			b.wait(b.write(100))
			b.write(100)
			for i := range 3 { // before the store has lost anything
				nodes.Kill(i)
			}
		})
		for i := range 3 {
			if err := nodes.Restart(i); err != nil {
				t.Fatal(err)
			}
		}
		start()
		b.read(false)
		b.wait(b.write(50))
	}
	b.read(true)
}

// TestAdvice: what a configuration takes away is said, and nothing else.
func TestAdvice(t *testing.T) {
	for want, config := range map[string]map[string]string{
		"":                 {"replication-factor": "2", "conflict-resolution-policy": "last-update-time"},
		"one copy of each": {"replication-factor": "1", "conflict-resolution-policy": "last-update-time"},
		"more writes":      {"replication-factor": "2", "conflict-resolution-policy": "generation"},
		"never tested":     {"replication-factor": "2", "conflict-resolution-policy": "last-update-time", "strong-consistency": "true"},
	} {
		got := adviceFor("shop", config, 2)
		if want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || !strings.Contains(got[0], want) || !strings.Contains(got[0], "shop") {
			t.Errorf("%v: %q, want %q", config, got, want)
		}
	}
	if got := adviceFor("shop", map[string]string{"replication-factor": "1", "conflict-resolution-policy": "generation"}, 1); len(got) != 0 {
		t.Errorf("of a lone node: %q", got)
	}
}
