package aerospike

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks"
)

// errCommand: a command is in the log that the sink cannot apply as it is.
var errCommand = errors.New("the command cannot be applied")

// parseCommand reads a command that was logged, and holds it against the place that
// its collection has now.
func parseCommand(c *walproxyv1.Command, w *work) (*codec.Message, error) {
	m, err := codec.ParseMessage(c.GetMessage())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCommand, err)
	}
	if err := command.Shape(m); err != nil {
		return nil, fmt.Errorf("%w: %w", errCommand, err)
	}
	if w.fault != nil {
		return nil, fmt.Errorf("%w: %w", errCommand, w.fault)
	}
	namespace, _ := m.Field(codec.FieldNamespace)
	set, _ := m.Field(codec.FieldSet)
	digest, _ := m.Field(codec.FieldDigest)
	if string(namespace) != w.key.Namespace() || string(set) != w.key.SetName() || !bytes.Equal(digest, w.key.Digest()) {
		return nil, fmt.Errorf("%w: it is for a record of set %q in namespace %q, and collection %q is set %q in %q with the keys it has: map it with digest: true to where its clients write",
			errCommand, set, namespace, c.GetCollection(), w.key.SetName(), w.key.Namespace())
	}
	return m, nil
}

// joinedOps bounds the ops of commands that are sent as one message.
const joinedOps = 1000

// turn takes the next of w's steps that go together: mutations, or commands that are
// as good in one message.
func (w *work) turn() {
	n, ops := 1, 0
	for ; n < len(w.later) && (w.later[n].command == nil) == (w.later[0].command == nil); n++ {
		if w.later[0].command == nil {
			continue
		}
		ops += len(w.later[n].command.Ops)
		if w.singly || ops > joinedOps || !joins(w.later[0].command, w.later[n].command) {
			break
		}
	}
	w.steps, w.later = w.later[:n:n], w.later[n:]
}

// joins reports whether a message can be continued by the next one's ops: whatever the
// record is, both at once do what one after the other does, or neither does anything.
func joins(m, next *codec.Message) bool {
	plain := func(m *codec.Message) bool {
		return m.Info3&codec.Info3CreateOrReplace == 0 &&
			(m.TTL == command.TTLDefault || m.TTL == command.TTLNever || m.TTL == command.TTLDontUpdate) &&
			!mustExist(m)
	}
	key := func(m *codec.Message) []byte { key, _ := m.Field(codec.FieldKey); return key }
	return plain(m) && plain(next) && m.TTL == next.TTL && bytes.Equal(key(m), key(next))
}

// order is what is sent for the commands that have their turn.
type order struct {
	*work
	parcel
	left    written
	anew    bool // the record was deleted, and is made again
	lost    int  // rounds in a row that found another record than the one before
	last    sinks.LSN
	hollow  bool // the record may have no bin of the client's left
	changes bool // it makes no record that is absent
}

// commands does works whose steps are commands, each as one guarded message.
func (a *applier) commands(ctx context.Context, works []*work) {
	orders := make([]*order, len(works))
	for i, w := range works {
		w.floor = a.window.floor(w.place.Place, w.digest())
		orders[i] = &order{work: w}
		orders[i].changes = mustExist(w.steps[0].command)
	}
	for len(orders) > 0 {
		parcels := make([]*parcel, len(orders))
		now := time.Now()
		for i, o := range orders {
			o.parcel = parcel{key: o.work.key}
			o.message, o.left = o.guarded(a.guard, now)
			parcels[i] = &o.parcel
		}
		a.sink.exchange(ctx, a.client, parcels)
		var again, unclear, hollow []*order
		for _, o := range orders {
			o.last, o.hollow = last(o.steps), o.hollows()
			switch a.answered(ctx, o) {
			case sendAgain:
				again = append(again, o)
			case lookAt:
				unclear = append(unclear, o)
			case settled:
				if o.hollow && o.err == nil && o.reply.Result == codec.OK && !o.left.dead {
					hollow = append(hollow, o)
				}
			}
		}
		a.bury(ctx, hollow)
		orders = append(again, a.look(ctx, unclear)...)
	}
}

// guarded is the message for o's steps as it is sent: under the guard's filter, and
// with an op that sets the guard.
func (o *order) guarded(guard string, now time.Time) (*codec.Message, written) {
	m := *o.steps[0].command
	m.Info1, m.Info2, m.Timeout, m.Generation = 0, codec.Info2Write, 0, 0
	m.Info3 &= codec.Info3CreateOrReplace
	m.Ops = slices.Clone(m.Ops)
	for _, s := range o.steps[1:] {
		m.Ops = append(m.Ops, s.command.Ops...)
	}
	filters := []*as.Expression{guarded(guard, o.floor, first(o.steps))}
	left := written{}
	switch life, ended := o.life(now); {
	case ended: // as a mutation that is applied too late
		m.Ops = []codec.Op{deadOp()}
		m.Info3, m.TTL = codec.Info3CreateOrReplace, command.TTLNever
		left.dead = true
	case life > 0:
		m.TTL, left.expires = life, ends(life, now)
	}
	replace := m.Info3&codec.Info3CreateOrReplace != 0
	switch {
	case replace:
		m.Info3 = unless[byte](o.floor > 0, codec.Info3ReplaceOnly, codec.Info3CreateOrReplace)
	case o.anew:
		filters = append(filters, as.ExpBinExists(binDead))
		m.Info3 = codec.Info3UpdateOnly
		m.Ops = append(m.Ops, codec.Op{Type: codec.OpWrite, Name: []byte(binDead)})
	default:
		filters = append(filters, as.ExpNot(as.ExpBinExists(binDead)))
		m.Info3 = unless[byte](o.floor > 0 || o.changes, codec.Info3UpdateOnly, 0)
	}
	m.Ops = append(m.Ops, guardOp(guard, last(o.steps)))
	filter := filters[0]
	if len(filters) > 1 {
		filter = as.ExpAnd(filters...)
	}
	m.Fields = withFilter(m.Fields, packed(filter))
	return &m, left
}

// life is what is left of a time to live that the message counts from when it was
// accepted; 0: it says no such time.
func (o *order) life(now time.Time) (seconds uint32, ended bool) {
	s := o.steps[0]
	switch s.command.TTL {
	case command.TTLDefault, command.TTLNever, command.TTLDontUpdate:
		return 0, false
	}
	end := s.accepted.Add(time.Duration(s.command.TTL) * time.Second)
	seconds, ended, err := lifeOf(end, now)
	if err != nil { // the clock was set back: it is the longest there is
		return uint32(maxLife / time.Second), false
	}
	return seconds, ended
}

// next is what becomes of an order.
type next int

const (
	settled next = iota
	sendAgain
	lookAt
)

// answered takes note of what was said to o.
func (a *applier) answered(ctx context.Context, o *order) next {
	w := o.work
	if o.err != nil {
		a.window.wrote(first(w.steps))
		a.fail(w, o.err)
		return settled
	}
	err := judgeResult(o.reply.Result)
	if !keptOut(err) {
		a.window.wrote(first(w.steps))
	}
	code := codeOf(err)
	switch {
	case err == nil:
		a.note(w, last(w.steps), o.left)
		a.advance(w, len(w.steps))
	case code == types.FILTERED_OUT, code == types.KEY_NOT_FOUND_ERROR && o.anew:
		return lookAt
	case code == types.KEY_NOT_FOUND_ERROR && w.floor > 0:
		if a.missing(ctx, w) {
			return sendAgain
		}
	case code == types.KEY_NOT_FOUND_ERROR && o.changes: // there was nothing to change
		a.advance(w, len(w.steps))
	case sinks.OutcomeOf(err) == sinks.Rejected && len(w.steps) > 1:
		// Which of them is to blame shows when each is sent alone.
		w.singly = true
		w.later, w.steps = slices.Concat(w.steps, w.later), nil
	default:
		a.fail(w, err)
	}
	return settled
}

// judgeResult is judge for a result that the server said itself; nil: it was done.
func judgeResult(r codec.Result) error {
	if r == codec.OK {
		return nil
	}
	code := types.ResultCode(r)
	rule := ruleOf(code)
	return sinks.WithOutcome(rule.outcome, &ServerError{Code: code, Remedy: rule.remedy})
}

// look reads the records that a filter has kept orders from, and returns the orders
// that are to be sent again.
func (a *applier) look(ctx context.Context, orders []*order) []*order {
	if len(orders) == 0 {
		return nil
	}
	a.sink.metrics.careful.Add(float64(len(orders)))
	parcels := make([]*parcel, len(orders))
	for i, o := range orders {
		parcels[i] = &parcel{key: o.work.key, message: sight(o.work.key, a.guard)}
	}
	a.sink.exchange(ctx, a.client, parcels)
	return slices.DeleteFunc(orders, func(o *order) bool {
		p := parcels[0]
		parcels = parcels[1:]
		return !a.seen(ctx, o, p.answer)
	})
}

// seen decides by what the record has, and reports whether o is to be sent again.
func (a *applier) seen(ctx context.Context, o *order, said answer) bool {
	w := o.work
	err := said.err
	if err == nil && said.reply.Result != codec.NotFound {
		err = judgeResult(said.reply.Result)
	}
	if err != nil {
		a.fail(w, unread(err))
		return false
	}
	guard, dead := seen(said.reply, a.guard)
	if guard < w.floor && !a.missing(ctx, w) {
		return false
	}
	covered := 0
	for covered < len(w.steps) && w.steps[covered].lsn <= guard {
		covered++
	}
	if covered > 0 {
		a.note(w, guard, written{dead: dead})
		a.advance(w, covered)
	}
	if len(w.steps) > 0 && dead && o.changes { // there is nothing to change
		a.advance(w, len(w.steps))
	}
	if len(w.steps) == 0 {
		return false
	}
	if covered == 0 && o.anew == dead {
		if o.lost++; o.lost >= contended {
			a.fail(w, sinks.WithOutcome(sinks.Retry, errContended))
			return false
		}
	}
	o.anew = dead
	return true
}

// hollows reports that w's commands may leave a record without a bin, which is none.
func (w *work) hollows() bool {
	hollow := false
	for _, s := range w.steps {
		if fills(s.command) {
			hollow = false
		} else {
			hollow = hollow || mayEmpty(s.command)
		}
	}
	return hollow
}

// bury makes tombstones of the records that have no bin of the client's left. One that
// is not seen, by a crash in between, stays a record without bins.
func (a *applier) bury(ctx context.Context, orders []*order) {
	if len(orders) == 0 {
		return
	}
	parcels := make([]*parcel, len(orders))
	for i, o := range orders {
		parcels[i] = &parcel{key: o.work.key, message: &codec.Message{
			Header: codec.Header{Info1: codec.Info1Read | codec.Info1GetAll}, Fields: fieldsOfKey(o.work.key)}}
	}
	a.sink.exchange(ctx, a.client, parcels)
	var of []*order
	var graves []*parcel
	for i, p := range parcels {
		if p.err == nil && p.reply.Result == codec.OK &&
			!slices.ContainsFunc(p.reply.Ops, func(op codec.Op) bool { return !isOwn(string(op.Name)) || string(op.Name) == binEvents }) {
			of = append(of, orders[i])
			graves = append(graves, &parcel{key: p.key, message: &codec.Message{
				Header: codec.Header{Info2: codec.Info2Write | codec.Info2Generation, Info3: codec.Info3ReplaceOnly, Generation: p.reply.Generation, TTL: command.TTLNever},
				Fields: fieldsOfKey(p.key), Ops: []codec.Op{deadOp(), guardOp(a.guard, orders[i].last)},
			}})
		}
	}
	if len(graves) == 0 {
		return
	}
	a.sink.exchange(ctx, a.client, graves)
	for i, p := range graves {
		if p.err == nil && p.reply.Result == codec.OK {
			a.note(of[i].work, of[i].last, written{dead: true})
		}
	}
}
