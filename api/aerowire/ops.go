package aerowire

import (
	"errors"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/bits"
	"github.com/walproxy/walproxy/api/aerowire/cdt"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/expression"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// work is a message on one record.
type work struct {
	o       *operation
	r       *record // ours to change
	table   table   // that r is in
	old     *record // as it was; nil: absent
	before  []bin   // of old
	existed bool
	deleted bool
	now     time.Time
	limit   int
	spent   int // bytes of bins that were gone through
	results []codec.Op
	answer  int // bytes of results
}

// answerFactor bounds an answer, and what a record may grow by before its size is
// looked at, in records of the largest size: a small message can ask for one bin
// thousands of times, or have thousands of bins made that large.
const answerFactor = 16

// binsMax is how many bins a record may have, and resultsMax what the head of an answer
// can count.
const (
	binsMax    = 0x7fff
	resultsMax = 0xffff
)

// spentMax bounds what one message can have computed under its key's lock: a
// thousand operations on bins of the largest size.
const spentMax = 1 << 30

// stepBytes is what a step of an expression counts for.
const stepBytes = 16

// spend counts n bytes that an operation goes through.
func (w *work) spend(n int) error {
	if w.spent += n; w.spent > spentMax {
		return codec.Unsupported
	}
	return nil
}

func (w *work) respondAll() bool { return w.o.Info2&codec.Info2RespondAll != 0 }

// result answers an op; a nil particle only if every op is answered.
func (w *work) result(op *codec.Op, p value.Particle) {
	w.results = append(w.results, codec.Op{Type: op.Type, Particle: p.Type, Name: op.Name, Value: p.Data})
	w.answer += len(op.Name) + len(p.Data)
}

func (w *work) done(op *codec.Op) error {
	if w.respondAll() {
		w.result(op, value.Particle{})
	}
	return nil
}

// noValue answers a read that found nothing in a bin that is there: within every
// write, else only if all ops are to be answered.
func (w *work) noValue(op *codec.Op) {
	if w.respondAll() || w.o.Info2&codec.Info2Write != 0 {
		w.result(op, value.Particle{})
	}
}

// op applies one op to w.r.
func (w *work) op(op *codec.Op) error {
	if err := w.apply(op); err != nil {
		return err
	}
	if w.answer > answerFactor*w.limit || w.r.grown > answerFactor*w.limit || len(w.results) > resultsMax {
		return codec.RecordTooBig
	}
	return nil
}

func (w *work) apply(op *codec.Op) error {
	switch op.Type {
	case codec.OpRead:
		return w.readBin(op)
	case codec.OpWrite:
		return w.writeBin(op)
	case codec.OpIncrement, codec.OpAppend, codec.OpPrepend:
		return w.combine(op)
	case codec.OpTouch:
		return nil
	case codec.OpDelete:
		w.r.bins = nil
		return w.done(op)
	case codec.OpCDTRead:
		return w.readCDT(op)
	case codec.OpCDTModify:
		return w.modifyCDT(op)
	case codec.OpExpRead:
		return w.readExpression(op)
	case codec.OpExpModify:
		return w.modifyExpression(op)
	case codec.OpBitsRead:
		return w.readBits(op)
	case codec.OpBitsModify:
		return w.modifyBits(op)
	case codec.OpHLLRead, codec.OpHLLModify:
		return codec.Unsupported
	}
	return codec.Parameter
}

func (w *work) readBin(op *codec.Op) error {
	if len(op.Name) == 0 && w.o.Info1&codec.Info1GetAll != 0 {
		for _, b := range w.r.bins {
			w.result(&codec.Op{Type: codec.OpRead, Name: []byte(b.name)}, b.particle)
		}
		return nil
	}
	if p, ok := w.r.get(string(op.Name)); ok || w.respondAll() {
		w.result(op, p)
	}
	return nil
}

// particle is the one that op carries, in the form that is stored.
func (w *work) particle(op *codec.Op) (value.Particle, error) {
	if len(op.Value) > w.limit {
		return value.Particle{}, codec.RecordTooBig
	}
	if err := w.o.need(particleRoom(value.Particle{Type: op.Particle, Data: op.Value})); err != nil {
		return value.Particle{}, err
	}
	p, err := value.Particle{Type: op.Particle, Data: op.Value}.Canonical()
	switch {
	case err == nil:
		return p, nil
	case op.Particle == value.ParticleList || op.Particle == value.ParticleMap:
		return p, codec.Unknown // which is what servers say
	case op.Particle == value.ParticleGeoJSON:
		return p, codec.InvalidGeoJSON
	}
	return p, codec.Parameter
}

func (w *work) writeBin(op *codec.Op) error {
	if op.Particle == value.ParticleNull {
		w.r.remove(string(op.Name))
		return w.done(op)
	}
	p, err := w.particle(op)
	if err != nil {
		return err
	}
	w.r.set(string(op.Name), p)
	return w.done(op)
}

// combine is increment, append and prepend. Without the bin they write it.
func (w *work) combine(op *codec.Op) error {
	name := string(op.Name)
	if op.Particle == value.ParticleNull {
		return codec.Parameter
	}
	p, err := w.particle(op)
	if err != nil {
		return err
	}
	if old, ok := w.r.get(name); ok {
		if op.Type == codec.OpIncrement {
			p, err = add(old, p)
		} else {
			p, err = concat(old, p, op.Type == codec.OpPrepend)
		}
		if err != nil {
			return err
		}
	}
	if len(p.Data) > w.limit {
		return codec.RecordTooBig
	}
	w.r.set(name, p)
	return w.done(op)
}

// add: an integer takes an integer, and wraps; a float takes a float.
func add(old, p value.Particle) (value.Particle, error) {
	a, err := old.Value()
	if err != nil {
		return p, err
	}
	b, err := p.Value()
	switch {
	case err != nil:
		return p, codec.Parameter
	case a.IsInt() && b.IsInt():
		return value.OfInt(a.Int64() + b.Int64()).Particle(), nil
	case a.Kind() == value.Double && b.Kind() == value.Double:
		return value.OfDouble(a.Double() + b.Double()).Particle(), nil
	}
	return p, codec.IncompatibleType
}

func concat(old, p value.Particle, front bool) (value.Particle, error) {
	if old.Type != p.Type || old.Type != value.ParticleString && !value.IsBlob(old.Type) {
		return p, codec.IncompatibleType
	}
	a, b := old.Data, p.Data
	if front {
		a, b = b, a
	}
	return value.Particle{Type: p.Type, Data: append(a[:len(a):len(a)], b...)}, nil
}

func (w *work) readCDT(op *codec.Op) error {
	p, ok := w.r.get(string(op.Name))
	if err := w.o.need(value.Room(op.Value) + particleRoom(p)); err != nil {
		return err
	}
	operation, err := cdt.Parse(op.Value)
	if err != nil {
		return err
	}
	if !ok {
		return w.done(op)
	}
	if err := w.spend(len(p.Data) * operation.Passes()); err != nil {
		return err
	}
	bin, err := p.Value()
	if err != nil {
		return err
	}
	v, ok, err := operation.Read(bin)
	if err != nil {
		return err
	}
	if ok && v.Kind() != value.Nil {
		w.result(op, v.Particle())
		return nil
	}
	w.noValue(op)
	return nil
}

func (w *work) modifyCDT(op *codec.Op) error {
	name := string(op.Name)
	p, exists := w.r.get(name)
	if err := w.o.need(value.Room(op.Value) + particleRoom(p)); err != nil {
		return err
	}
	operation, err := cdt.Parse(op.Value)
	if err != nil {
		return err
	}
	if n := operation.Padding(); n > int64(w.limit) {
		return codec.RecordTooBig // a nil takes a byte
	} else if err := w.o.need(value.Room(op.Value) + particleRoom(p) + n*roomPerByte); err != nil {
		return err
	}
	if err := w.spend(len(p.Data) * operation.Passes()); err != nil {
		return err
	}
	bin, err := p.Value()
	if err != nil {
		return err
	}
	after, err := operation.Modify(bin, exists)
	if err != nil {
		return err
	}
	if after.Exists {
		p := after.Bin.Particle()
		if len(p.Data) > w.limit {
			return codec.RecordTooBig
		}
		if err := w.spend(len(p.Data)); err != nil {
			return err
		}
		w.r.set(name, p)
	}
	if after.HasResult && after.Result.Kind() != value.Nil {
		w.result(op, after.Result.Particle())
		return nil
	}
	return w.done(op)
}

func (w *work) readBits(op *codec.Op) error {
	p, ok := w.r.get(string(op.Name))
	switch {
	case !ok:
		return w.done(op)
	case p.Type != value.ParticleBlob:
		return codec.IncompatibleType
	}
	operation, err := w.bits(op, p)
	if err != nil {
		return err
	}
	v, err := operation.Read(p.Data)
	if err != nil {
		return err
	}
	w.result(op, v.Particle())
	return nil
}

// bits parses an operation on the bits of p.
func (w *work) bits(op *codec.Op, p value.Particle) (operation bits.Op, err error) {
	if err := w.o.need(value.Room(op.Value) + 2*int64(len(p.Data))); err != nil {
		return operation, err
	}
	if operation, err = bits.Parse(op.Value); err == nil {
		err = w.spend(len(p.Data))
	}
	return operation, err
}

func (w *work) modifyBits(op *codec.Op) error {
	name := string(op.Name)
	p, exists := w.r.get(name)
	if exists && p.Type != value.ParticleBlob {
		return codec.IncompatibleType
	}
	operation, err := w.bits(op, p)
	if err != nil {
		return err
	}
	after, exists, err := operation.Modify(p.Data, exists, w.limit)
	if err != nil {
		return err
	}
	if err := w.spend(len(after)); err != nil {
		return err
	}
	if exists {
		w.r.set(name, value.Particle{Type: value.ParticleBlob, Data: after})
	}
	return w.done(op)
}

// Flags of expressions in ops.
const (
	expCreateOnly   = 1 << 0
	expUpdateOnly   = 1 << 1
	expAllowDelete  = 1 << 2
	expPolicyNoFail = 1 << 3
	expEvalNoFail   = 1 << 4
)

// parseExpression reads an op's value: the expression and its flags.
func (w *work) parseExpression(op *codec.Op) (*expression.Expression, int64, error) {
	if err := w.o.need(value.Room(op.Value) + w.r.room()); err != nil {
		return nil, 0, err
	}
	v, err := value.Decode(op.Value)
	if err != nil || v.Kind() != value.List || v.Len() != 2 || v.Items()[1].Kind() != value.Int {
		return nil, 0, codec.Parameter
	}
	e, err := expression.New(v.Items()[0])
	return e, v.Items()[1].Int64(), err
}

func (w *work) eval(e *expression.Expression) (value.Value, error) {
	s := w.o.subject(w.r, w.now)
	v, err := e.Eval(s)
	if short := w.spend(stepBytes * s.Steps); short != nil {
		return v, short
	}
	if err == nil && (!v.Storable() || v.Kind() == value.Ext) {
		err = expression.ErrUnknown
	}
	return v, err
}

func (w *work) readExpression(op *codec.Op) error {
	e, flags, err := w.parseExpression(op)
	if err != nil {
		return err
	}
	v, err := w.eval(e)
	switch {
	case errors.Is(err, expression.ErrUnknown) && flags&expEvalNoFail != 0:
		w.noValue(op)
		return nil
	case errors.Is(err, expression.ErrUnknown):
		return codec.NotApplicable
	case err != nil:
		return err
	}
	w.result(op, v.Particle())
	return nil
}

func (w *work) modifyExpression(op *codec.Op) error {
	e, flags, err := w.parseExpression(op)
	if err != nil {
		return err
	}
	name := string(op.Name)
	_, exists := w.r.get(name)
	denied := func(r codec.Result) error {
		if flags&expPolicyNoFail != 0 {
			return w.done(op)
		}
		return r
	}
	switch {
	case exists && flags&expCreateOnly != 0:
		return denied(codec.BinExists)
	case !exists && flags&expUpdateOnly != 0:
		return denied(codec.BinNotFound)
	}
	v, err := w.eval(e)
	switch {
	case errors.Is(err, expression.ErrUnknown):
		if flags&expEvalNoFail != 0 {
			return w.done(op)
		}
		return codec.NotApplicable
	case err != nil:
		return err
	case v.Kind() == value.Nil && flags&expAllowDelete == 0:
		return denied(codec.NotApplicable)
	case v.Kind() == value.Nil:
		w.r.remove(name)
	default:
		w.r.set(name, v.Particle())
	}
	return w.done(op)
}
