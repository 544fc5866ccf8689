package aerowire

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// TTLs of a request that are no seconds.
const (
	ttlDefault    = 0
	ttlNever      = 0xffffffff
	ttlDontUpdate = 0xfffffffe
	ttlMax        = 10 * 365 * 24 * 3600
)

// opsMax is how many ops a message may have.
const opsMax = 32 << 10

// policy is what the flags of a write mean.
type policy struct {
	mustExist  bool
	mustCreate bool
	replace    bool
	readAll    bool
}

// policyOf checks what the server checks before it looks at the record.
func policyOf(o *operation) (p policy, err error) {
	p.mustExist = o.Info3&(codec.Info3UpdateOnly|codec.Info3ReplaceOnly) != 0
	p.mustCreate = o.Info2&codec.Info2CreateOnly != 0
	p.replace = o.Info3&(codec.Info3CreateOrReplace|codec.Info3ReplaceOnly) != 0
	respondAll := o.Info2&codec.Info2RespondAll != 0
	if n := len(o.Ops); n == 0 || n > opsMax {
		return p, codec.Parameter
	}
	reads, results := false, false
	for i := range o.Ops {
		op := &o.Ops[i]
		switch {
		case op.Type == codec.OpTouch:
			p.mustExist = true
		case op.Type == codec.OpRead && len(op.Name) == 0 && o.Info1&codec.Info1GetAll != 0:
			if respondAll || p.readAll {
				return p, codec.Parameter
			}
			reads, p.readAll = true, true
			continue
		case op.Type == codec.OpDelete:
		case op.Type == codec.OpRead && len(op.Name) == 0: // the header alone
			reads, results = true, true
			continue
		case badBinName(op.Name):
			return p, codec.BinName
		case isRead(op.Type):
			reads, results = true, true
			continue
		case op.Type == codec.OpCDTModify || op.Type == codec.OpHLLModify:
			results = true
		}
		if p.replace && (op.Type != codec.OpWrite && op.Type != codec.OpExpModify || op.Type == codec.OpWrite && op.Particle == 0) {
			return p, codec.Parameter
		}
	}
	if reads && o.Info1&codec.Info1Read == 0 || p.readAll && results || o.Info1&codec.Info1GetAll != 0 && !p.readAll {
		return p, codec.Parameter
	}
	return p, nil
}

// checkGeneration holds a record's generation, 0 if it is absent, against what is
// asked for.
func (o *operation) checkGeneration(r *record) error {
	have := uint32(0)
	if r != nil {
		have = r.generation
	}
	if o.Info2&codec.Info2Generation != 0 && o.Generation != have ||
		o.Info2&codec.Info2GenerationGT != 0 && o.Generation <= have {
		return codec.Generation
	}
	return nil
}

// modify runs f on the record under its key's lock and logs what f makes of it.
func (s *Server) modify(ctx context.Context, o *operation, f func(t table, r *record, now time.Time) (*walproxyv1.Mutation, error)) (api.Pending, error) {
	t, err := s.tableOf(ctx, o.collection())
	if err == nil {
		err = t.serves(o, o.Info2&codec.Info2Delete == 0)
	}
	if err != nil {
		return nil, err
	}
	return s.o.Core.Modify(ctx, o.collection(), o.documentKey(), func(doc *mutation.Document, now time.Time) (*walproxyv1.Mutation, error) {
		r, err := t.record(doc)
		if err != nil {
			return nil, err
		}
		return f(t, r, now)
	})
}

// remove answers a message that deletes the record.
func (s *Server) remove(ctx context.Context, o *operation) *answer {
	var pending api.Pending
	var err error
	unreachable := s.reach(ctx, false, func(ctx context.Context) error {
		pending, err = s.modify(ctx, o, func(_ table, r *record, now time.Time) (*walproxyv1.Mutation, error) {
			if r == nil {
				return nil, codec.NotFound
			}
			if err := o.checkGeneration(r); err != nil {
				return nil, err
			}
			if err := o.pass(r, now); err != nil {
				return nil, err
			}
			return mutation.New("", nil, []*walproxyv1.Op{mutation.DeleteOp()}), nil
		})
		return err
	})
	switch {
	case unreachable:
		return failed(codec.Unavailable)
	case err != nil:
		return s.failure(err)
	}
	return &answer{pending: pending}
}

// write answers a message that writes bins.
func (s *Server) write(ctx context.Context, o *operation) *answer {
	p, err := policyOf(o)
	if err != nil {
		return failed(resultOf(err))
	}
	blind := s.o.Remote && o.blindable(p)
	var a *answer
	if !s.reach(ctx, blind, func(ctx context.Context) (err error) {
		a, err = s.evaluate(ctx, o, p)
		return err
	}) {
		return a
	}
	if blind {
		return s.blind(ctx, o)
	}
	return failed(codec.Unavailable)
}

// evaluate writes what the message makes of the record. The answer says all that a
// client is told of the error.
func (s *Server) evaluate(ctx context.Context, o *operation, p policy) (*answer, error) {
	var w *work
	pending, err := s.modify(ctx, o, func(t table, r *record, now time.Time) (*walproxyv1.Mutation, error) {
		w = &work{o: o, r: &record{}, table: t, now: now, limit: s.o.MaxRecordBytes}
		if r != nil {
			w.before = r.bins
			w.old, w.existed = r, true
			*w.r = *r
			w.r.bins = slices.Clone(r.bins)
		}
		return w.write(p)
	})
	switch {
	case err == nil:
	case w != nil && w.existed && isResult(err):
		s.explain(o, err)
		return failed(resultOf(err)).of(w.old), err
	default:
		s.explain(o, err)
		return s.failure(err), err
	}
	a := &answer{pending: pending, ops: w.results}
	if !w.deleted {
		a.of(w.r)
	}
	return a, nil
}

func isResult(err error) bool {
	_, ok := errors.AsType[codec.Result](err)
	return ok
}

// write applies the message to w.r and returns what is to be logged.
func (w *work) write(p policy) (*walproxyv1.Mutation, error) {
	o := w.o
	if p.mustExist && !w.existed {
		return nil, codec.NotFound
	}
	if p.mustCreate && w.existed {
		return nil, codec.RecordExists
	}
	if err := o.checkGeneration(w.old); err != nil {
		return nil, err
	}
	if w.existed {
		if err := o.pass(w.old, w.now); err != nil {
			return nil, err
		}
	}
	if ttl := o.TTL; ttl > ttlMax && ttl != ttlNever && ttl != ttlDontUpdate {
		return nil, codec.Parameter
	}
	if o.key.Type != 0 && !w.r.hasKey() {
		w.r.key = o.key
	}
	if p.replace {
		w.r.bins = nil
	}
	for i := range o.Ops {
		if err := w.op(&o.Ops[i]); err != nil {
			return nil, err
		}
	}
	if len(w.r.bins) == 0 {
		return w.emptied()
	}
	if w.table.keeps {
		w.r.generation = w.r.generation%generationMax + 1
	}
	w.r.updated = w.now
	switch o.TTL {
	case ttlDontUpdate:
		// As it is; a new record never ends.
	case ttlDefault, ttlNever:
		w.r.expires = time.Time{}
	default:
		w.r.expires = expiry(w.now, o.TTL)
	}
	if len(w.r.bins) > binsMax {
		return nil, codec.Parameter // as servers say
	}
	if w.r.size() > w.limit {
		return nil, codec.RecordTooBig
	}
	m, fields, whole := w.mutation(p.replace)
	if err := w.table.check(fields, whole); err != nil {
		return nil, err
	}
	return m, nil
}

// emptied: a record without bins is no record.
func (w *work) emptied() (*walproxyv1.Mutation, error) {
	if !w.existed {
		return nil, codec.NotFound
	}
	w.deleted = true
	return mutation.New("", nil, []*walproxyv1.Op{mutation.DeleteOp()}), nil
}

// mutation is the difference that the message made: the bins that changed, those
// that are gone, and the rest of the record. A record that loses its expiry is set
// as a whole, for nothing else says that. fields are what it sets.
func (w *work) mutation(whole bool) (m *walproxyv1.Mutation, fields map[string]*walproxyv1.Value, all bool) {
	var options []mutation.Option
	if !w.r.expires.IsZero() {
		options = append(options, mutation.ExpiresAt(w.r.expires))
	}
	fields = map[string]*walproxyv1.Value{}
	if w.table.keeps {
		fields[recordField] = w.r.encode()
	}
	if whole || !w.existed || w.r.expires.IsZero() && !w.old.expires.IsZero() {
		w.setAll(fields, !whole && w.existed)
		return mutation.New("", nil, []*walproxyv1.Op{mutation.SetOp(fields)}, options...), fields, true
	}
	for _, b := range w.r.bins {
		if !w.same(b) {
			fields[b.name] = toValue(b.particle)
		}
	}
	gone := slices.Clone(w.old.beside)
	for _, b := range w.before {
		if _, ok := w.r.find(b.name); ok {
			continue
		}
		if w.table.mapped() { // unset is the column's default
			fields[b.name] = mutation.NullValue()
		} else {
			gone = append(gone, b.name)
		}
	}
	var ops []*walproxyv1.Op
	if len(fields) > 0 {
		ops = append(ops, mutation.MergeOp(fields))
	}
	if len(gone) > 0 {
		ops = append(ops, mutation.UnsetOp(gone...))
	}
	if len(ops) == 0 { // nothing changes but the version
		ops = append(ops, mutation.TouchOp())
	}
	return mutation.New("", nil, ops, options...), fields, false
}

// same reports whether a bin is as it was.
func (w *work) same(b bin) bool {
	if w.old == nil {
		return false
	}
	old, ok := w.old.get(b.name)
	return ok && old.Type == b.particle.Type && string(old.Data) == string(b.particle.Data)
}

// setAll sets every bin: those that are as they were to what is stored, for a column
// may hold what no bin can say, a decimal, and but for those that the store computes.
// keep: columns that are null stay so.
func (w *work) setAll(fields map[string]*walproxyv1.Value, keep bool) {
	for _, b := range w.r.bins {
		switch {
		case !w.same(b):
			fields[b.name] = toValue(b.particle)
		case w.table.shape == nil || !w.table.shape.Computed(b.name):
			fields[b.name] = w.old.stored[b.name]
		}
	}
	if !keep || !w.table.mapped() {
		return
	}
	for name, v := range w.old.stored {
		if _, null := v.GetKind().(*walproxyv1.Value_Null); null && fields[name] == nil && !w.table.shape.Computed(name) {
			fields[name] = v
		}
	}
	for _, b := range w.before {
		if _, ok := w.r.find(b.name); !ok && !w.table.shape.Computed(b.name) {
			fields[b.name] = mutation.NullValue()
		}
	}
}
