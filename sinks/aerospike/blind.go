package aerospike

import (
	"math"
	"slices"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// blind returns one guarded write that does exactly what w's steps do, whatever
// the record is, or is kept out by its filter or refused by the server. nil: there
// is none, or it is not worth it; the record is read then.
func (w *work) blind(guard string, now time.Time) (*as.BatchWrite, written) {
	if w.fault != nil || w.singly || slices.ContainsFunc(w.steps, func(s step) bool { return s.m.GetPrecondition() != nil }) {
		return nil, written{}
	}
	ops := w.steps[0].m.GetOps()
	if len(ops) == 0 {
		return nil, written{}
	}
	switch ops[0].GetKind().(type) {
	case *walproxyv1.Op_Set_, *walproxyv1.Op_Delete_:
		return w.replacement(guard, now)
	}
	return w.alteration(guard, now)
}

// replacement is blind for steps that begin with a whole record, or without one:
// what they lead to is computed here.
func (w *work) replacement(guard string, now time.Time) (*as.BatchWrite, written) {
	var d *mutation.Document
	cleared := false // the events there were are gone
	for _, s := range w.steps {
		if fieldsFault(s.m) != nil {
			return nil, written{}
		}
		effect, err := mutation.Apply(d, s.m, s.lsn, s.accepted)
		if err != nil || len(effect.Events) > 0 {
			return nil, written{}
		}
		cleared = cleared || effect.DropEvents || effect.Document == nil || hasDelete(s.m)
		d = effect.Document
	}
	filter := guarded(guard, w.floor, first(w.steps))
	var life uint32
	ended := d == nil
	if d != nil {
		var err error
		if life, ended, err = lifeOf(d.ExpiresAt, now); err != nil {
			return nil, written{}
		}
	}
	if ended {
		return w.removal(guard, w.steps), written{dead: true}
	}
	if !cleared { // a replaced record keeps its events, which are not known here
		filter = as.ExpAnd(filter, as.ExpNot(as.ExpBinExists(binEvents)))
	}
	list := make([]*as.Operation, 0, len(d.Fields)+1)
	for name, v := range d.Fields {
		bin, reason := toBin(v)
		if reason != "" {
			return nil, written{}
		}
		if bin != nil {
			list = append(list, as.PutOp(as.NewBin(name, bin)))
		}
	}
	p := as.NewBatchWritePolicy()
	p.FilterExpression, p.RecordExistsAction = filter, unless(w.floor > 0, as.REPLACE_ONLY, as.REPLACE)
	p.Expiration, p.SendKey = life, w.place.sendKey
	return as.NewBatchWrite(p, w.key, append(list, as.PutOp(as.NewBin(guard, int64(last(w.steps)))))...), written{expires: ends(life, now)}
}

func hasDelete(m *walproxyv1.Mutation) bool {
	return slices.ContainsFunc(m.GetOps(), func(op *walproxyv1.Op) bool {
		_, ok := op.GetKind().(*walproxyv1.Op_Delete_)
		return ok
	})
}

// alteration is blind for steps that change what is there.
func (w *work) alteration(guard string, now time.Time) (*as.BatchWrite, written) {
	a := &alteration{bins: map[string]*slot{}}
	p := as.NewBatchWritePolicy()
	p.Expiration, p.SendKey = as.TTLDontUpdate, w.place.sendKey
	for _, s := range w.steps {
		for _, op := range s.m.GetOps() {
			if !a.add(op, s) {
				return nil, written{}
			}
		}
		if at := s.m.GetExpiresAt(); at != nil {
			life, ended, err := lifeOf(at.AsTime(), now)
			if err != nil || ended {
				return nil, written{}
			}
			p.Expiration = life
		}
	}
	// What was deleted is not altered but made anew.
	filters := []*as.Expression{guarded(guard, w.floor, first(w.steps)), as.ExpNot(as.ExpBinExists(binDead))}
	p.FilterExpression = as.ExpAnd(append(filters, a.bounds()...)...)
	if !a.creates || w.floor > 0 {
		p.RecordExistsAction = as.UPDATE_ONLY // absent: there is nothing to do
	}
	return as.NewBatchWrite(p, w.key, append(a.ops, as.PutOp(as.NewBin(guard, int64(last(w.steps)))))...), written{expires: ends(p.Expiration, now)}
}

// alteration collects the operations of one write.
type alteration struct {
	ops     []*as.Operation
	bins    map[string]*slot // the last operation on each
	summed  []summed         // the sums, in order
	creates bool             // it makes a record that is absent
}

// slot is an operation that the next of its kind on the same bin may join.
type slot struct {
	kind  kind
	at    int // in ops
	text  string
	bytes []byte
	list  []any
	// kind sum: the total, and the range of the sums on the way there.
	total, low, high int64
}

// summed is a bin that something is added to.
type summed struct {
	name string
	*slot
}

type kind int

const (
	put kind = iota
	sum
	appendText
	prependText
	appendBytes
	prependBytes
	appendList
	prependList
)

// add takes one op of a step. false: it cannot be done blindly.
func (a *alteration) add(op *walproxyv1.Op, s step) bool {
	switch k := op.GetKind().(type) {
	case *walproxyv1.Op_Touch_:
		return true
	case *walproxyv1.Op_Unset_:
		for _, name := range k.Unset.GetFields() {
			if nameFault(name) == "" { // else there is no such bin
				a.put(name, nil)
			}
		}
		return true
	case *walproxyv1.Op_Merge_:
		a.creates = true
		return a.each(k.Merge.GetFields(), func(name string, v *walproxyv1.Value) bool {
			bin, reason := toBin(v)
			if reason == "" {
				a.put(name, bin)
			}
			return reason == ""
		})
	case *walproxyv1.Op_Increment_:
		a.creates = true
		return a.each(k.Increment.GetFields(), a.sum)
	case *walproxyv1.Op_Append_:
		a.creates = true
		return a.each(k.Append.GetFields(), func(name string, v *walproxyv1.Value) bool {
			return a.join(name, v, appendText, appendBytes, appendList)
		})
	case *walproxyv1.Op_Prepend_:
		a.creates = true
		return a.each(k.Prepend.GetFields(), func(name string, v *walproxyv1.Value) bool {
			return a.join(name, v, prependText, prependBytes, prependList)
		})
	case *walproxyv1.Op_AppendEvent_:
		a.creates = true
		return a.events(k.AppendEvent.GetEvents(), s)
	}
	return false
}

func (a *alteration) each(fields map[string]*walproxyv1.Value, f func(string, *walproxyv1.Value) bool) bool {
	for name, v := range fields {
		if nameFault(name) != "" || !f(name, v) {
			return false
		}
	}
	return true
}

// slot returns the operation on a bin that another of its kind may join, a new one
// if there is none.
func (a *alteration) slot(name string, k kind) (s *slot, fresh bool) {
	if s := a.bins[name]; s != nil && s.kind == k {
		return s, false
	}
	s = &slot{kind: k, at: len(a.ops)}
	a.bins[name] = s
	a.ops = append(a.ops, nil)
	return s, true
}

func (a *alteration) put(name string, bin any) {
	s, _ := a.slot(name, put)
	a.ops[s.at] = as.PutOp(as.NewBin(name, bin))
}

// sum adds a whole number. The filter keeps the write out where the sum, or one on
// the way to it, is beyond int64, which the server would wrap around.
func (a *alteration) sum(name string, v *walproxyv1.Value) bool {
	by, ok := v.GetKind().(*walproxyv1.Value_Int64)
	if !ok || (a.bins[name] != nil && a.bins[name].kind != sum) {
		return false // the filter sees the bin as it was before the write
	}
	s, fresh := a.slot(name, sum)
	if fresh {
		a.summed = append(a.summed, summed{name, s})
	}
	if by.Int64 > 0 && s.total > math.MaxInt64-by.Int64 || by.Int64 < 0 && s.total < math.MinInt64-by.Int64 {
		return false
	}
	s.total += by.Int64
	s.low, s.high = min(s.low, s.total), max(s.high, s.total)
	a.ops[s.at] = as.AddOp(as.NewBin(name, s.total))
	return true
}

// bounds are the filters of the sums. A bin that is no integer makes them unknown,
// which keeps the write out as well.
func (a *alteration) bounds() []*as.Expression {
	var list []*as.Expression
	for _, s := range a.summed {
		fits := as.ExpAnd(
			as.ExpLessEq(as.ExpIntBin(s.name), as.ExpIntVal(math.MaxInt64-s.high)),
			as.ExpGreaterEq(as.ExpIntBin(s.name), as.ExpIntVal(math.MinInt64-s.low)),
		)
		list = append(list, as.ExpOr(as.ExpNot(as.ExpBinExists(s.name)), fits))
	}
	return list
}

// join adds to an end of a text, bytes or a list; the kinds are those of that end.
// Nothing is never added: a server may not make an absent bin of it.
func (a *alteration) join(name string, v *walproxyv1.Value, text, blob, list kind) bool {
	front := text == prependText
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_String_:
		if k.String_ == "" {
			return false
		}
		s, _ := a.slot(name, text)
		s.text = unless(front, k.String_+s.text, s.text+k.String_)
		a.ops[s.at] = ended(front, as.NewBin(name, s.text))
	case *walproxyv1.Value_Bytes:
		if len(k.Bytes) == 0 {
			return false
		}
		s, _ := a.slot(name, blob)
		s.bytes = unless(front, slices.Concat(k.Bytes, s.bytes), slices.Concat(s.bytes, k.Bytes))
		a.ops[s.at] = ended(front, as.NewBin(name, s.bytes))
	case *walproxyv1.Value_List_:
		items, reason := toList(k.List.GetValues())
		if reason != "" || len(items) == 0 {
			return false
		}
		s, _ := a.slot(name, list)
		if front {
			s.list = slices.Concat(items, s.list)
			a.ops[s.at] = as.ListInsertOp(name, 0, s.list...)
		} else {
			s.list = append(s.list, items...)
			a.ops[s.at] = as.ListAppendOp(name, s.list...)
		}
	default:
		return false
	}
	return true
}

func ended(front bool, bin *as.Bin) *as.Operation {
	if front {
		return as.PrependOp(bin)
	}
	return as.AppendOp(bin)
}

// events adds to the record's events, which are a list.
func (a *alteration) events(events []*walproxyv1.Event, s step) bool {
	if len(events) == 0 {
		return true
	}
	at, _ := a.slot(binEvents, appendList)
	for _, e := range events {
		item, reason := eventItem(e, s.lsn)
		if reason != "" {
			return false
		}
		at.list = append(at.list, item)
	}
	a.ops[at.at] = as.ListAppendOp(binEvents, at.list...)
	return true
}
