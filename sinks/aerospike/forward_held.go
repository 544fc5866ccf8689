package aerospike

import (
	"context"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/api/aerowire/cdt"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/sinks"
)

// A write that is forwarded has no LSN. It is done under its key's lock, between the
// writes up to upTo and those after, and the record says so: its guard becomes upTo.
// The filter lets it pass where the guard is not above that, so that a late one, whose
// answer nobody waited for, is not done after what came later; and not below what the
// record must have (the ledger), so that it is not done on what a restarted node has
// lost, for then the guard would keep the lost writes out.

// place is where the message's record is.
func (w *forward) place() Place { return Place{w.key.Namespace(), w.key.SetName()} }

func (w *forward) spot() spot {
	return spot{w.key.Namespace(), [codec.DigestBytes]byte(w.key.Digest())}
}

// prepare looks at the records of which more has to be known than a filter can see to.
func (f *forwarding) prepare(ctx context.Context, list []*forward) {
	f.look(ctx, list, func(w *forward) bool {
		return w.writes() && (replaces(w.sent) && w.upTo == 0 || w.sent.Info2&codec.Info2CreateOnly != 0 && w.floor > 0)
	})
	for _, w := range list {
		if w.err != nil || !w.writes() || w.sent.Info2&codec.Info2CreateOnly == 0 || w.floor == 0 {
			w.dead = false // that is judged by what the server makes of the message
			continue
		}
		switch { // an absent record would be made, whatever it must have
		case w.kept < w.floor:
			f.missing(ctx, w)
		case !w.dead:
			w.reply = refusal(codec.RecordExists)
		}
	}
}

// demand has the message done on a record only that has what it must have.
func (w *forward) demand(m *codec.Message) {
	if !w.writes() || w.floor == 0 {
		return
	}
	switch {
	case m.Info3&(codec.Info3UpdateOnly|codec.Info3ReplaceOnly) != 0:
	case m.Info3&codec.Info3CreateOrReplace != 0:
		m.Info3 = m.Info3&^codec.Info3CreateOrReplace | codec.Info3ReplaceOnly
	default:
		m.Info3 |= codec.Info3UpdateOnly
	}
}

// bounds are the filters on the guard: not below what the record has, and for a write
// not above what it can have.
func (f *forwarding) bounds(w *forward) (filters []*as.Expression) {
	if f.guard == "" {
		return nil
	}
	if w.floor > 0 {
		filters = append(filters, as.ExpGreaterEq(as.ExpIntBin(f.guard), as.ExpIntVal(int64(w.floor))))
	}
	if w.writes() && w.upTo > 0 {
		filters = append(filters, as.ExpOr(as.ExpNot(as.ExpBinExists(f.guard)), as.ExpLessEq(as.ExpIntBin(f.guard), as.ExpIntVal(int64(w.upTo)))))
	}
	return filters
}

// mark adds the filter on the guard, and to a write the guard.
func (f *forwarding) mark(w *forward, m *codec.Message) {
	if f.guard == "" {
		return
	}
	for _, filter := range f.bounds(w) {
		m.Fields = withFilter(m.Fields, packed(filter))
	}
	switch {
	case !w.writes():
	case w.upTo > 0:
		if empties(w.sent) {
			m.Info3 |= codec.Info3UpdateOnly // of an absent record nothing is to be left
		}
		if removes(w.sent) {
			m.Ops = append(m.Ops, guardOp(binDead, 1))
		}
		m.Ops = append(m.Ops, guardOp(f.guard, w.upTo))
	case replaces(w.sent) && w.kept > 0:
		m.Ops = append(m.Ops, guardOp(f.guard, w.kept))
	}
}

// missing is of a record that has less than it must have. A node was restarted, or
// somebody else took it away, or it ended: then it is as it is, and the message is
// sent without that demand.
func (f *forwarding) missing(ctx context.Context, w *forward) {
	w.reply = nil
	if err := f.sink.owner.lost(ctx); err != nil {
		w.err = sinks.WithOutcome(sinks.Retry, err)
		return
	}
	w.floor, w.dead = 0, false
}

// lost is why a record has less than it must have: a node was restarted, and what it
// has lost is applied again. nil: that is not why.
func (o *owner) lost(ctx context.Context) error {
	o.mu.Lock()
	st, before := o.mu.state, o.mu.before
	o.mu.Unlock()
	switch {
	case before != nil:
		return errRolledBack
	case st == nil: // nothing is applied by this process
		return nil
	}
	return (&turn{owner: o, state: st}).lost(ctx)
}

// finish sees to records that a message may have left without a bin of the client's,
// and notes what became of them.
func (f *forwarding) finish(ctx context.Context, list []*forward) {
	for _, w := range list {
		if w.err != nil || w.reply == nil || w.reply.Result != codec.OK || !w.writes() || w.upTo == 0 || f.guard == "" {
			continue
		}
		f.sink.owner.until(w)
		switch {
		case removes(w.sent):
			f.sink.owner.buried(w)
		case !fills(w.sent) && mayEmpty(w.sent):
			f.bury(ctx, w)
		}
	}
}

// bury makes a record that has no bin of the client's left one that was deleted.
func (f *forwarding) bury(ctx context.Context, w *forward) {
	all := &parcel{key: w.key, message: &codec.Message{Header: codec.Header{Info1: codec.Info1Read | codec.Info1GetAll}, Fields: fieldsOfKey(w.key)}}
	f.sink.exchange(ctx, f.client, []*parcel{all})
	if all.err != nil || all.reply.Result != codec.OK ||
		slices.ContainsFunc(all.reply.Ops, func(op codec.Op) bool { return !isOwn(string(op.Name)) }) {
		return // a record without bins is a smaller evil than an answer that is withheld
	}
	tombstone := &parcel{key: w.key, message: &codec.Message{
		Header: codec.Header{Info2: codec.Info2Write | codec.Info2Generation, Info3: codec.Info3ReplaceOnly, Generation: all.reply.Generation, TTL: as.TTLDontExpire},
		Fields: fieldsOfKey(w.key), Ops: []codec.Op{guardOp(binDead, 1), guardOp(f.guard, w.upTo)},
	}}
	f.sink.exchange(ctx, f.client, []*parcel{tombstone})
	if tombstone.err == nil && tombstone.reply.Result == codec.OK {
		f.sink.owner.buried(w)
	}
}

// buried notes a tombstone, which is removed once it is settled.
func (o *owner) buried(w *forward) {
	o.mu.Lock()
	recent := o.mu.recent
	o.mu.Unlock()
	if recent != nil {
		recent.note(w.spot(), entry{lsn: w.upTo, dead: true, set: w.key.SetName()})
	}
}

// until notes that a message may have given the record another end.
func (o *owner) until(w *forward) {
	o.mu.Lock()
	recent := o.mu.recent
	o.mu.Unlock()
	if recent == nil {
		return
	}
	e, ok := recent.find(w.spot())
	if !ok || w.sent.TTL == as.TTLDontUpdate {
		return
	}
	e.dead, e.expires = false, ends(w.sent.TTL, time.Now())
	if w.sent.TTL == as.TTLServerDefault {
		e.expires = time.Time{}
	}
	recent.note(w.spot(), e)
}

// shown is the reply as a client sees it.
func (w *forward) shown() *codec.Message {
	m := unmarked(w.reply)
	bins := w.sent.Info1&codec.Info1GetAll != 0 && w.sent.Info1&codec.Info1NoBins == 0
	if !w.writes() && bins && m.Result == codec.OK && len(m.Ops) == 0 {
		return refusal(codec.NotFound) // a record without bins is none
	}
	return m
}

// fills reports that a record has a bin after a write, if that was done.
func fills(m *codec.Message) bool {
	filled := false
	for i := range m.Ops {
		switch op := &m.Ops[i]; op.Type {
		case codec.OpWrite:
			filled = filled || op.Particle != 0
		case codec.OpIncrement, codec.OpAppend, codec.OpPrepend:
			filled = true
		case codec.OpCDTModify:
			filled = filled || cdt.Fills(op.Value)
		case codec.OpDelete:
			filled = false
		}
	}
	return filled
}

// mayEmpty reports that a write may take a record's last bin, or make a record that
// would have none but for the guard.
func mayEmpty(m *codec.Message) bool {
	return slices.ContainsFunc(m.Ops, func(op codec.Op) bool {
		switch op.Type {
		case codec.OpWrite:
			return op.Particle == 0
		case codec.OpCDTModify, codec.OpBitsModify, codec.OpHLLModify, codec.OpExpModify, codec.OpDelete:
			return true
		}
		return false
	})
}

// removes reports that a write leaves no record: it deletes all bins and writes none
// after that.
func removes(m *codec.Message) bool {
	gone := false
	for i := range m.Ops {
		switch m.Ops[i].Type {
		case codec.OpDelete:
			gone = true
		case codec.OpWrite, codec.OpIncrement, codec.OpAppend, codec.OpPrepend, codec.OpCDTModify, codec.OpBitsModify, codec.OpHLLModify, codec.OpExpModify:
			gone = gone && m.Ops[i].Type == codec.OpWrite && m.Ops[i].Particle == 0
		}
	}
	return gone
}

// empties reports that a write can do nothing but remove bins.
func empties(m *codec.Message) bool {
	for i := range m.Ops {
		switch op := &m.Ops[i]; op.Type {
		case codec.OpWrite:
			if op.Particle != 0 {
				return false
			}
		case codec.OpIncrement, codec.OpAppend, codec.OpPrepend, codec.OpCDTModify, codec.OpBitsModify, codec.OpHLLModify, codec.OpExpModify:
			return false
		}
	}
	return true
}
