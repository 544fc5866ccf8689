package aerowire

import (
	"context"
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// A write that is logged blindly, while the store is away, cannot know the record's
// generation. It counts itself in a field of its own, which is added to the
// generation where the record is read, so that whoever read the record before finds
// it changed; the next write that sees the record takes the count into it.
//
//	blindField    int64: writes that recordField does not know of
//	updatedField  int64: when the last of them was, ms since 1970
//	keyField      bytes: the user's key that they sent, particle type and content
const (
	blindField   = recordField + ".blind"
	updatedField = recordField + ".updated"
	keyField     = recordField + ".key"
)

// endless is the end of a record that has none. Nothing but a write of the whole
// record takes an end away, and a blind one does not know the record.
var endless = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// blindable reports whether o can be written without looking at the record: plain
// values that are put, added, appended or prepended, on no condition and with no
// answer. A bin that is removed may be the record's last, which ends it; a record that
// is replaced would begin its generations anew.
func (o *operation) blindable(p policy) bool {
	const conditions = codec.Info2Generation | codec.Info2GenerationGT | codec.Info2Delete
	if p.mustExist || p.mustCreate || p.replace || p.readAll || o.Info2&conditions != 0 || o.rawFilter != nil || o.filter != nil {
		return false
	}
	for i := range o.Ops {
		op := &o.Ops[i]
		var plain bool
		switch op.Type {
		case codec.OpWrite:
			plain = op.Particle != value.ParticleNull
		case codec.OpIncrement:
			plain = op.Particle == value.ParticleInteger || op.Particle == value.ParticleFloat && len(op.Value) == 8 &&
				value.IsFinite(math.Float64frombits(binary.BigEndian.Uint64(op.Value)))
		case codec.OpAppend, codec.OpPrepend:
			plain = op.Particle == value.ParticleString && utf8.Valid(op.Value) || op.Particle == value.ParticleBlob
		}
		if !plain {
			return false
		}
	}
	return true
}

// blind logs a blindable message. The generation of its answer is 0: it is not known.
func (s *Server) blind(ctx context.Context, o *operation) *answer {
	within, cancel := context.WithTimeoutCause(ctx, shapePatience, errNotWaited)
	defer cancel()
	t, err := s.tableOf(within, o.collection())
	if err != nil {
		return failed(codec.Unavailable)
	}
	w := &work{o: o, r: &record{}, table: t, now: s.now(), limit: s.o.MaxRecordBytes}
	m, err := w.blind()
	if err != nil {
		s.explain(o, err)
		return s.failure(err)
	}
	m.Collection, m.Key = o.collection(), o.documentKey()
	pending, err := s.o.Core.Submit(ctx, m)
	if err != nil {
		return s.failure(err)
	}
	return (&answer{pending: pending, ops: w.results}).of(&record{expires: w.r.expires})
}

// blind returns what is to be logged.
func (w *work) blind() (*walproxyv1.Mutation, error) {
	o := w.o
	if err := w.table.serves(o, true); err != nil {
		return nil, err
	}
	if ttl := o.TTL; ttl > ttlMax && ttl != ttlNever && ttl != ttlDontUpdate {
		return nil, codec.Parameter
	}
	if w.table.mapped() {
		// It may be a new record, which lacks what a column must have: then it would be a
		// dead letter.
		if err := w.table.check(w.sets(), true); err != nil && w.table.check(w.sets(), false) == nil {
			return nil, codec.Unavailable
		}
	}
	var ops []*walproxyv1.Op
	merge := map[string]*walproxyv1.Value{}
	if w.table.keeps {
		ops = append(ops, mutation.IncrementOp(map[string]*walproxyv1.Value{blindField: mutation.Int64Value(1)}))
		merge[updatedField] = mutation.Int64Value(w.now.UnixMilli())
		if o.key.Type != value.ParticleNull {
			merge[keyField] = mutation.BytesValue(append([]byte{o.key.Type}, o.key.Data...))
		}
	}
	bytes := 0
	for i := range o.Ops {
		op := &o.Ops[i]
		p, err := w.particle(op)
		if err != nil {
			return nil, err
		}
		if bytes += len(op.Name) + len(p.Data); bytes > w.limit {
			return nil, codec.RecordTooBig
		}
		name, one := string(op.Name), map[string]*walproxyv1.Value{string(op.Name): toValue(p)}
		if err := w.table.check(one, false); err != nil {
			return nil, err
		}
		if op.Type == codec.OpWrite {
			merge[name] = one[name]
		} else {
			ops, merge = merged(ops, merge), map[string]*walproxyv1.Value{}
		}
		switch op.Type {
		case codec.OpIncrement:
			ops = append(ops, mutation.IncrementOp(one))
		case codec.OpAppend:
			ops = append(ops, mutation.AppendOp(one))
		case codec.OpPrepend:
			ops = append(ops, mutation.PrependOp(one))
		}
		if err := w.done(op); err != nil {
			return nil, err
		}
	}
	var options []mutation.Option
	switch o.TTL {
	case ttlDontUpdate:
	case ttlDefault, ttlNever:
		options = append(options, mutation.ExpiresAt(endless))
	default:
		w.r.expires = expiry(w.now, o.TTL)
		options = append(options, mutation.ExpiresAt(w.r.expires))
	}
	return mutation.New("", nil, merged(ops, merge), options...), nil
}

// sets are the fields that the message gives a value, as far as they can be read.
func (w *work) sets() map[string]*walproxyv1.Value {
	fields := map[string]*walproxyv1.Value{}
	for i := range w.o.Ops {
		if p, err := w.particle(&w.o.Ops[i]); err == nil {
			fields[string(w.o.Ops[i].Name)] = toValue(p)
		}
	}
	return fields
}

// merged appends the values that were put since the last op.
func merged(ops []*walproxyv1.Op, values map[string]*walproxyv1.Value) []*walproxyv1.Op {
	if len(values) == 0 {
		return ops
	}
	return append(ops, mutation.MergeOp(values))
}
