package aerospike

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/sinks"
)

// parcel is a message for one record that the client's API cannot build, on its way
// to the node that owns the record's partition.
type parcel struct {
	key     *as.Key
	message *codec.Message
	answer
}

// answer is what became of a parcel: a reply, or an error with its outcome.
type answer struct {
	reply *codec.Message
	err   error
}

// writes reports whether the message may change something.
func (p *parcel) writes() bool { return p.message.Info2&codec.Info2Write != 0 }

const (
	// trainBytes of messages are sent at most before their answers are read: a node
	// that cannot get rid of an answer reads no further, and these fit into what lies
	// between.
	trainBytes = 32 << 10
	// trainParcels is how many those are at most.
	trainParcels = 64
	// trainsMax run at once, of one call.
	trainsMax = 8
)

// train is what is sent to a node in one go, over one connection: a node does the
// messages of a connection in their order.
type train struct {
	node     *as.Node
	parcels  []*parcel
	messages [][]byte
	bytes    int
}

// exchange sends parcels, each to the master of its partition, and sets what became
// of them. No two that write are of one record. The caller has entered. Once the
// context has ended messages may still be on their way, but no parcel is in use.
func (s *Sink) exchange(ctx context.Context, client *as.Client, parcels []*parcel) {
	var policy as.BasePolicy
	if err := s.timeouts(ctx, &policy); err != nil {
		for _, p := range parcels {
			p.answer = answer{err: err}
		}
		return
	}
	deadline := time.Now().Add(policy.TotalTimeout)
	for range stale {
		s.send(ctx, client, parcels, deadline, policy.SocketTimeout)
		parcels = slices.DeleteFunc(slices.Clone(parcels), func(p *parcel) bool {
			return codeOf(p.err) != types.NETWORK_ERROR || sinks.OutcomeOf(p.err) != sinks.Retry || errors.Is(p.err, sinks.ErrAway)
		})
		if len(parcels) == 0 {
			return
		}
	}
}

// stale is how often what was surely not done is sent over one more connection: a
// node that was restarted has ended those of the pool, which shows when they are used.
const stale = 3

func (s *Sink) send(ctx context.Context, client *as.Client, parcels []*parcel, deadline time.Time, socket time.Duration) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, trainsMax)
	for _, t := range s.trains(client, parcels, time.Until(deadline)) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answers, err := wait(ctx, s, slices.ContainsFunc(t.parcels, (*parcel).writes), func() ([]answer, error) {
				return s.carry(t, deadline, socket), nil
			})
			for i, p := range t.parcels {
				if err != nil {
					p.answer = answer{err: gaveUp(ctx, p.writes())}
				} else {
					p.answer = answers[i]
				}
			}
		})
	}
	wg.Wait()
}

// trains puts parcels together by their nodes. Those that have none fail.
func (s *Sink) trains(client *as.Client, parcels []*parcel, timeout time.Duration) []*train {
	var list []*train
	last := map[*as.Node]*train{}
	for _, p := range parcels {
		node, err := s.master(client, p.key)
		if err != nil {
			p.answer = answer{err: err}
			continue
		}
		message := p.encode(timeout)
		t := last[node]
		if t == nil || len(t.parcels) >= trainParcels || t.bytes+len(message) > trainBytes {
			t = &train{node: node}
			last[node] = t
			list = append(list, t)
		}
		t.parcels, t.messages, t.bytes = append(t.parcels, p), append(t.messages, message), t.bytes+len(message)
	}
	return list
}

// master is the node that a key is written and read at. Errors are marked: nothing
// was sent.
func (s *Sink) master(client *as.Client, key *as.Key) (*as.Node, error) {
	partition, err := as.PartitionForWrite(client.Cluster(), &as.BasePolicy{ReplicaPolicy: as.MASTER}, key)
	if err != nil {
		return nil, judge(err, notSent)
	}
	node, err := partition.GetNodeWrite(client.Cluster())
	if err != nil {
		return nil, away(err)
	}
	return node, s.reach.away(node)
}

// encode is the message as it is sent. The node may take as long as the caller.
func (p *parcel) encode(timeout time.Duration) []byte {
	m := *p.message
	own, left := time.Duration(m.Timeout)*time.Millisecond, max(timeout, time.Millisecond)
	if own == 0 || own > left {
		m.Timeout = uint32(left / time.Millisecond)
	}
	out := codec.AppendMessage(make([]byte, codec.ProtoBytes), &m)
	codec.SetProto(out, codec.TypeMessage)
	return out
}

// carry sends a train and reads the answers. It uses of the parcels only what they
// are, not what became of them.
func (s *Sink) carry(t *train, deadline time.Time, socket time.Duration) []answer {
	answers := make([]answer, len(t.parcels))
	conn, err := s.reach.connection(t.node, deadline)
	if err != nil {
		for i := range answers {
			answers[i].err = err
		}
		return answers
	}
	got := 0
	sent, err := t.send(conn, deadline, socket)
	for ; err == nil && got < len(answers); got++ {
		var reply *codec.Message
		if reply, err = receive(conn); err != nil {
			break
		}
		answers[got].reply = reply
	}
	if err == nil {
		t.node.PutConnection(conn)
		return answers
	}
	t.node.InvalidateConnection(conn)
	s.reach.doubt(t.node)
	for i := got; i < len(answers); i++ {
		answers[i].err = lostOn(t.node, err, i < sent && t.parcels[i].writes())
	}
	return answers
}

// send returns how many of the messages have left, if only in part.
func (t *train) send(conn *as.Connection, deadline time.Time, socket time.Duration) (sent int, err error) {
	if err := conn.SetTimeout(deadline, socket); err != nil {
		return 0, err
	}
	all := make([]byte, 0, t.bytes)
	for _, m := range t.messages {
		all = append(all, m...)
	}
	n, failed := conn.Write(all)
	if failed == nil {
		return len(t.messages), nil
	}
	for sent < len(t.messages) && n > 0 {
		n -= len(t.messages[sent])
		sent++
	}
	return sent, failed
}

// receive reads one answer about one record.
func receive(conn *as.Connection) (*codec.Message, error) {
	body, err := receiveBody(conn)
	if err != nil {
		return nil, err
	}
	return codec.ParseMessage(body)
}

// receiveBody reads one message, of one record or many.
func receiveBody(conn *as.Connection) ([]byte, error) {
	var head [codec.ProtoBytes]byte
	if _, err := conn.Read(head[:], len(head)); err != nil {
		return nil, err
	}
	proto, err := codec.ParseProto(head[:], codec.SizeMax)
	if err != nil {
		return nil, err
	}
	if proto.Type != codec.TypeMessage {
		return nil, fmt.Errorf("%w: an answer of type %d", codec.ErrMalformed, proto.Type)
	}
	body := make([]byte, 0, min(proto.Size, receiveBytes))
	for len(body) < proto.Size { // memory is taken as it comes, not as it was announced
		n := min(proto.Size-len(body), receiveBytes)
		body = append(body, make([]byte, n)...)
		if _, err := conn.Read(body[len(body)-n:], n); err != nil {
			return nil, err
		}
	}
	return body, nil
}

const receiveBytes = 1 << 20

// lostOn is the error of a message that got no answer. sent: it may have been done.
func lostOn(node *as.Node, err error, sent bool) error {
	var said *as.AerospikeError
	if errors.As(err, &said) {
		return judge(said, sent)
	}
	return sinks.WithOutcome(unless(sent, sinks.Unknown, sinks.Retry), fmt.Errorf("sink aerospike: node %s: %w", node.GetName(), err))
}
