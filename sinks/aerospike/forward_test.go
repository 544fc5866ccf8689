package aerospike

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// message is one for the record that name stands for in the sink's set.
func message(t testing.TB, s *Sink, name string, info1, info2, info3 byte, ops ...codec.Op) *codec.Message {
	t.Helper()
	key, _, err := s.o.keyOf(collection, mutation.String(name))
	if err != nil {
		t.Fatal(err)
	}
	return &codec.Message{Header: codec.Header{Info1: info1, Info2: info2, Info3: info3}, Fields: fieldsOfKey(key), Ops: ops}
}

func intOp(kind byte, bin string, n int64) codec.Op {
	return codec.Op{Type: kind, Particle: value.ParticleInteger, Name: []byte(bin), Value: binary.BigEndian.AppendUint64(nil, uint64(n))}
}

func readOp(bin string) codec.Op { return codec.Op{Type: codec.OpRead, Name: []byte(bin)} }

// forwarder forwards one message after the other.
type forwarder struct {
	*testing.T
	s *Sink
}

func (f forwarder) forward(ms ...*codec.Message) ([]*codec.Message, []error) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	return f.s.Forward(ctx, ms, nil)
}

// one wants a reply, and returns its result and bins.
func (f forwarder) one(m *codec.Message) string {
	f.Helper()
	replies, errs := f.forward(m)
	if errs[0] != nil {
		f.Fatal(errs[0])
	}
	return said(f, replies[0])
}

func said(t testing.TB, m *codec.Message) string {
	text := []string{fmt.Sprint(m.Result)}
	for _, op := range m.Ops {
		v, err := value.Particle{Type: op.Particle, Data: op.Value}.Value()
		switch {
		case err != nil:
			t.Fatal(err)
		case v.IsInt():
			text = append(text, fmt.Sprintf("%s=%d", op.Name, v.Int64()))
		default:
			text = append(text, fmt.Sprintf("%s=%x", op.Name, op.Value))
		}
	}
	return strings.Join(text, " ")
}

const (
	getAll = codec.Info1Read | codec.Info1GetAll
	wr     = codec.Info2Write
)

// TestForward: replies are the server's, and show nothing of what walproxy keeps in a
// record; a record of which only that is left is absent.
func TestForward(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	own := mustOwn(t, s, uuid.New(), true)
	f := forwarder{t, s}
	want := func(what string, m *codec.Message, want string) {
		t.Helper()
		if got := f.one(m); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	msg := func(name string, info1, info2, info3 byte, ops ...codec.Op) *codec.Message {
		return message(t, s, name, info1, info2, info3, ops...)
	}
	write := intOp(codec.OpWrite, "n", 7)
	wrong := msg("live", getAll, 0, 0)
	wrong.Fields = withFilter(wrong.Fields, packed(as.ExpEq(as.ExpIntBin("n"), as.ExpIntVal(99))))

	own.must(add("live", 1))
	want("get", msg("live", getAll, 0, 0), "aerowire: ok n=1")
	want("add and read", msg("live", codec.Info1Read, wr, 0, intOp(codec.OpIncrement, "n", 4), readOp("n")), "aerowire: ok n=5")
	want("its own filter", wrong, "aerowire: filtered out")
	want("create what is there", msg("live", 0, wr|codec.Info2CreateOnly, 0, write), "aerowire: record exists")
	want("get what is not there", msg("never", getAll, 0, 0), "aerowire: not found")
	want("update what is not there", msg("never", 0, wr, codec.Info3UpdateOnly, write), "aerowire: not found")
	want("replace", msg("live", 0, wr, codec.Info3CreateOrReplace, intOp(codec.OpWrite, "m", 8)), "aerowire: ok")
	want("get it", msg("live", getAll, 0, 0), "aerowire: ok m=8")
	if doc, err := s.Read(t.Context(), collection, mutation.String("live")); err != nil || doc.Version != 1 {
		t.Errorf("a replaced record reads as %v (%v), want version 1", doc, err)
	}

	for _, c := range []struct {
		name string
		m    *codec.Message
		want string
		left string
	}{
		{"get", msg("", getAll, 0, 0), "aerowire: not found", "aerowire: not found"},
		{"exists", msg("", codec.Info1Read|codec.Info1NoBins, 0, 0), "aerowire: not found", "aerowire: not found"},
		{"update", msg("", 0, wr, codec.Info3UpdateOnly, write), "aerowire: not found", "aerowire: not found"},
		{"touch", msg("", 0, wr, 0, codec.Op{Type: codec.OpTouch}), "aerowire: not found", "aerowire: not found"},
		{"replace only", msg("", 0, wr, codec.Info3ReplaceOnly, write), "aerowire: not found", "aerowire: not found"},
		{"create", msg("", 0, wr|codec.Info2CreateOnly, 0, write), "aerowire: ok", "aerowire: ok n=7"},
		{"put", msg("", 0, wr, 0, write), "aerowire: ok", "aerowire: ok n=7"},
		{"replace", msg("", 0, wr, codec.Info3CreateOrReplace, write), "aerowire: ok", "aerowire: ok n=7"},
		{"add and read", msg("", codec.Info1Read, wr, 0, intOp(codec.OpIncrement, "n", 4), readOp("n")), "aerowire: ok n=4", "aerowire: ok n=4"},
		{"filtered read", &codec.Message{Header: codec.Header{Info1: getAll}, Fields: wrong.Fields}, "aerowire: not found", "aerowire: not found"},
		{"filtered put", &codec.Message{Header: codec.Header{Info2: wr}, Fields: wrong.Fields, Ops: []codec.Op{write}}, "aerowire: ok", "aerowire: ok n=7"},
		{"of a generation", &codec.Message{Header: codec.Header{Info2: wr | codec.Info2Generation, Generation: 2}, Ops: []codec.Op{write}}, "aerowire: generation", "aerowire: not found"},
	} {
		name := "dead " + c.name
		own.must(add(name, 1))
		own.must(remove(name))
		version := own.cp.Lanes[0].LSN
		at := msg(name, 0, 0, 0).Fields
		if filter, ok := c.m.Field(codec.FieldFilter); ok {
			at = withFilter(at, filter)
		}
		c.m.Fields = at
		want(name, c.m, c.want)
		want(name+", then", msg(name, getAll, 0, 0), c.left)
		if doc, err := s.Read(t.Context(), collection, mutation.String(name)); err == nil && doc.Version != version {
			t.Errorf("%s: version %v, want %v", name, doc.Version, version)
		}
	}
}

// TestForwardMany: many messages at once, of which each has its own reply.
func TestForwardMany(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	mustOwn(t, s, uuid.New(), true)
	f := forwarder{t, s}
	const n = 500
	large := make([]byte, 2*trainBytes)
	var writes, reads []*codec.Message
	for i := range n {
		ops := []codec.Op{intOp(codec.OpWrite, "n", int64(i))}
		if i%100 == 0 {
			ops = append(ops, codec.Op{Type: codec.OpWrite, Particle: value.ParticleBlob, Name: []byte("b"), Value: large})
		}
		writes = append(writes, message(t, s, fmt.Sprint(i), 0, wr, 0, ops...))
		reads = append(reads, message(t, s, fmt.Sprint(i), codec.Info1Read, 0, 0, readOp("n")))
	}
	gone := message(t, s, "gone", 0, wr|codec.Info2Delete, 0)
	replies, errs := f.forward(append(writes, gone)...)
	for i := range writes {
		if errs[i] != nil || replies[i].Result != codec.OK {
			t.Fatalf("write %d: %v, %v", i, replies[i], errs[i])
		}
	}
	if !errors.Is(errs[n], errDeletes) || sinks.OutcomeOf(errs[n]) != sinks.Rejected {
		t.Errorf("a deletion: %v, want it refused", errs[n])
	}
	replies, errs = f.forward(reads...)
	for i := range reads {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if got, want := said(t, replies[i]), fmt.Sprintf("aerowire: ok n=%d", i); got != want {
			t.Fatalf("read %d: %s, want %s", i, got, want)
		}
	}
}

// TestForwardAway: a cluster that cannot be connected to, one that does not answer and
// one that is gone: what was sent is in doubt, what comes after is refused at once, and
// all goes on when the cluster is back.
func TestForwardAway(t *testing.T) {
	t.Parallel()
	l, err := newLinks(common.at(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.cut()
	o := options(t)
	o.Hosts = l.addrs()
	s := open(t, o)
	mustOwn(t, s, uuid.New(), true)
	f := forwarder{t, s}
	put := func() *codec.Message { return message(t, s, "k", 0, wr, 0, intOp(codec.OpWrite, "n", 1)) }
	get := func() *codec.Message { return message(t, s, "k", getAll, 0, 0) }
	if got := f.one(put()); got != "aerowire: ok" || s.Away() != nil {
		t.Fatal(got, s.Away())
	}

	release := l.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, errs := s.Forward(ctx, []*codec.Message{put(), message(t, s, "other", getAll, 0, 0)}, nil)
	if sinks.OutcomeOf(errs[0]) != sinks.Unknown || sinks.OutcomeOf(errs[1]) != sinks.Retry {
		t.Fatalf("without an answer: %v is %v, %v is %v; want unknown and retry", errs[0], sinks.OutcomeOf(errs[0]), errs[1], sinks.OutcomeOf(errs[1]))
	}
	refused := func() {
		t.Helper()
		soon(t, "the cluster is known to be away", func() bool { return s.Away() != nil })
		_, errs := f.forward(put(), get())
		for _, err := range errs {
			if !errors.Is(err, sinks.ErrAway) || sinks.OutcomeOf(err) != sinks.Retry {
				t.Fatalf("%v is %v; want ErrAway, retry", err, sinks.OutcomeOf(err))
			}
		}
	}
	refused()
	release()
	soon(t, "the cluster is back", func() bool { return s.Away() == nil })
	if got := f.one(get()); got != "aerowire: ok n=1" {
		t.Error(got)
	}

	l.cut()
	client, err := s.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range client.GetNodes() { // no connection is left that would end
		for conn, err := n.GetConnection(20 * time.Millisecond); err == nil; conn, err = n.GetConnection(20 * time.Millisecond) {
			n.InvalidateConnection(conn)
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second) // below the sink's time-outs
	defer cancel()
	if _, errs := s.Forward(ctx, []*codec.Message{get()}, nil); !errors.Is(errs[0], sinks.ErrAway) || ctx.Err() != nil {
		t.Fatalf("%v; want ErrAway, long before the time-outs", errs[0])
	}
	refused()

	nobody := open(t, o) // nothing listens there any more
	if _, errs := nobody.Forward(t.Context(), []*codec.Message{get()}, nil); !errors.Is(errs[0], sinks.ErrAway) {
		t.Errorf("%v; want ErrAway", errs[0])
	}
	if err := nobody.Away(); !errors.Is(err, sinks.ErrAway) {
		t.Errorf("%v; want ErrAway", err)
	}
}
