package aerowire

import (
	"context"
	"errors"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/expression"
	"github.com/walproxy/walproxy/api/aerowire/value"
	"github.com/walproxy/walproxy/mutation"
)

// read answers a message that only reads.
func (s *Server) read(ctx context.Context, o *operation) *answer {
	var t table
	var doc *mutation.Document
	var err error
	if s.reach(ctx, false, func(ctx context.Context) error {
		if t, err = s.tableOf(ctx, o.collection()); err == nil {
			doc, err = s.o.Core.Read(ctx, o.collection(), o.documentKey())
		}
		if errors.Is(err, mutation.ErrNotFound) {
			err = codec.NotFound
		}
		return err
	}) {
		return failed(codec.Unavailable)
	}
	if err != nil {
		return failed(s.told(err))
	}
	r, err := t.record(doc)
	if err != nil {
		return failed(s.told(err))
	}
	if err := o.pass(r, s.now()); err != nil {
		return s.failure(err).of(r)
	}
	a := (&answer{}).of(r)
	switch {
	case o.Info1&codec.Info1NoBins != 0:
		return a
	case o.Info1&codec.Info1GetAll != 0 && len(r.bins) > resultsMax: // written otherwise than here
		return failed(codec.RecordTooBig).of(r)
	case o.Info1&codec.Info1GetAll != 0:
		a.ops = allBins(r)
		return a
	case len(o.Ops) == 0:
		return failed(codec.Parameter).of(r)
	}
	w := &work{o: o, r: r, existed: true, now: s.now(), limit: s.o.MaxRecordBytes}
	for i := range o.Ops {
		if badBinName(o.Ops[i].Name) && (len(o.Ops[i].Name) > 0 || o.Ops[i].Type != codec.OpRead) {
			return failed(codec.BinName).of(r)
		}
		if !isRead(o.Ops[i].Type) {
			return failed(codec.Parameter).of(r)
		}
		if err := w.op(&o.Ops[i]); err != nil {
			return s.failure(err).of(r)
		}
	}
	a.ops = w.results
	return a
}

func isRead(kind byte) bool {
	switch kind {
	case codec.OpRead, codec.OpCDTRead, codec.OpExpRead, codec.OpBitsRead, codec.OpHLLRead:
		return true
	}
	return false
}

// pass holds a record against the filter and the key that were sent.
func (o *operation) pass(r *record, now time.Time) error {
	if o.filterError != nil {
		return o.filterError
	}
	if o.filter != nil {
		if err := o.need(r.room()); err != nil {
			return err
		}
		ok, err := o.filter.Filter(o.subject(r, now))
		if err != nil {
			return err
		}
		if !ok {
			return codec.FilteredOut
		}
	}
	if o.key.Type != value.ParticleNull && r.hasKey() &&
		(o.key.Type != r.key.Type || string(o.key.Data) != string(r.key.Data)) {
		return codec.KeyMismatch
	}
	return nil
}

// subject is r as an expression sees it.
func (o *operation) subject(r *record, now time.Time) *expression.Record {
	return subject(r, o.set, o.digest, now)
}

func subject(r *record, set string, digest [codec.DigestBytes]byte, now time.Time) *expression.Record {
	s := &expression.Record{Set: set, Digest: digest, Updated: r.updated, Now: now, Size: r.size()}
	if !r.expires.IsZero() {
		s.Expires = r.expires.Add(-time.Second)
	}
	if r.hasKey() {
		if key, err := r.key.Value(); err == nil {
			s.Key, s.HasKey = key, true
		}
	}
	decoded := map[string]value.Value{}
	s.Bin = func(name string) (v value.Value, particle byte, ok bool) {
		p, ok := r.get(name)
		if !ok {
			return v, value.ParticleNull, false
		}
		if v, ok := decoded[name]; ok {
			return v, p.Type, true
		}
		v, err := p.Value()
		if err == nil {
			decoded[name] = v
		}
		return v, p.Type, err == nil
	}
	return s
}

// allBins answers with every bin.
func allBins(r *record) []codec.Op {
	ops := make([]codec.Op, 0, len(r.bins))
	for _, b := range r.bins {
		ops = append(ops, codec.Op{Type: codec.OpRead, Particle: b.particle.Type, Name: []byte(b.name), Value: b.particle.Data})
	}
	return ops
}
