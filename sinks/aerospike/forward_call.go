package aerospike

import (
	"context"
	"errors"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/sinks"
)

// A user-defined function writes what it likes, and the guard cannot be among it. The
// server evaluates the message's filter all the same, on a record that is there, so the
// function runs on nothing else than what the log has made of the record; what it may
// have done to the guard is looked after in a message behind it.

var errNoCall = errors.New("sink aerospike: the message calls no function on a record")

// calls reports that a message calls a function on a record.
func calls(m *codec.Message) bool {
	_, is := m.Field(codec.FieldUDFPackage)
	return is && m.Info2&codec.Info2Write != 0
}

// Call has a function called on a record, as Forward does with other messages: the
// caller holds the key, upTo is the last LSN that a write to it can have. there: not
// on a record that is absent. removed says, whatever else became of it, that a record
// which the log knows is not there any more: its deletion has to be logged before the
// reply is shown, or what is applied again brings it back.
func (s *Sink) Call(ctx context.Context, m *codec.Message, upTo sinks.LSN, there bool) (reply *codec.Message, removed bool, err error) {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return nil, false, err
	}
	defer leave()
	client, err := s.connected(ctx)
	if err != nil {
		return nil, false, err
	}
	guard, err := s.owner.guard(ctx)
	if err != nil {
		return nil, false, surelyNot(err)
	}
	c := &call{forwarding: forwarding{sink: s, client: client, guard: guard}, forward: &forward{sent: m, upTo: upTo}, there: there}
	if !calls(m) {
		return nil, false, rejected(errNoCall)
	}
	if err := c.run(ctx); err != nil {
		return nil, c.removed, err
	}
	return unmarked(c.reply), c.removed, nil
}

// call is one Call under way.
type call struct {
	forwarding
	*forward
	there   bool
	exists  bool   // the record did, before the call
	before  uint32 // its generation
	removed bool
}

func (c *call) run(ctx context.Context) error {
	c.message = c.sent
	if c.key, c.err = keyOfMessage(c.sent); c.err != nil {
		return c.err
	}
	if c.admitCall(ctx); c.err != nil || c.reply != nil {
		return c.err
	}
	c.floor = c.sink.readFloor(c.place(), [codec.DigestBytes]byte(c.key.Digest()))
	for range rises {
		if err := c.see(ctx); err != nil || c.reply != nil {
			return err
		}
		if c.dead && !c.unearth(ctx) {
			continue
		}
		if c.err != nil {
			return c.err
		}
		again := c.send(ctx)
		if c.err == nil && !again {
			c.tidy(ctx)
		}
		if c.err != nil || !again {
			return c.err
		}
	}
	return sinks.WithOutcome(sinks.Retry, errContended)
}

// admitCall is admit for a function.
func (c *call) admitCall(ctx context.Context) {
	plain := *c.sent // admit knows it as a write
	plain.Fields = slices.DeleteFunc(slices.Clone(plain.Fields), func(f codec.Field) bool { return f.Type == codec.FieldUDFPackage })
	w := &forward{sent: &plain}
	c.admit(ctx, w)
	c.reply, c.err = w.reply, w.err
}

// ask sends one message about the record.
func (c *call) ask(ctx context.Context, m *codec.Message) *parcel {
	p := &parcel{key: c.key, message: m}
	c.sink.exchange(ctx, c.client, []*parcel{p})
	return p
}

// see finds out what the record is before the call.
func (c *call) see(ctx context.Context) error {
	p := c.ask(ctx, sight(c.key, c.guard))
	if p.err != nil {
		return surelyNot(p.err)
	}
	c.exists, c.before, c.kept, c.dead = false, 0, 0, false
	switch p.reply.Result {
	case codec.OK:
		c.exists, c.before = true, p.reply.Generation
		c.kept, c.dead = seen(p.reply, c.guard)
	case codec.NotFound:
	default:
		c.reply = p.reply
		return nil
	}
	if c.kept < c.floor {
		if c.missing(ctx, c.forward); c.err != nil {
			return c.err
		}
		c.dead = c.exists && c.kept > 0 && c.dead
	}
	if c.there && (!c.exists || c.dead) {
		c.reply = refusal(codec.NotFound)
	}
	return nil
}

// unearth removes what a deletion has left, so that the function finds no record, and
// reports whether it was still that. The deletion is in the log until it is settled.
func (c *call) unearth(ctx context.Context) bool {
	p := c.ask(ctx, &codec.Message{
		Header: codec.Header{Info2: codec.Info2Write | codec.Info2Delete | codec.Info2Generation, Generation: c.before},
		Fields: withFilter(fieldsOfKey(c.key), deceased()),
	})
	c.err = surelyNot(p.err)
	if p.err == nil && p.reply.Result != codec.OK && p.reply.Result != codec.NotFound {
		return false
	}
	c.removed, c.exists, c.dead, c.before, c.kept, c.floor = true, false, false, 0, 0, 0
	c.forget()
	return true
}

// send calls the function, on the record as it was seen. again: it is another one.
func (c *call) send(ctx context.Context) (again bool) {
	m := *c.sent
	m.Info1 &^= codec.Info1Compress
	m.Fields = withFilter(slices.Clip(m.Fields), alive())
	for _, filter := range c.bounds(c.forward) {
		m.Fields = withFilter(m.Fields, packed(filter))
	}
	p := c.ask(ctx, &m)
	c.reply, c.err = p.reply, p.err
	if c.err == nil && c.reply.Result == codec.FilteredOut && !filtered(c.sent) {
		c.reply = nil
		return true
	}
	return false
}

// tidy sees to what the function may have left: a record without the guard, or without
// anything but the guard, or none.
func (c *call) tidy(ctx context.Context) {
	if c.reply.Generation == c.before && c.exists || c.reply.Generation == 0 && !c.exists {
		return // it has written nothing
	}
	p := c.ask(ctx, &codec.Message{Header: codec.Header{Info1: codec.Info1Read | codec.Info1GetAll}, Fields: fieldsOfKey(c.key)})
	if p.err == nil && p.reply.Result == codec.NotFound {
		c.removed = c.removed || c.exists
		c.forget()
		return
	}
	c.removed = false
	err := p.err
	if err == nil {
		err = judgeResult(p.reply.Result)
	}
	if err == nil && !slices.ContainsFunc(p.reply.Ops, func(op codec.Op) bool { return !isOwn(string(op.Name)) }) {
		c.removed = true // of a record without bins none is to be left
		return
	}
	if err == nil {
		c.ends(voidAt(p.reply.TTL))
		kept, _ := seen(p.reply, c.guard)
		if c.guard == "" || c.upTo == 0 || kept >= c.upTo {
			return
		}
		err = c.guarded(ctx)
	}
	if err != nil { // it was done, and may be undone
		c.reply, c.err = nil, sinks.WithOutcome(sinks.Unknown, err)
	}
}

// guarded sets the guard behind a function.
func (c *call) guarded(ctx context.Context) error {
	m := &codec.Message{
		Header: codec.Header{Info2: codec.Info2Write, Info3: codec.Info3UpdateOnly, TTL: as.TTLDontUpdate},
		Fields: withFilter(fieldsOfKey(c.key), alive()), Ops: []codec.Op{guardOp(c.guard, c.upTo)},
	}
	c.floor = 0
	for _, filter := range c.bounds(c.forward) {
		m.Fields = withFilter(m.Fields, packed(filter))
	}
	p := c.ask(ctx, m)
	switch {
	case p.err != nil:
		return p.err
	case p.reply.Result == codec.OK:
		c.reply.Generation = p.reply.Generation
		return nil
	case p.reply.Result == codec.FilteredOut, p.reply.Result == codec.NotFound:
		return nil // somebody else has it by now
	}
	return judgeResult(p.reply.Result)
}

// forget notes that there is no record, which is not to be missed.
func (c *call) forget() { c.ends(time.Now().Add(-time.Hour)) }

// ends notes when the record ends, for it is not to be missed behind that.
func (c *call) ends(at time.Time) {
	c.sink.owner.mu.Lock()
	recent := c.sink.owner.mu.recent
	c.sink.owner.mu.Unlock()
	if recent == nil {
		return
	}
	e, ok := recent.find(c.spot())
	if !ok {
		return
	}
	e.dead, e.expires = false, at
	recent.note(c.spot(), e)
}

// voidAt is an end as the server says it, in seconds since 2010; 0: never.
func voidAt(seconds uint32) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}
