package aerospike

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
	"github.com/walproxy/walproxy/api/aerowire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// rawCollection holds records that commands write; its keys are digests.
const rawCollection = "raw"

// rawKey is the record of a name there.
func rawKey(t testing.TB, s *Sink, name string) *as.Key {
	t.Helper()
	p, err := s.o.placeOf(rawCollection)
	if err != nil {
		t.Fatal(err)
	}
	key, failed := as.NewKey(p.Namespace, p.Set, name)
	if failed != nil {
		t.Fatal(failed)
	}
	return key
}

func digestOf(key *as.Key) *walproxyv1.Key { return mutation.Bytes(key.Digest()) }

// raw is a command for the record of a name.
func raw(t testing.TB, s *Sink, name string, ops ...codec.Op) *codec.Message {
	t.Helper()
	return &codec.Message{Header: codec.Header{Info2: wr, TTL: command.TTLNever}, Fields: fieldsOfKey(rawKey(t, s, name)), Ops: ops}
}

func rawAdd(t testing.TB, s *Sink, name string, n int64) *codec.Message {
	return raw(t, s, name, intOp(codec.OpIncrement, "n", n))
}

// rawAppend appends to the list "l".
func rawAppend(t testing.TB, s *Sink, name string, n int) *codec.Message {
	item := value.OfInt(int64(n))
	return raw(t, s, name, codec.Op{Type: codec.OpCDTModify, Particle: value.ParticleBlob, Name: []byte("l"),
		Value: value.Append(binary.BigEndian.AppendUint16(nil, 1), value.OfList([]value.Value{item}, 0))})
}

// recordOf is a message as a record of the log.
func recordOf(m *codec.Message) *walproxyv1.Record {
	digest, _ := m.Field(codec.FieldDigest)
	return &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Command{Command: &walproxyv1.Command{
		Message: codec.AppendMessage(nil, m), Collection: rawCollection, Key: mutation.Bytes(digest)}}}
}

// of appends records to a batch: messages and mutations.
func (d *direct) of(bodies ...any) *sinks.Batch {
	b := &sinks.Batch{}
	for _, body := range bodies {
		d.lsn++
		r := sinks.Record{LSN: d.lsn, Accepted: time.Now()}
		switch body := body.(type) {
		case *codec.Message:
			if err := command.Check(body); err != nil {
				d.Fatal(err)
			}
			r.Body = recordOf(body)
		case *walproxyv1.Mutation:
			r.Body = &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Mutation{Mutation: body}}
		}
		b.Records = append(b.Records, r)
	}
	return b
}

// bins are a record's, without walproxy's; nil: it is absent.
func (d *direct) bins(name string) as.BinMap {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	client, err := d.s.client(ctx)
	if err != nil {
		d.Fatal(err)
	}
	r, err := d.s.get(ctx, client, rawKey(d, d.s, name), nil)
	if codeOf(err) == 2 {
		return nil
	}
	if err != nil {
		d.Fatal(err)
	}
	if r.Bins[binDead] != nil {
		return nil
	}
	for bin := range r.Bins {
		if isOwn(bin) {
			delete(r.Bins, bin)
		}
	}
	return r.Bins
}

func (d *direct) holds(name, want string) {
	d.Helper()
	got := "absent"
	if bins := d.bins(name); bins != nil {
		got = fmt.Sprint(bins)
	}
	if got != want {
		d.Fatalf("%s holds %s, want %s", name, got, want)
	}
}

// TestCommandOrder: commands and mutations of a key are done in their order, each
// once, however often they are sent.
func TestCommandOrder(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	k := digestOf(rawKey(t, d.s, "k"))
	text := func(s string) *walproxyv1.Mutation {
		return must(mutation.Append(rawCollection, k, fields{"text": s}))
	}
	rawText := func(s string) *codec.Message {
		return raw(t, d.s, "k", codec.Op{Type: codec.OpAppend, Particle: value.ParticleString, Name: []byte("text"), Value: []byte(s)})
	}
	var all []*sinks.Batch
	for _, c := range []struct {
		bodies []any
		want   string
	}{
		{[]any{rawAdd(t, d.s, "k", 1), rawAdd(t, d.s, "k", 10), rawAppend(t, d.s, "k", 5), rawAppend(t, d.s, "k", 6)}, "map[l:[5 6] n:11]"},
		{[]any{text("a"), rawText("b"), rawText("c"), text("d"), text("e"), rawText("f")}, "map[l:[5 6] n:11 text:abcdef]"},
		{[]any{rawAdd(t, d.s, "k", 1), mutation.Delete(rawCollection, k), rawAdd(t, d.s, "k", 3)}, "map[n:3]"},
		{[]any{mutation.Delete(rawCollection, k)}, "absent"},
		{[]any{raw(t, d.s, "k", codec.Op{Type: codec.OpTouch})}, "absent"},
		{[]any{rawAdd(t, d.s, "k", 4), rawText("x")}, "map[n:4 text:x]"},
		{[]any{mutation.Delete(rawCollection, k), raw(t, d.s, "k", intOp(codec.OpWrite, "m", 1)), rawAdd(t, d.s, "other", 1)}, "map[m:1]"},
	} {
		b := d.of(c.bodies...)
		d.want(b, sinks.Applied)
		d.holds("k", c.want)
		all = append(all, b)
		for _, again := range all {
			d.want(again, sinks.Applied)
		}
		d.holds("k", c.want)
	}
	replace := raw(t, d.s, "k", intOp(codec.OpWrite, "r", 1))
	replace.Info3 = codec.Info3CreateOrReplace
	b := d.of(replace, rawAdd(t, d.s, "k", 2))
	d.want(b, sinks.Applied)
	d.want(b, sinks.Applied)
	d.holds("k", "map[n:2 r:1]")
	d.holds("other", "map[n:1]")
}

// TestCommandEmpties: a record that a command leaves without a bin is none, and one is
// not made by a command that only takes away.
func TestCommandEmpties(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	none := codec.Op{Type: codec.OpWrite, Name: []byte("n")}
	clears := codec.Op{Type: codec.OpCDTModify, Particle: value.ParticleBlob, Name: []byte("l"), Value: []byte{0, 11}}
	for _, c := range []struct {
		bodies []any
		want   string
	}{
		{[]any{raw(t, d.s, "k", none)}, "absent"},
		{[]any{raw(t, d.s, "k", clears)}, "absent"},
		{[]any{raw(t, d.s, "k", none), rawAdd(t, d.s, "k", 1)}, "map[n:1]"},
		{[]any{raw(t, d.s, "k", none)}, "absent"},
		{[]any{rawAdd(t, d.s, "k", 1), rawAppend(t, d.s, "k", 1), raw(t, d.s, "k", clears, none)}, "map[l:[]]"},
		{[]any{raw(t, d.s, "k", codec.Op{Type: codec.OpWrite, Name: []byte("l")})}, "absent"},
		{[]any{raw(t, d.s, "k", none, clears), rawAdd(t, d.s, "k", 4)}, "map[n:4]"},
	} {
		b := d.of(c.bodies...)
		for range 2 {
			d.want(b, sinks.Applied)
			d.holds("k", c.want)
		}
	}
}

// TestCommandRejected: of commands that go together the one that is to blame is
// rejected, those before it are applied, and a later one of its key is not.
func TestCommandRejected(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	bad := raw(t, d.s, "k", codec.Op{Type: codec.OpAppend, Particle: value.ParticleString, Name: []byte("n"), Value: []byte("x")})
	b := d.of(rawAdd(t, d.s, "k", 1), rawAdd(t, d.s, "k", 2), bad, rawAdd(t, d.s, "k", 4), rawAdd(t, d.s, "other", 1))
	results := d.want(b, sinks.Applied, sinks.Applied, sinks.Rejected, sinks.Retry, sinks.Applied)
	if codeOf(results[2].Err) != 12 {
		t.Errorf("%v; want result 12", results[2].Err)
	}
	d.holds("k", "map[n:3]")
	d.want(&sinks.Batch{Records: slices.Delete(b.Records, 2, 3)}, sinks.Applied) // it became a dead letter
	d.holds("k", "map[n:7]")
}

// TestCommandTime: a time to live counts from when the command was accepted.
func TestCommandTime(t *testing.T) {
	t.Parallel()
	d := newDirect(t, options(t))
	put := func(name string, ttl uint32, ago time.Duration) *as.Record {
		t.Helper()
		m := rawAdd(t, d.s, name, 1)
		m.TTL = ttl
		b := d.of(m)
		b.Records[0].Accepted = time.Now().Add(-ago)
		d.want(b, sinks.Applied)
		d.want(b, sinks.Applied)
		client, err := d.s.client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.s.get(t.Context(), client, rawKey(t, d.s, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := put("left", 1000, 400*time.Second); r.Expiration < 300 || r.Expiration > 600 {
		t.Errorf("of 1000 s accepted 400 s ago %d are left", r.Expiration)
	}
	for name, ttl := range map[string]uint32{"default": command.TTLDefault, "never": command.TTLNever, "as it is": command.TTLDontUpdate} {
		if r := put(name, ttl, time.Hour); r.Expiration != as.TTLDontExpire {
			t.Errorf("%s: expires in %d s", name, r.Expiration)
		}
	}
	if r := put("left", command.TTLDontUpdate, 0); r.Expiration > 600 || r.Bins["n"] != 2 {
		t.Errorf("a write that leaves the time as it is: expires in %d s, %v", r.Expiration, r.Bins)
	}
	put("late", 10, time.Minute)
	d.holds("late", "absent")
	d.want(d.of(rawAdd(t, d.s, "late", 5)), sinks.Applied)
	d.holds("late", "map[n:5]")
}

// TestCommandHalts: what is no command that the sink can apply, or is for another
// record than its collection and key say, stops the sink; nothing is skipped.
func TestCommandHalts(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	good := recordOf(rawAdd(t, s, "k", 1)).GetCommand()
	change := func(f func(c *walproxyv1.Command)) *walproxyv1.Command {
		c := &walproxyv1.Command{Message: good.Message, Collection: good.Collection, Key: good.Key}
		f(c)
		return c
	}
	reads := rawAdd(t, s, "k", 1)
	reads.Info1 = codec.Info1Read
	for name, c := range map[string]*walproxyv1.Command{
		"cut off":         change(func(c *walproxyv1.Command) { c.Message = c.Message[:30] }),
		"reads":           change(func(c *walproxyv1.Command) { c.Message = codec.AppendMessage(nil, reads) }),
		"another record":  change(func(c *walproxyv1.Command) { c.Key = digestOf(rawKey(t, s, "other")) }),
		"another set":     change(func(c *walproxyv1.Command) { c.Collection = collection; c.Key = mutation.String("k") }),
		"no digest":       change(func(c *walproxyv1.Command) { c.Key = mutation.String("k") }),
		"no such setting": change(func(c *walproxyv1.Command) { c.Collection = "unmapped" }),
	} {
		b := &sinks.Batch{Records: []sinks.Record{{LSN: 7, Body: &walproxyv1.Record{Format: 1, Body: &walproxyv1.Record_Command{Command: c}}}}}
		if _, err := s.phases(b); sinks.OutcomeOf(err) != sinks.Halt || !errors.Is(err, errCommand) || !bytes.Contains([]byte(err.Error()), []byte("LSN 7")) {
			t.Errorf("%s: %v is %v; want a halt that names LSN 7", name, err, sinks.OutcomeOf(err))
		}
	}
}

// TestCommandUnknown: answers are lost, and what was sent is sent again.
func TestCommandUnknown(t *testing.T) {
	t.Parallel()
	l, err := newLinks(common.at(t))
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	near := o.Hosts
	o.Hosts = l.addrs()
	first := newDirect(t, o)
	b := first.of(rawAdd(t, first.s, "k", 1))
	first.want(b, sinks.Applied)
	b2 := first.of(rawAdd(t, first.s, "k", 2), rawAppend(t, first.s, "k", 1), rawAppend(t, first.s, "l", 1))
	l.lose()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, r := range first.applyCtx(ctx, b2) {
		if r.Outcome != sinks.Unknown {
			t.Fatalf("without an answer it is %v (%v), want unknown", r.Outcome, r.Err)
		}
	}
	l.cut()
	o.Hosts = near
	second := &direct{T: t, s: open(t, o), guard: first.guard, window: noWindow{}, lsn: first.lsn}
	for range 2 {
		second.want(b2, sinks.Applied)
	}
	second.holds("k", "map[l:[1] n:3]")
	second.holds("l", "map[l:[1]]")
}

// TestCommandsApplied: many commands by the owner of a stream, of which all are lost
// and applied again.
func TestCommandsApplied(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	stream := uuid.New()
	own := mustOwn(t, s, stream, true)
	const keys, each = 40, 25
	b := &sinks.Batch{Epoch: own.cp.Epoch}
	for i := range keys * each {
		m := rawAppend(t, s, fmt.Sprint(i%keys), i/keys)
		m.Ops = append(m.Ops, intOp(codec.OpIncrement, "n", 1))
		b.Records = append(b.Records, sinks.Record{LSN: sinks.LSN(i + 1), Accepted: time.Now(), Body: recordOf(m)})
	}
	b.Moves = []sinks.Move{{From: own.cp.Lanes[0], To: sinks.Point{Incarnation: own.inc, LSN: keys * each}}}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		results, err := own.s.Apply(ctx, b)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Outcome != sinks.Applied {
				t.Fatalf("LSN %d: %v (%v)", i+1, r.Outcome, r.Err)
			}
		}
		next := mustOwn(t, s, stream, false) // back to the settled point
		b.Epoch, b.Moves[0].From = next.cp.Epoch, next.cp.Lanes[0]
	}
	d := &direct{T: t, s: s}
	want := make([]int, each)
	for i := range want {
		want[i] = i
	}
	for i := range keys {
		d.holds(fmt.Sprint(i), fmt.Sprintf("map[l:%v n:%d]", want, each))
		doc, err := s.Read(t.Context(), rawCollection, digestOf(rawKey(t, s, fmt.Sprint(i))))
		if version := sinks.LSN((each-1)*keys + i + 1); err != nil || doc.Version != version {
			t.Fatalf("%d has version %v (%v), want %v", i, doc, err, version)
		}
	}
}

// tap is a way to the nodes that keeps the last message that a client has sent.
type tap struct {
	listeners []net.Listener
	wg        sync.WaitGroup

	mu   sync.Mutex
	last *codec.Message
}

func newTap(t *testing.T, to []string) *tap {
	t.Helper()
	p := &tap{}
	t.Cleanup(func() {
		for _, l := range p.listeners {
			l.Close()
		}
		p.wg.Wait()
	})
	for _, node := range to {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.listeners = append(p.listeners, listener)
		p.wg.Go(func() { p.accept(listener, node) })
	}
	return p
}

func (p *tap) accept(listener net.Listener, node string) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", node)
		if err != nil {
			near.Close()
			continue
		}
		p.wg.Go(func() {
			io.Copy(near, far)
			near.Close()
		})
		p.wg.Go(func() {
			p.relay(far, near)
			far.Close()
		})
	}
}

func (p *tap) relay(to, from net.Conn) {
	for {
		head := make([]byte, codec.ProtoBytes)
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		proto, err := codec.ParseProto(head, codec.SizeMax)
		if err != nil {
			return
		}
		body := make([]byte, proto.Size)
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		if proto.Type == codec.TypeMessage {
			if m, err := codec.ParseMessage(body); err == nil {
				p.mu.Lock()
				p.last = m
				p.mu.Unlock()
			}
		}
		if _, err := to.Write(append(head, body...)); err != nil {
			return
		}
	}
}

func (p *tap) client(t *testing.T) *as.Client {
	t.Helper()
	var hosts []*as.Host
	for _, l := range p.listeners {
		at := l.Addr().(*net.TCPAddr)
		hosts = append(hosts, as.NewHost(at.IP.String(), at.Port))
	}
	policy := as.NewClientPolicy()
	policy.SeedOnlyCluster, policy.Timeout = true, 30*time.Second
	c, failed := as.NewClientWithPolicyAndHost(policy, hosts...)
	if failed != nil {
		t.Fatal(failed)
	}
	t.Cleanup(c.Close)
	return c
}

// TestCommandsAreDirect: every operation of the official client that changes a bin,
// in contexts too, does through the log and the sink what it does sent directly.
func TestCommandsAreDirect(t *testing.T) {
	t.Parallel()
	p := newTap(t, common.at(t))
	client := p.client(t)
	d := newDirect(t, options(t))
	policy := as.NewWritePolicy(0, as.TTLDontExpire)
	policy.TotalTimeout, policy.MaxRetries = time.Minute, 0
	before := as.BinMap{"n": 5, "s": "text", "b": []byte{1, 2, 3, 4}, "l": []any{3, 1, 2, 1, []any{1, 2}},
		"m": map[any]any{"a": 1, "b": map[any]any{"c": 2, "l": []any{7, 8}}, "z": 9}}
	for i, ops := range operations() {
		name := fmt.Sprint("direct ", i)
		for _, k := range []string{name, name + " logged"} {
			if err := client.Put(policy, rawKey(t, d.s, k), before); err != nil {
				t.Fatal(err)
			}
		}
		_, failed := client.Operate(policy, rawKey(t, d.s, name), ops...)
		p.mu.Lock()
		m := *p.last
		p.mu.Unlock()
		m.Info2 &^= codec.Info2RespondAll
		m.Fields = fieldsOfKey(rawKey(t, d.s, name+" logged"))
		if command.Check(&m) != nil && failed != nil {
			continue // it is wrong whatever the record is
		}
		b := d.of(&m)
		if failed != nil {
			results := d.want(b, sinks.Rejected)
			if codeOf(results[0].Err) != failed.(*as.AerospikeError).ResultCode {
				t.Errorf("%s (%s): %v, directly %v", name, command.Name(&m.Ops[0]), results[0].Err, failed)
			}
		} else {
			d.want(b, sinks.Applied)
			d.want(b, sinks.Applied)
		}
		if got, want := fmt.Sprint(d.bins(name+" logged")), fmt.Sprint(d.bins(name)); got != want {
			t.Errorf("%s (%s): %s\n directly %s", name, command.Name(&m.Ops[0]), got, want)
		}
	}
}
