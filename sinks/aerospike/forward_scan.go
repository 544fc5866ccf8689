package aerospike

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// partitions of a namespace.
const partitions = 4096

// errNoScan: the message is not one that only reads many records.
var errNoScan = errors.New("sink aerospike: the message is no scan or query that only reads")

// Scan sends a message that reads many records, a scan or a query, to the nodes that
// own its partitions, one after the other, and calls f with every record, and with
// what a node says of a partition (codec.Info3PartitionDone), as they come: f keeps
// nothing of them. What walproxy keeps is not shown, as with Forward. The result is
// the cluster's, codec.OK at its end. Errors have outcomes as with Forward; f's is
// returned as it is.
func (s *Sink) Scan(ctx context.Context, m *codec.Message, f func(*codec.Message) error) (codec.Result, error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return codec.OK, err
	}
	defer leave()
	if err := scannable(m); err != nil {
		return codec.OK, err
	}
	client, err := s.connected(ctx)
	if err != nil {
		return codec.OK, err
	}
	sc := &scan{sink: s, sent: m, f: f, left: -1}
	if err := sc.plan(client); err != nil {
		return codec.OK, err
	}
	for _, part := range sc.parts {
		if sc.left == 0 {
			break
		}
		if result, err := sc.run(ctx, part); err != nil || result != codec.OK {
			return result, err
		}
	}
	return codec.OK, nil
}

func scannable(m *codec.Message) error {
	_, udf := m.Field(codec.FieldUDFOp)
	_, digest := m.Field(codec.FieldDigest)
	_, key := m.Field(codec.FieldKey)
	_, batch := m.Field(codec.FieldBatch)
	_, withSet := m.Field(codec.FieldBatchWithSet)
	if udf || digest || key || batch || withSet || m.Info2&codec.Info2Write != 0 {
		return rejected(errNoScan)
	}
	return nil
}

// scan is one Scan under way.
type scan struct {
	sink  *Sink
	sent  *codec.Message
	f     func(*codec.Message) error
	parts []*part
	left  int64 // records to come; -1: no bound
}

// part is what one node is asked for.
type part struct {
	node    *as.Node
	whole   []byte // partitions, as in FieldPartitions
	resumed []byte // digests, as in FieldDigests
	values  []byte // of these in the index, as in FieldBinValues
}

// binValueBytes is what a digest has in FieldBinValues.
const binValueBytes = 8

// plan shares the partitions out among their nodes.
func (sc *scan) plan(client *as.Client) error {
	namespace, _ := sc.sent.Field(codec.FieldNamespace)
	whole, named := sc.sent.Field(codec.FieldPartitions)
	digests, resumed := sc.sent.Field(codec.FieldDigests)
	values, indexed := sc.sent.Field(codec.FieldBinValues)
	if len(whole)%2 != 0 || len(digests)%codec.DigestBytes != 0 || len(namespace) == 0 ||
		indexed && len(values) != len(digests)/codec.DigestBytes*binValueBytes {
		return rejected(errNoScan)
	}
	if !named && !resumed {
		for id := range partitions {
			whole = binary.LittleEndian.AppendUint16(whole, uint16(id))
		}
	}
	if limit, ok := sc.sent.Field(codec.FieldMaxRecords); ok && len(limit) == 8 {
		if n := binary.BigEndian.Uint64(limit); n > 0 && n < 1<<62 {
			sc.left = int64(n)
		}
	}
	byNode := map[*as.Node]*part{}
	of := func(digest []byte) (*part, error) {
		key, err := as.NewKeyWithDigest(string(namespace), "", nil, digest)
		if err != nil {
			return nil, rejected(err)
		}
		node, failed := sc.sink.master(client, key)
		if failed != nil {
			return nil, failed
		}
		p := byNode[node]
		if p == nil {
			p = &part{node: node}
			byNode[node] = p
			sc.parts = append(sc.parts, p)
		}
		return p, nil
	}
	for id := range slices.Chunk(whole, 2) {
		digest := make([]byte, codec.DigestBytes)
		copy(digest, id) // a partition is twelve bits of the first two bytes
		p, err := of(digest)
		if err != nil {
			return err
		}
		p.whole = append(p.whole, id...)
	}
	for digest := range slices.Chunk(digests, codec.DigestBytes) {
		p, err := of(digest)
		if err != nil {
			return err
		}
		p.resumed = append(p.resumed, digest...)
		if indexed {
			p.values = append(p.values, values[:binValueBytes]...)
			values = values[binValueBytes:]
		}
	}
	return nil
}

// message is what a node gets.
func (sc *scan) message(p *part) []byte {
	m := *sc.sent
	m.Info1 &^= codec.Info1Compress
	m.Fields = slices.DeleteFunc(slices.Clone(m.Fields), func(f codec.Field) bool {
		return f.Type == codec.FieldPartitions || f.Type == codec.FieldDigests || f.Type == codec.FieldBinValues || f.Type == codec.FieldMaxRecords
	})
	if len(p.whole) > 0 {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldPartitions, Data: p.whole})
	}
	if len(p.resumed) > 0 {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldDigests, Data: p.resumed})
	}
	if len(p.values) > 0 {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldBinValues, Data: p.values})
	}
	if sc.left >= 0 {
		m.Fields = append(m.Fields, codec.Field{Type: codec.FieldMaxRecords, Data: binary.BigEndian.AppendUint64(nil, uint64(sc.left))})
	}
	m.Fields = withFilter(m.Fields, alive())
	out := codec.AppendMessage(make([]byte, codec.ProtoBytes), &m)
	codec.SetProto(out, codec.TypeMessage)
	return out
}

// run asks one node. Between two of its answers may lie the time-out of the socket.
func (sc *scan) run(ctx context.Context, p *part) (result codec.Result, err error) {
	s := sc.sink
	deadline := time.Now().Add(s.o.Timeouts.Total)
	conn, err := s.reach.connection(p.node, deadline)
	if err != nil {
		return codec.OK, err
	}
	whole := false // the answer was read to its end
	stop := context.AfterFunc(ctx, conn.Close)
	defer func() {
		if stop() && whole {
			p.node.PutConnection(conn)
			return
		}
		p.node.InvalidateConnection(conn)
	}()
	fail := func(err error) error {
		if ctx.Err() != nil {
			return gaveUp(ctx, notSent)
		}
		s.reach.doubt(p.node)
		return lostOn(p.node, err, notSent)
	}
	if err := conn.SetTimeout(time.Time{}, s.o.Timeouts.Socket); err != nil {
		return codec.OK, fail(err)
	}
	if _, err := conn.Write(sc.message(p)); err != nil {
		return codec.OK, fail(err)
	}
	for {
		body, err := receiveBody(conn)
		if err != nil {
			return codec.OK, fail(err)
		}
		records, err := codec.ParseMessages(body)
		if err != nil {
			return codec.OK, fail(err)
		}
		for _, r := range records {
			if r.Info3&codec.Info3Last != 0 || r.Info3&codec.Info3PartitionDone == 0 && r.Result != codec.OK {
				whole = r.Info3&codec.Info3Last != 0
				return r.Result, nil
			}
			if err := sc.record(r); err != nil {
				return codec.OK, err
			}
		}
	}
}

// record hands one record on, if it is a client's.
func (sc *scan) record(r *codec.Message) error {
	if r.Info3&codec.Info3PartitionDone != 0 {
		return sc.f(r)
	}
	namespace, _ := r.Field(codec.FieldNamespace)
	set, _ := r.Field(codec.FieldSet)
	bins := len(r.Ops) > 0
	r = unmarked(r)
	if sc.sink.Reserved(string(namespace), string(set)) || bins && len(r.Ops) == 0 {
		return nil
	}
	if sc.left > 0 {
		sc.left--
	}
	return sc.f(r)
}
